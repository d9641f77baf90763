"""Leaving `async with Engine()`: what is its own ends, what was kept goes on, who still waits is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import longshore
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import EngineClosed, LongshoreError
from longshore.exit_record import Cause
from longshore.simulator import Simulator

from ..needs import needs
from .world import FOREVER, World, history, hung, runs, said, types


def test_plain_with_is_told_what_to_write_instead() -> None:
    engine: Any = Engine(Simulator())
    with pytest.raises(TypeError, match=r"`async with longshore\.Engine\(\).*longshore\.sync\.Engine$"), engine:
        pass


async def test_async_with_a_blocking_engine_is_told_what_to_write_instead() -> None:
    engine: Any = longshore.sync.Engine(Simulator())
    with pytest.raises(TypeError, match=r"plain `with`.*longshore\.Engine$"):
        async with engine:
            pass
    engine.close()


@pytest.mark.parametrize(("owner", "state"), [("keep", "running"), ("stop", "stopped"), ("remove", None)])
async def test_what_becomes_of_a_container_is_its_owner_setting(
    other: Engine, world: World, owner: str, state: str | None
) -> None:
    async with world.engine() as engine:
        await engine.launch("box", args=FOREVER, owner=owner)  # type: ignore[arg-type]
    assert [info.state for info in await other.list()] == ([state] if state else [])
    assert bool(world.machine.processes) is (state == "running")
    told = {"keep": [], "stop": ["exit"], "remove": ["exit", "delete"]}[owner]
    assert await types(other) == ["start-container", *told]


@pytest.mark.parametrize("owner", ["stop", "remove"])
async def test_it_is_asked_to_end_before_it_is_killed(other: Engine, world: World, owner: str) -> None:
    async with world.engine() as engine:
        box = await engine.launch("box", args=["trap-exit", "4"], owner=owner)  # type: ignore[arg-type]
        await said(box, b"ready")
    exit = next(event.exit for event in await history(other) if event.type == "exit")
    assert exit is not None
    if owner == "stop":
        assert (exit.code, exit.cause) == (4, Cause.EXITED)
    else:
        assert exit.cause is Cause.KILLED


async def test_the_same_holds_when_it_is_left_by_an_error(other: Engine, world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        async with world.engine() as engine:
            await engine.launch("box", args=FOREVER, owner="remove")
            _ = 1 / 0
    assert await other.list() == []


async def test_the_same_holds_when_it_is_left_by_a_cancellation(other: Engine, world: World) -> None:
    async def program() -> None:
        async with world.engine() as engine:
            await engine.launch("box", args=FOREVER, owner="remove")
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(program())
    await runs(world, "box")
    await asyncio.sleep(0.01)
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await other.list() == []
    assert world.systems == {}


async def test_execs_started_here_are_killed_and_their_records_say_so(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)
    async with world.engine() as other:
        process = await (await other.get("box")).exec(FOREVER, name="work")
        waiting = asyncio.create_task(process.wait())
        await asyncio.sleep(0)
    assert (await waiting).cause is Cause.KILLED
    assert (await (await box.process("work")).wait()).cause is Cause.KILLED
    assert (await box.info()).state == "running"
    assert "exit-process" in await types(engine)


async def test_what_run_started_is_killed_and_removed(world: World, other: Engine) -> None:
    engine = world.engine()
    running = asyncio.create_task(engine.run("host", FOREVER, name="box"))
    await runs(world, "box")
    await engine.close()
    with pytest.raises(EngineClosed):
        await running
    assert world.systems == {}
    assert await other.list() == []


PENDING: dict[str, tuple[Callable[[Container], Awaitable[object]], str | None]] = {
    "wait": (lambda box: box.wait(), None),
    "stop": (lambda box: box.stop(grace=100), None),
    "pause": (lambda box: box.pause(), "pause"),
    "stats": (lambda box: box.stats(), "stats"),
    "exec": (lambda box: box.exec(FOREVER), "exec"),
    "kill": (lambda box: box.kill(), "terminate"),
}


@pytest.mark.parametrize("call", PENDING)
async def test_who_still_waits_gets_engine_closed_and_the_container_goes_on(
    world: World, other: Engine, call: str
) -> None:
    start, step = PENDING[call]
    engine = world.engine()
    box = await engine.launch("box", args=["deaf"], init=True, **world.pausable)
    await said(box, b"deaf")
    if step is not None:
        world.faults.delay(step, asyncio.Event())
    pending = asyncio.ensure_future(start(box))
    await asyncio.sleep(0.02)
    assert not pending.done()
    await engine.close()
    with pytest.raises(EngineClosed):
        await pending
    assert [info.state for info in await other.list()] == ["running"]


async def test_a_process_of_a_kept_container_that_is_waited_for_tells_that_the_engine_is_closed(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=FOREVER)
    assert box.init is not None
    waiting = asyncio.create_task(box.init.wait())
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineClosed):
        await waiting


@pytest.mark.parametrize("step", ["create", "start"])
async def test_a_making_that_is_pending_is_undone(world: World, other: Engine, step: str) -> None:
    engine = world.engine()
    world.faults.delay(step, asyncio.Event())
    making = asyncio.create_task(engine.launch("box", args=FOREVER))
    await hung(world, step)
    await engine.close()
    with pytest.raises(EngineClosed):
        await making
    assert world.systems == {}
    assert await other.list() == []


async def test_a_deletion_that_is_pending_completes(world: World, other: Engine) -> None:
    go = asyncio.Event()
    engine = world.engine()
    box = await engine.launch("box", args=["true"])
    await box.wait()
    world.faults.delay("delete", go)
    deleting = asyncio.create_task(box.delete())
    await hung(world, "delete")
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    go.set()
    await closing
    await asyncio.wait((deleting,))
    assert world.systems == {}
    assert await other.list() == []


async def test_streams_and_iterators_end(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=FOREVER)

    async def drain(iterator: object) -> int:
        return len([item async for item in iterator])  # type: ignore[attr-defined]

    attached = await box.attach()
    iterators = [
        asyncio.create_task(drain(each))
        for each in (engine.events(), box.logs(follow=True), box.watch_stats(interval=0.01))
    ]
    reading = asyncio.create_task(attached.stdout.read())
    await asyncio.sleep(0.05)
    await engine.close()
    assert await reading == b""
    for iterator in iterators:
        assert await iterator >= 0


async def test_afterwards_every_call_says_that_it_is_closed(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=FOREVER)
    await engine.close()
    await engine.close()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: engine.run("host", ["true"]),
        lambda: engine.create("new", args=FOREVER),
        lambda: engine.get("box"),
        engine.list,
        engine.restore,
        engine.version,
        box.info,
        box.wait,
        box.kill,
        box.delete,
        lambda: box.exec(["true"]),
    ]
    for call in calls:
        with pytest.raises(EngineClosed):
            await call()


async def test_closing_twice_at_once_waits_for_the_one_closing(world: World, other: Engine) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER, owner="remove")
    await asyncio.gather(engine.close(), engine.close(), engine.close())
    assert await other.list() == []


async def test_an_engine_that_was_never_used_leaves_nothing(world: World) -> None:
    engine = world.engine()
    await engine.close()
    assert not (world.state / "run").exists()


async def test_a_container_that_cannot_be_ended_does_not_keep_the_engine_for_ever(world: World, other: Engine) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER, owner="remove")
    world.faults.fail_at("terminate", LongshoreError("no"), times=2)
    await engine.close()
    assert [info.id for info in await other.list()] in ([], ["box"])


@needs("fork")
async def test_an_engine_in_a_forked_child_is_refused(engine: Engine) -> None:
    await engine.run("host", ["true"])
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            engine.list().send(None)
            os.write(write, b"no error")
        except BaseException as error:
            os.write(write, type(error).__name__.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"EngineClosed"
    os.close(read)


async def test_the_service_that_was_given_is_not_closed() -> None:
    simulator = Simulator()
    async with Engine(simulator) as engine:
        await engine.run("host", ["true"])
    async with Engine(simulator) as engine:
        assert (await engine.run("host", ["exit", "2"])).exit_code == 2
