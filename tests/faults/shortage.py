"""A program that runs out of something while it works with real containers: it says what came of each call.

python -m tests.faults.shortage STATE disk|read-only|processes
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound, LongshoreError

MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
LIBC = ctypes.CDLL(None, use_errno=True)
PIDS = next(path for path in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if path.is_dir())


def mount(source: str, target: Path, flags: int, data: str) -> None:
    if LIBC.mount(source.encode(), os.fsencode(target), b"tmpfs", flags, data.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")


@contextmanager
def full(state: Path, free: int) -> Iterator[None]:
    """A file system with so many pages left."""
    filler = state / "filler"
    with filler.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        file.truncate(max(0, file.tell() - 4096 * free))
    yield
    filler.unlink()


@contextmanager
def few(group: Path, free: int) -> Iterator[None]:
    """A cgroup with room for so many more processes and threads."""
    now = int((group / "pids.current").read_text())
    (group / "pids.max").write_text(str(now + free))
    yield
    (group / "pids.max").write_text("max")


async def run(engine: Engine) -> None:
    assert (await engine.run("host", ["echo", "hi"], name="box")).stdout == b"hi\n"


async def launch(engine: Engine) -> None:
    await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")


async def exec_(engine: Engine) -> None:
    assert (await (await engine.get("neighbour")).run(["echo", "hi"])).stdout == b"hi\n"


async def kill(engine: Engine) -> None:
    victim = await engine.get("victim")
    await victim.kill()
    assert (await victim.wait()).code != 0


OPERATIONS: dict[str, Callable[[Engine], Awaitable[None]]] = {"run": run, "launch": launch, "exec": exec_, "kill": kill}


async def attempt(engine: Engine, what: str) -> str:
    """One operation: `done`, or the error and its hint."""
    try:
        async with asyncio.timeout(300):
            await OPERATIONS[what](engine)
    except LongshoreError as error:
        return f"{type(error).__name__}: {error} | {error.hint}"
    except Exception as error:
        return f"UNTYPED {error!r}"
    return "done"


async def clear(engine: Engine) -> None:
    for id in ("box", "victim"):
        with suppress(ContainerNotFound):
            await (await engine.get(id)).delete(force=True)


async def read_only(engine: Engine, state: Path) -> None:
    """Another program sees the same store through a mount on which nothing can be written."""
    view = state / "view"
    view.mkdir()
    mount(str(state), view, MS_BIND, "")
    mount("", view, MS_BIND | MS_REMOUNT | MS_RDONLY, "")
    await engine.launch("victim", root="host", args=["sleep", "infinity"], owner="remove")
    async with Engine(state=view) as other:
        for operation in OPERATIONS:
            print(f"{operation}: {await attempt(other, operation)}")
        neighbour = await other.get("neighbour")
        await neighbour.stats()
        print(f"looking: {(await neighbour.info()).state} {len(await neighbour.top())}")


async def short_of(what: str, engine: Engine, state: Path, group: Path) -> None:
    for free in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24):
        if what == "processes" and free > 5:
            break
        for operation in OPERATIONS:
            if operation == "kill":
                await engine.launch("victim", root="host", args=["sleep", "infinity"], owner="remove")
            with few(group, free) if what == "processes" else full(state, free):
                print(f"{operation}: {await attempt(engine, operation)}", flush=True)
                known = {info.id: info.state for info in await engine.list()}
                print(f"looking: {known.get('neighbour')}", flush=True)
            await clear(engine)


async def main() -> None:
    state, what = Path(sys.argv[1]), sys.argv[2]
    group = PIDS / f"longshore-test-{os.getpid()}"
    if what == "processes":
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))
    else:
        mount("tmpfs", state, 0, "size=24m")
    try:
        async with asyncio.timeout(300), Engine(state=state) as engine:
            neighbour = await engine.launch("neighbour", root="host", args=["sleep", "infinity"], owner="remove")
            await run(engine)
            await exec_(engine)
            if what == "read-only":
                await read_only(engine, state)
            else:
                await short_of(what, engine, state, group)
            print(f"after: {(await neighbour.info()).state} {await attempt(engine, 'run')}")
            await neighbour.delete(force=True)
            await clear(engine)
            print(f"left: {[info.id for info in await engine.list()]}")
    finally:
        if what == "processes":
            (PIDS / "cgroup.procs").write_text(str(os.getpid()))
            group.rmdir()


if __name__ == "__main__":
    asyncio.run(main())
