"""Nothing grows: after thousands of containers there are as many handles, threads, tasks and objects as before."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.values import PIPE, Stdio
from longshore.hcs.system.notifications import NOTIFICATIONS
from longshore.hcs.system.process import HcsProcess
from longshore.hcs.system.system import HcsSystem
from longshore.spec import ProcessSpec

from .world import World, script, world

PIPES = Stdio(stdin=PIPE)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def objects() -> Counter[str]:
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each).__module__.startswith("longshore"))


def noted() -> list[int]:
    """How much is noted of registrations, in the whole program."""
    told = NOTIFICATIONS
    return [len(each) for each in (told._watches, told._registrations, told._closers)]


async def cycle(it: World, number: int) -> None:
    """A container with output, an exec, and an end; one in seven fails, is cancelled, or is killed."""
    id = f"box-{number}"
    place = it.place(id)
    if number % 7 == 6:
        making = asyncio.create_task(it.service.launch(id, it.spec(), PIPES, place))
        await asyncio.sleep(0)
        making.cancel()
        await asyncio.wait((making,))
        it.remove_place(id)
        return
    system, init = await it.service.launch(id, it.spec(), PIPES, place)
    work = await system.exec(ProcessSpec(args=["cmd"]), PIPES, "work", place)
    it.exit(work.pid, 1)
    await work.wait()
    if number % 7 == 5:
        await system.terminate()
    else:
        it.exit(init.pid, number % 256)
    exit = await init.wait()
    await system.settle(exit, 10)
    await system.delete()
    await system.close()
    it.remove_place(id)


PENDING = 0xC0370103


def at_once(*types: str) -> list[dict[str, Any]]:
    """A pending call that is completed right away."""
    return [{"hr": PENDING, "notify": [{"type": type, "after_ms": 1} for type in types]}]


QUICK = script(
    HcsCreateComputeSystem=at_once("SystemCreateCompleted"),
    HcsStartComputeSystem=at_once("SystemStartCompleted"),
    HcsShutdownComputeSystem=at_once("SystemExited"),
    HcsCreateProcess=[{"stdout": "hello"}],
)


async def run(tmp_path: Path, cycles: int) -> None:
    async with world(tmp_path, QUICK) as it:
        it.hcs.keep_calls = False
        for number in range(100):  # threads, caches and interned things come to rest
            await cycle(it, number)
        await asyncio.sleep(0)
        before, handles, fds, threads = objects(), it.open_handles, descriptors(), threading.active_count()
        tasks, told = len(asyncio.all_tasks()), noted()
        for number in range(0, cycles, 20):
            await asyncio.gather(*(cycle(it, number + k) for k in range(20)))
        await it.quiet()
        assert it.open_handles == handles == 0
        assert descriptors() <= fds + 2
        assert threading.active_count() <= threads + 45  # idle ones wait for the next call, and then end
        assert len(asyncio.all_tasks()) == tasks
        grown = objects() - before
        assert {name: count for name, count in grown.items() if count > 3} == {}
        assert grown[HcsSystem.__name__] == grown[HcsProcess.__name__] == 0
        assert noted() == told


async def test_a_thousand_containers_leave_nothing(tmp_path: Path) -> None:
    await run(tmp_path, 1000)


@pytest.mark.slow
async def test_ten_thousand_containers_leave_nothing(tmp_path: Path) -> None:
    await run(tmp_path, 10_000)
