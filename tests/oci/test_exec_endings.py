"""Execs that do not end as usual: nothing of them goes on, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import time

import pytest

from longshore.compute.values import DEVNULL
from longshore.engine.engine import Engine
from longshore.oci.processes import proc
from longshore.oci.runtimes import foreground
from longshore.oci.runtimes.watch import ProcessToken

from ..conftest import crun_is_modern

pytestmark = pytest.mark.real


@crun_is_modern
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
        async with asyncio.timeout(300):
            while len(await box.top()) > 1:
                await asyncio.sleep(0.01)  # what was killed may take a moment to be gone


@crun_is_modern
async def test_a_grandchild_that_writes_on_does_not_hold_the_wait_for_what_was_gone_at_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")

    def look_late(pid: int, *, wrapped: bool = False) -> ProcessToken:
        while proc.start_time(pid) is not None and proc.alive(pid, proc.start_time(pid)):
            time.sleep(0.001)
        return ProcessToken(pid, None, wrapped)

    monkeypatch.setattr(foreground, "identify", look_late)
    process = await box.exec(["sh", "-c", "yes & exit 3"])  # nobody reads it
    async with asyncio.timeout(300):
        assert (await process.wait()).code == 3
