"""The life of a Windows container on the scripted service: starting, exec, streams, signals, its end.

Each test names the entry of the list of old bugs (moby's and hcsshim's, numbered as in the project's notes) that it
would have caught, where there is one.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from longshore import hcs
from longshore.compute import DEVNULL, INHERIT, STDOUT, Cause, State, Stdio
from longshore.errors import (
    CommandNotExecutable,
    CommandNotFound,
    InvalidSpec,
    InvalidState,
    NotSupported,
    ProcessNotFound,
    ServiceError,
    TimeLimit,
)
from longshore.hcs import calls
from longshore.hcs.hresults import HcsError
from longshore.hcs.session import Limits
from longshore.spec import ProcessSpec, Resources

from .scripted import TYPES
from .world import ALL, World, script, world

EXITED = TYPES["SystemExited"]
PENDING, DENIED, STOPPED = 0xC0370103, 0x80070005, 0xC0370110
WORK = ProcessSpec(args=["cmd"])
SOON = Limits(default=0.3, shutdown=0.3, terminate=0.3, servicing=0.3, late_exit=0.1)


async def exec_(it: World, system: Any, process: ProcessSpec = WORK, stdio: Stdio = ALL) -> Any:
    return await system.exec(process, stdio, "work", it.place("work"))


# creating and starting


@pytest.mark.parametrize(
    "rules",
    [
        {"HcsCreateComputeSystem": [{"hr": DENIED}]},
        {"HcsCreateComputeSystem": [{"hr": PENDING, "notify": [{"type": "SystemCreateCompleted", "status": DENIED}]}]},
        {"HcsCreateComputeSystem": [{"hr": PENDING, "notify": [{"type": "SystemExited"}]}]},
        {"HcsCreateComputeSystem": [{"hr": PENDING, "notify": [{"type": "ServiceDisconnect"}]}]},
        {"HcsCreateComputeSystem": [{"hr": PENDING, "notify": []}]},
        {"HcsRegisterComputeSystemCallback": [{"hr": DENIED}]},
        {"HcsStartComputeSystem": [{"hr": DENIED}]},
        {"HcsStartComputeSystem": [{"hr": PENDING, "notify": []}]},
        {"HcsStartComputeSystem": [{"hr": DENIED}], "HcsTerminateComputeSystem": [{"hr": DENIED}]},
        {"HcsCreateProcess": [{"hr": DENIED}]},
        {"HcsCreateProcess": [{"hr": DENIED}], "HcsTerminateComputeSystem": [{"hr": PENDING, "notify": []}]},
        {"HcsCreateProcess": [{"invalid": ["stdin"]}]},
        {"HcsCreateProcess": [{"invalid": ["stderr"]}]},
        {"HcsRegisterProcessCallback": [{"hr": DENIED}]},
    ],
    ids="-".join,
)
async def test_what_fails_while_starting_leaves_no_handle_open(tmp_path: Path, rules: dict[str, Any]) -> None:
    """Bugs 4, 5, 6 and 39: handles and processes that nobody had any more, at each step that can fail."""
    async with world(tmp_path, script(**rules), limits=SOON) as it:
        with pytest.raises((ServiceError, TimeLimit, CommandNotExecutable)):
            await it.launch()
        assert it.open_handles == 0
        it.script()
        system, _ = await it.launch(id="other")
        await system.close()


async def test_the_first_error_is_told_not_that_of_the_clean_up(tmp_path: Path) -> None:
    rules = script(HcsStartComputeSystem=[{"hr": 0x800704C6}], HcsTerminateComputeSystem=[{"hr": 0x80070006}])
    async with world(tmp_path, rules) as it:
        with pytest.raises(HcsError, match="start of container `box`") as raised:
            await it.launch()
        assert raised.value.code == 1222
        assert "hns" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("hr", "word"),
    [
        (0xC0370101, "Hyper-V isolation"),
        (0xC0370102, "Microsoft-Hyper-V"),
        (0xC0370112, "layers.parents"),
        (0x80070003, "layers"),
        (0x80070005, "Administrators"),
        (0x80070426, "Start-Service"),
        (0xC037010F, "another id"),
    ],
)
async def test_what_windows_refuses_has_a_next_step(tmp_path: Path, hr: int, word: str) -> None:
    async with world(tmp_path, script(HcsCreateComputeSystem=[{"hr": hr}])) as it:
        with pytest.raises(HcsError, match="create of container `box`") as raised:
            await it.launch()
        assert word in (raised.value.hint or "")


async def test_a_create_that_does_not_complete_is_terminated(tmp_path: Path) -> None:
    """Bug 39: after its time limit the system lived on."""
    async with world(tmp_path, script(HcsCreateComputeSystem=[{"hr": PENDING, "notify": []}]), limits=SOON) as it:
        with pytest.raises(TimeLimit, match="create"):
            await it.launch()
        assert it.functions[-3:] == [
            "HcsTerminateComputeSystem",
            "HcsUnregisterComputeSystemCallback",
            "HcsCloseComputeSystem",
        ]


@pytest.mark.parametrize(
    ("code", "error"),
    [(2, CommandNotFound), (3, CommandNotFound), (193, CommandNotExecutable), (740, CommandNotExecutable)],
)
async def test_a_command_that_cannot_run_is_told_in_words_of_the_command(
    tmp_path: Path, code: int, error: type[Exception]
) -> None:
    """Bug 26: nobody was told of an exec that failed to start, or twice."""
    rules = script(HcsCreateProcess=[{"times": 1}, {"hr": 0x80070000 | code}])
    async with world(tmp_path, rules) as it:
        system, _ = await it.launch()
        with pytest.raises(error, match="no such thing") as raised:
            await exec_(it, system, ProcessSpec(args=["no such thing", "x"]))
        assert isinstance(raised.value.__cause__, HcsError)
        await system.close()


@pytest.mark.parametrize("rule", [{"invalid": ["stdout"]}, {"invalid": ["stdin"]}])
async def test_an_exec_whose_streams_fail_is_killed_and_let_go_of(tmp_path: Path, rule: dict[str, Any]) -> None:
    """Bugs 4 and 5: it went on, nobody waited for it, and its handles stayed open."""
    async with world(tmp_path, script(HcsCreateProcess=[{"times": 1}, rule])) as it:
        system, _ = await it.launch()
        before = it.open_handles
        with pytest.raises(HcsError, match="streams"):
            await exec_(it, system)
        assert it.functions[-4:] == [
            "HcsTerminateProcess",
            "HcsGetProcessProperties",
            "HcsUnregisterProcessCallback",
            "HcsCloseProcess",
        ]
        assert it.open_handles == before
        await system.close()


async def test_an_exec_that_cannot_be_watched_is_killed(tmp_path: Path) -> None:
    rules = script(HcsRegisterProcessCallback=[{"times": 1}, {"hr": DENIED}])
    async with world(tmp_path, rules) as it:
        system, _ = await it.launch()
        with pytest.raises(HcsError, match="registering"):
            await exec_(it, system)
        assert it.functions[-2:] == ["HcsTerminateProcess", "HcsCloseProcess"]
        await system.close()


async def test_no_exec_before_the_start_nor_after_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system = await it.service.create("box", it.spec(), ALL, it.place())
        with pytest.raises(InvalidState, match="not started"):
            await exec_(it, system)
        init = await system.start()
        it.exit(init.pid)
        await init.wait()
        with pytest.raises(InvalidState, match="stopped"):
            await exec_(it, system)
        await system.close()


async def test_the_start_of_a_process_never_comes_after_its_end(tmp_path: Path) -> None:
    """Bug 32: the time of the start was taken after it, so that an end could precede it."""
    async with world(tmp_path, script(HcsCreateProcess=[{"exit": {"code": 0}, "delay_ms": 20}])) as it:
        system, init = await it.launch()
        exit = await init.wait()
        assert exit.started_at is not None
        assert exit.at is not None
        assert exit.started_at <= exit.at
        await system.close()


async def test_the_service_is_never_asked_again_for_pipes(tmp_path: Path) -> None:
    """Bug 42: asked for late, those of a short process were gone."""
    rule = {"stdout": "out", "stderr": "err", "exit": {"code": 0}}
    async with world(tmp_path, script(HcsCreateProcess=[rule])) as it:
        system, init = await it.launch()
        await init.wait()
        assert init.streams.stdout is not None
        assert init.streams.stderr is not None
        assert (await init.streams.stdout.read(), await init.streams.stderr.read()) == (b"out", b"err")
        assert "HcsGetProcessInfo" not in it.functions
        await system.close()


# streams


async def test_a_reader_that_stops_early_leaks_nothing(tmp_path: Path) -> None:
    """Bug 36: pipes were closed only at their end."""
    import os

    async with world(tmp_path, script(HcsCreateProcess=[{"stdout": "x" * 1000, "repeat": 10_000}])) as it:
        before = len(os.listdir("/proc/self/fd"))
        system, init = await it.launch()
        assert init.streams.stdout is not None
        assert len(await init.streams.stdout.read(10)) == 10
        it.exit(init.pid)
        await init.wait()
        await system.settle(await init.wait(), 10)
        await system.close()
        await it.until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_slow_reader_gets_all_of_what_a_dead_process_wrote(tmp_path: Path) -> None:
    rule = {"stdout": "x" * 1000, "repeat": 5000, "exit": {"code": 0, "after_ms": 20}}
    async with world(tmp_path, script(HcsCreateProcess=[rule])) as it:
        system, init = await it.launch()
        await init.wait()
        assert init.streams.stdout is not None
        await asyncio.sleep(1.2)  # longer than a silent pipe is waited for
        data = b""
        while piece := await init.streams.stdout.read(100_000):
            data += piece
            await asyncio.sleep(0.01)
        assert len(data) == 5_000_000
        await system.close()


async def test_closing_the_input_closes_the_pipe_and_then_tells_the_service(tmp_path: Path) -> None:
    """Bug 37: the end of input needs both; and only once, in this order."""
    async with world(tmp_path) as it:
        system, init = await it.launch()
        stdin = init.streams.stdin
        assert stdin is not None
        stdin.write(b"all of it")
        stdin.close()
        await it.until(lambda: it.count("HcsModifyProcess"))
        assert it.process(init.pid).given == b"all of it"
        assert it.process(init.pid).input_closed
        assert it.documents("HcsModifyProcess") == [
            '{"Operation":"CloseHandle","CloseHandle":{"Handle":"StdIn"}}',
        ]
        await system.close()


@pytest.mark.parametrize("hr", [0xC0370105, 0xC037010E, 0x80070490])
async def test_closing_the_input_of_what_is_ending_is_no_error(tmp_path: Path, hr: int) -> None:
    """Bug 37."""
    async with world(tmp_path, script(HcsModifyProcess=[{"hr": hr}])) as it:
        system, init = await it.launch()
        await init.close_stdin()
        await system.close()


async def test_closing_the_input_can_fail_and_tells_so(tmp_path: Path) -> None:
    async with world(tmp_path, script(HcsModifyProcess=[{"hr": DENIED}])) as it:
        system, init = await it.launch()
        with pytest.raises(HcsError, match="input"):
            await init.close_stdin()
        await system.close()


async def test_after_the_end_nobody_is_told_that_the_input_is_closed(tmp_path: Path) -> None:
    """Bug 37: the word for a process that is gone failed."""
    async with world(tmp_path) as it:
        system, init = await it.launch()
        it.exit(init.pid)
        await init.wait()
        await init.close_stdin()
        assert it.count("HcsModifyProcess") == 0
        await system.close()


async def test_the_input_is_closed_though_there_is_no_pipe(tmp_path: Path) -> None:
    """Bug 37, and a crash of the original: the service gave no pipe for stdin."""
    async with world(tmp_path, script(HcsCreateProcess=[{"withhold": ["stdin"]}])) as it:
        system, init = await it.launch()
        assert init.streams.stdin is None
        await init.close_stdin()
        assert it.count("HcsModifyProcess") == 1
        await system.close()


async def test_input_that_nobody_gives_is_ended_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        stdio = Stdio(stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        system, init = await it.service.launch("box", it.spec(), stdio, it.place())
        await it.until(lambda: it.process(init.pid).input_closed and it.count("HcsModifyProcess"))
        assert init.streams.stdout is None
        await system.close()


async def test_a_service_that_does_not_answer_the_end_of_input_holds_nobody(tmp_path: Path) -> None:
    """Bug 45: servercore answers when the process has ended."""
    async with world(tmp_path, script(HcsModifyProcess=[{"delay_ms": 1500}])) as it:
        system, init = await it.launch()
        begin = asyncio.get_running_loop().time()
        await init.close_stdin()
        assert asyncio.get_running_loop().time() - begin < 1.4
        await system.close()


async def test_errors_can_join_the_output(tmp_path: Path) -> None:
    rule = {"stdout": "out", "stderr": "err", "exit": {"code": 0}}
    async with world(tmp_path, script(HcsCreateProcess=[rule])) as it:
        system, init = await it.service.launch("box", it.spec(), Stdio(stderr=STDOUT), it.place())
        assert init.streams.stderr is None
        assert init.streams.stdout is not None
        assert sorted(await init.streams.stdout.read()) == sorted(b"outerr")
        await system.close()


async def test_what_is_no_place_for_a_stream_is_refused_before_a_process_is_made(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        with pytest.raises(InvalidSpec, match="stdout"):
            await it.service.launch("box", it.spec(), Stdio(stdout=-17), it.place())
        assert it.count("HcsCreateProcess") == 0
        assert INHERIT < 0


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
        with pytest.raises(HcsError, match="start of container"):
            await starting
        await system.close()


async def test_terminating_twice_is_fine_and_failing_to_is_told(tmp_path: Path) -> None:
    """Bug 23: a signal always answered success. Bug 43: the second one failed."""
    rules = script(HcsTerminateComputeSystem=[{"hr": DENIED, "times": 1}, {"hr": STOPPED, "times": 1}])
    async with world(tmp_path, rules) as it:
        system, init = await it.launch()
        with pytest.raises(HcsError, match="terminate of container `box`"):
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
        with pytest.raises(HcsError, match="killing a process"):
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
        assert system.can_receive(number or 15)
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
        with pytest.raises(HcsError, match="shutdown of container"):
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


async def test_stopping_what_is_gone_already_ends(tmp_path: Path) -> None:
    """Bug 33: a stop of a container whose process was gone waited for ever."""
    rules = script(
        HcsShutdownComputeSystem=[{"hr": 0x80070490}],
        HcsTerminateComputeSystem=[{"hr": 0x80070490}],
    )
    async with world(tmp_path, rules) as it:
        system, init = await it.launch()
        await system.shutdown()
        await system.terminate()
        it.exit(init.pid, 0)
        assert (await system.settle(await init.wait(), 10)).error is None
        await system.delete()
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


async def test_a_servicing_container_that_does_not_end_is_ended(tmp_path: Path) -> None:
    rules = script(HcsCreateProcess=[{"exit": {"code": 0}}])
    async with world(tmp_path, rules, limits=SOON) as it:
        with pytest.raises(TimeLimit, match="servicing"):
            await it.service.launch("box", it.servicing(), ALL, it.place())
        assert it.count("HcsTerminateComputeSystem") == 1
        assert it.open_handles == 0


# what is kept, and what not


async def test_an_exec_costs_no_task_and_no_thread_while_it_runs(tmp_path: Path) -> None:
    """Bug 44: one more waiter for each exec, that lived as long as the container."""
    async with world(tmp_path) as it:
        system, _ = await it.launch()
        before = len(asyncio.all_tasks())
        works = [await exec_(it, system) for _ in range(20)]
        assert len(asyncio.all_tasks()) == before
        for work in works:
            it.exit(work.pid, 0)
            await work.wait()
        await it.until(lambda: not system._processes)
        await system.close()


def test_nothing_is_closed_by_the_garbage_collector() -> None:
    """Bug 38: finalizers closed handles that were in use."""
    for module in pkgutil.iter_modules(hcs.__path__):
        source = inspect.getsource(__import__(f"longshore.hcs.{module.name}", fromlist=["x"]))
        assert "__del__" not in source
        assert "weakref.finalize" not in source


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
            await it.quiet()
            assert it.count(expected) == 1
            assert it.open_handles == 0


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
        await it.quiet()
        assert it.open_handles == 0


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
