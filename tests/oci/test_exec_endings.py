"""Execs that do not end as usual: nothing of them goes on, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import time

import pytest

from longshore.compute import DEVNULL
from longshore.engine import Engine

pytestmark = pytest.mark.real


async def test_a_start_that_is_cancelled_at_any_moment_ends_with_all_that_it_started(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    for step in range(25):
        command = ["sh", "-c", "sleep 1000 & sleep 1000"]
        starting = asyncio.create_task(box.exec(command, stdout=DEVNULL, stderr=DEVNULL))
        await asyncio.sleep(0.002 * step)
        begin = time.monotonic()
        starting.cancel()
        [result] = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(result, BaseException):
            await result.kill()
            await result.wait()
        assert time.monotonic() - begin < 10
        async with asyncio.timeout(10):
            while len(await box.top()) > 1:
                await asyncio.sleep(0.01)  # what was killed may take a moment to be gone
