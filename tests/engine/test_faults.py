"""Whatever fails at whatever step: a typed error, nothing left behind, and it can be tried again."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import InvalidState, ServiceError, StoreError, TimeLimit
from longshore.exit_record import Cause
from longshore.simulator import Machine

from .world import FOREVER, PROGRAMS, World, hung, leftovers, runs, types

BROKEN = ServiceError("broken", "box", "the moon is wrong")

Make = Callable[[Engine], Awaitable[object]]
MAKERS: dict[str, tuple[Make, list[str]]] = {
    "run": (lambda engine: engine.run("host", ["true"], name="box"), ["launch", "create", "start"]),
    "create": (lambda engine: engine.create("box", args=FOREVER), ["create"]),
    "launch": (lambda engine: engine.launch("box", args=FOREVER), ["create", "start"]),
    "launch with pipes": (
        lambda engine: engine.launch("box", args=FOREVER, stdin=PIPE, stdout=PIPE, stderr=PIPE),
        ["launch", "create", "start"],
    ),
}
STEPS = [pytest.param(MAKERS[maker][0], step, id=f"{maker}-{step}") for maker in MAKERS for step in MAKERS[maker][1]]


@pytest.mark.parametrize(("make", "step"), STEPS)
async def test_a_making_that_fails_leaves_nothing_and_the_id_is_free(
    engine: Engine, world: World, make: Make, step: str
) -> None:
    world.faults.fail_at(step, BROKEN)
    with pytest.raises(ServiceError, match="moon"):
        await make(engine)
    assert world.systems == {}
    assert await engine.list() == []
    assert await types(engine) == []
    await make(engine)


@pytest.mark.parametrize(("make", "step"), STEPS)
async def test_a_making_that_is_cancelled_leaves_nothing_and_the_id_is_free(
    engine: Engine, world: World, make: Make, step: str
) -> None:
    world.faults.delay(step, asyncio.Event())
    task = asyncio.ensure_future(make(engine))
    await hung(world, step)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.systems == {}
    assert await engine.list() == []
    assert await types(engine) == []
    await make(engine)


@pytest.mark.usefixtures("threads_take_a_turn")
@pytest.mark.parametrize("maker", MAKERS)
async def test_a_making_that_is_cancelled_at_any_turn_of_the_loop_leaves_nothing(world: World, maker: str) -> None:
    """Not only where a step of the service hangs: at each await there is."""
    make, _ = MAKERS[maker]
    for turns in range(200):
        engine = world.engine()
        task = asyncio.ensure_future(make(engine))
        for _ in range(turns):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            assert world.systems == {}, turns
            assert await engine.list() == [], turns
        else:
            for info in await engine.list():
                await (await engine.get(info.id)).delete(force=True)
        await engine.close()
        assert leftovers(world) == [], turns
        if done:
            return
    pytest.fail("it never came to an end")


async def _fail_to_make_and_to_undo(world: World) -> Engine:
    engine = world.engine()
    for step in ("start", "terminate", "delete"):
        world.faults.fail_at(step, BROKEN)
    with pytest.raises(ServiceError, match="moon"):
        await engine.launch("box", args=FOREVER)
    assert [info.state for info in await engine.list()] == ["stopped"]
    return engine


async def test_an_undoing_that_fails_is_finished_when_the_engine_is_closed(world: World) -> None:
    engine = await _fail_to_make_and_to_undo(world)
    await engine.close()
    assert world.systems == {}
    assert leftovers(world) == []


async def test_an_undoing_that_fails_is_finished_though_the_engine_dies(world: World) -> None:
    await world.die(await _fail_to_make_and_to_undo(world))
    async with world.engine() as other:
        assert await other.list() == []  # by its opening, or by the keeper before
    assert world.systems == {}
    assert leftovers(world) == []


async def test_an_undoing_that_fails_is_finished_by_who_comes_next(world: World) -> None:
    engine = world.engine()
    world.faults.fail_at("start", BROKEN)
    world.faults.fail_at("terminate", BROKEN)
    world.faults.fail_at("delete", BROKEN)
    with pytest.raises(ServiceError, match="moon"):
        await engine.launch("box", args=FOREVER)
    async with world.engine() as other:
        await other.create("box", args=["true"])
        assert [info.state for info in await other.list()] == ["created"]


async def test_a_start_that_fails_ends_the_container_and_nobody_hears_of_a_life(engine: Engine, world: World) -> None:
    box = await engine.create("box", args=FOREVER)
    world.faults.fail_at("start", BROKEN)
    with pytest.raises(ServiceError, match="moon"):
        await box.start()
    info = await box.info()
    assert info.state == "stopped"
    assert info.exit is not None
    assert info.exit.cause is Cause.NEVER_STARTED
    assert await box.wait() == info.exit
    assert await types(engine) == []
    with pytest.raises(InvalidState, match="stopped"):
        await box.start()
    await box.delete()
    assert world.systems == {}
    await engine.launch("box", args=FOREVER)


async def test_a_start_that_is_cancelled_ends_the_container(engine: Engine, world: World) -> None:
    box = await engine.create("box", args=FOREVER)
    world.faults.delay("start", asyncio.Event())
    starting = asyncio.create_task(box.start())
    await hung(world, "start")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert (await box.info()).state == "stopped"
    assert len(world.machine.processes) == 0
    assert await types(engine) == []


@pytest.mark.usefixtures("threads_take_a_turn")
@pytest.mark.parametrize("turns", range(12))
async def test_a_start_that_is_cancelled_at_any_turn_runs_nothing_afterwards(
    engine: Engine, world: World, turns: int
) -> None:
    box = await engine.create("box", args=FOREVER)
    starting = asyncio.create_task(box.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        assert (await box.info()).state in ("created", "stopped")
    else:
        assert (await box.info()).state == "running"


async def test_a_container_that_ends_while_it_is_being_started_is_told_as_what_the_service_says(
    engine: Engine, world: World
) -> None:
    box = await engine.create("box", args=FOREVER)
    world.faults.delay("start", asyncio.Event())
    starting = asyncio.create_task(box.start())
    await hung(world, "start")
    world.faults.crash("box")
    with pytest.raises(ServiceError):
        await starting
    assert (await box.info()).state == "stopped"
    assert await types(engine) == []


async def _stats(box: Container) -> object:
    return await box.stats()


VERBS: dict[str, Callable[[Container], Awaitable[object]]] = {
    "stats": lambda box: box.stats(),
    "processes": lambda box: box.top(),
    "update": lambda box: box.update(pids=10),
    "pause": lambda box: box.pause(),
    "shutdown": lambda box: box.signal("TERM"),
    "terminate": lambda box: box.kill(),
    "exec": lambda box: box.exec(["true"]),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_that_fails_says_so_and_changes_nothing(engine: Engine, world: World, verb: str) -> None:
    if verb == "update" and not world.oci:
        return  # not supported at all
    box = await engine.launch("box", args=FOREVER, **world.pausable)
    world.faults.fail_at(verb, BROKEN)
    with pytest.raises(ServiceError, match="moon"):
        await VERBS[verb](box)
    assert (await box.info()).state == "running"
    assert await types(engine) == ["start-container"]
    await VERBS[verb](box)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_can_be_cancelled_and_the_container_goes_on(engine: Engine, world: World, verb: str) -> None:
    if verb == "update" and not world.oci:
        return
    box = await engine.launch("box", args=FOREVER, **world.pausable)
    world.faults.delay(verb, asyncio.Event())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await VERBS[verb](box)
    assert (await box.info()).state == "running"
    await VERBS[verb](box)


async def test_a_cancelled_pause_is_resumed_and_not_told(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER, **world.pausable)
    world.faults.delay("pause", asyncio.Event())
    pausing = asyncio.create_task(box.pause())
    await hung(world, "pause")
    pausing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pausing
    assert (await box.info()).state == "running"
    assert await types(engine) == ["start-container"]


async def test_cancelling_wait_only_stops_waiting(engine: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await box.wait()
    assert (await box.info()).state == "running"


async def test_a_stop_cancelled_in_its_grace_leaves_it_running_with_the_signal_sent(
    engine: Engine, world: World
) -> None:
    box = await engine.launch("box", args=["deaf"], init=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await box.stop(grace=20)
    assert (await box.info()).state == "running"
    assert world.machine.calls["shutdown"] == 1
    assert world.machine.calls["terminate"] == 0


async def test_a_deletion_once_begun_completes_though_it_is_cancelled(engine: Engine, world: World) -> None:
    go = asyncio.Event()
    box = await engine.launch("box", args=FOREVER)
    world.faults.delay("delete", go)
    deleting = asyncio.create_task(box.delete(force=True))
    await hung(world, "delete")
    deleting.cancel()
    await asyncio.sleep(0)
    assert not deleting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    assert world.systems == {}
    assert await types(engine) == ["start-container", "exit", "delete"]


@pytest.mark.parametrize("step", ["delete", "terminate"])
async def test_a_deletion_that_failed_can_be_tried_again(engine: Engine, world: World, step: str) -> None:
    box = await engine.launch("box", args=FOREVER)
    world.faults.fail_at(step, BROKEN)
    with pytest.raises(ServiceError, match="moon"):
        await box.delete(force=True)
    assert [info.id for info in await engine.list()] == ["box"]
    await box.delete(force=True)
    assert world.systems == {}
    assert await types(engine) == ["start-container", "exit", "delete"]


async def test_an_end_that_cannot_be_settled_is_recorded_all_the_same(engine: Engine, world: World) -> None:
    world.faults.fail_at("settle", BROKEN)
    box = await engine.launch("box", args=["exit", "4"])
    assert (await box.wait()).code == 4
    assert "moon" in (await box.inspect())["error"]
    assert await types(engine) == ["start-container", "exit"]


async def test_a_run_whose_container_cannot_be_removed_has_its_result_all_the_same(
    engine: Engine, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.faults.fail_at("delete", BROKEN)
    done = await engine.run("host", ["both", "7"], name="box")
    assert (done.exit_code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert re.search("`box`.*moon", caplog.text)
    await (await engine.get("box")).delete(force=True)
    assert world.systems == {}


async def test_what_a_run_could_not_remove_goes_when_the_engine_is_closed(world: World) -> None:
    async with world.engine() as engine:
        world.faults.fail_at("delete", BROKEN)
        await engine.run("host", ["true"], name="box")
        assert [info.id for info in await engine.list()] == ["box"]
    assert world.systems == {}
    assert leftovers(world) == []


async def test_the_error_of_a_run_is_not_replaced_by_that_of_removing_its_container(
    engine: Engine, world: World
) -> None:
    world.faults.fail_at("delete", BROKEN, times=2)
    with pytest.raises(TimeLimit) as caught:
        await engine.run("host", ["deaf"], timeout=0.05)
    assert caught.value.result is not None
    assert caught.value.result.stdout == b"deaf\n"
    task = asyncio.create_task(engine.run("host", FOREVER, name="box"))
    await runs(world, "box")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("step", ["open", "abandon", "end_lease"])
async def test_what_fails_on_behalf_of_the_dead_does_not_keep_the_living(world: World, step: str) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER, owner="remove")
    await world.die(engine)
    world.faults.fail_at(step, BROKEN)
    async with world.engine() as other:
        await other.run("host", ["true"])
        assert await other.list(states=["running"]) == []


async def test_a_lost_service_ends_every_call(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)
    waiting = asyncio.create_task(box.wait())
    world.faults.delay("create", asyncio.Event())
    creating = asyncio.create_task(engine.create("other", args=FOREVER))
    await hung(world, "create", 2)
    world.faults.disconnect()
    exit = await waiting
    assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
    with pytest.raises(ServiceError, match=r"lost|unexpectedly"):
        await creating
    assert [info.id for info in await engine.list()] == ["box"]
    await box.delete()


# the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that is full after some writes; its mount is this test's own."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> Path:
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"\0" * 4096)
    return filler


@pytest.mark.parametrize("temperament", ["oci", "hcs"])
async def test_a_full_disk_is_told_and_nothing_is_left_and_all_works_again_afterwards(
    small_disk: Path, temperament: str
) -> None:
    world = World(Machine(temperament, programs=PROGRAMS), small_disk)  # type: ignore[arg-type]
    engine = world.engine()
    async with engine:
        box = await engine.launch("box", args=FOREVER)
        paused = await engine.create("created", args=FOREVER)
        filler = fill(small_disk)
        for call in (
            lambda: engine.run("host", ["true"], name="new"),
            lambda: engine.create("new", args=FOREVER),
            lambda: engine.launch("new", args=FOREVER),
            lambda: box.exec(["true"]),
            paused.start,
        ):
            with pytest.raises(StoreError) as caught:
                await call()
            assert caught.value.hint
            assert "disk" in caught.value.hint
        assert sorted(world.systems) == ["box", "created"]
        assert {info.id for info in await engine.list()} == {"box", "created"}
        await box.kill()
        assert (await box.wait()).code != 0  # told, though it cannot be written down
        filler.unlink()
        assert (await box.info()).exit is not None
        await engine.run("host", ["true"], name="new")
        for info in await engine.list():
            await (await engine.get(info.id)).delete(force=True)
    assert leftovers(world) == []


async def test_the_disk_fills_while_something_is_being_made(small_disk: Path) -> None:
    """At whichever write it happens: nothing is left, and the id is free."""
    world = World(Machine("oci", programs=PROGRAMS), small_disk)
    async with world.engine() as engine:
        await engine.run("host", ["true"])
        filler = fill(small_disk)
        for free in range(14):
            with filler.open("r+b") as file:
                file.truncate(filler.stat().st_size - 4096 * free)
            try:
                await engine.launch("box", args=FOREVER)
            except StoreError:
                assert world.systems == {}
                assert await engine.list() == []
            else:
                await (await engine.get("box")).delete(force=True)
            fill(small_disk).stat()
        filler.unlink()
        await engine.launch("box", args=FOREVER)
        await runs(world, "box")
        await (await engine.get("box")).delete(force=True)
    assert leftovers(world) == []


async def test_a_state_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    world = World(Machine("oci"), tmp_path / "file" / "state")
    with pytest.raises(StoreError, match="state"):
        async with world.engine():
            pass
