"""Found again after its maker died; and what belongs to an owner ends with it.

Each test names the entry of the list of old bugs (moby's and hcsshim's, numbered as in the project's notes) that it
would have caught, where there is one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longshore.compute.protocols import SystemGone
from longshore.compute.values import State
from longshore.errors import InvalidState
from longshore.exit_record import Cause
from longshore.hcs.dll.hresults import HcsError
from longshore.hcs.schema1.documents import ContainerProperties, ProcessListItem
from longshore.hcs.system import properties
from longshore.hcs.system.process import HcsProcess, ProcessToken
from longshore.hcs.system.system import HcsSystem
from longshore.spec import ProcessSpec

from .test_engine import engine
from .world import ALL, World, script, windows, world

FOREVER = ("sleep", "100")
E_FAIL = 0x80004005


@dataclass
class ALease:
    """An owner, as a service knows it."""

    id: str = "1-owner"
    lock_fd: int = -1


@asynccontextmanager
async def left(tmp_path: Path, *args: str, ready: bool = False) -> AsyncIterator[tuple[World, HcsSystem, HcsProcess]]:
    """A container of a program that has just been killed; `ready`: after it has said a line."""
    async with world(tmp_path, crew=True) as it:
        system, init = await it.launch(*args)
        if ready:
            assert init.streams.stdout is not None
            await init.streams.stdout.readline()
        it.die(it.service)
        yield it, system, init


async def test_a_system_is_opened_by_its_id_and_its_init_by_pid_and_time(tmp_path: Path) -> None:
    """Bug 2: restoring only told of an exit, and left the system running."""
    program = ("sh", "-c", "trap 'exit 7' TERM; echo ready; sleep 100 & wait")
    async with left(tmp_path, *program, ready=True) as (it, system, init):
        second = it.another()
        assert await second.state(system.token) is State.RUNNING
        found = await second.open("box", system.token, it.place())
        assert found.init is not None
        assert found.init.pid == init.pid
        assert found.init.streams.stdout is None  # HCS has none for a process once it runs
        await found.shutdown()
        exit = await found.init.wait()
        assert (exit.code, exit.cause) == (7, Cause.EXITED)
        assert (await found.settle(exit, 10)).error is None
        await found.delete()
        await found.close()
        assert it.hcs.systems == {}


async def test_an_exec_of_a_dead_program_is_found_again(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        system, _ = await it.launch(*FOREVER)
        work = await system.exec(ProcessSpec(args=list(FOREVER)), ALL, "work", it.place("work"))
        it.die(it.service)
        found = await it.another().open("box", system.token, it.place())
        again = await found.open_process(work.token)
        assert again.pid == work.pid
        await again.signal(9)
        assert (await again.wait()).cause is Cause.KILLED
        assert await found.processes()
        await found.terminate()
        await found.delete()
        await found.close()


async def test_a_process_that_has_our_number_by_chance_is_not_ours(tmp_path: Path) -> None:
    async with left(tmp_path, *FOREVER) as (it, system, init):
        second = it.another()
        earlier = init.identity.started_at - timedelta(seconds=6)
        wrong = ProcessToken(init.pid, earlier, earlier)
        token = msgspec.json.encode(msgspec.structs.replace(system._identity, init=wrong))
        assert await second.state(token) is State.STOPPED
        found = await second.open("box", token, it.place())
        assert found.init is not None
        exit = await found.init.wait()
        assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
        assert it.count("HcsOpenProcess") == 0
        await found.terminate()
        await found.delete()
        await found.close()


@pytest.mark.parametrize(
    ("created", "returned", "hyperv", "is_it"),
    [
        (-5.1, 8, False, False),
        (-4.9, 8, False, True),
        (8, 8, False, True),  # the service may take its time to make it
        (12.9, 8, False, True),
        (13.1, 8, False, False),
        (-3600, -3600, False, True),  # the clock was set back meanwhile
        (1, -3600, False, True),
        (-118, 1, True, True),  # a utility VM has a clock of its own
        (-122, 1, True, False),
        (4, None, False, True),  # by a token of an earlier version
        (6, None, False, False),
    ],
)
def test_a_process_is_known_by_the_time_between_its_being_asked_for_and_being_there(
    created: float, returned: float | None, hyperv: bool, is_it: bool
) -> None:
    asked = datetime(2026, 1, 1, tzinfo=UTC)
    token = ProcessToken(7, asked, None if returned is None else asked + timedelta(seconds=returned))
    item = ProcessListItem(process_id=7, create_timestamp=asked + timedelta(seconds=created))
    found = ContainerProperties(process_list=[ProcessListItem(process_id=4), item])
    assert properties.is_listed(found, token, hyperv=hyperv) is is_it


async def test_a_process_that_the_service_took_long_to_make_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(properties, "SAME_CLOCK", timedelta(seconds=0.2))
    async with world(tmp_path, script(HcsCreateProcess=[{"delay_ms": 500}]), crew=True) as it:
        system, init = await it.launch(*FOREVER)
        it.die(it.service)
        second = it.another()
        assert await second.state(system.token) is State.RUNNING
        found = await second.open("box", system.token, it.place())
        assert found.init is not None
        assert found.init.pid == init.pid
        assert not found.init.over
        await found.delete()
        await found.close()


NO_LIST = [{"hr": 0xC0370105, "match": "ProcessList"}]


@pytest.mark.parametrize(
    "rules",
    [
        {"HcsOpenProcess": [{"hr": 0x80004005}]},
        {"HcsOpenProcess": [{"hr": 0x80070490}]},
        {"HcsRegisterProcessCallback": [{"hr": 0xC0370104}]},
        {"HcsOpenProcess": [{"hr": 0x80004005}], "HcsGetComputeSystemProperties": NO_LIST},
    ],
    ids=["open", "not-found", "register", "no-list"],
)
async def test_an_init_that_lives_and_cannot_be_opened_is_not_taken_for_ended(
    tmp_path: Path, rules: dict[str, Any]
) -> None:
    """Else its system would be shut down, as that of one which has ended."""
    async with left(tmp_path, *FOREVER) as (it, system, init):
        second = it.another()
        it.script(**rules)
        with pytest.raises(HcsError):
            await second.open("box", system.token, it.place())
        assert it.open_handles == 0
        it.script()
        found = await second.open("box", system.token, it.place())
        assert found.init is not None
        assert not found.init.over
        assert not it.process(init.pid).exited
        assert not {"HcsShutdownComputeSystem", "HcsTerminateComputeSystem", "HcsTerminateProcess"} & set(it.functions)
        await found.delete()
        await found.close()


@pytest.mark.parametrize("rules", [{}, {"HcsGetComputeSystemProperties": NO_LIST}], ids=["list", "no-list"])
async def test_an_init_that_ended_unseen_is_told_so(tmp_path: Path, rules: dict[str, Any]) -> None:
    async with left(tmp_path, *FOREVER) as (it, system, init):
        it.hcs.crew.kill(it.process(init.pid))
        await it.until(lambda: it.process(init.pid).exited)
        it.script(**rules)
        found = await it.another().open("box", system.token, it.place())
        assert found.init is not None
        exit = await found.init.wait()
        assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
        await found.delete()
        await found.close()


async def test_what_was_paused_is_found_paused_and_can_be_resumed(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        system, init = await it.launch(*FOREVER, hyperv=True)
        await system.pause()
        second = it.another()
        assert await second.state(system.token) is State.PAUSED  # without opening it
        it.die(it.service)
        found = await second.open("box", system.token, it.place())
        assert await found.paused()
        assert await second.state(system.token) is State.PAUSED
        with pytest.raises(InvalidState, match="paused"):
            await found.exec(ProcessSpec(args=["true"]), ALL, "work", it.place("work"))
        await found.resume()
        assert it.hcs.systems["box"].state == "Running"
        assert await second.state(system.token) is State.RUNNING
        assert not it.process(init.pid).exited
        await found.delete()
        await found.close()


async def test_an_engine_shows_what_another_program_paused_and_resumes_it(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        async with engine(it) as first:
            await (await first.launch("box", it.spec(*FOREVER, hyperv=True))).pause()
        async with engine(it, it.another()) as second:
            await second.restore()
            box = await second.get("box")
            assert (await box.inspect())["state"] == "paused"
            await box.resume()
            assert (await box.inspect())["state"] == "running"
            await box.delete(force=True)


async def test_what_is_resumed_while_it_is_being_opened_is_not_found_paused(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        system, _ = await it.launch(*FOREVER, hyperv=True)
        await system.pause()
        asked = it.count("HcsGetComputeSystemProperties")
        it.script(HcsGetComputeSystemProperties=[{"properties": {"State": "Paused"}, "delay_ms": 200, "times": 1}])
        opening = asyncio.create_task(it.another().open("box", system.token, it.place()))
        await it.until(lambda: it.count("HcsGetComputeSystemProperties") > asked)
        await system.resume()
        found = await opening
        assert not await found.paused()
        await found.close()
        await system.delete()
        await system.close()


async def test_what_does_not_say_whether_it_is_paused_is_found_all_the_same(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        system, init = await it.launch(*FOREVER, hyperv=True)
        it.die(it.service)
        it.script(HcsGetComputeSystemProperties=[{"hr": 0x80004005, "times": 1}])
        found = await it.another().open("box", system.token, it.place())
        assert found.init is not None
        assert found.init.pid == init.pid
        assert not await found.paused()
        await found.delete()
        await found.close()


async def test_what_is_gone_is_gone(tmp_path: Path) -> None:
    async with left(tmp_path, *FOREVER) as (it, system, _):
        it.hcs.crew.terminate(it.hcs.systems["box"])
        await it.until(lambda: not it.hcs.systems)
        second = it.another()
        assert await second.state(system.token) is State.STOPPED
        with pytest.raises(SystemGone):
            await second.open("box", system.token, it.place())


async def test_another_program_that_has_it_open_is_not_disturbed(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        system, init = await it.launch(*FOREVER)
        second = it.another()
        found = await second.open("box", system.token, it.place())
        await found.close()
        assert not init.over
        found = await second.open("box", system.token, it.place())
        await system.close()
        assert found.init is not None
        assert await second.state(found.token) is State.RUNNING
        await found.terminate()
        assert (await found.init.wait()).code is not None
        await found.delete()
        await found.close()


async def test_an_exec_in_what_was_found_again_has_the_container_s_environment(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        system, _ = await it.launch(*FOREVER, env={"A": "1"}, cwd="/tmp")
        it.die(it.service)
        found = await it.another().open("box", system.token, it.place())
        work = await found.exec(ProcessSpec(args=["sh", "-c", "echo $A; pwd"]), ALL, "work", it.place("work"))
        assert work.streams.stdout is not None
        assert await work.streams.stdout.read() == b"1\n/tmp\n"
        await found.terminate()
        await found.delete()
        await found.close()


async def test_systems_of_an_owner_are_listed_and_others_are_not(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        ours, _ = await it.launch(*FOREVER)
        others, _ = await it.service.launch(
            "other", it.spec(*FOREVER, windows=windows(owner="docker")), ALL, it.place("other")
        )
        assert await it.service.leftovers("longshore") == ["box"]
        assert await it.service.leftovers("docker") == ["other"]
        for system in (ours, others):
            await system.delete()
            await system.close()


async def test_a_half_made_one_is_abandoned_and_one_of_another_owner_is_not(tmp_path: Path) -> None:
    async with left(tmp_path, *FOREVER) as (it, _, _):
        second = it.another()
        system, _ = await second.launch(
            "other", it.spec(*FOREVER, windows=windows(owner="docker")), ALL, it.place("other")
        )
        it.remove_place("other")
        await second.abandon("other", it.place("other"))  # nothing says that it is ours
        assert set(it.hcs.systems) == {"box", "other"}
        await second.abandon("box", it.place())
        await second.abandon("box", it.place())
        assert set(it.hcs.systems) == {"other"}
        await system.delete()
        await system.close()


async def test_what_belongs_to_a_lease_is_made_to_end_with_its_last_handle(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        _, init = await it.launch(*FOREVER, lease=ALease())
        _, kept = await it.launch(*FOREVER, id="kept")
        documents = [json.loads(text) for text in it.documents("HcsCreateComputeSystem")]
        assert [document.get("TerminateOnLastHandleClosed") for document in documents] == [True, None]
        it.die(it.service)
        await it.until(lambda: set(it.hcs.systems) == {"kept"})
        assert it.process(init.pid).exited
        assert not it.process(kept.pid).exited
        await it.another().abandon("kept", it.place("kept"))


async def test_a_lease_is_ended_by_whoever_finds_it_too(tmp_path: Path) -> None:
    """Where the build knows no TerminateOnLastHandleClosed, and for execs in what is kept."""
    async with world(tmp_path, crew=True, end_with_handles=False) as it:
        lease = ALease()
        await it.launch(*FOREVER, lease=lease)
        kept, init = await it.launch(*FOREVER, id="kept")
        work = await kept.exec(ProcessSpec(args=list(FOREVER)), ALL, "work", it.place("work", lease))
        other = await kept.exec(ProcessSpec(args=list(FOREVER)), ALL, "other", it.place("other"))
        it.die(it.service)
        assert set(it.hcs.systems) == {"box", "kept"}

        second = it.another()
        await second.end_lease(lease, tmp_path / "lease")
        assert set(it.hcs.systems) == {"kept"}
        await it.until(lambda: it.process(work.pid).exited)
        assert not it.process(other.pid).exited
        assert not it.process(init.pid).exited
        await second.end_lease(lease, tmp_path / "lease")
        await second.end_lease("1-nobody", tmp_path / "nobody")
        await second.abandon("kept", it.place("kept"))


async def test_one_system_that_cannot_be_ended_does_not_keep_the_rest_of_its_lease_alive(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True, end_with_handles=False) as it:
        lease = ALease()
        for id in ("a", "b"):
            await it.launch(*FOREVER, id=id, lease=lease)
        kept, _ = await it.launch(*FOREVER, id="kept")
        work = await kept.exec(ProcessSpec(args=list(FOREVER)), ALL, "work", it.place("work", lease))
        it.die(it.service)

        second = it.another()
        it.script(
            HcsTerminateComputeSystem=[{"hr": E_FAIL, "system": "a"}], HcsTerminateProcess=[{"hr": E_FAIL, "times": 1}]
        )
        with pytest.raises(HcsError, match="terminate container `a`"):
            await second.end_lease(lease, tmp_path / "lease")
        assert set(it.hcs.systems) == {"a", "kept"}
        assert not it.process(work.pid).exited
        it.script()
        await second.end_lease(lease, tmp_path / "lease")
        assert set(it.hcs.systems) == {"kept"}
        await it.until(lambda: it.process(work.pid).exited)
        assert list((tmp_path / "hcs-leases").iterdir()) == []
        await second.abandon("kept", it.place("kept"))


async def test_a_note_that_was_being_written_when_its_owner_died_is_passed_over(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True, end_with_handles=False) as it:
        lease = ALease()
        await it.launch(*FOREVER, id="a")
        await it.launch(*FOREVER, id="b", lease=lease)
        (tmp_path / "hcs-leases" / lease.id / "a~1004").write_bytes(b"")
        it.die(it.service)
        second = it.another()
        await second.end_lease(lease, tmp_path / "lease")
        assert set(it.hcs.systems) == {"a"}
        await second.abandon("a", it.place("a"))


async def test_a_lease_forgets_what_has_ended(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        lease = ALease()
        system, _ = await it.launch(*FOREVER, lease=lease)
        work = await system.exec(ProcessSpec(args=["true"]), ALL, "work", it.place("work", lease))
        await work.wait()
        assert [name.name for name in (tmp_path / "hcs-leases" / lease.id).iterdir()] == ["box"]
        await system.delete()
        await system.close()
        assert list((tmp_path / "hcs-leases" / lease.id).iterdir()) == []
