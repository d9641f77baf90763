"""What a container has used, as its counters tell it: each number is that of what was done."""

from __future__ import annotations

import asyncio

import pytest

from longshore.compute.values import PIPE
from longshore.engine.engine import Engine
from longshore.exit_record import Cause

pytestmark = [pytest.mark.real, pytest.mark.modern]

MIB = 1 << 20
SLEEP = ["sleep", "infinity"]


async def test_memory_and_its_peak_are_those_of_what_was_held(engine: Engine) -> None:
    script = f"x = b'x' * {48 * MIB}; x = None; y = b'y' * {16 * MIB}; print('up', flush=True); input()"
    box = await engine.launch("box", root="host", args=SLEEP, owner="remove", memory="256m", memory_swap="256m")
    async with asyncio.timeout(300):
        process = await box.exec(["python3", "-c", script], stdin=PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        held = await box.stats()
        assert held.memory is not None
        assert held.memory_peak is not None
        assert 16 * MIB <= held.memory < 48 * MIB, "an exec is counted in its container, and what it gave back is not"
        assert 48 * MIB <= held.memory_peak < 128 * MIB
        assert held.memory_limit == 256 * MIB
        await process.communicate(b"\n")
    exit = await box.stop(grace=0)
    assert exit.peak_memory is not None
    assert exit.peak_memory >= 48 * MIB


async def test_time_is_that_of_the_programs_and_what_was_withheld_is_told(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP, owner="remove", cpus=0.2)
    before = await box.stats()
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    assert (await box.run(["python3", "-c", burn])).exit_code == 0
    after = await box.stats()
    assert before.cpu_time is not None
    assert after.cpu_time is not None
    assert after.cpu_time - before.cpu_time >= 0.35
    assert after.cpu_user is not None
    assert after.cpu_user > 0
    assert after.cpu_system is not None
    assert after.cpu_throttled is not None
    assert after.cpu_throttled > 0
    exit = await box.stop(grace=0)
    assert exit.cpu_time is not None
    assert exit.cpu_time >= 0.35


async def test_no_more_processes_than_the_limit_and_all_are_counted(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP, owner="remove", pids=12, init=True)
    async with asyncio.timeout(300):
        while (await box.stats()).pids != 2:  # init, and what it has yet to start
            await asyncio.sleep(0.01)
    assert (await box.stats()).pids_limit == 12
    many = "import os\nn = 0\ntry:\n  while os.fork(): n += 1\n  os.read(0, 1)\nexcept OSError: print(n)"
    done = await box.run(["python3", "-c", many], timeout=300)
    assert done.exit_code == 0
    assert 0 < int(done.stdout) < 12
    async with asyncio.timeout(300):
        while (await box.stats()).pids != 2:  # what was left behind ends in its own time, and is reaped by init
            await asyncio.sleep(0.01)


async def test_each_process_that_is_killed_for_lack_of_memory_is_counted(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP, owner="remove", memory="32m", memory_swap="32m")
    assert (await box.stats()).oom_kills == 0
    for number in (1, 2):
        process = await box.exec(["python3", "-c", "x = bytearray(200 << 20)"])
        assert (await process.wait()).cause is Cause.OOM
        assert (await box.stats()).oom_kills == number
