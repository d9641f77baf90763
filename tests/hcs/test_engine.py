"""An engine over Windows' service: what its users see of it. The double runs real programs where that matters.

Each test names the entry of the list of old bugs (moby's and hcsshim's, numbered as in the project's notes) that it
would have caught, where there is one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from longshore import Engine, Event
from longshore.compute.values import PIPE
from longshore.errors import ContainerExists, ContainerNotFound, InvalidSpec, InvalidState, NotSupported, ProcessExists
from longshore.exit_record import Cause
from longshore.hcs.dll.hresults import HcsError
from longshore.hcs.service import HcsService

from .world import World, script, windows, world

DENIED, PENDING = 0x80070005, 0xC0370103


@asynccontextmanager
async def engine(it: World, service: HcsService | None = None) -> AsyncIterator[Engine]:
    async with Engine(service or it.service, state=it.base / "state") as made:
        yield made


async def told(of: Engine) -> list[tuple[str, str | None, int | None]]:
    """All events so far: type, process, code."""
    return [
        (event.type, event.process, None if event.exit is None else event.exit.code)
        async for event in of.events(since=0, follow=False)
        if isinstance(event, Event)
    ]


async def test_a_command_runs_and_nothing_is_left(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it, engine(it) as longshore:
        done = await longshore.run("", ["sh", "-c", "cat; exit 3"], input=b"hello", windows=windows())
        assert (done.stdout, done.exit_code, done.exit.cause) == (b"hello", 3, Cause.EXITED)
        assert it.hcs.systems == {}
        assert it.open_handles == 0


async def test_the_start_is_told_before_the_exit_even_of_what_has_ended_already(tmp_path: Path) -> None:
    """Bugs 7 and 27: the exit overtook the start; and which process it was of was guessed by its pid."""
    rules = script(HcsCreateProcess=[{"exit": {"code": 5}}])
    async with world(tmp_path, rules) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec())
        await box.start()
        assert (await box.wait()).code == 5
        assert await told(longshore) == [("start-container", None, None), ("exit", "init", 5)]
        assert it.open_handles == 0


async def test_a_start_that_failed_is_no_life_that_anybody_hears_of(tmp_path: Path) -> None:
    """Bug 8: the caller got an error, and later an exit of what it believed was never started."""
    async with world(tmp_path, script(HcsCreateProcess=[{"hr": DENIED}])) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec())
        with pytest.raises(Exception, match="access is denied"):
            await box.start()
        await it.quiet()
        assert await told(longshore) == []
        assert it.open_handles == 0
        await box.delete()


async def test_what_cannot_be_created_leaves_its_id_free(tmp_path: Path) -> None:
    rules = script(HcsCreateComputeSystem=[{"hr": DENIED, "times": 1}])
    async with world(tmp_path, rules) as it, engine(it) as longshore:
        with pytest.raises(HcsError, match="create container `box`"):
            await longshore.launch("box", it.spec())
        with pytest.raises(ContainerNotFound):
            await longshore.get("box")
        await longshore.launch("box", it.spec())
        with pytest.raises(ContainerExists):
            await longshore.launch("box", it.spec())
        assert it.count("HcsCreateComputeSystem") == 2


async def test_events_come_in_the_order_in_which_things_happened(tmp_path: Path) -> None:
    """Bug 9: callbacks from several threads had no order."""
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec(hyperv=True))
        init = await box.start()
        for _ in range(3):
            await box.pause()
            await box.resume()
        work = await box.exec(["cmd"], name="work")
        it.exit(work.pid, 2)
        await work.wait()
        it.exit(init.pid, 1)
        await box.wait()
        assert [type for type, _, _ in await told(longshore)] == [
            "start-container",
            *["pause", "resume"] * 3,
            "exit-process",
            "exit",
        ]


async def test_the_engine_may_be_called_from_an_event(tmp_path: Path) -> None:
    """Bug 1: from most of the original's events, that was a deadlock."""
    async with world(tmp_path) as it, engine(it) as longshore:
        seen: list[str] = []

        async def listen() -> None:
            async for event in longshore.events(since=0):
                assert isinstance(event, Event)
                box = await longshore.get(event.container)
                if event.type == "start-container":
                    await box.stats()
                    await box.signal("TERM")
                seen.append(event.type)
                if event.type == "exit":
                    return

        listener = asyncio.create_task(listen())
        box = await longshore.create("box", it.spec())
        await box.start()
        async with asyncio.timeout(300):
            await listener
        assert seen == ["start-container", "exit"]


async def test_pids_and_top_are_those_of_the_service(tmp_path: Path) -> None:
    """Bug 22: "not implemented on Windows"."""
    async with world(tmp_path, crew=True) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec("sleep", "100"))
        init = await box.start()
        assert await box.pids() == [init.pid]
        assert [info.command for info in await box.top()] == ["sleep"]
        await box.kill()
        assert (await box.wait()).cause is Cause.KILLED


async def test_an_exec_that_ended_is_over_before_its_end_is_told(tmp_path: Path) -> None:
    """Bug 25: it was in the table until later, and looked alive."""
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec())
        await box.start()
        work = await box.exec(["cmd"], name="work")
        with pytest.raises(ProcessExists):
            await box.exec(["cmd"], name="work")
        before = it.count("HcsCreateProcess")
        it.exit(work.pid, 4)
        assert (await work.wait()).code == 4
        again = await box.exec(["cmd"], name="work")
        assert it.count("HcsCreateProcess") == before + 1
        it.exit(again.pid, 5)
        assert (await again.wait()).code == 5
        assert await told(longshore) == [
            ("start-container", None, None),
            ("exit-process", "work", 4),
            ("exit-process", "work", 5),
        ]


async def test_the_end_is_told_when_the_system_is_closed(tmp_path: Path) -> None:
    """Bug 29: `wait` returned while the container's layer was still in use."""
    rule = {"hr": PENDING, "notify": [{"type": "SystemExited", "after_ms": 100}]}
    async with world(tmp_path, script(HcsShutdownComputeSystem=[rule])) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec())
        init = await box.start()
        it.exit(init.pid, 0)
        await box.wait()
        assert it.open_handles == 0


async def test_updates_that_are_pending_stand_in_what_is_known_of_its_end(tmp_path: Path) -> None:
    """Bug 12."""
    rule = {"match": "PendingUpdates", "properties": {"AreUpdatesPending": True}}
    async with world(tmp_path, script(HcsGetComputeSystemProperties=[rule])) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec())
        init = await box.start()
        it.exit(init.pid, 0)
        await box.wait()
        assert (await box.inspect())["updates_pending"] is True


async def test_limits_are_refused_with_the_reason_and_endpoints_are_changed(tmp_path: Path) -> None:
    """Bug 21."""
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec())
        await box.start()
        with pytest.raises(NotSupported, match="limits"):
            await box.update(memory="128m", add_endpoints=["e1"])
        assert it.count("HcsModifyComputeSystem") == 0
        await box.update(add_endpoints=["e1"], remove_endpoints=["e2"])
        assert it.count("HcsModifyComputeSystem") == 2
        with pytest.raises(InvalidSpec, match=r"remove_endpoints\[1\]: '' is not the id"):
            await box.update(add_endpoints=["e3"], remove_endpoints=["e4", ""])
        with pytest.raises(InvalidSpec, match="add_endpoints"):
            await box.update(add_endpoints="e3")
        assert it.count("HcsModifyComputeSystem") == 2


@pytest.mark.parametrize("failing", ["e2", "gone"])
async def test_endpoints_are_changed_all_or_none(tmp_path: Path, failing: str) -> None:
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        it.script(HcsModifyComputeSystem=[{"match": f'"{failing}"', "hr": 0x803B0002}])
        with pytest.raises(HcsError, match=f"the endpoint {failing} of container `box`"):
            await box.update(add_endpoints=["e1", "e2"], remove_endpoints=["old", "gone"])
        asked = [json.loads(text) for text in it.documents("HcsModifyComputeSystem")]
        has = {"old", "gone"}
        for request in (request for request in asked if request["Settings"] != failing):
            (has.add if request["RequestType"] == "Add" else has.discard)(request["Settings"])
        assert has == {"old", "gone"}
        await box.delete(force=True)


async def test_a_change_of_endpoints_that_is_cancelled_is_made_all_the_same(tmp_path: Path) -> None:
    rules = script(HcsModifyComputeSystem=[{"delay_ms": 50}])
    async with world(tmp_path, rules) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        changing = asyncio.create_task(box.update(add_endpoints=["e1", "e2"]))
        await it.until(lambda: it.count("HcsModifyComputeSystem"))
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
        assert [json.loads(text)["Settings"] for text in it.documents("HcsModifyComputeSystem")] == ["e1", "e2"]
        await box.delete(force=True)


async def test_a_running_container_is_not_deleted_unless_by_force(tmp_path: Path) -> None:
    """Bug 28."""
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec())
        await box.start()
        with pytest.raises(InvalidState):
            await box.delete()
        await box.delete(force=True)
        assert it.open_handles == 0


async def test_a_container_that_is_kept_is_found_again_with_its_end(tmp_path: Path) -> None:
    """Bug 2: restoring reported an exit that was none, and left the system running under an id that was taken."""
    async with world(tmp_path, crew=True) as it:
        async with engine(it) as first:
            box = await first.create("box", it.spec("sh", "-c", "trap 'exit 7' TERM; echo ready; sleep 100 & wait"))
            init = await box.start()
            async for _ in box.logs(follow=True):
                break
        assert it.open_handles == 0  # let go of, and running
        async with engine(it, it.another()) as second:
            restored = await second.restore()
            assert restored.running == ["box"]
            box = await second.get("box")
            assert (await box.info()).pid == init.pid
            assert await box.pids() == [init.pid]
            exit = await box.stop()
            assert (exit.code, exit.cause) == (7, Cause.EXITED)
            assert [type for type, _, _ in await told(second)] == ["start-container", "restore", "exit"]
            await box.delete()
            await second.run("", ["true"], name="box", windows=windows())  # the id is free


async def test_one_that_ended_unseen_has_an_end_that_says_so(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        async with engine(it) as first:
            box = await first.create("box", it.spec("sh", "-c", "read x; exit 7"), stdin=PIPE)
            await box.start()
        # its streams have ended with the program that started it
        await it.until(lambda: not it.hcs.systems["box"].processes)
        async with engine(it, it.another()) as second:
            box = await second.get("box")
            exit = await box.wait()
            assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
            await box.delete()
        assert it.hcs.systems == {}


async def test_what_runs_for_its_caller_ends_with_it(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        async with engine(it) as longshore:
            box = await longshore.launch("box", it.spec("sleep", "100"), stdout=PIPE, stderr=PIPE)
            kept = await longshore.create("kept", it.spec("sleep", "100"))
            await kept.start()
            work = await kept.exec(["sleep", "100"], name="work")
            assert box.init is not None
        assert set(it.hcs.systems) == {"kept"}
        assert work.exit is not None
        assert work.exit.cause is Cause.KILLED
        async with engine(it) as longshore:
            await (await longshore.get("kept")).delete(force=True)
        assert it.hcs.systems == {}


async def test_what_is_not_windows_own_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    async with world(tmp_path) as it, engine(it) as longshore:
        refused: list[dict[str, Any]] = [{"pids": 10}, {"network": "host"}, {"read_only": True}]
        for fields in refused:
            with pytest.raises(NotSupported):
                await longshore.create("box", it.spec(**fields))
        with pytest.raises(NotSupported, match="checkpoint"):
            (await longshore.features()).need("checkpoint")
        assert it.hcs.calls == [] or set(it.functions) <= {"HcsEnumerateComputeSystems"}


async def test_features_say_what_works_and_why_the_rest_does_not(tmp_path: Path) -> None:
    async with world(tmp_path) as it, engine(it) as longshore:
        features = await longshore.features()
        assert features.service == "hcs"
        assert features.items["run"].supported
        assert all(item.supported or item.reason for item in features.items.values())
    async with world(tmp_path, script(HcsEnumerateComputeSystems=[{"hr": 0x8037011B}])) as it, engine(it) as longshore:
        run = (await longshore.features()).items["run"]
        assert not run.supported
        assert "Administrators" in (run.hint or "")
    async with world(tmp_path, missing=("HcsOpenProcess",)) as it, engine(it) as longshore:
        run = (await longshore.features()).items["run"]
        assert "HcsOpenProcess" in run.reason


async def test_a_plan_shows_the_documents_and_asks_the_service_for_ids_only(tmp_path: Path) -> None:
    async with world(tmp_path) as it, engine(it) as longshore:
        plan = await longshore.plan(it.spec("cmd", "/c", "dir"))
        assert set(plan.documents) == {"HcsCreateComputeSystem", "HcsCreateProcess"}
        assert set(it.functions) <= {"NameToGuid"}
