"""What a program in a container does to look ended when it runs, to run on when it has ended, or to hold who looks."""

from __future__ import annotations

import asyncio
import time

import pytest

from longshore import LogRecord
from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import InvalidState, TimeLimit
from longshore.oci.processes.proc import ARGUMENTS_LIMIT

pytestmark = pytest.mark.real

TRACED = """
import ctypes, os, signal
signal.signal(signal.SIGUSR1, lambda *_: print("received", flush=True))
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0  # PTRACE_TRACEME
os.kill(os.getpid(), signal.SIGUSR1)
os._exit(7)
"""
STOPPED_BY_ITS_TRACER = """
import ctypes, os, signal
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0  # PTRACE_TRACEME
os.kill(os.getpid(), signal.SIGSTOP)
os._exit(7)
"""
FIRST_THREAD_ENDS = """
import ctypes, os, threading, time

def other():
    while open("/proc/self/stat").read().rsplit(") ")[1][0] != "Z": time.sleep(0.01)
    print("alone", flush=True)
    time.sleep(600)

threading.Thread(target=other).start()
ctypes.CDLL(None).pthread_exit(None)
"""
ENDLESS_ARGUMENTS = """
import os
for _ in range(40):
    if not os.fork():
        os.execv("/bin/sleep", ["sleep", "600", *["0"] * 180_000])
print("made", flush=True)
os.wait()
"""
CALLS_ITSELF_A_RUNTIME = """
import ctypes, signal
signal.signal(signal.SIGTERM, lambda *_: None)
ctypes.CDLL(None).prctl(15, b"longshore-first", 0, 0, 0)
print("named", flush=True)
while True: signal.pause()
"""


async def said(box: Container, line: bytes) -> None:
    """Return when the log has the line."""
    async for record in box.logs(follow=True):
        if isinstance(record, LogRecord) and record.data.strip() == line:
            return


async def test_a_command_traced_by_the_init_ends_with_its_own_code(engine: Engine) -> None:
    done = await engine.run("host", ["python3", "-c", TRACED], init=True, timeout=300, check=False)
    assert (done.exit_code, done.stdout) == (7, b"received\n")


async def test_a_kept_command_traced_by_the_init_keeps_its_monitor(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["python3", "-c", TRACED], init=True)
    async with asyncio.timeout(300):
        assert (await box.wait()).code == 7
    assert [record.data async for record in box.logs() if isinstance(record, LogRecord)] == [b"received\n"]
    await box.delete()


@pytest.mark.modern
async def test_stop_that_a_runtime_takes_for_the_end_is_not_recorded_as_that(engine: Engine) -> None:
    """Without an init the runtime is the tracer: runc ends with 255, and its process stands still."""
    command = ["python3", "-c", STOPPED_BY_ITS_TRACER]
    with pytest.raises(TimeLimit) as caught:
        await engine.run("host", command, init=False, timeout=3)
    assert caught.value.result is not None
    assert caught.value.result.exit_code in (137, None)  # None: before Linux 6.15 a dead process may tell nobody
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    with pytest.raises(TimeLimit) as caught:
        await box.run(command, timeout=3)
    assert caught.value.result is not None
    assert caught.value.result.exit_code in (137, None)


@pytest.mark.parametrize("init", [False, True])
async def test_a_container_whose_first_thread_ended_is_running(engine: Engine, init: bool) -> None:
    box = await engine.launch("box", root="host", args=["python3", "-c", FIRST_THREAD_ENDS], init=init, owner="remove")
    async with asyncio.timeout(300):
        await said(box, b"alone")
    [found] = await engine.list()
    assert found.state == "running"
    with pytest.raises(InvalidState):
        await box.delete()
    await box.pause()
    await box.resume()
    await box.kill()
    assert (await box.wait()).code == 137


async def test_top_reads_a_bounded_part_of_each_command_line(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["python3", "-c", ENDLESS_ARGUMENTS], owner="remove")
    async with asyncio.timeout(300):
        await said(box, b"made")
        while len([each for each in await box.top() if each.command == "sleep"]) < 40:
            await asyncio.sleep(0.01)
    for info in await box.top():
        assert len(" ".join(info.arguments or [])) <= ARGUMENTS_LIMIT
    assert any(info.arguments and info.arguments[:3] == ["sleep", "600", "0"] for info in await box.top())


async def test_a_program_named_as_a_runtime_delays_no_second_signal(engine: Engine) -> None:
    args = ["python3", "-c", CALLS_ITSELF_A_RUNTIME]
    box = await engine.launch("box", root="host", args=args, init=False, owner="remove")
    async with asyncio.timeout(300):
        await said(box, b"named")
    await box.signal("TERM")
    seconds = []
    for _ in range(10):
        begin = time.monotonic()
        await box.signal("TERM")
        seconds.append(time.monotonic() - begin)
    assert min(seconds) < 1  # it was a second for each


async def test_an_exec_that_leaves_an_endless_writer_ends_its_streams(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    process = await box.exec(["sh", "-c", "echo first; yes & exit 3"], stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(300):
        assert (await process.wait()).code == 3
        output, _ = await process.communicate()
    assert output is not None
    assert output.startswith(b"first\n")
    assert len(output) < 8 << 20
