"""The end of Windows containers on the scripted service; what is kept until then, and what not.

Each test names the entry of the list of old bugs (moby's and hcsshim's, numbered as in the project's notes) that it
would have caught, where there is one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.limits import HcsLimits
from longshore.compute.values import Stdio
from longshore.errors import (
    LongshoreError,
    TimeLimit,
)
from longshore.exit_record import Cause, Exit
from longshore.hcs.dll import calls
from longshore.hcs.dll.hresults import HcsError
from longshore.hcs.system.process import HcsProcess
from longshore.spec import ProcessSpec

from .scripted import TYPES
from .world import ALL, World, script, world

EXITED = TYPES["SystemExited"]
PENDING, DENIED, STOPPED = 0xC0370103, 0x80070005, 0xC0370110
WORK = ProcessSpec(args=["cmd"])
SOON = HcsLimits(default=0.3, shutdown=0.3, terminate=0.3, servicing=0.3, late_exit=0.1)


async def exec_(it: World, system: Any, process: ProcessSpec = WORK, stdio: Stdio = ALL) -> Any:
    return await system.exec(process, stdio, "work", it.place("work"))


async def ends(process: HcsProcess) -> Exit:
    """Its end, which must come."""
    async with asyncio.timeout(300):
        return await process.wait()


# the end


async def test_the_system_is_shut_down_and_closed_before_its_end_is_settled(tmp_path: Path) -> None:
    """Bug 29: the exit was told while the layer and the network were still in use."""
    async with world(tmp_path) as it:
        system, init = await it.launch()
        it.exit(init.pid, 0)
        await system.settle(await init.wait(), 10)
        assert it.open_handles == 0
        assert it.functions[-7:] == [
            "HcsGetProcessProperties",
            "HcsGetComputeSystemProperties",
            "HcsShutdownComputeSystem",
            "HcsUnregisterComputeSystemCallback",
            "HcsCloseComputeSystem",
            "HcsUnregisterProcessCallback",
            "HcsCloseProcess",
        ]
        await system.close()


async def test_a_system_that_ends_badly_after_init_is_told(tmp_path: Path) -> None:
    """Bug 10: the crash of a utility VM while it shut down came out as exit code 0 and nothing else."""
    rule = {"hr": PENDING, "notify": [{"type": "SystemExited", "status": 0xC037010A}]}
    async with world(tmp_path, script(HcsShutdownComputeSystem=[rule])) as it:
        system, init = await it.launch()
        it.exit(init.pid, 0)
        end = await system.settle(await init.wait(), 10)
        assert end.exit.code == 0
        assert end.error is not None
        assert "CONNECTION_CLOSED" in end.error
        await system.close()


async def test_a_shutdown_that_does_not_end_is_followed_by_a_terminate_within_the_limit(tmp_path: Path) -> None:
    rules = script(
        HcsShutdownComputeSystem=[{"hr": PENDING, "notify": []}],
        HcsTerminateComputeSystem=[{"hr": PENDING, "notify": []}],
    )
    async with world(tmp_path, rules) as it:
        system, init = await it.launch()
        it.exit(init.pid, 0)
        begin = asyncio.get_running_loop().time()
        end = await system.settle(await init.wait(), 0.6)
        assert asyncio.get_running_loop().time() - begin < 2
        assert end.error is not None
        assert it.open_handles == 0
        await system.close()


async def test_after_a_kill_the_teardown_does_not_wait_for_a_second_exit(tmp_path: Path) -> None:
    """Bug 11: the exit of the system was used up by the kill, and the shutdown waited five minutes for another."""
    rules = script(HcsShutdownComputeSystem=[{"hr": PENDING, "notify": []}])
    async with world(tmp_path, rules) as it:
        system, init = await it.launch()
        await system.terminate()
        exit = await init.wait()
        await it.until(lambda: it.hcs.systems["box"].exit_delivered)
        begin = asyncio.get_running_loop().time()
        end = await system.settle(exit, 40)
        assert asyncio.get_running_loop().time() - begin < 5
        assert end.error is None
        await system.close()


async def test_pending_updates_are_told_and_not_acted_upon(tmp_path: Path) -> None:
    """Bug 12."""
    rule = {"match": "PendingUpdates", "properties": {"AreUpdatesPending": True}}
    async with world(tmp_path, script(HcsGetComputeSystemProperties=[rule])) as it:
        system, init = await it.launch()
        it.exit(init.pid, 0)
        assert (await system.settle(await init.wait(), 10)).updates_pending
        assert it.count("HcsCreateComputeSystem") == 1
        await system.close()


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"hr": DENIED}, None),
        ({"properties": None}, None),
        ({"properties": "{"}, None),
        ({"properties": {"Exited": False, "ExitCode": 259}}, None),
        ({"properties": {"Exited": True, "ExitCode": 3, "LastWaitResult": 258}}, None),
        ({"properties": {"Exited": True}}, 0),
        ({"properties": {"Exited": True, "ExitCode": 4294967295}}, 4294967295),
    ],
)
async def test_a_code_that_cannot_be_read_is_unknown_and_never_success(
    tmp_path: Path, rule: dict[str, Any], code: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug 35: errors of other kinds than the expected one were swallowed."""
    async with world(tmp_path, script(HcsGetProcessProperties=[rule])) as it:
        system, init = await it.launch()
        with caplog.at_level(logging.WARNING, logger="longshore.hcs"):
            it.exit(init.pid, 7)
            assert (await init.wait()).code == code
        if "hr" in rule:
            assert "exit code of process" in caplog.text
        await system.close()


async def test_a_failing_notification_changes_nothing_about_the_code(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.launch()
        it.exit(init.pid, 6, status=0x8007006D)
        assert (await init.wait()).code == 6
        await system.close()


async def test_the_code_is_read_once_before_the_handle_is_closed(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, _ = await it.launch()
        work = await exec_(it, system)
        it.exit(work.pid, 5)
        exits = await asyncio.gather(*(work.wait() for _ in range(10)))
        assert {exit.code for exit in exits} == {5}
        assert it.functions[-3:] == [
            "HcsGetProcessProperties",
            "HcsUnregisterProcessCallback",
            "HcsCloseProcess",
        ]
        await system.close()


@pytest.mark.parametrize("verb", ["shutdown", "terminate"])
async def test_stopping_what_is_gone_already_ends(tmp_path: Path, verb: str) -> None:
    """Bug 33: a stop of a container whose process was gone, of which nobody had been told, waited for ever."""
    rules = script(
        HcsShutdownComputeSystem=[{"hr": 0x80070490}],
        HcsTerminateComputeSystem=[{"hr": 0x80070490}],
    )
    async with world(tmp_path, rules) as it:
        system, init = await it.launch()
        work = await exec_(it, system)
        it.exit(init.pid, 3, silent=True)
        it.exit(work.pid, 4, silent=True)
        await (system.shutdown() if verb == "shutdown" else system.terminate())
        exit = await ends(init)
        assert (exit.code, exit.cause) == (3, Cause.EXITED)
        assert (await ends(work)).code == 4
        assert (await system.settle(exit, 10)).error is None
        await system.delete()
        await system.close()


@pytest.mark.parametrize("code", [0x80070490, 0x8037011F, 0x80070005])
async def test_killing_a_process_that_is_gone_already_ends_it(tmp_path: Path, code: int) -> None:
    """Bugs 33 and 43: the kill failed, and whoever waited for the process waited for ever."""
    async with world(tmp_path, script(HcsTerminateProcess=[{"hr": code}])) as it:
        system, _ = await it.launch()
        work = await exec_(it, system)
        it.exit(work.pid, 3, silent=True)
        await work.kill()
        exit = await ends(work)
        assert (exit.code, exit.cause) == (3, Cause.EXITED)
        await system.close()


async def test_a_process_that_the_service_does_not_know_any_more_has_ended_with_a_code_that_nobody_knows(
    tmp_path: Path,
) -> None:
    rules = script(HcsTerminateProcess=[{"hr": 0x80070490}], HcsGetProcessProperties=[{"hr": 0x80070490}])
    async with world(tmp_path, rules) as it:
        system, _ = await it.launch()
        work = await exec_(it, system)
        await work.kill()
        exit = await ends(work)
        assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
        await system.close()


async def test_a_process_that_may_not_be_killed_and_lives_is_not_taken_for_dead(tmp_path: Path) -> None:
    async with world(tmp_path, script(HcsTerminateProcess=[{"hr": DENIED}])) as it:
        system, _ = await it.launch()
        work = await exec_(it, system)
        with pytest.raises(HcsError, match="kill a process"):
            await work.kill()
        assert not work.ending
        it.exit(work.pid, 5)
        exit = await ends(work)
        assert (exit.code, exit.cause) == (5, Cause.EXITED)
        await system.close()


async def test_deleting_waits_until_the_system_has_exited(tmp_path: Path) -> None:
    """Bug 3: the layer was still in use when the caller removed it."""
    rule = {"hr": PENDING, "notify": [{"type": "SystemExited", "after_ms": 200}]}
    async with world(tmp_path, script(HcsTerminateComputeSystem=[rule])) as it:
        system, _ = await it.launch()
        await system.terminate()
        await system.delete()
        assert it.hcs.systems == {} or it.hcs.systems["box"].exit_delivered
        assert it.open_handles == 0
        await system.delete()
        await system.close()


async def test_a_system_that_cannot_be_ended_is_not_forgotten(tmp_path: Path) -> None:
    """Bug 28: deleted while it ran."""
    async with world(tmp_path, script(HcsTerminateComputeSystem=[{"hr": DENIED, "times": 1}])) as it:
        system, _ = await it.launch()
        with pytest.raises(HcsError):
            await system.delete()
        assert it.open_handles
        await system.delete()
        assert it.open_handles == 0
        await system.close()


@pytest.mark.parametrize("told", ["E_FAIL", "no exit"])
async def test_what_could_not_be_brought_down_is_ended_when_it_is_deleted(tmp_path: Path, told: str) -> None:
    """Its handle is closed when its end is settled: with that it was taken for gone, and its id was never free."""
    answer = [{"hr": 0x80004005}] if told == "E_FAIL" else [{"hr": PENDING, "notify": []}]
    async with world(tmp_path, crew=True, limits=SOON) as it:
        system, init = await it.launch("true")
        exit = await init.wait()
        it.script(HcsShutdownComputeSystem=answer, HcsTerminateComputeSystem=answer)
        assert (await system.settle(exit, 0.6)).error
        with pytest.raises((HcsError, TimeLimit), match="terminate container `box`"):
            await system.delete()
        assert it.hcs.systems["box"].state == "Running"
        assert it.open_handles == 0
        it.script()
        await system.delete()
        assert it.hcs.systems == {}
        await system.close()


@pytest.mark.parametrize("function", ["HcsStartComputeSystem", "HcsCreateProcess", "HcsRegisterProcessCallback"])
async def test_a_start_that_failed_has_ended_the_system_before_anybody_deletes_it(
    tmp_path: Path, function: str
) -> None:
    async with world(tmp_path, script(**{function: [{"hr": DENIED}]})) as it:
        system = await it.service.create("box", it.spec(), ALL, it.place())
        with pytest.raises(LongshoreError):
            await system.start()
        assert it.hcs.systems == {}
        assert it.open_handles == 0
        await system.delete()
        assert it.count("HcsTerminateComputeSystem") == 1
        await system.close()


async def test_what_a_failed_start_has_left_is_ended_when_it_is_deleted(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        system = await it.service.create("box", it.spec("sleep", "100"), ALL, it.place())
        it.script(HcsCreateProcess=[{"hr": 0x80004005}], HcsTerminateComputeSystem=[{"hr": 0x80004005}])
        with pytest.raises(HcsError):
            await system.start()
        assert it.hcs.systems["box"].state == "Running"
        it.script()
        await system.delete()
        assert it.hcs.systems == {}
        await system.close()


@pytest.mark.parametrize("started", [True, False])
async def test_deleting_after_the_service_was_lost_ends_what_has_survived_it(tmp_path: Path, started: bool) -> None:
    """The loss of the service says nothing of its systems: only one that cannot be found any more is gone."""
    async with world(tmp_path, crew=True) as it:
        system = await it.service.create("box", it.spec("sleep", "100"), ALL, it.place())
        init = await system.start() if started else None
        lost = [{"hr": 0x8037011E}]
        it.script(HcsOpenComputeSystem=lost, HcsShutdownComputeSystem=lost, HcsTerminateComputeSystem=lost)
        it.notify(TYPES["ServiceDisconnect"])
        if init is not None:
            await system.settle(await init.wait(), 5)
        with pytest.raises(HcsError, match="delete container `box`"):
            await system.delete()
        it.script()
        await system.delete()
        assert it.hcs.systems == {}
        assert it.open_handles == 0
        await system.close()


async def test_deleting_after_the_service_was_lost_and_its_systems_with_it(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.launch()
        it.notify(TYPES["ServiceDisconnect"])
        await init.wait()
        it.script(HcsOpenComputeSystem=[{"hr": 0xC037010E}])
        await system.delete()
        assert it.count("HcsTerminateComputeSystem") == 0
        await system.close()


async def test_a_handle_that_outlived_its_service_holds_up_no_deletion(tmp_path: Path) -> None:
    """Nobody told us that the service was lost: its answers show it."""
    async with world(tmp_path, script(HcsTerminateComputeSystem=[{"hr": 0x8037011E, "times": 1}]), crew=True) as it:
        system, _ = await it.launch("sleep", "100")
        await system.delete()
        assert it.hcs.systems == {}
        await system.close()


async def test_a_system_of_somebody_else_that_has_the_id_meanwhile_is_let_be(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.launch()
        it.notify(TYPES["ServiceDisconnect"])
        await init.wait()
        it.script(HcsGetComputeSystemProperties=[{"properties": {"Id": "box", "Owner": "docker"}}])
        await system.delete()
        assert it.count("HcsTerminateComputeSystem") == 0
        assert it.open_handles == 0
        await system.close()


async def test_a_servicing_container_that_does_not_end_is_ended(tmp_path: Path) -> None:
    rules = script(HcsCreateProcess=[{"exit": {"code": 0}}])
    async with world(tmp_path, rules, limits=SOON) as it:
        with pytest.raises(TimeLimit, match="to service container"):
            await it.service.launch("box", it.servicing(), ALL, it.place())
        assert it.count("HcsTerminateComputeSystem") == 1
        assert it.open_handles == 0


# what is kept, and what not


async def test_an_exec_costs_no_task_and_no_thread_while_it_runs(tmp_path: Path) -> None:
    """Bug 44: one more waiter for each exec, that lived as long as the container."""
    async with world(tmp_path) as it:
        system, _ = await it.launch()
        works = [await exec_(it, system)]
        await it.quiet()
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        works += [await exec_(it, system) for _ in range(20)]
        assert len(asyncio.all_tasks()) == tasks
        assert threading.active_count() < threads + 10  # one call at a time; its thread may be at its last one still
        for work in works:
            it.exit(work.pid, 0)
            await work.wait()
        await it.until(lambda: not system._processes)
        await system.close()


async def test_a_call_in_flight_keeps_its_handle_though_its_caller_has_gone(tmp_path: Path) -> None:
    """Bug 46: handles were closed, and arguments freed, under a call that was still at work: access violations."""
    async with world(tmp_path, script(HcsGetComputeSystemProperties=[{"delay_ms": 300}])) as it:
        system, init = await it.launch()
        asking = asyncio.create_task(system.stats())
        await it.until(lambda: it.count("HcsGetComputeSystemProperties"))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        closing = asyncio.create_task(system.close())
        await asyncio.sleep(0.1)
        assert "HcsCloseComputeSystem" not in it.functions
        await closing
        await it.until(lambda: it.count("HcsCloseComputeSystem"))
        assert init.pid


async def test_a_service_that_does_not_answer_is_left_to_itself_and_what_it_makes_too_late_is_ended(
    tmp_path: Path,
) -> None:
    """Every operation ends, and nothing of it is left: neither now nor when the service comes to."""
    rules = {"HcsCreateComputeSystem": [{"delay_ms": 1500, "times": 1}], "HcsCreateProcess": [{"delay_ms": 1500}]}
    async with world(tmp_path, script(**rules), limits=SOON) as it:
        for expected in ("HcsCreateComputeSystem", "HcsCreateProcess"):
            with pytest.raises(TimeLimit, match=r"vmcompute|did not end"):
                await it.launch()
            await it.until(lambda: it.hcs.quiet_for and not it.open_handles)  # ended when its call has returned
            assert it.count(expected) == 1


@pytest.mark.parametrize("function", ["HcsCreateComputeSystem", "HcsStartComputeSystem", "HcsCreateProcess"])
async def test_who_is_cancelled_while_the_service_does_not_answer_is_not_held_for_ever(
    tmp_path: Path, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CLOSE_LIMIT", 0.1)
    async with world(tmp_path, script(**{function: [{"delay_ms": 1500}]}), limits=SOON) as it:
        launching = asyncio.create_task(it.launch())
        await it.until(lambda: it.count(function))
        launching.cancel()
        begin = asyncio.get_running_loop().time()
        with pytest.raises(asyncio.CancelledError):
            await launching
        assert asyncio.get_running_loop().time() - begin < 1.4
        await it.until(lambda: it.hcs.quiet_for > 0.02 and it.open_handles == 0)


CALLS: list[tuple[str, Callable[[World, Any, Any], Awaitable[object]]]] = [
    ("HcsGetComputeSystemProperties", lambda it, system, work: system.stats()),
    ("HcsGetComputeSystemProperties", lambda it, system, work: system.processes()),
    ("HcsGetComputeSystemProperties", lambda it, system, work: system.open_process(work.token)),
    ("HcsModifyComputeSystem", lambda it, system, work: system.connect("e1")),
    ("HcsTerminateComputeSystem", lambda it, system, work: system.terminate()),
    ("HcsTerminateComputeSystem", lambda it, system, work: system.delete()),
    ("HcsTerminateProcess", lambda it, system, work: work.kill()),
    ("HcsModifyProcess", lambda it, system, work: work.resize(24, 80)),
    ("HcsEnumerateComputeSystems", lambda it, system, work: it.service.leftovers("longshore")),
    ("HcsGetComputeSystemProperties", lambda it, system, work: it.another().state(system.token)),
]


@pytest.mark.parametrize(("function", "call"), CALLS)
async def test_what_the_service_does_not_answer_ends_within_its_limit(
    tmp_path: Path,
    function: str,
    call: Callable[[World, Any, Any], Awaitable[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every operation ends: the call goes on in its thread, and its handle is closed after it."""
    monkeypatch.setattr(calls, "CLOSE_LIMIT", 0.1)
    async with world(tmp_path, limits=SOON) as it:
        system, _ = await it.launch()
        work = await exec_(it, system)
        it.script(**{function: [{"delay_ms": 1500}]})
        begin = asyncio.get_running_loop().time()
        with pytest.raises(TimeLimit, match=r"within 0.3 s") as raised:
            await call(it, system, work)
        assert "vmcompute" in (raised.value.hint or "")
        assert asyncio.get_running_loop().time() - begin < 1.4
        await system.close()
        await it.until(lambda: it.open_handles == 0)


async def test_a_process_whose_status_the_service_does_not_tell_is_not_found_and_not_kept_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CLOSE_LIMIT", 0.1)
    async with world(tmp_path, limits=SOON) as it:
        system, _ = await it.launch()
        work = await exec_(it, system)
        it.script(
            HcsGetComputeSystemProperties=[{"properties": {"ProcessList": [{"ProcessId": work.pid}]}}],
            HcsGetProcessProperties=[{"delay_ms": 1500}],
        )
        before = it.open_handles
        with pytest.raises(TimeLimit, match="read the state of a process"):
            await system.open_process(work.token)
        await it.until(lambda: it.open_handles == before)
        await system.close()


async def test_a_code_that_the_service_does_not_tell_is_not_waited_for_without_end(tmp_path: Path) -> None:
    async with world(tmp_path, script(HcsGetProcessProperties=[{"delay_ms": 1500}]), limits=SOON) as it:
        system, init = await it.launch()
        begin = asyncio.get_running_loop().time()
        it.exit(init.pid, 1)
        assert (await init.wait()).code is None
        assert asyncio.get_running_loop().time() - begin < 1.4
        await system.close()


@pytest.mark.parametrize("function", ["HcsShutdownComputeSystem", "HcsGetComputeSystemProperties"])
async def test_a_service_that_does_not_answer_is_settled_within_the_limit(
    tmp_path: Path, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CLOSE_LIMIT", 0.1)
    async with world(tmp_path, script(**{function: [{"delay_ms": 1500}]}), limits=SOON) as it:
        system, init = await it.launch()
        it.exit(init.pid, 0)
        exit = await init.wait()
        begin = asyncio.get_running_loop().time()
        end = await system.settle(exit, 0.8)
        assert asyncio.get_running_loop().time() - begin < 1.4
        if function == "HcsShutdownComputeSystem":
            assert "request to shut down container `box` did not end" in (end.error or "")
            assert it.count("HcsTerminateComputeSystem") == 1
        await system.close()
        await it.until(lambda: it.open_handles == 0)


async def test_a_registration_that_the_service_does_not_undo_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "RELEASE_LIMIT", 0.1)
    async with world(tmp_path, script(HcsUnregisterComputeSystemCallback=[{"delay_ms": 1500}])) as it:
        system, _ = await it.launch()
        begin = asyncio.get_running_loop().time()
        await system.close()
        assert asyncio.get_running_loop().time() - begin < 1.4
        await it.until(lambda: it.open_handles == 0)


async def test_calls_that_block_hold_up_no_others(tmp_path: Path) -> None:
    """Fifty calls that take their time are fifty calls at once, and the loop turns meanwhile."""
    async with world(tmp_path, script(HcsGetComputeSystemProperties=[{"delay_ms": 200}])) as it:
        system, _ = await it.launch()
        loop = asyncio.get_running_loop()
        begin, longest, before = loop.time(), 0.0, loop.time()
        calls = [asyncio.create_task(system.stats()) for _ in range(50)]
        while not all(call.done() for call in calls):
            await asyncio.sleep(0)
            longest, before = max(longest, loop.time() - before), loop.time()
        assert loop.time() - begin < 2
        assert longest < 0.15
        await system.close()


async def test_a_handle_that_the_service_will_not_unregister_is_not_closed_under_it(tmp_path: Path) -> None:
    rules = script(HcsUnregisterProcessCallback=[{"hr": DENIED, "times": 1}])
    it = World(tmp_path, rules)
    system, _ = await it.launch()
    work = await exec_(it, system)
    it.exit(work.pid, 0)
    await work.wait()
    assert it.functions[-1] == "HcsUnregisterProcessCallback"
    await system.close()
    await it.close(clean=False)
