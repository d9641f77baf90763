"""A program that uses longshore until it is killed. It writes down what it may count on, before it goes on.

Run as a nursery: each line on standard input, `STATE RUNTIME SEED REPORT`, forks one owner (so that none has to
import everything again), whose pid is printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from longshore.compute import DEVNULL, PIPE
from longshore.engine import Engine

SLEEP = ["sleep", "1000"]


async def work(state: str, runtime: str, seed: int, report: Path) -> None:
    choose = random.Random(seed)
    with report.open("a", buffering=1) as notes:
        async with Engine(state=state, runtime=runtime) as engine:
            base = await engine.launch(f"base-{seed}", root="host", args=SLEEP, owner="remove")
            print_keeper(engine, notes)
            if choose.random() < 0.2:
                fork_a_child_that_lives_on(notes)
            number = 0
            while True:
                number += 1
                what = choose.choice(["run", "exec", "sleep", "create", "keep", "many"])
                if what == "run":
                    done = await engine.run("host", ["sh", "-c", "echo hi; exit 3"])
                    assert (done.exit_code, done.stdout) == (3, b"hi\n"), done
                elif what == "exec":
                    process = await base.exec(["sh", "-c", "cat; exit 4"], stdin=PIPE)
                    assert (await process.communicate(b"x"))[0] == b"x"
                    assert process.returncode == 4
                elif what == "sleep":
                    await base.exec(SLEEP, stdout=DEVNULL, stderr=DEVNULL)
                elif what == "create":
                    box = await engine.create(f"made-{seed}-{number}", root="host", args=SLEEP, owner="remove")
                    if choose.random() < 0.5:
                        await box.start()
                elif what == "keep":
                    name = f"keep-{seed}-{number}"
                    notes.write(f"trying {name}\n")
                    await engine.launch(name, root="host", args=SLEEP)
                    notes.write(f"kept {name}\n")
                else:
                    await asyncio.gather(*(engine.run("host", ["true"]) for _ in range(3)))


def print_keeper(engine: Engine, notes: object) -> None:
    lease = engine._core.lease
    assert lease is not None
    print("keeper", lease.keeper_pid, file=notes)  # type: ignore[call-overload]


def fork_a_child_that_lives_on(notes: object) -> None:
    pid = os.fork()
    if pid == 0:
        os.close(0)
        os.execvp("sleep", ["sleep", "60"]) if random.random() < 0.5 else signal_pause()
    print("child", pid, file=notes)  # type: ignore[call-overload]


def signal_pause() -> None:
    import signal

    signal.alarm(60)
    signal.pause()


def nursery() -> None:
    import signal

    for line in sys.stdin:
        state, runtime, seed, report = line.split()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(work(state, runtime, int(seed), Path(report)))
            except BaseException:
                import traceback

                with Path(report).open("a") as notes:
                    notes.write(f"failed {traceback.format_exc()!r}\n")
                    os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    nursery()
