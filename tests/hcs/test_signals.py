"""Signals, terminals, pause and update on the scripted service.

Each test names the entry of the list of old bugs (moby's and hcsshim's, numbered as in the project's notes) that it
would have caught, where there is one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.limits import HcsLimits
from longshore.compute.values import State, Stdio
from longshore.errors import (
    InvalidSpec,
    InvalidState,
    NotSupported,
    ProcessNotFound,
    TimeLimit,
)
from longshore.exit_record import Cause
from longshore.hcs.dll.hresults import HcsError
from longshore.spec import ProcessSpec, Resources

from .scripted import TYPES
from .world import ALL, World, script, world

EXITED = TYPES["SystemExited"]
PENDING, DENIED, STOPPED = 0xC0370103, 0x80070005, 0xC0370110
WORK = ProcessSpec(args=["cmd"])
SOON = HcsLimits(default=0.3, shutdown=0.3, terminate=0.3, servicing=0.3, late_exit=0.1)


async def exec_(it: World, system: Any, process: ProcessSpec = WORK, stdio: Stdio = ALL) -> Any:
    return await system.exec(process, stdio, "work", it.place("work"))


# signals


async def test_kill_signal_and_stats_get_through_while_it_is_shut_down(tmp_path: Path) -> None:
    """Bug 1: its lock was held for up to five minutes, and every other call hung."""
    rule = {"hr": PENDING, "notify": [{"type": "SystemExited", "after_ms": 400}]}
    async with world(tmp_path, script(HcsShutdownComputeSystem=[rule])) as it:
        system, init = await it.launch()
        it.exit(init.pid, 9)
        settling = asyncio.create_task(system.settle(await init.wait(), 10))
        await it.until(lambda: it.count("HcsShutdownComputeSystem"))
        async with asyncio.timeout(0.3):
            await system.stats()
            await system.processes()
            await system.terminate()
        assert not settling.done()
        assert (await settling).exit.code == 9
        await system.close()


async def test_a_kill_gets_through_while_it_is_being_started(tmp_path: Path) -> None:
    """Bug 1."""
    async with world(tmp_path, script(HcsStartComputeSystem=[{"hr": PENDING, "notify": []}])) as it:
        system = await it.service.create("box", it.spec(), ALL, it.place())
        starting = asyncio.create_task(system.start())
        await it.until(lambda: it.count("HcsStartComputeSystem"))
        await it.quiet()
        await system.terminate()
        with pytest.raises(HcsError, match="start container"):
            await starting
        await system.close()


async def test_terminating_twice_is_fine_and_failing_to_is_told(tmp_path: Path) -> None:
    """Bug 23: a signal always answered success. Bug 43: the second one failed."""
    rules = script(HcsTerminateComputeSystem=[{"hr": DENIED, "times": 1}, {"hr": STOPPED, "times": 1}])
    async with world(tmp_path, rules) as it:
        system, init = await it.launch()
        with pytest.raises(HcsError, match="terminate container `box`"):
            await system.terminate()
        await system.terminate()
        await system.terminate()
        exit = await init.wait()
        assert exit.cause is Cause.KILLED
        await system.terminate()
        await system.close()


async def test_what_was_not_terminated_after_all_was_not_killed(tmp_path: Path) -> None:
    async with world(tmp_path, script(HcsTerminateComputeSystem=[{"hr": DENIED, "times": 1}])) as it:
        system, init = await it.launch()
        with pytest.raises(HcsError):
            await system.terminate()
        it.exit(init.pid, 6)
        exit = await init.wait()
        assert (exit.code, exit.cause) == (6, Cause.EXITED)
        await system.close()


@pytest.mark.parametrize("hr", [DENIED, 0x80070490, 0x8037011F])
async def test_killing_a_process_that_is_just_dying_is_fine(tmp_path: Path, hr: int) -> None:
    """Bug 43: the service says ACCESS_DENIED, NOT_FOUND or "already stopped" of a process that is dead."""
    async with world(tmp_path, script(HcsTerminateProcess=[{"hr": hr}])) as it:
        system, _ = await it.launch()
        work = await exec_(it, system)
        it.hcs.clock.after(50, lambda: it.exit(work.pid, 1))
        await work.signal(9)
        await work.wait()
        await work.signal(9)
        assert it.count("HcsTerminateProcess") == 1
        await system.close()


async def test_a_process_that_cannot_be_killed_is_told(tmp_path: Path) -> None:
    async with world(tmp_path, script(HcsTerminateProcess=[{"hr": DENIED}])) as it:
        system, _ = await it.launch()
        work = await exec_(it, system)
        with pytest.raises(HcsError, match="kill a process"):
            await work.kill_tree()
        it.exit(work.pid, 3)
        assert (await work.wait()).cause is Cause.EXITED
        await system.close()


async def test_term_and_int_are_console_events_where_the_build_has_them(tmp_path: Path) -> None:
    """Bug 23: every signal but KILL was a shutdown of the whole system."""
    async with world(tmp_path, modern=True) as it:
        system, _ = await it.launch()
        first, second = await exec_(it, system), await exec_(it, system)
        await first.signal(15)
        await second.signal(2)
        assert it.documents("HcsSignalProcess") == ['{"Signal":"CtrlShutdown"}', '{"Signal":"CtrlC"}']
        await asyncio.gather(first.wait(), second.wait())
        with pytest.raises(ProcessNotFound):
            await first.signal(15)
        with pytest.raises(NotSupported):
            await first.signal(10)
        await system.shutdown(15)
        assert it.documents("HcsSignalProcess")[-1] == '{"Signal":"CtrlShutdown"}'
        assert it.count("HcsShutdownComputeSystem") == 0
        await system.close()


async def test_where_it_has_none_a_container_is_shut_down_and_a_process_can_only_be_killed(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.launch()
        work = await exec_(it, system)
        with pytest.raises(NotSupported, match="no signals"):
            await work.signal(15)
        await system.shutdown(15)
        assert it.count("HcsShutdownComputeSystem") == 1
        await init.wait()
        await system.close()


@pytest.mark.parametrize("number", [1, 3, 10, 64, None])
async def test_any_other_signal_shuts_the_system_down(tmp_path: Path, number: int | None) -> None:
    async with world(tmp_path, modern=True) as it:
        system, init = await it.launch()
        assert await system.can_receive(number or 15)
        await system.shutdown(number)
        assert it.count("HcsShutdownComputeSystem") == 1
        await init.wait()
        await system.close()


async def test_a_signal_that_blocks_in_the_service_holds_nobody(tmp_path: Path) -> None:
    """Bug 45: servercore blocks the call until the process has ended."""
    async with world(tmp_path, script(HcsSignalProcess=[{"delay_ms": 1500}]), modern=True) as it:
        system, init = await it.launch()
        begin = asyncio.get_running_loop().time()
        await system.shutdown(15)
        assert asyncio.get_running_loop().time() - begin < 1.4
        assert (await init.wait()).cause is Cause.EXITED
        await system.settle(await init.wait(), 10)
        await system.close()


async def test_a_shutdown_that_fails_is_told_and_one_of_the_stopped_is_fine(tmp_path: Path) -> None:
    """Bug 23."""
    rules = script(HcsShutdownComputeSystem=[{"hr": DENIED, "times": 1}, {"hr": STOPPED, "times": 1}])
    async with world(tmp_path, rules) as it:
        system, init = await it.launch()
        with pytest.raises(HcsError, match="shut down container"):
            await system.shutdown()
        await system.shutdown()
        it.exit(init.pid)
        await init.wait()
        await system.shutdown()
        await system.close()


async def test_height_and_width_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    """Bug 15."""
    async with world(tmp_path) as it:
        system, init = await it.launch(terminal=True, size=(24, 132))
        assert '"ConsoleSize":[24,132]' in it.documents("HcsCreateProcess")[0]
        assert '"EmulateConsole":true' in it.documents("HcsCreateProcess")[0]
        await init.resize(50, 200)
        assert it.documents("HcsModifyProcess") == [
            '{"Operation":"ConsoleSize","ConsoleSize":{"Height":50,"Width":200}}',
        ]
        for rows, columns in ((0, 1), (1, 65536), (-1, 1)):
            with pytest.raises(InvalidSpec):
                await init.resize(rows, columns)
        await system.close()


# pause, update


async def test_only_utility_vms_can_be_paused(tmp_path: Path) -> None:
    """Bug 20: without any isolation option the check passed."""
    async with world(tmp_path) as it:
        system, _ = await it.launch()
        for verb in (system.pause, system.resume):
            with pytest.raises(NotSupported, match="utility VMs") as raised:
                await verb()
            assert "Hyper-V" in (raised.value.hint or "")
        assert it.count("HcsPauseComputeSystem") == 0
        await system.close()


async def test_a_pause_that_is_cancelled_is_taken_back(tmp_path: Path) -> None:
    rule = {"hr": PENDING, "notify": [{"type": "SystemPauseCompleted", "after_ms": 100}]}
    async with world(tmp_path, script(HcsPauseComputeSystem=[rule])) as it:
        system, _ = await it.launch(hyperv=True)
        pausing = asyncio.create_task(system.pause())
        await it.until(lambda: it.count("HcsPauseComputeSystem"))
        pausing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pausing
        assert it.functions[-1] == "HcsResumeComputeSystem"
        assert not await system.paused()
        assert await it.service.state(system.token) is State.RUNNING
        await system.close()


async def test_a_pause_that_reaches_its_limit_is_taken_back_also_when_it_comes_late(tmp_path: Path) -> None:
    """Its caller was told that it failed, and the container stood still all the same."""
    limits = HcsLimits(default=0.2, terminate=0.2)
    async with world(tmp_path, script(HcsPauseComputeSystem=[{"hr": PENDING, "notify": []}]), limits=limits) as it:
        system, _ = await it.launch(hyperv=True)
        with pytest.raises(TimeLimit, match="pause"):
            await system.pause()
        await it.until(lambda: it.functions[-2:] == ["HcsPauseComputeSystem", "HcsResumeComputeSystem"])
        await it.quiet()
        assert not await system.paused()
        it.notify(TYPES["SystemPauseCompleted"])
        await it.until(lambda: it.count("HcsResumeComputeSystem") == 2)
        await it.until(lambda: not system.is_paused)
        await system.close()


async def test_a_pause_that_is_asked_for_again_after_its_limit_stays(tmp_path: Path) -> None:
    rules = script(HcsPauseComputeSystem=[{"hr": PENDING, "notify": [], "times": 1}])
    async with world(tmp_path, rules, limits=HcsLimits(default=0.2, terminate=0.2)) as it:
        system, _ = await it.launch(hyperv=True)
        with pytest.raises(TimeLimit, match="pause"):
            await system.pause()
        await system.pause()
        await it.quiet()
        assert it.count("HcsResumeComputeSystem") == 1
        assert await system.paused()
        await system.close()


async def test_nothing_is_executed_in_what_is_paused(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, _ = await it.launch(hyperv=True)
        await system.pause()
        assert await it.service.state(system.token) is State.PAUSED
        with pytest.raises(InvalidState, match="paused"):
            await exec_(it, system)
        await system.resume()
        await system.close()


async def test_limits_cannot_be_changed_and_endpoints_can(tmp_path: Path) -> None:
    """Bug 21: an update answered success and did nothing."""
    async with world(tmp_path) as it:
        system, _ = await it.launch()
        with pytest.raises(NotSupported, match="limits"):
            await system.update(Resources(memory="64m"))
        assert it.count("HcsModifyComputeSystem") == 0
        await system.connect("eef2649d-bb17-4d53-9937-295a8efe6f2c")
        await system.disconnect("e1")
        assert it.documents("HcsModifyComputeSystem") == [
            '{"ResourceType":"Network","RequestType":"Add","Settings":"eef2649d-bb17-4d53-9937-295a8efe6f2c"}',
            '{"ResourceType":"Network","RequestType":"Remove","Settings":"e1"}',
        ]
        with pytest.raises(InvalidSpec):
            await system.connect("")
        it.script(HcsModifyComputeSystem=[{"hr": 0x803B0002}])
        with pytest.raises(HcsError, match="endpoint e2"):
            await system.connect("e2")
        await system.close()
