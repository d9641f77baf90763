"""Streams of processes on the scripted service.

Each test names the entry of the list of old bugs (moby's and hcsshim's, numbered as in the project's notes) that it
would have caught, where there is one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Any

import pytest

from longshore.compute.limits import HcsLimits
from longshore.compute.values import DEVNULL, INHERIT, STDOUT, Stdio
from longshore.errors import (
    InvalidSpec,
)
from longshore.exit_record import Cause, Exit
from longshore.hcs.dll.hresults import HcsError
from longshore.hcs.streams import stdio
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


async def test_a_reader_that_stops_early_leaks_nothing(tmp_path: Path) -> None:
    """Bug 36: pipes were closed only at their end."""
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


@pytest.fixture
def blocked() -> Iterator[int]:
    """A descriptor that takes nothing: a full pipe that nobody reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, bytes(1 << 16))
    os.set_blocking(write, True)
    yield write
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("which", ["init", "exec"])
async def test_a_descriptor_that_takes_nothing_does_not_hold_up_the_end_of_what_is_killed(
    tmp_path: Path, which: str, blocked: int
) -> None:
    async with world(tmp_path, script(HcsCreateProcess=[{"stdout": "x" * 1000, "repeat": 3000}])) as it:
        given = Stdio(stdout=blocked)
        system, init = await it.service.launch("box", it.spec(), given if which == "init" else ALL, it.place())
        if which == "init":
            await system.terminate()
            exit = await ends(init)
        else:
            work = await exec_(it, system, stdio=given)
            await work.kill()
            exit = await ends(work)
        assert exit.cause is Cause.KILLED
        await system.delete()
        await system.close()


async def test_who_ended_before_it_is_killed_is_held_up_by_no_descriptor_then(tmp_path: Path, blocked: int) -> None:
    rule = {"stdout": "x" * 1000, "repeat": 3000, "exit": {"code": 3}}
    async with world(tmp_path, script(HcsCreateProcess=[{"times": 1}, rule])) as it:
        system, _ = await it.launch()
        work = await exec_(it, system, stdio=Stdio(stdout=blocked))
        await it.until(lambda: work.ending)
        await work.kill()
        exit = await ends(work)
        assert (exit.code, exit.cause) == (3, Cause.EXITED)
        await system.close()


async def test_a_slow_descriptor_gets_all_of_what_a_process_that_ended_by_itself_wrote(tmp_path: Path) -> None:
    """It is told to have ended when all is copied, however long that takes: its caller may end with it."""
    rule = {"stdout": "x" * 1000, "repeat": 1000, "exit": {"code": 0}}
    read, write = os.pipe()
    async with world(tmp_path, script(HcsCreateProcess=[rule])) as it:
        system, init = await it.service.launch("box", it.spec(), Stdio(stdout=write), it.place())
        await it.until(lambda: init.ending)
        await asyncio.sleep(stdio.LATE_OUTPUT * 1.2)  # nobody reads for longer than one who is killed is given
        assert not init.over
        taken = 0
        while not init.over or select([read], [], [], 0)[0]:
            if select([read], [], [], 0)[0]:
                taken += len(os.read(read, 1 << 16))
            await asyncio.sleep(0)
        assert taken == 1_000_000
        await system.close()
    os.close(read)
    os.close(write)


async def test_closing_the_input_closes_the_pipe_and_then_tells_the_service(tmp_path: Path) -> None:
    """Bug 37: the end of input needs both; and only once, in this order."""
    async with world(tmp_path) as it:
        system, init = await it.launch()
        stdin = init.streams.stdin
        assert stdin is not None
        all_of_it = bytes(8 << 20)  # more than pipes and buffers hold: it takes its time
        stdin.write(all_of_it)
        stdin.close()
        process = it.process(init.pid)
        await it.until(lambda: process.pipe_closed_first is not None)
        assert process.pipe_closed_first
        await it.until(lambda: process.input_closed)
        assert process.given == all_of_it
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
