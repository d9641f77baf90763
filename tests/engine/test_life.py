"""The life of a kept container: create, start, wait, signals, stop, pause, limits, delete."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import (
    ContainerExists,
    ContainerNotFound,
    InvalidSpec,
    InvalidState,
    NotSupported,
)
from longshore.exit_record import Cause
from longshore.simulator import Simulator
from longshore.spec import Spec

from .world import FOREVER, World, history, only_hcs, only_oci, said, types


async def test_create_makes_it_and_runs_no_code(engine: Engine, world: World) -> None:
    box = await engine.create("box", args=["both"], labels={"a": "b"})
    info = await box.info()
    assert (info.state, info.command, info.labels, info.owner) == ("created", ["both"], {"a": "b"}, "keep")
    assert (info.pid, info.exit, info.started_at) == (None, None, None)
    assert list(world.systems) == ["box"]
    assert [record async for record in box.logs()] == []
    assert await types(engine) == []


async def test_the_whole_life(engine: Engine) -> None:
    box = await engine.create("box", args=FOREVER)
    init = await box.start()
    assert (init.name, init.exit, init.returncode) == ("init", None, None)
    assert box.init is init
    info = await box.info()
    assert (info.state, info.pid) == ("running", init.pid)
    assert info.started_at is not None
    with pytest.raises(InvalidState, match="running"):
        await box.start()
    with pytest.raises(InvalidState, match="running"):
        await box.delete()
    exit = await box.stop(grace=0)
    assert exit.cause is Cause.KILLED
    assert await box.wait() == await init.wait() == exit == init.exit
    assert (await box.info()).state == "stopped"
    assert (await box.info()).exit == exit
    with pytest.raises(InvalidState, match="stopped"):
        await box.start()
    await box.delete()
    with pytest.raises(ContainerNotFound):
        await engine.get("box")
    with pytest.raises(ContainerNotFound):
        await box.info()
    assert await types(engine) == ["start-container", "exit", "delete"]


async def test_launch_is_create_and_start(engine: Engine) -> None:
    box = await engine.launch("box", args=["exit", "5"])
    assert box.init is not None
    assert (await box.wait()).code == 5
    assert await types(engine) == ["start-container", "exit"]


async def test_launched_for_its_caller_it_has_pipes_and_ends_with_the_engine(world: World) -> None:
    async with world.engine() as engine:
        box = await engine.launch("box", args=["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert box.init is not None
        assert await box.init.communicate(b"hello") == (b"hello", b"")
        other = await engine.launch("other", args=FOREVER, stdout=PIPE, stderr=PIPE)
        with pytest.raises(InvalidState, match="log"):
            _ = [record async for record in other.logs()]
    assert world.systems == {}


async def test_many_wait_and_all_hear_the_same(engine: Engine, other: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    there = await other.get("box")
    waiting = [asyncio.create_task(each.wait()) for each in [box] * 5 + [there] * 5 + [await engine.get("box")]]
    await asyncio.sleep(0)
    await box.kill()
    exits = await asyncio.gather(*waiting)
    assert len(set(map(repr, exits))) == 1


async def test_wait_after_the_end_has_the_record(engine: Engine, other: Engine) -> None:
    box = await engine.launch("box", args=["exit", "4"])
    exit = await box.wait()
    assert exit == await box.wait() == await (await other.get("box")).wait()
    assert exit.code == 4


async def test_waiting_for_what_was_not_started_is_refused(engine: Engine) -> None:
    box = await engine.create("box", args=FOREVER)
    with pytest.raises(InvalidState, match="not started"):
        await box.wait()


async def test_an_id_is_taken_from_create_to_delete(engine: Engine) -> None:
    box = await engine.create("box", args=FOREVER)
    with pytest.raises(ContainerExists):
        await engine.create("box", args=FOREVER)
    with pytest.raises(ContainerExists):
        await engine.launch("box", args=FOREVER, owner="remove")
    await box.start()
    await box.kill()
    await box.wait()
    with pytest.raises(ContainerExists):
        await engine.create("box", args=FOREVER)
    await box.delete()
    again = await engine.create("box", args=FOREVER)
    assert (await again.info()).state == "created"


async def test_a_handle_of_a_deleted_container_is_not_one_of_its_successor(engine: Engine) -> None:
    old = await engine.create("box", args=FOREVER)
    await old.delete()
    new = await engine.launch("box", args=FOREVER)
    for call in (old.info, old.start, old.wait, old.kill, old.stats, old.top, old.inspect):
        with pytest.raises(ContainerNotFound):
            await call()
    with pytest.raises(ContainerNotFound):
        await old.delete(force=True)
    assert (await new.info()).state == "running"


@pytest.mark.parametrize("id", ["", ".hidden", "a/b", "../x", "a b", "x" * 129, "line\nbreak"])
async def test_an_illegal_id_is_refused(engine: Engine, world: World, id: str) -> None:
    with pytest.raises(InvalidSpec):
        await engine.create(id, args=FOREVER)
    with pytest.raises(InvalidSpec):
        await engine.get(id)
    assert world.machine.calls["create"] == 0


async def test_an_unknown_id_is_told(engine: Engine) -> None:
    with pytest.raises(ContainerNotFound, match="nobody"):
        await engine.get("nobody")


async def test_an_unknown_owner_setting_is_refused(engine: Engine, world: World) -> None:
    with pytest.raises(ValueError, match="owner"):
        await engine.create("box", args=FOREVER, owner="me")  # type: ignore[arg-type]
    assert world.machine.calls["create"] == 0


# signals and the end


async def test_a_signal_reaches_init(engine: Engine) -> None:
    box = await engine.launch("box", args=["trap-exit", "6"])
    await said(box, b"ready")
    await box.signal("TERM")
    assert (await box.wait()).code == 6


async def test_signalling_what_does_not_run_is_refused(engine: Engine) -> None:
    box = await engine.create("box", args=["true"])
    with pytest.raises(InvalidState):
        await box.signal("TERM")
    await box.start()
    await box.wait()
    with pytest.raises(InvalidState, match="stopped"):
        await box.signal("TERM")


async def test_a_signal_that_is_none_is_refused(engine: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    with pytest.raises(InvalidSpec, match="signal"):
        await box.signal("NOSUCH")
    with pytest.raises(InvalidSpec, match="signal"):
        await box.stop(signal=99)


@pytest.mark.parametrize("how", ["kill", "signal KILL", "init.kill", "init.signal KILL"])
async def test_killed_by_us_is_what_the_record_says(engine: Engine, how: str) -> None:
    box = await engine.launch("box", args=FOREVER)
    assert box.init is not None
    target = box.init if how.startswith("init") else box
    await (target.signal("KILL") if "KILL" in how else target.kill())
    exit = await box.wait()
    assert exit.cause is Cause.KILLED
    assert exit.code not in (0, None)
    await target.kill()  # again is fine: a program that kills wants it ended (`longshore kill` is as docker there)
    await box.kill()


async def test_killed_by_somebody_else_is_what_the_record_says(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)
    world.faults.crash("box")
    exit = await box.wait()
    if world.oci:
        assert (exit.code, exit.signal, exit.cause) == (137, 9, Cause.SIGNALLED)
    else:
        assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)


async def test_killing_what_was_never_started_ends_it_without_a_life(engine: Engine, world: World) -> None:
    box = await engine.create("box", args=FOREVER)
    await box.kill()
    assert (await box.wait()).cause is Cause.NEVER_STARTED
    assert (await box.info()).state == "stopped"
    assert await types(engine) == []
    await box.delete()
    assert world.systems == {}


async def test_stop_lets_init_end_by_itself(engine: Engine) -> None:
    box = await engine.launch("box", args=["trap-exit", "5"])
    await said(box, b"ready")
    exit = await box.stop(grace=200)
    assert (exit.code, exit.cause) == (5, Cause.EXITED)


async def test_stop_kills_what_ignores_it_after_the_grace(engine: Engine) -> None:
    box = await engine.launch("box", args=["deaf"], init=True)
    await said(box, b"deaf")
    begin = time.monotonic()
    exit = await box.stop(grace=0.2)
    assert exit.cause is Cause.KILLED
    assert time.monotonic() - begin >= 0.2


@only_oci  # a Windows container can always be asked to shut down
async def test_stop_does_not_wait_for_an_init_that_cannot_receive_the_signal(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)  # as pid 1, without a handler: the kernel drops TERM
    await asyncio.sleep(0)
    begin = time.monotonic()
    assert (await box.stop(grace=200)).cause is Cause.KILLED
    assert time.monotonic() - begin < 100


@only_oci  # there are no signals
async def test_stop_uses_the_stop_signal_or_the_one_that_is_given(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER, init=True, stop_signal="USR1")
    assert (await box.stop(grace=300)).signal == 10
    box = await engine.launch("box2", args=FOREVER, init=True)
    assert (await box.stop(grace=300, signal="USR2")).signal == 12


async def test_stop_of_what_has_ended_tells_how(engine: Engine) -> None:
    box = await engine.launch("box", args=["exit", "3"])
    exit = await box.wait()
    assert await box.stop() == exit


async def test_stop_of_what_was_never_started_ends_it_without_a_life(engine: Engine) -> None:
    box = await engine.create("box", args=FOREVER)
    assert (await box.stop()).cause is Cause.NEVER_STARTED
    assert await types(engine) == []
    with pytest.raises(InvalidState, match="stopped"):
        await box.start()


async def test_two_stops_at_once_tell_the_same(engine: Engine, other: Engine) -> None:
    box = await engine.launch("box", args=["deaf"], init=True)
    there = await other.get("box")
    exits = await asyncio.gather(box.stop(grace=0.1), there.stop(grace=0.1), box.stop(grace=0.1))
    assert exits[0] == exits[1] == exits[2]
    assert (await types(engine)).count("exit") == 1


@only_oci  # Windows tells nobody
async def test_out_of_memory_is_told(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)
    world.faults.out_of_memory("box")
    exit = await box.wait()
    assert (exit.code, exit.cause) == (137, Cause.OOM)
    assert await types(engine) == ["start-container", "oom", "exit"]
    assert (await box.inspect())["oom"] is True


@only_oci  # Windows tells nobody
async def test_a_container_of_the_same_name_does_not_inherit_that_memory_was_lacking(
    engine: Engine, world: World
) -> None:
    """An old bug, 31: the mark of the one run stuck to the next."""
    box = await engine.launch("box", args=FOREVER)
    world.faults.out_of_memory("box")
    await box.wait()
    await box.delete()
    again = await engine.launch("box", args=["exit", "3"])
    assert (await again.wait()).cause is Cause.EXITED
    assert (await again.inspect())["oom"] is False
    assert (await types(engine)).count("oom") == 1


@only_oci  # there is no monitor
async def test_a_lost_monitor_is_never_a_success(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=["trap-exit", "0"])
    await said(box, b"ready")
    world.faults.kill_monitor("box")
    await box.signal("TERM")
    exit = await box.wait()
    assert (exit.code, exit.cause) == (None, Cause.MONITOR_LOST)
    assert (await box.info()).exit == exit


@only_hcs  # the kernel loses none
async def test_a_lost_notification_does_not_hang_and_is_no_success(engine: Engine, world: World) -> None:
    world.faults.drop("exit notification")
    box = await engine.launch("box", args=["exit", "0"])
    assert (await box.info()).state in ("running", "stopped")
    exit = await box.stop(grace=300)
    assert exit.code != 0


# pausing


async def test_paused_it_stands_still_and_resumed_it_goes_on(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=["trap-exit", "2"], init=True, **world.pausable)
    await said(box, b"ready")
    await box.pause()
    assert (await box.info()).state == "paused"
    with pytest.raises(InvalidState, match="paused"):
        await box.pause()
    with pytest.raises(InvalidState, match="paused"):
        await box.exec(["true"])
    assert (await box.stats()).memory
    assert await box.pids()
    await box.resume()
    assert (await box.info()).state == "running"
    with pytest.raises(InvalidState, match="running"):
        await box.resume()
    await box.signal("TERM")
    assert (await box.wait()).code == 2
    assert await types(engine) == ["start-container", "pause", "resume", "exit"]


@only_hcs  # all can be paused
async def test_pausing_what_cannot_be_paused_is_told_and_changes_nothing(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)
    with pytest.raises(NotSupported, match="utility VM"):
        await box.pause()
    assert (await box.info()).state == "running"
    assert await types(engine) == ["start-container"]


async def test_pausing_what_does_not_run_is_refused(engine: Engine, world: World) -> None:
    box = await engine.create("box", args=["true"], **world.pausable)
    with pytest.raises(InvalidState, match="created"):
        await box.pause()
    await box.start()
    await box.wait()
    with pytest.raises(InvalidState, match="stopped"):
        await box.pause()
    with pytest.raises(InvalidState, match="stopped"):
        await box.resume()


@pytest.mark.parametrize("operation", ["stop", "kill", "delete"])
async def test_a_paused_container_can_be_ended(engine: Engine, world: World, operation: str) -> None:
    box = await engine.launch("box", args=["deaf"], **world.pausable)
    await said(box, b"deaf")
    await box.pause()
    if operation == "stop":
        assert (await box.stop(grace=0.1)).cause is Cause.KILLED
    elif operation == "kill":
        await box.kill()
        assert (await box.wait()).cause is Cause.KILLED
    else:
        await box.delete(force=True)
        assert world.systems == {}


async def test_stopping_a_paused_container_lets_it_end_by_itself(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=["trap-exit", "8"], **world.pausable)
    await said(box, b"ready")
    await box.pause()
    assert (await box.stop(grace=300)).code == 8
    assert await types(engine) == ["start-container", "pause", "resume", "exit"]


# what it uses and what it may use


async def test_stats_top_and_pids(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)
    await box.exec(FOREVER)
    stats = await box.stats()
    assert stats.memory
    assert stats.cpu_time is not None
    top = await box.top()
    assert [info.command for info in top] == ["sleep", "sleep"]
    assert sorted(info.pid for info in top) == await box.pids()
    assert set(await box.pids()) == set(world.systems["box"].processes)


async def test_stats_as_a_stream_end_with_the_container(engine: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    seen = 0
    async for stats in box.watch_stats(interval=0.01):
        assert stats.memory or seen >= 3  # it may be seen once more between its end and its being settled
        seen += 1
        if seen == 3:
            await box.kill()
    assert seen >= 3


@pytest.mark.parametrize("call", ["stats", "top", "pids"])
async def test_measuring_what_does_not_run_is_refused(engine: Engine, call: str) -> None:
    box = await engine.create("box", args=["true"])
    with pytest.raises(InvalidState, match="created"):
        await getattr(box, call)()
    await box.start()
    await box.wait()
    with pytest.raises(InvalidState, match="stopped"):
        await getattr(box, call)()


async def test_update_takes_effect_or_says_why_not(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER, memory="64m", pids=50)
    if not world.oci:
        with pytest.raises(NotSupported, match="limits"):
            await box.update(memory="128m")
        return
    assert ((await box.stats()).memory_limit, (await box.stats()).pids_limit) == (64 << 20, 50)
    await box.update(memory="128m", pids=60)
    assert ((await box.stats()).memory_limit, (await box.stats()).pids_limit) == (128 << 20, 60)
    with pytest.raises(InvalidSpec, match="cpus"):
        await box.update(cpus=0)


async def test_a_terminal_can_be_resized_and_what_has_none_cannot(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER, terminal=True, size=(33, 77))
    system = world.systems["box"]
    assert system.init is not None
    assert system.init.size == (33, 77)
    await box.resize(40, 100)
    assert system.init.size == (40, 100)
    plain = await engine.launch("plain", args=FOREVER)
    with pytest.raises(InvalidState, match="terminal"):
        await plain.resize(1, 2)


# finding


async def test_list_tells_all_oldest_first(engine: Engine) -> None:
    await engine.create("b", args=FOREVER, labels={"app": "web", "tier": "1"})
    await engine.launch("a", args=FOREVER, labels={"app": "web"})
    last = await engine.launch("c", args=["true"])
    await last.wait()
    assert [(info.id, info.state) for info in await engine.list()] == [
        ("b", "created"),
        ("a", "running"),
        ("c", "stopped"),
    ]
    assert [info.id for info in await engine.list(labels={"app": "web"})] == ["b", "a"]
    assert [info.id for info in await engine.list(labels={"app": "web", "tier": "1"})] == ["b"]
    assert [info.id for info in await engine.list(states=["running", "stopped"])] == ["a", "c"]


async def test_list_asks_no_runtime(engine: Engine, world: World) -> None:
    for number in range(3):
        await engine.launch(f"box-{number}", args=FOREVER)
    async with world.engine() as other:
        before = world.machine.calls.copy()
        assert len(await other.list()) == 3
        assert world.machine.calls - before == {}


async def test_inspect_tells_all_but_secrets(engine: Engine) -> None:
    box = await engine.launch("box", args=FOREVER, env={"TOKEN": "secret"}, hostname="h")
    await (await box.exec(["exit", "2"], name="work")).wait()
    document = await box.inspect()
    assert document["state"] == "running"
    assert document["spec"]["env"] == ["TOKEN"]
    assert document["spec"]["hostname"] == "h"
    assert document["processes"]["work"]["exit"]["code"] == 2
    assert Path(document["log"]).exists()
    assert "secret" not in repr(document)


async def test_a_secret_is_in_no_record_that_a_listing_or_the_journal_shows(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER, env={"TOKEN": "secret-value"})
    await box.stop(grace=0)
    assert "secret-value" not in repr(await engine.list())
    for path in (world.state / "lib" / "journal").iterdir():
        assert b"secret-value" not in path.read_bytes()
    assert b"secret-value" not in (world.state / "lib" / "containers" / "box" / "record.json").read_bytes()


async def test_get_finds_what_runs_and_what_has_ended(engine: Engine, other: Engine) -> None:
    await engine.launch("box", args=FOREVER)
    found = await other.get("box")
    assert (await found.info()).state == "running"
    await found.stop(grace=0)
    assert (await (await engine.get("box")).info()).state == "stopped"


async def test_a_spec_object_and_keywords_go_together(engine: Engine) -> None:
    spec = Spec.of(args=["both"], labels={"a": "b"})
    box = await engine.create("box", spec, hostname="h")
    settings = (await box.inspect())["spec"]
    assert (settings["args"], settings["hostname"], settings["labels"]) == (["both"], "h", {"a": "b"})


async def test_version_features_and_plan(engine: Engine, world: World) -> None:
    versions = await engine.version()
    assert {"longshore", "simulator"} <= versions.keys()
    features = await engine.features()
    assert features.items["signals"].supported is world.oci
    plan = await engine.plan(args=["echo", "hi"])
    assert plan.documents
    assert plan.commands
    assert await engine.list() == []


# deleting


async def test_delete_by_force_kills_and_removes(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)
    await box.delete(force=True)
    assert world.systems == {}
    assert await engine.list() == []
    assert await types(engine) == ["start-container", "exit", "delete"]
    events = await history(engine)
    assert events[1].exit is not None
    assert events[1].exit.cause is Cause.KILLED


async def test_deleting_what_is_deleted_is_fine(engine: Engine, other: Engine) -> None:
    box = await engine.create("box", args=FOREVER)
    there = await other.get("box")
    await asyncio.gather(box.delete(force=True), there.delete(force=True), box.delete(force=True))
    await box.delete()
    assert await types(engine) == ["delete"]


async def test_who_waits_hears_of_the_end_of_a_container_that_is_deleted(engine: Engine, other: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    here, there = asyncio.create_task(box.wait()), asyncio.create_task((await other.get("box")).wait())
    await asyncio.sleep(0.01)
    await box.delete(force=True)
    assert (await here).cause is Cause.KILLED
    assert (await there).cause is Cause.KILLED


async def test_a_container_without_a_state_directory_given_is_the_engines_alone() -> None:
    simulator = Simulator()
    async with Engine(simulator) as engine:
        done: Container = await engine.launch("box", args=["exit", "1"])
        assert (await done.wait()).code == 1


async def test_endpoints_where_there_are_none_are_refused_before_a_limit_is_changed(
    engine: Engine, world: World
) -> None:
    box = await engine.launch("box", args=FOREVER)
    with pytest.raises(NotSupported, match="endpoints"):
        await box.update(memory="64m", add_endpoints=["e1"])
    assert world.machine.calls["update"] == 0
    assert (await box.inspect())["spec"]["resources"]["memory"] is None
