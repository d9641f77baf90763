"""A state directory with every kind of file in it, and what must be true of it whatever happened to one of them."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from longshore.compute.limits import Limits
from longshore.engine.container import Container, ContainerInfo
from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound, LongshoreError
from longshore.exit_record import Exit
from longshore.simulator import Machine

from ..engine.world import FOREVER, PROGRAMS, World, leftovers
from .noise import spoil

LIMIT = 300.0
IDS = ["ended", "running", "created", "half"]

QUICK = Limits(other_end=0.1, other_start=0.1, lock=5, end=10)
"""What a program waits for another that is alive, and knows more: here it never comes to say it."""

KINDS = {
    "lib/store.json": "*lib/store.json",
    "lib/journal/*.jsonl": "*lib/journal/*.jsonl",
    "lib/journal/boot": "*lib/journal/boot",
    "locks": "*lock",
    "run/boot": "*run/boot",
    "run/view": "*run/view",
    "record.json": "*containers/*/record.json",
    "spec.json": "*containers/*/spec.json",
    "exit.json": "*containers/*/exit.json",
    "log": "*containers/*/log",
    "claim": "*/claim",
    "execs: maker": "*execs/*/maker",
    "execs: record.json": "*execs/*/record.json",
    "execs: exit.json": "*execs/*/exit.json",
    "lease: owned": "*leases/*/owned/*",
    "lease: view": "*leases/*/view",
    "trash": "*trash/*/*",
}
"""Every kind of file that the engine keeps, as docs/state.md lists them, and how its paths look."""


async def populate(world: World) -> None:
    """Containers in every state, execs, a lease whose owner died, a deletion that was not finished."""
    mine, other = world.engine(), world.engine()
    ended = await mine.launch("ended", args=["both", "3"])
    await ended.wait()
    running = await mine.launch("running", args=FOREVER, labels={"a": "b"})
    await (await running.exec(["exit", "7"], name="work")).wait()
    await running.exec(FOREVER, name="busy")
    await mine.create("created", args=FOREVER)
    await other.launch("theirs", args=FOREVER, owner="remove")
    done = await other.create("done", args=FOREVER)
    trash = world.state / "lib" / "trash" / done._ref.uid
    system = other._state.open_containers["done"].system
    await system.terminate()
    await system.delete()
    await world.die(other)
    (world.state / "lib" / "containers" / "done").rename(trash)  # as far as its deletion came
    (world.state / "run" / "containers" / "done").rename(world.state / "run" / "trash" / trash.name)
    for where in ("lib", "run"):
        (world.state / where / "containers" / "half").mkdir()  # as far as its making came
    record = mine._state.store.container_dir("created").read()
    record.id, record.uid, record.token = "half", "0123456789abcdef", b""
    mine._state.store.container_dir("half").write(record)
    shutil.copy(world.state / "lib/containers/created/spec.json", world.state / "lib/containers/half/spec.json")


def files(state: Path) -> list[Path]:
    """All files of a store, in an order that does not depend on when it was made."""
    return sorted(path for path in state.rglob("*") if path.is_file() and not path.is_symlink())


async def look(engine: Engine) -> dict[str, ContainerInfo]:
    """Ask everything that can be asked, of every container; typed errors are fine."""
    await engine.restore()
    found = {info.id: info for info in await engine.list()}
    with suppress(LongshoreError):
        async for _ in engine.events(since=0, follow=False):
            pass
    for id in IDS:
        with suppress(LongshoreError):
            await _ask(await engine.get(id), found)
    return found


async def _ask(box: Container, found: dict[str, ContainerInfo]) -> None:
    for question in (box.info, box.inspect, box.processes, box.stats, box.top):
        with suppress(LongshoreError):
            await question()
    with suppress(LongshoreError):
        async for _ in box.logs():
            pass
    with suppress(LongshoreError):
        await box.process("work")
    info = found.get(box.id)
    if info is not None and info.state == "stopped":
        with suppress(LongshoreError):
            assert isinstance(await box.wait(), Exit)


async def one_case(base: Path, seed: int) -> tuple[str, list[str]]:
    """Spoil a file of a fresh store; what was done, and what is wrong after it."""
    rng = random.Random(seed)
    world = World(Machine("oci", programs=PROGRAMS), base)
    async with asyncio.timeout(LIMIT):
        await populate(world)
        every = files(base)
        path = rng.choice(every)
        name = str(path.relative_to(base))
        what = f"seed {seed}: {name}: {spoil(path, every, rng)}"
        try:
            wrong = await _books(world, name)
        except LongshoreError as error:
            wrong = [f"{type(error).__name__}: {error}"]
        except Exception as error:
            raise AssertionError(f"{what} led to {error!r}") from error
        refused = [line for line in wrong if name == "lib/store.json" or "is of version" in line]
        if refused:  # what a later version wrote, or nobody knows what store this is: nothing is touched
            return what, []
        await world.close()
        wrong += [left for left in leftovers(world) if name not in left]
    return what, wrong


async def _books(world: World, name: str) -> list[str]:
    """Look, delete and make again; what is not as it should be with the file of this name spoiled."""
    whose = next((id for id in IDS if f"containers/{id}/" in name), None)
    engine = world.engine()
    engine._state.limits = QUICK
    found = await look(engine)
    wrong = [] if name == "run/boot" else [f"{id} is {info}" for id, info in _disturbed(found, whose)]
    for id in IDS:
        with suppress(ContainerNotFound):
            await (await engine.get(id)).delete(force=True)
        await (await engine.create(id, args=FOREVER)).delete()
    return wrong


def _disturbed(found: dict[str, ContainerInfo], whose: str | None) -> Iterator[tuple[str, str]]:
    usual = {"ended": "stopped", "running": "running", "created": "created"}
    for id, state in usual.items():
        now = found[id].state if id in found else "not listed"
        if id != whose and now != state:
            yield id, now
