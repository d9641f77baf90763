"""After somebody was killed: what was its own is gone, what it kept is there, and every end is told, once."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from longshore.compute.events import Event, Gap
from longshore.compute.values import now
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import ContainerExists, ContainerNotFound, InvalidState, StoreError
from longshore.exit_record import Cause, Exit
from longshore.fs.files import try_hold
from longshore.logs.reader import LogRecord
from longshore.simulator import Machine
from longshore.store.journal import Position
from longshore.store.records import Change, ExitRecord
from longshore.store.state_directory import Store

from .world import FOREVER, PROGRAMS, Listener, World, history, hung, only_oci, runs, said, types


async def test_what_was_kept_runs_on_and_is_found(world: World) -> None:
    engine = world.engine()
    await engine.launch("box", args=["trap-exit", "3"])
    await said(await engine.get("box"), b"ready")
    await world.die(engine)
    async with world.engine() as other:
        box = await other.get("box")
        assert (await box.info()).state == "running"
        await box.signal("TERM")
        exit = await box.wait()
        assert (exit.code, exit.cause) == (3, Cause.EXITED)
        assert await types(other) == ["start-container", "exit"]


async def test_a_code_that_nobody_saw_is_known_where_a_monitor_saw_it_and_else_unknown_never_zero(
    world: World,
) -> None:
    engine = world.engine()
    await engine.launch("box", args=["trap-exit", "0"])
    await said(await engine.get("box"), b"ready")
    await world.die(engine)
    system = world.systems["box"]
    assert system.init is not None
    system.init.deliver(15)
    await asyncio.sleep(0.01)
    async with world.engine() as third:
        exit = await (await third.get("box")).wait()
        if world.oci:
            assert (exit.code, exit.cause) == (0, Cause.EXITED)
        else:
            assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
        assert await types(third) == ["start-container", "exit"]
    async with world.engine() as fourth:
        assert (await (await fourth.get("box")).info()).exit == exit
        assert (await history(fourth))[-1].exit == exit


async def test_an_exit_record_is_readable_after_every_program_died(world: World) -> None:
    engine, other = world.engine(), world.engine()
    box = await engine.launch("box", args=["exit", "9"])
    exit = await box.wait()
    await world.die(engine)
    await world.die(other)
    async with world.engine() as third:
        assert await (await third.get("box")).wait() == exit


async def test_what_ran_for_the_dead_is_gone(world: World) -> None:
    engine = world.engine()
    world.begin(engine.run("host", FOREVER, name="once"))
    await runs(world, "once")
    await engine.launch("removed", args=FOREVER, owner="remove")
    await engine.launch("stopped", args=FOREVER, owner="stop")
    created = await engine.create("never", args=FOREVER, owner="stop")
    kept = await engine.launch("kept", args=FOREVER)
    await kept.exec(FOREVER, name="work")
    await kept.exec(FOREVER)
    await world.die(engine)
    async with world.engine() as other:
        found = {info.id: info for info in await other.list()}
        assert {id: info.state for id, info in found.items()} == {
            "stopped": "stopped",
            "never": "stopped",
            "kept": "running",
        }
        assert found["stopped"].exit is not None
        assert found["stopped"].exit.cause is Cause.KILLED
        assert found["never"].exit is not None
        assert found["never"].exit.cause is Cause.NEVER_STARTED
        assert await (await other.get("kept")).processes() == ["work"]
        exit = await (await (await other.get("kept")).process("work")).wait()
        assert exit.cause is Cause.KILLED
        assert exit.code != 0
        told = [(event.container, event.type) for event in await history(other)]
        for id in ("once", "removed", "stopped"):
            assert told.count((id, "start-container")) == told.count((id, "exit")) == 1
        assert told.count(("kept", "exit-process")) == 2
        assert told.count(("once", "delete")) == told.count(("removed", "delete")) == 1
        assert ("never", "exit") not in told
    assert created.id == "never"
    assert sorted(world.systems) == ["kept"] if not world.oci else sorted(world.systems) >= ["kept"]


@pytest.mark.parametrize("maker", ["create", "launch", "run"])
@pytest.mark.parametrize("step", ["create", "start"])
async def test_what_was_half_made_is_undone_by_who_comes_next(world: World, maker: str, step: str) -> None:
    engine = world.engine()
    world.faults.delay(step, asyncio.Event())
    if maker == "run":
        world.begin(engine.run("host", FOREVER, name="box"))
    elif maker == "create":
        box = engine.create("box", args=FOREVER)
        world.begin(box if step == "create" else _create_and_start(engine))
        if step != "create":
            box.close()
    else:
        world.begin(engine.launch("box", args=FOREVER))
    await hung(world, step)
    await world.die(engine)
    async with world.engine() as other:
        if maker == "create" and step == "start":  # it was made; its start nobody saw the end of
            assert [info.state for info in await other.list()] == ["stopped"]
            await (await other.get("box")).delete()
        assert await other.list() == []
        assert world.systems == {}
        await other.launch("box", args=FOREVER)


async def _create_and_start(engine: Engine) -> object:
    box = await engine.create("box", args=FOREVER)
    return await box.start()


async def test_a_watcher_hears_of_the_end_of_what_the_dead_had_started(world: World, other: Engine) -> None:
    async with Listener(other) as heard:
        engine = world.engine()
        await engine.launch("removed", args=FOREVER, owner="remove")
        await engine.launch("kept", args=FOREVER)
        await heard.until("start-container", "kept")
        await world.die(engine)
        world.faults.crash("kept")
        await heard.until("exit", "kept")
        async with world.engine():
            pass
        await heard.until("exit", "removed")
        await heard.until("delete", "removed")


async def test_restore_takes_up_what_runs_and_tells_what_has_ended(world: World) -> None:
    engine = world.engine()
    for name in ("runs", "ended"):
        await engine.launch(name, args=["trap-exit", "5"])
        await said(await engine.get(name), b"ready")
    world.faults.delay("create", asyncio.Event())
    world.begin(engine.create("half", args=FOREVER))
    await hung(world, "create", 3)
    await world.die(engine)
    init = world.systems["ended"].init
    assert init is not None
    init.deliver(15)
    await asyncio.sleep(0.01)
    other = world.engine()
    # nobody has ended the lease yet: as if a keeper was still at it
    restored = await other.restore()
    assert restored.running == ["runs"]
    assert restored.ended == ["ended"]
    assert restored.undone in ([], ["half"])
    assert [info.id for info in await other.list()] == ["runs", "ended"]
    assert await types(other, "runs") == ["start-container", "restore"]
    again = await other.restore()
    assert (again.running, again.ended, again.undone) == (["runs"], [], [])
    assert await types(other, "runs") == ["start-container", "restore"]


# ends that were recorded, and not told, by who died in between


async def test_an_end_that_was_recorded_but_not_told_is_told_by_the_finder(world: World) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    await world.die(engine)
    record = ExitRecord(version=1, exit=Exit(code=6, at=now()), oom=True)
    home = world.state / "lib" / "containers" / "box"
    (home / "exit.json").write_bytes(msgspec.json.encode(record))
    async with world.engine() as other:
        assert (await (await other.get("box")).wait()).code == 6
        await other.restore()
        assert await types(other) == ["start-container", "oom", "exit"]
        await other.restore()
        assert await types(other) == ["start-container", "oom", "exit"]


def _link(world: World, code: int) -> None:
    """As a program does that dies before it tells the end."""
    home = world.state / "lib" / "containers" / "box"
    (home / "exit.json").write_bytes(msgspec.json.encode(ExitRecord(version=1, exit=Exit(code=code, at=now()))))


async def _follow(engine: Engine) -> None:
    async with Listener(engine, since=0) as heard:
        await heard.until("exit")


LOOKS: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "list": lambda engine: engine.list(),
    "events": types,
    "events, followed": _follow,
}
LOOKS_AT_ONE: dict[str, Callable[[Container], Awaitable[object]]] = {
    "info": lambda box: box.info(),
    "inspect": lambda box: box.inspect(),
    "wait": lambda box: box.wait(),
}


@pytest.mark.parametrize("look", [*LOOKS, *LOOKS_AT_ONE])
async def test_an_end_that_was_recorded_but_not_told_is_told_by_whoever_looks(world: World, look: str) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    await world.die(engine)
    _link(world, 6)
    async with world.engine() as other:
        if look in LOOKS:
            await LOOKS[look](other)
        else:
            await LOOKS_AT_ONE[look](await other.get("box"))
        journal = other._state.store.journal  # `events` would look, too
        uid = other._state.store.container_dir("box").read().uid
        assert [event.type for event in journal.about(uid, Position())] == ["start-container", "exit"]


@only_oci  # elsewhere nobody but the dead could tell how it ended
async def test_an_end_that_was_recorded_but_not_told_is_told_by_who_watches(world: World, other: Engine) -> None:
    engine = world.engine()
    async with Listener(other) as heard:
        await engine.launch("box", args=FOREVER)
        await heard.until("start-container")
        await (await other.get("box")).stats()  # it is taken up
        await world.die(engine)
        _link(world, 6)
        world.faults.crash("box")
        exit = (await heard.until("exit")).exit
        assert exit is not None
        assert exit.code == 6


async def test_who_looks_is_not_kept_waiting_by_a_program_that_is_stopped_before_it_told_an_end(world: World) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    await world.die(engine)
    _link(world, 6)
    async with world.engine() as other, Listener(other) as heard:
        held = try_hold(world.state / "run" / "containers" / "box" / "lock")
        assert held is not None
        try:
            async with asyncio.timeout(300):
                assert [info.exit and info.exit.code for info in await other.list()] == [6]
                assert (await (await other.get("box")).wait()).code == 6
            assert heard.events == []
        finally:
            held.release()
        await heard.until("exit")
    async with world.engine() as other:
        assert await types(other) == ["start-container", "exit"]


async def test_an_end_that_was_recorded_but_not_told_is_told_before_its_deletion(world: World) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    await world.die(engine)
    init = world.systems["box"].init
    assert init is not None
    init.deliver(9)
    await asyncio.sleep(0.01)
    record = ExitRecord(version=1, exit=Exit(code=6, at=now()))
    home = world.state / "lib" / "containers" / "box"
    (home / "exit.json").write_bytes(msgspec.json.encode(record))
    async with world.engine() as other:
        await (await other.get("box")).delete(force=True)
        assert await types(other) == ["start-container", "exit", "delete"]


async def test_an_end_that_was_told_but_not_marked_so_is_not_told_again(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=["exit", "6"])
    await box.wait()
    store = Store.at(world.state)
    store.open()
    entry = store.container_dir("box")
    record = entry.read()
    record.start_published = record.exit_published = False  # as if it had died before the mark
    entry.write(record)
    await world.die(engine)
    async with world.engine() as other:
        await other.restore()
        assert await types(other) == ["start-container", "exit"]
        assert entry.read().exit_published


async def test_a_deletion_that_was_not_finished_is_finished_and_told_once(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=["true"])
    await box.wait()
    store = Store.at(world.state)
    store.open()
    record = store.container_dir("box").read()
    world.systems.pop("box", None)
    run, kept = world.state / "run", world.state / "lib"
    (run / "containers" / "box").rename(run / "trash" / record.uid)
    await world.die(engine)
    # between the two renames: it is there, and can be deleted
    other = world.engine()
    assert [info.state for info in await other.list()] == ["stopped"]
    assert await types(other) == ["start-container", "exit"]
    await world.die(other)
    # and between the second and the event
    (kept / "containers" / "box").rename(kept / "trash" / record.uid)
    async with world.engine() as third:
        assert await third.list() == []
        assert await types(third) == ["start-container", "exit", "delete"]
        with pytest.raises(ContainerNotFound):
            await third.get("box")
        await third.create("box", args=FOREVER)
    async with world.engine() as fourth:
        assert (await types(fourth)).count("delete") == 1


async def test_a_pause_that_was_done_but_not_told_is_told_by_the_finder(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=FOREVER, **world.pausable)
    world.faults.delay("pause", asyncio.Event())
    world.begin(box.pause())
    await hung(world, "pause")
    await world.die(engine)
    async with world.engine() as other:
        found = await other.get("box")
        if (await found.info()).state == "paused":
            await found.stats()
            assert await types(other) == ["start-container", "pause"]
            await found.resume()
            assert await types(other) == ["start-container", "pause", "resume"]


async def _resume_untold(world: World, engine: Engine) -> Container:
    """A container that is paused; somebody else resumed it, and did not live to tell it."""
    box = await engine.launch("box", args=FOREVER, **world.pausable)
    await box.pause()
    store = Store.at(world.state)
    store.open()
    entry = store.container_dir("box")
    record = entry.read()
    record.change = Change("resume", store.journal.end())
    entry.write(record)
    world.systems["box"].thaw()
    return box


@only_oci
async def test_a_resume_that_was_done_but_not_told_is_told_by_who_looks_though_it_has_opened_the_container(
    engine: Engine, world: World
) -> None:
    box = await _resume_untold(world, engine)
    assert (await box.info()).state == "running"
    assert await types(engine) == ["start-container", "pause", "resume"]


@only_oci
async def test_a_resume_that_was_done_but_not_told_is_told_before_the_next_pause(engine: Engine, world: World) -> None:
    box = await _resume_untold(world, engine)
    await box.pause()
    assert await types(engine) == ["start-container", "pause", "resume", "pause"]


async def test_a_start_whose_starter_died_before_it_could_tell_is_told_with_the_end(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=FOREVER)
    uid = (await box.info()).uid
    store = Store.at(world.state)
    store.open()
    entry = store.container_dir("box")
    record = entry.read()
    record.start_published = False
    entry.write(record)
    for segment in (world.state / "lib" / "journal").glob("*.jsonl"):
        segment.unlink()
    await world.die(engine)
    world.faults.crash("box")
    async with world.engine() as other:
        await (await other.get("box")).wait()
        assert [(event.type, event.uid) for event in await history(other)] == [("start-container", uid), ("exit", uid)]


# a boot


async def test_a_boot_ends_everything_and_nobody_saw_how(world: World, tmp_path: Path) -> None:
    engine = world.engine()
    await engine.launch("kept", args=FOREVER)
    await engine.create("created", args=FOREVER)
    done = await engine.launch("done", args=["exit", "3"])
    await done.wait()
    await engine.launch("removed", args=FOREVER, owner="remove")
    cursor = (await history(engine))[-1].seq
    await world.die(engine)
    world.faults.disconnect()
    (world.state / "run" / "boot").write_text("an earlier one")
    mark = world.state / "lib" / "journal" / "boot"
    known = mark.exists()  # else one boot cannot be told from another here
    if known:
        mark.write_bytes(msgspec.json.encode(msgspec.json.decode(mark.read_bytes()) | {"boot": "an earlier one"}))
    for path in world.state.glob("*/containers/*/record.json"):
        document = msgspec.json.decode(path.read_bytes())
        document["boot"] = "an earlier one"
        path.write_bytes(msgspec.json.encode(document))
    async with world.engine() as other:
        found = {info.id: info for info in await other.list()}
        assert {id: info.state for id, info in found.items()} == {
            "kept": "stopped",
            "created": "stopped",
            "done": "stopped",
        }
        assert found["kept"].exit is not None
        assert (found["kept"].exit.code, found["kept"].exit.cause) == (None, Cause.SYSTEM_GONE)
        assert found["done"].exit is not None
        assert found["done"].exit.code == 3
        assert found["created"].exit is not None
        assert found["created"].exit.cause is Cause.NEVER_STARTED
        told = [event async for event in other.events(since=cursor, follow=False)]
        assert isinstance(told[0], Gap) is known
        assert [(event.container, event.type) for event in told if isinstance(event, Event)] == [("kept", "exit")]
        for id in found:
            await (await other.get(id)).delete()
        await other.launch("kept", args=FOREVER)
    assert os.listdir(world.state / "run" / "trash") == []


# what cannot be read


async def test_a_damaged_record_is_shown_and_can_be_deleted_by_force_and_nothing_else(world: World) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    await engine.close()
    (world.state / "lib" / "containers" / "box" / "record.json").write_bytes(b"{]")
    async with world.engine() as other:
        assert [(info.id, info.state) for info in await other.list()] == [("box", "damaged")]
        box = await other.get("box")
        for call in (box.info, box.start, box.kill, box.wait, box.delete):
            with pytest.raises(StoreError, match="damaged") as caught:
                await call()
            assert caught.value.hint is not None
            assert "--force" in caught.value.hint
        await box.delete(force=True)
        assert await other.list() == []
        assert world.systems == {}
        await other.create("box", args=FOREVER)


async def test_a_container_that_lost_its_record_lives_until_it_is_deleted_by_force_and_that_is_told(
    world: World,
) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    [begun] = await history(engine)
    await engine.close()
    (world.state / "lib" / "containers" / "box" / "record.json").unlink()
    async with world.engine() as other:
        assert (await other.restore()).undone == []
        assert [(info.id, info.state) for info in await other.list()] == [("box", "damaged")]
        with pytest.raises(ContainerExists):
            await other.launch("box", args=FOREVER)
        box = await other.get("box")
        with pytest.raises(StoreError, match="it is gone"):
            await box.delete()
        assert len(world.systems) == 1
        await box.delete(force=True)
        assert world.systems == {}
        await (await other.create("box", args=FOREVER)).delete()
        events = await history(other)
    assert [(event.type, event.uid) for event in events[:3]] == [
        ("start-container", begun.uid),
        ("exit", begun.uid),
        ("delete", begun.uid),
    ]
    assert events[1].exit is not None
    assert (events[1].exit.code, events[1].exit.cause) == (None, Cause.KILLED)


async def test_the_engine_that_watches_a_container_which_lost_its_record_tells_its_code(world: World) -> None:
    async with world.engine() as engine:
        box = await engine.launch("box", args=FOREVER)
        process = await box.process("init")
        (world.state / "lib" / "containers" / "box" / "record.json").unlink()
        await box.delete(force=True)
        assert world.systems == {}
        events = await history(engine)
        assert [event.type for event in events] == ["start-container", "exit", "delete"]
        assert events[1].exit == await process.wait()
        assert events[1].exit.code is not None


async def test_what_was_its_owners_and_lost_its_record_is_removed_with_it(world: World) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER, owner="remove")
    (world.state / "run" / "containers" / "box" / "record.json").unlink()
    async with world.engine() as other:
        assert [(info.id, info.state) for info in await other.list()] == [("box", "damaged")]
        assert len(world.systems) == 1
    await world.die(engine)
    async with world.engine() as other:
        assert await other.list() == []
        assert world.systems == {}
        assert await types(other) == ["start-container", "exit", "delete"]


async def test_a_record_of_a_later_version_is_refused_and_not_touched(world: World) -> None:
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    await engine.launch("fine", args=FOREVER)
    await engine.close()
    path = world.state / "lib" / "containers" / "box" / "record.json"
    document = msgspec.json.decode(path.read_bytes())
    document |= {"version": 99, "command": {"another": "type"}}
    later = msgspec.json.encode(document)
    path.write_bytes(later)
    async with world.engine() as other:
        assert [info.id for info in await other.list()] == ["fine"]
        with pytest.raises(StoreError, match="version 99"):
            await other.get("box")
        await other.restore()
        assert path.read_bytes() == later
    path.write_bytes(msgspec.json.encode(document | {"version": 1}))


async def test_a_store_of_a_later_version_is_refused_before_anything_is_touched(world: World) -> None:
    (world.state / "lib").mkdir(parents=True)
    (world.state / "lib" / "store.json").write_bytes(b'{"version":99,"id":"x","shape":"round"}')
    with pytest.raises(StoreError, match="version 99"):
        async with world.engine():
            pass
    assert sorted(path.name for path in world.state.rglob("*")) == ["lib", "store.json"]
    (world.state / "lib" / "store.json").unlink()


async def test_looking_writes_nothing(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=["exit", "2"])
    await box.wait()
    await engine.close()
    before = {path: path.stat().st_mtime_ns for path in (world.state / "lib").rglob("*")}
    async with world.engine() as other:
        assert [info.state for info in await other.list()] == ["stopped"]
        assert (await (await other.get("box")).inspect())["exit"]["code"] == 2
        assert await types(other) == ["start-container", "exit"]
    assert {path: path.stat().st_mtime_ns for path in (world.state / "lib").rglob("*")} == before


async def test_a_store_that_cannot_be_written_can_be_looked_at(tmp_path: Path) -> None:
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    state = tmp_path / "state"
    state.mkdir()
    world = World(Machine("oci", programs=PROGRAMS), state)
    subprocess.run(["mount", "-t", "tmpfs", "small", str(state)], check=True)
    try:
        async with world.engine() as engine:
            await (await engine.launch("box", args=["both", "2"])).wait()
            await engine.launch("runs", args=FOREVER)
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        async with world.engine() as engine:
            assert [info.state for info in await engine.list()] == ["stopped", "running"]
            box = await engine.get("box")
            assert (await box.wait()).code == 2
            assert (await box.inspect())["exit"]["code"] == 2
            assert [record.data for record in [r async for r in box.logs()] if isinstance(record, LogRecord)]
            assert (await (await engine.get("runs")).stats()).memory
            assert "exit" in await types(engine)
            for call in (lambda: engine.run("host", ["true"]), box.delete, (await engine.get("runs")).pause):
                with pytest.raises(StoreError, match=r"(?i)read-only"):
                    await call()
    finally:
        subprocess.run(["umount", str(state)], check=True)


@pytest.mark.parametrize("left", [b"", b"\0" * 300])
async def test_what_was_being_made_when_the_power_was_lost_is_undone(world: World, left: bytes) -> None:
    """Its files were never synced: they are there, and empty. One whose spec is whole was made, and is damaged."""
    async with world.engine() as engine:
        kept = engine._state.store.kept
        await engine.create("made", args=FOREVER)
        await engine.create("being-made", args=FOREVER)
        for name in ("being-made/record.json", "being-made/spec.json", "made/record.json"):
            (kept / name).write_bytes(left)
    async with world.engine() as engine:
        await engine.restore()
        assert {info.id: info.state for info in await engine.list()} == {"made": "damaged"}
        assert not (kept / "being-made").exists()
        for id in ("made", "being-made"):
            box = await engine.create("being-made", args=["true"]) if id == "being-made" else await engine.get(id)
            await box.delete(force=True)


async def test_starting_what_a_boot_has_ended_is_refused(world: World) -> None:
    engine = world.engine()
    await engine.create("box", args=FOREVER)
    await engine.close()
    world.faults.disconnect()
    async with world.engine() as other:
        box = await other.get("box")
        with pytest.raises(InvalidState, match="stopped"):
            await box.start()
