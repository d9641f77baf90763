"""In the machine whose power is cut: containers are made and end, without end. What is done is told, after it is done.

A line of output is `did WHAT ID [CODE]`: what was told before the cut is what the books are checked against.
"""

from __future__ import annotations

import asyncio
import random
import sys

from longshore import Engine
from longshore.errors import LongshoreError

WORKERS = 3


def did(what: str, id: str, code: int | None = None) -> None:
    print("did", what, id, "" if code is None else code, flush=True)


async def work(engine: Engine, seed: int, number: int) -> None:
    chance = random.Random(f"{seed}.{number}")
    turn = 0
    while True:
        id = f"c{seed}-{number}-{turn}"
        turn += 1
        code = chance.randrange(200)
        kind = chance.choice(["ends", "ends", "stays", "run", "exec", "created"])
        try:
            if kind == "run":
                done = await engine.run("host", ["sh", "-c", f"echo {id}; exit {code}"])
                assert done.exit_code == code, done
                did("run", id, code)
                continue
            last = f"exit {code}" if kind == "ends" else "sleep 1000"
            box = await engine.create(
                id, root="host", args=["sh", "-c", f"echo {id}; {last}"], labels={"seed": str(seed)}
            )
            did("created", id)
            if kind == "created":
                continue
            await box.start()
            did("started", id)
            if kind == "exec":
                await (await box.exec(["true"])).wait()
                did("exec", id)
            if kind == "ends" or chance.random() < 0.5:
                if kind != "ends":
                    await box.kill()
                exit = await box.wait()
                did("ended", id, exit.code)
                if chance.random() < 0.4:
                    await box.delete()
                    did("deleted", id)
        except LongshoreError as error:
            print("refused", id, kind, repr(error), flush=True)


async def main(seed: int) -> None:
    async with Engine() as engine:
        print("begun", flush=True)
        await asyncio.gather(*(work(engine, seed, number) for number in range(WORKERS)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
