"""Freezing: what kills, pauses and resumes at the same moment leaves a container as somebody asked for it."""

from __future__ import annotations

import asyncio

import pytest

from longshore.compute import DEVNULL
from longshore.engine import Engine

pytestmark = pytest.mark.real


async def test_execs_that_are_killed_together_leave_the_container_running(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    for _ in range(5):
        command = ["sh", "-c", "sleep 100 & sleep 100"]
        execs = [await box.exec(command, stdout=DEVNULL, stderr=DEVNULL) for _ in range(6)]
        await asyncio.gather(*(process.kill() for process in execs))
        async with asyncio.timeout(30):
            await asyncio.gather(*(process.wait() for process in execs))
        assert [info.state for info in await engine.list()] == ["running"]


async def test_a_pause_that_is_cancelled_at_any_moment_is_undone(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sh", "-c", "while :; do :; done"], owner="remove")
    for step in range(40):
        pausing = asyncio.create_task(box.pause())
        await asyncio.sleep(0.0003 * (step % 20))
        pausing.cancel()
        [result] = await asyncio.gather(pausing, return_exceptions=True)
        if result is None:
            await box.resume()
        else:
            assert isinstance(result, asyncio.CancelledError)
            await asyncio.sleep(0.01)  # for what might still be at work
        assert [info.state for info in await engine.list()] == ["running"]


async def test_an_exec_is_killed_with_what_it_started_and_lost(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    process = await box.exec(["sh", "-c", "(sleep 100 &); sleep 200"], stdout=DEVNULL, stderr=DEVNULL)
    while len(await box.top()) < 4:
        await asyncio.sleep(0.01)
    await process.kill()
    await process.wait()
    async with asyncio.timeout(10):
        while len(await box.top()) > 1:
            await asyncio.sleep(0.01)
