"""In the machine, after a cut: what longshore finds there, as one line `books JSON`; then all of it is deleted.

`wrong` in it are the promises that do not hold whatever was done before: that the store opens, lists, tells its events,
takes new containers, deletes old ones, and that nothing is left of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, "/longshore")

from longshore import Engine, Event
from longshore.errors import LongshoreError

DATA, RUN = Path("/var/lib/longshore"), Path("/run/longshore")
LIMIT = 240.0


def empty_files() -> list[str]:
    """Files that the loss of power left without content, or with none but zeros."""
    found = []
    for path in DATA.rglob("*"):
        ours = (
            path.is_file()
            and not any(part.startswith("scratch") for part in path.parts)
            and path.name not in ("log", "lock")
        )
        if ours and not path.read_bytes().strip(b"\0"):
            found.append(str(path.relative_to(DATA)))
    return found


async def look(engine: Engine, told: dict[str, Any], wrong: list[str]) -> None:
    restored = await engine.restore()
    told["undone"] = restored.undone
    for info in await engine.list():
        box = await engine.get(info.id)
        found: dict[str, Any] = {"state": info.state}
        if info.state == "damaged":
            told["damaged"].append(info.id)
        elif info.state != "stopped":
            wrong.append(f"`{info.id}` is {info.state} after the machine was off")
        else:
            exit = await box.wait()
            found |= {"code": exit.code, "cause": str(exit.cause)}
            try:
                await box.inspect()
                async for _ in box.logs():
                    pass
            except LongshoreError as error:  # a record that did not reach the disk: said, not hidden
                told["refused"].append(f"{info.id}: {error}")
        told["found"][info.id] = found
    last = 0
    exits: list[tuple[str, str | None]] = []
    async for event in engine.events(since=0, follow=False):
        if isinstance(event, Event):
            if event.seq <= last:
                wrong.append(f"event {event.seq} after {last}")
            last = event.seq
            if event.type == "exit":
                exits.append((event.uid, event.process))
    if len(set(exits)) != len(exits):
        wrong.append("an exit was told twice")
    told["events"] = last


async def go_on(engine: Engine, told: dict[str, Any], wrong: list[str]) -> None:
    done = await engine.run("host", ["sh", "-c", "echo here; exit 7"])
    if (done.exit_code, done.stdout) != (7, b"here\n"):
        wrong.append(f"a new container: {done}")
    for info in await engine.list():
        await (await engine.get(info.id)).delete(force=True)


def left() -> Iterator[str]:
    for where in (DATA / "containers", DATA / "trash", RUN / "containers", RUN / "trash", RUN / "leases"):
        for path in where.iterdir() if where.is_dir() else ():
            yield str(path)
    for top in (DATA, RUN):
        for path in top.rglob(".*"):
            if path.is_file():
                yield f"temporary file {path}"
    for path in Path("/sys/fs/cgroup").rglob("longshore/*"):
        if path.is_dir():
            yield str(path)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if "/longshore/containers" in line:
            yield line


async def main() -> int:
    wrong: list[str] = []
    told: dict[str, Any] = {"empty": empty_files(), "found": {}, "damaged": [], "refused": [], "wrong": wrong}
    try:
        async with asyncio.timeout(LIMIT):
            async with Engine() as engine:
                await look(engine, told, wrong)
                await go_on(engine, told, wrong)
            for _ in range(100):
                if not (rest := list(left())):
                    break
                await asyncio.sleep(0.1)
            wrong += [f"left: {each}" for each in rest]
    except Exception:
        wrong.append(traceback.format_exc())
    print("books", json.dumps(told), flush=True)
    os.sync()  # what was deleted here stays deleted: the next cut is about what is done from now on
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
