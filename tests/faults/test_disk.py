"""The disk fails at every step of every operation: a typed error, nothing left behind, and all else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound, LongshoreError
from longshore.exit_record import Cause
from longshore.simulator import Machine, Simulator

from ..engine.world import FOREVER, PROGRAMS, Listener, World, history, leftovers, said, types
from .disk import Disk, installed

MOST = 400  # steps of one operation: no operation has so many


async def _box(engine: Engine, *, started: bool = True) -> Container:
    make = engine.launch if started else engine.create
    return await make("box", args=FOREVER)


async def _run(engine: Engine) -> None:
    done = await engine.run("host", ["both"], name="box")
    assert done.stdout == b"out\n"


async def _exec(engine: Engine, name: str | None) -> None:
    process = await (await engine.get("box")).exec(["exit", "7"], name=name)
    assert (await process.wait()).code == 7


async def _end(engine: Engine) -> None:
    box = await engine.get("box")
    await box.kill()
    assert (await box.wait()).code != 0


async def _pause(engine: Engine) -> None:
    box = await engine.get("box")
    try:
        await box.pause()
    except LongshoreError:
        assert (await box.info()).state == "running", "a pause that failed is undone"
        told = await types(engine, "box")
        assert told.count("resume") <= told.count("pause"), "nobody hears of the end of what was not told"
        raise
    await box.resume()


async def _delete(engine: Engine, *, force: bool) -> None:
    await (await engine.get("box")).delete(force=force)


async def _stop(engine: Engine) -> None:
    await (await engine.get("box")).stop(grace=0)


async def _start(engine: Engine) -> None:
    await (await engine.get("box")).start()


async def _update(engine: Engine) -> None:
    await (await engine.get("box")).update(pids=100)


async def _look(engine: Engine) -> None:
    await engine.list()
    box = await engine.get("box")
    await box.inspect()
    async for _ in engine.events(since=0, follow=False):
        pass
    async for _ in box.logs():
        pass


async def _open(engine: Engine) -> None:
    simulator = engine._state.service
    assert isinstance(simulator, Simulator)
    async with Engine(Simulator(machine=simulator.machine), state=engine._state.store.run.parent) as other:
        await other.list()


Operation = Callable[[Engine], Awaitable[object]]
OPERATIONS: dict[str, tuple[bool | None, Operation]] = {  # what there is before: nothing, created (False) or running
    "run": (None, _run),
    "create": (None, lambda engine: _box(engine, started=False)),
    "launch": (None, _box),
    "start": (False, _start),
    "exec": (True, lambda engine: _exec(engine, None)),
    "exec with a name": (True, lambda engine: _exec(engine, "work")),
    "pause and resume": (True, _pause),
    "update": (True, _update),
    "end": (True, _end),
    "stop": (True, _stop),
    "stop what was only created": (False, _stop),
    "delete": (False, lambda engine: _delete(engine, force=False)),
    "delete by force": (True, lambda engine: _delete(engine, force=True)),
    "look": (True, _look),
    "open the store": (None, _open),
}


async def every_step(state: Path, operation: str, fail: Callable[[Disk, int], None]) -> int:
    """Have an operation fail at each of its steps in turn; how many it has."""
    before, operate = OPERATIONS[operation]
    world = World(Machine("oci", programs=PROGRAMS), state)
    disk = Disk(state)
    wrong: list[str] = []
    async with asyncio.timeout(300), world.engine() as engine:
        neighbour = await engine.launch("neighbour", args=FOREVER)
        with installed(disk):
            for step in range(MOST):
                if before is not None:
                    await _box(engine, started=before)
                fail(disk, step)
                try:
                    async with asyncio.timeout(300):
                        await operate(engine)
                except LongshoreError as error:
                    if disk.only is not None and not error.hint:
                        wrong.append(f"{disk.failed} without a hint: {error}")
                except Exception as error:
                    wrong.append(f"{disk.failed} led to {error!r}")
                failed = disk.failed
                disk.heal()
                wrong += [f"after {failed}: {what}" for what in await _books(world, engine, neighbour)]
                if not failed:
                    break
        await neighbour.delete(force=True)
    await world.close()
    assert not wrong, "\n".join(wrong)
    assert leftovers(world) == []
    return step


async def _books(world: World, engine: Engine, neighbour: Container) -> list[str]:
    """What is not as it should be, once the disk works again; then the container goes."""
    wrong = []
    if (await neighbour.info()).state != "running":
        wrong.append("the neighbour is disturbed")
    known = {info.id: info.state for info in await engine.list()}
    if not known.keys() <= {"neighbour", "box"} or not set(known.values()) <= {
        "running",
        "created",
        "paused",
        "stopped",
    }:
        wrong.append(f"the listing is {known}")
    try:
        await (await engine.get("box")).delete(force=True)
    except ContainerNotFound:
        pass
    await engine.run("host", ["true"])  # what was left in the trash goes with the next deletion
    wrong += [f"{id} is left" for id in world.systems if id != "neighbour"]
    wrong += [f"{left} is left" for left in leftovers(world, leases=False)]
    return wrong


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_disk_that_is_full_from_any_step_on(tmp_path: Path, operation: str) -> None:
    steps = await every_step(tmp_path, operation, Disk.fill_up_at)
    assert steps > 0 or operation in ("look", "open the store")  # which write nothing


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_disk_that_fails_once_at_any_step(tmp_path: Path, operation: str) -> None:
    assert await every_step(tmp_path, operation, Disk.break_at) > 3


# ends that are seen while nothing can be written


@asynccontextmanager
async def _ended_while_full(state: Path) -> AsyncIterator[tuple[World, Engine, Disk]]:
    """A container and an exec in it were seen to end while the disk was full: both codes are the engine's alone."""
    world = World(Machine("oci", programs=PROGRAMS), state)
    disk = Disk(state)
    async with asyncio.timeout(300):
        engine = world.engine()
        box = await engine.launch("box", args=["trap-exit", "7"])
        process = await box.exec(["trap-exit", "9"], name="work", stdout=PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        await said(box, b"ready")
        with installed(disk):
            disk.fill_up_at(0)
            await process.signal(15)
            assert (await process.wait()).code == 9
            await box.signal(15)
            assert (await box.wait()).code == 7
            assert not (state / "lib" / "containers" / "box" / "exit.json").exists()
            yield world, engine, disk
        await world.close()
    assert leftovers(world) == []


async def _found_later(world: World) -> None:
    """The next program finds the codes that were seen, and each end was told once."""
    async with world.engine() as next_engine:
        box = await next_engine.get("box")
        exit = (await box.info()).exit
        assert exit is not None
        assert (exit.code, exit.cause) == (7, Cause.EXITED)
        assert (await (await box.process("work")).wait()).code == 9
        told = [(event.type, event.exit.code) for event in await history(next_engine) if event.exit is not None]
        assert told == [("exit-process", 9), ("exit", 7)]


async def test_an_end_that_was_seen_while_the_disk_was_full_is_recorded_once_there_is_room(tmp_path: Path) -> None:
    async with _ended_while_full(tmp_path) as (world, engine, disk):
        box = await engine.get("box")
        exit = (await box.info()).exit
        assert exit is not None
        assert exit.code == 7, "whoever saw it knows it also while it cannot be recorded"
        assert (await (await box.process("work")).wait()).code == 9
        async with Listener(engine) as heard:
            disk.heal()
            await heard.until("exit-process")
            await heard.until("exit")
        await world.die(engine)
        await _found_later(world)


async def test_an_end_that_was_seen_while_the_disk_was_full_is_recorded_when_the_engine_is_closed(
    tmp_path: Path,
) -> None:
    async with _ended_while_full(tmp_path) as (world, engine, disk):
        disk.heal()
        await engine.close()
        await _found_later(world)


async def test_an_end_that_was_seen_while_the_disk_was_full_is_told_before_the_deletion(tmp_path: Path) -> None:
    async with _ended_while_full(tmp_path) as (_, engine, disk):
        disk.heal()
        await (await engine.get("box")).delete()
        told = [(event.type, event.exit and event.exit.code) for event in await history(engine)]
        assert told[-2:] == [("exit", 7), ("delete", None)]
