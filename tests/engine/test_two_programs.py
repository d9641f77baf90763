"""Two programs on one store: one start, one owner of an id, and nobody kept waiting by the other."""

from __future__ import annotations

import asyncio

import pytest

from longshore.engine.engine import Engine
from longshore.errors import ContainerExists, ContainerNotFound, InvalidState, LongshoreError
from longshore.exit_record import Cause
from longshore.fs.files import try_hold

from .world import FOREVER, Listener, World, history, hung, types


async def test_two_starts_at_once_give_one_start(engine: Engine, other: Engine) -> None:
    await engine.create("box", args=FOREVER)
    first, second, third = await engine.get("box"), await other.get("box"), await engine.get("box")
    results = await asyncio.gather(first.start(), second.start(), third.start(), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["InvalidState", "InvalidState", "Process"]
    assert await types(engine) == ["start-container"]


async def test_two_creates_of_one_id_give_one(engine: Engine, other: Engine, world: World) -> None:
    results = await asyncio.gather(
        *(each.create("box", args=FOREVER) for each in (engine, other, engine, other)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Container"] + ["ContainerExists"] * 3
    assert world.machine.calls["create"] == 1
    assert (await (await other.get("box")).info()).state == "created"


async def test_the_loser_of_an_id_does_not_take_the_winners_ownership_away(world: World) -> None:
    engine = world.engine()
    await engine.create("box", args=FOREVER, owner="remove")
    with pytest.raises(ContainerExists):
        await engine.create("box", args=FOREVER, owner="remove")
    await world.die(engine)
    async with world.engine() as other:
        assert await other.list() == []
    assert world.systems == {}


async def test_an_id_that_is_being_made_is_taken_and_shown(engine: Engine, other: Engine, world: World) -> None:
    go = asyncio.Event()
    world.faults.delay("create", go)
    making = asyncio.create_task(engine.create("box", args=FOREVER))
    await hung(world, "create")
    with pytest.raises(ContainerExists):
        await other.create("box", args=FOREVER)
    assert [(info.id, info.state) for info in await other.list()] == [("box", "creating")]
    half = await other.get("box")
    for call in (half.kill, half.start, half.stop, half.stats, lambda: half.exec(["true"])):
        with pytest.raises(InvalidState, match=r"creat"):
            await call()
    restored = await other.restore()
    assert restored.undone == []  # its maker lives
    go.set()
    assert (await (await making).info()).state == "created"


async def test_kill_stats_and_signals_get_through_while_a_start_is_pending(
    engine: Engine, other: Engine, world: World
) -> None:
    go = asyncio.Event()
    world.faults.delay("start", go)
    box = await engine.create("box", args=FOREVER)
    starting = asyncio.create_task(box.start())
    await hung(world, "start")
    there = await other.get("box")
    async with asyncio.timeout(300):
        assert (await there.info()).state == "running"
        with pytest.raises(InvalidState, match="started already"):
            await there.start()
        with pytest.raises(InvalidState):
            await there.delete()
        await there.kill()
        with pytest.raises(InvalidState, match="it is stopped"):
            await starting
    assert (await box.info()).state == "stopped"
    assert "exit" not in await types(engine)  # nobody was told of a life


async def test_a_deletion_by_force_ends_a_pending_start(engine: Engine, other: Engine, world: World) -> None:
    world.faults.delay("start", asyncio.Event())
    box = await engine.create("box", args=FOREVER)
    starting = asyncio.create_task(box.start())
    await hung(world, "start")
    await (await other.get("box")).delete(force=True)
    with pytest.raises(InvalidState, match="it is stopped"):
        await starting
    assert world.systems == {}
    assert await other.list() == []


async def test_kill_and_stats_get_through_while_a_pause_is_pending(engine: Engine, other: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER, **world.pausable)
    world.faults.delay("pause", asyncio.Event())
    pausing = asyncio.create_task(box.pause())
    await hung(world, "pause")
    there = await other.get("box")
    async with asyncio.timeout(300):
        assert (await there.stats()).memory
        assert await there.pids()
        await there.kill()
        with pytest.raises(LongshoreError):
            await pausing
        assert (await there.wait()).cause is Cause.KILLED
    assert await types(engine) == ["start-container", "exit"]


async def test_inspect_kill_and_list_get_through_while_a_teardown_is_pending(
    engine: Engine, other: Engine, world: World
) -> None:
    go = asyncio.Event()
    world.faults.delay("settle", go, times=2)
    box = await engine.launch("box", args=FOREVER)
    waiting = asyncio.create_task(box.wait())
    await box.kill()
    await hung(world, "settle")
    there = await other.get("box")
    async with asyncio.timeout(300):
        assert (await there.inspect())["state"] == "stopped"
        await there.kill()
        assert [info.state for info in await other.list()] == ["stopped"]
        with pytest.raises(InvalidState):
            await there.exec(["true"])
    assert not waiting.done()
    go.set()
    assert (await waiting).cause is Cause.KILLED
    assert await (await other.get("box")).wait() == await waiting


async def test_other_calls_get_through_while_one_is_being_deleted(engine: Engine, other: Engine, world: World) -> None:
    go = asyncio.Event()
    box = await engine.launch("box", args=["true"])
    await box.wait()
    world.faults.delay("delete", go)
    deleting = asyncio.create_task(box.delete())
    await hung(world, "delete")
    there = await other.get("box")
    assert (await there.info()).state == "stopped"
    assert (await there.wait()).code == 0
    with pytest.raises(InvalidState, match="deleted already"):
        await there.delete()
    forced = asyncio.create_task(there.delete(force=True))
    await asyncio.sleep(0.02)
    assert not forced.done()
    go.set()
    await deleting
    await forced
    assert await types(engine) == ["start-container", "exit", "delete"]


async def test_a_start_here_is_seen_there(engine: Engine, other: Engine) -> None:
    async with Listener(other) as heard:
        box = await engine.create("box", args=FOREVER)
        there = await other.get("box")
        assert (await there.info()).state == "created"
        await box.start()
        await heard.until("start-container")
        assert (await there.info()).state == "running"
        await there.kill()
        assert (await box.wait()) == await there.wait()


async def test_started_there_it_can_be_waited_for_here(engine: Engine, other: Engine, world: World) -> None:
    here = await engine.create("box", args=["exit", "3"])
    await here.update() if world.oci else None  # taken up here before it is started there
    with pytest.raises(InvalidState):
        await here.wait()
    await (await other.get("box")).start()
    assert (await here.wait()).code == 3


async def test_deleted_there_it_is_gone_here(engine: Engine, other: Engine) -> None:
    here = await engine.launch("box", args=FOREVER)
    await (await other.get("box")).delete(force=True)
    with pytest.raises(ContainerNotFound):
        await here.info()
    await here.delete(force=True)
    await engine.create("box", args=FOREVER)


async def test_what_another_program_runs_for_itself_ends_with_the_record_that_program_made(
    engine: Engine, other: Engine
) -> None:
    running = asyncio.create_task(engine.run("host", FOREVER, name="box"))
    async with Listener(other) as heard:
        await heard.until("start-container")
        there = await other.get("box")
        waiting = asyncio.create_task(there.wait())
        await asyncio.sleep(0.01)
        await there.kill()
        done = await running
        assert await waiting == done.exit
    assert [event.type for event in await history(engine)] == ["start-container", "exit", "delete"]


async def test_a_program_that_is_stopped_in_its_lock_is_told_of(engine: Engine, world: World) -> None:
    box = await engine.create("box", args=FOREVER)
    held = try_hold(world.state / "run" / "containers" / "box" / "lock")
    assert held is not None
    try:
        starting = asyncio.create_task(box.start())
        await asyncio.sleep(0.05)
        assert not starting.done()
        assert (await box.info()).state == "created"  # looking needs no lock
    finally:
        held.release()
    await starting


async def test_pausing_twice_at_once_is_told_once(engine: Engine, other: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER, **world.pausable)
    there = await other.get("box")
    results = await asyncio.gather(box.pause(), there.pause(), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["InvalidState", "NoneType"]
    await there.resume()
    assert await types(engine) == ["start-container", "pause", "resume"]


async def test_what_a_run_is_to_remove_may_be_removed_by_others_who_use_the_id_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=FOREVER, owner="remove")
    uid = (await box.info()).uid
    async with world.engine() as other:
        await (await other.get("box")).delete(force=True)
        again = await engine.launch("box", args=FOREVER, owner="remove")
        await engine._remove(engine._state.owned[uid][0])  # as at the end of `run`
        assert caplog.messages == []
        assert (await again.info()).state == "running"
    await world.die(engine)
    async with world.engine() as other:
        assert await other.list() == [], "what is made anew is still its maker's"
