"""Creating and starting on the scripted service, and all that can go wrong with it.

Each test names the entry of the list of old bugs (moby's and hcsshim's, numbered as in the project's notes) that it
would have caught, where there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longshore.compute.limits import HcsLimits
from longshore.compute.protocols import NotUndone
from longshore.compute.values import Stdio
from longshore.errors import (
    CommandNotExecutable,
    CommandNotFound,
    InvalidState,
    ServiceError,
    TimeLimit,
)
from longshore.hcs.dll.hresults import HcsError
from longshore.hcs.dll.vmcompute import PROTOTYPES
from longshore.spec import ProcessSpec

from .scripted import TYPES
from .test_engine import engine, told
from .world import ALL, World, script, world

EXITED = TYPES["SystemExited"]
PENDING, DENIED, STOPPED = 0xC0370103, 0x80070005, 0xC0370110
WORK = ProcessSpec(args=["cmd"])
NEVER_COMPLETE = [{"hr": PENDING, "notify": []}]
SOON = HcsLimits(default=0.3, shutdown=0.3, terminate=0.3, servicing=0.3, late_exit=0.1)


async def exec_(it: World, system: Any, process: ProcessSpec = WORK, stdio: Stdio = ALL) -> Any:
    return await system.exec(process, stdio, "work", it.place("work"))


@pytest.mark.parametrize(
    "rules",
    [
        {"HcsCreateComputeSystem": [{"hr": DENIED}]},
        {"HcsCreateComputeSystem": [{"hr": PENDING, "notify": [{"type": "SystemCreateCompleted", "status": DENIED}]}]},
        {"HcsCreateComputeSystem": [{"hr": PENDING, "notify": [{"type": "SystemExited"}]}]},
        {"HcsCreateComputeSystem": [{"hr": PENDING, "notify": [{"type": "ServiceDisconnect"}]}]},
        {"HcsCreateComputeSystem": NEVER_COMPLETE},
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
    """Bugs 4, 5, 6 and 39: handles, systems and processes that nobody had any more, at each step that can fail."""
    async with world(tmp_path, script(**rules), limits=SOON) as it:
        with pytest.raises((ServiceError, TimeLimit, CommandNotExecutable, NotUndone)):
            await it.launch()
        assert it.open_handles == 0
        if rules.get("HcsCreateComputeSystem") in (None, NEVER_COMPLETE):  # else there is none
            assert "HcsTerminateComputeSystem" in it.functions
        it.script()
        system, _ = await it.launch(id="other")
        await system.close()


@pytest.mark.parametrize("hr", [0, DENIED])
@pytest.mark.parametrize("of", ["ComputeSystem", "Process"])
async def test_a_registration_that_takes_too_long_is_waited_for_before_its_handle_is_closed(
    tmp_path: Path, of: str, hr: int
) -> None:
    """Nothing is left, however it then ends; and nothing that a call uses is closed meanwhile."""
    function = f"HcsRegister{of}Callback"
    async with world(tmp_path, script(**{function: [{"delay_ms": 800, "hr": hr}]}), limits=SOON) as it:
        with pytest.raises(TimeLimit, match="registering"):
            await it.launch()
        await it.until(lambda: not it.open_handles)
        close = f"HcsClose{of}"
        registered = [call for call in it.hcs.calls if call["function"] in (function, close)]
        assert [call["function"] for call in registered] == [function, close]
        assert f"HcsTerminate{of}" in it.functions


async def test_the_first_error_is_told_not_that_of_the_clean_up(tmp_path: Path) -> None:
    rules = script(HcsStartComputeSystem=[{"hr": 0x800704C6}], HcsTerminateComputeSystem=[{"hr": 0x80070006}])
    async with world(tmp_path, rules) as it:
        with pytest.raises(NotUndone) as raised:
            await it.launch()
        error = raised.value.error
        assert isinstance(error, HcsError)
        assert str(error).startswith("cannot start container `box`")
        assert error.code == 1222
        assert "hns" in (error.hint or "")


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
        with pytest.raises(HcsError, match="create container `box`") as raised:
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
    async with world(tmp_path, rules) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        for _ in range(2):  # nothing has the name after it
            with pytest.raises(error, match="no such thing") as raised:
                await box.exec(["no such thing", "x"], name="work")
            assert isinstance(raised.value.__cause__, HcsError)
            assert (await box.inspect())["processes"] == {}
        assert await told(longshore) == [("start-container", None, None)]
        await box.delete(force=True)


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
        assert exit.started_at.timestamp() < it.process(init.pid).created  # which took the service 20 ms
        assert exit.started_at < exit.at
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
        assert "HcsGetProcessInfo" not in PROTOTYPES  # there is no way to
        await system.close()
