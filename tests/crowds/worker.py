"""One of many programs on one state directory. Each line on standard input begins a part; one line answers it.

python -m tests.crowds.worker STATE RUNTIME NUMBER ROUNDS
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from longshore.compute.events import Event
from longshore.compute.limits import Limits
from longshore.engine.engine import Engine
from longshore.errors import ContainerExists, ContainerNotFound, InvalidState, LongshoreError

PATIENT = Limits(create=300, start=300, verb=200, settle=200, end=300, lock=200)


async def work(engine: Engine, number: int, rounds: int) -> dict[str, Any]:
    """What everybody does at once. What is counted here is compared with the books afterwards."""
    done: dict[str, Any] = {"won": [], "lives": {}, "runs": 0, "execs": 0}
    shared = await engine.get("shared")
    for count in range(rounds):
        # an id that all want: one gets it
        try:
            prize = await engine.create(f"prize-{count}", root="host", args=["true"])
        except ContainerExists:
            pass
        else:
            done["won"].append(prize.id)
        code = (number * rounds + count) % 256
        box = await engine.launch(f"own-{number}-{count}", root="host", args=["sh", "-c", f"exit {code}"])
        assert (await box.wait()).code == code
        done["lives"][box.id] = code
        if count % 2:
            await box.delete()
        assert (await engine.run("host", ["sh", "-c", f"exit {code}"])).exit_code == code
        done["runs"] += 1
        process = await shared.exec(["sh", "-c", f"cat > /dev/null; exit {code}"], stdin=-1, name=f"p-{number}-{count}")
        await process.communicate(b"x")
        assert process.returncode == code
        done["execs"] += 1
        assert any(info.id == "shared" for info in await engine.list())
    return done


async def end_shared(engine: Engine) -> dict[str, Any]:
    """All want to end the same container: each hears of the same end."""
    exit = await (await engine.get("shared")).stop(grace=60)
    return {"code": exit.code, "at": str(exit.at)}


async def delete_shared(engine: Engine) -> dict[str, Any]:
    try:
        await (await engine.get("shared")).delete(force=True)
    except (ContainerNotFound, InvalidState) as error:
        return {"error": type(error).__name__}
    return {"error": None}


async def read_events(engine: Engine) -> dict[str, Any]:
    """All that was ever told, as this program reads it."""
    told = []
    async for event in engine.events(since=0, follow=False):
        assert isinstance(event, Event)
        code = None if event.exit is None else event.exit.code
        told.append((event.seq, event.container, event.type, event.process, code))
    return {"told": told}


async def main(state: str, runtime: str, number: int, rounds: int) -> None:
    loop = asyncio.get_running_loop()
    async with Engine(state=state, runtime=runtime, limits=PATIENT) as engine:
        print(json.dumps("ready"), flush=True)
        while part := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            try:
                if part == "work":
                    answer = await work(engine, number, rounds)
                else:
                    answer = await {"end": end_shared, "delete": delete_shared, "events": read_events}[part](engine)
            except (LongshoreError, AssertionError) as error:
                answer = {"failed": repr(error)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    state, runtime, number, rounds = sys.argv[1:]
    asyncio.run(main(state, runtime, int(number), int(rounds)))
