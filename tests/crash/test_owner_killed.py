"""Owner and keeper are killed at once: whoever opens the store next ends their lease."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.engine import Engine

from ..conftest import wait_for_nothing_left
from .victims import kill

pytestmark = pytest.mark.real


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_who_comes_next_ends_a_lease_whose_owner_and_keeper_were_killed_at_once(
    state: Path, runtime: str, tmp_path: Path
) -> None:
    program = f"""
import asyncio, sys
from longshore.engine import Engine
async def main():
    async with Engine(state={str(state)!r}, runtime={runtime!r}) as engine:
        await engine.launch("kept", root="host", args=["sleep", "1000"])
        await (await engine.get("kept")).exec(["sleep", "1001"])
        await engine.launch("mine", root="host", args=["sleep", "1002"], owner="remove")
        await engine.launch("stopped", root="host", args=["sleep", "1003"], owner="stop")
        print(engine._core.lease.keeper_pid, flush=True)
        await engine.run("host", ["sleep", "1004"])
asyncio.run(main())
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    keeper = int(owner.stdout.readline())
    os.kill(keeper, signal.SIGSTOP)  # so that it cannot come to the end, nor another take its place, before both die
    kill(owner.pid)
    owner.wait()
    kill(keeper)

    async def look() -> None:
        async with asyncio.timeout(60), Engine(state=state, runtime=runtime) as engine:
            states = {info.id: info.state for info in await engine.list()}
            assert states == {"kept": "running", "stopped": "stopped"}
            kept = await engine.get("kept")
            assert [process.command for process in await kept.top()] == ["sleep"]  # its exec is gone
            for name in states:
                await (await engine.get(name)).delete(force=True)

    asyncio.run(look())
    assert wait_for_nothing_left(state) == []


def test_nothing_is_left_of_a_store_that_nobody_uses(state: Path) -> None:
    assert wait_for_nothing_left(state, 0) == []
