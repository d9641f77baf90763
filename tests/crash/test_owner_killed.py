"""Owner and keeper are killed at once, or the keeper is stopped: whoever opens the store next ends their lease."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import longshore.oci
from longshore.engine.engine import Engine

from ..conftest import wait_for_nothing_left
from .victims import kill

pytestmark = pytest.mark.real


PROGRAM = """
import asyncio, sys
from longshore import Engine
async def main():
    async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        await engine.launch("kept", root="host", args=["sleep", "1000"])
        await (await engine.get("kept")).exec(["sleep", "1001"])
        await engine.launch("mine", root="host", args=["sleep", "1002"], owner="remove")
        await engine.launch("stopped", root="host", args=["sleep", "1003"], owner="stop")
        print(engine._state.lease.keeper_pid, flush=True)
        await engine.run("host", ["sleep", "1004"])
asyncio.run(main())
"""


def begin(state: Path, runtime: str, *, idle: bool = False) -> tuple[subprocess.Popen[str], int]:
    """An owner with all kinds of containers, and its keeper's pid; `idle`: it is at nothing, and has no short lock."""
    program = PROGRAM.replace('engine.run("host", ["sleep", "1004"])', "asyncio.sleep(1000)") if idle else PROGRAM
    owner = subprocess.Popen([sys.executable, "-c", program, str(state), runtime], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_who_comes_next_ends_a_lease_whose_owner_and_keeper_were_killed_at_once(state: Path, runtime: str) -> None:
    owner, keeper = begin(state, runtime)
    os.kill(keeper, signal.SIGSTOP)  # so that it cannot come to the end, nor another take its place, before both die
    kill(owner.pid)
    owner.wait()
    kill(keeper)

    async def look() -> None:
        async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
            states = {info.id: info.state for info in await engine.list()}
            assert states == {"kept": "running", "stopped": "stopped"}
            kept = await engine.get("kept")
            assert [process.command for process in await kept.top()] == ["sleep"]  # its exec is gone
            for name in states:
                await (await engine.get(name)).delete(force=True)

    asyncio.run(look())
    assert wait_for_nothing_left(state) == []


@pytest.mark.modern
@pytest.mark.parametrize("when", ["at its opening", "at restore"])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_who_comes_next_ends_a_lease_whose_keeper_is_stopped(state: Path, runtime: str, when: str) -> None:
    owner, keeper = begin(state, runtime)

    async def look() -> None:
        async with asyncio.timeout(300):
            if when == "at its opening":
                stop(keeper)
                kill(owner.pid)
            async with Engine(state=state, runtime=runtime) as engine:
                if when == "at restore":
                    stop(keeper)
                    kill(owner.pid)
                    await engine.restore()
                states = {info.id: info.state for info in await engine.list()}
                assert states == {"kept": "running", "stopped": "stopped"}
                for name in states:
                    await (await engine.get(name)).delete(force=True)

    try:
        asyncio.run(look())
    finally:
        kill(keeper)
        owner.communicate()
    assert wait_for_nothing_left(state) == []


def state_of(pid: int) -> str:
    """The state of a process as the kernel shows it: proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def stop(pid: int) -> None:
    """Stop a process, and wait until it stands: a signal takes effect when its process is next to run."""
    os.kill(pid, signal.SIGSTOP)
    while state_of(pid) != "T":
        time.sleep(0.001)


def test_a_stopped_owner_is_not_taken_for_a_dead_one(state: Path) -> None:
    owner, keeper = begin(state, "crun", idle=True)

    async def look() -> None:
        async with asyncio.timeout(300), Engine(state=state, runtime="crun") as engine:
            os.kill(keeper, signal.SIGSTOP)
            os.kill(owner.pid, signal.SIGSTOP)
            await engine.restore()
            assert {info.id for info in await engine.list(states=["running"])} == {"kept", "mine", "stopped"}
            while (now := state_of(keeper)) not in "TZX":  # a signal takes effect when its process is next to run
                await asyncio.sleep(0.01)
            assert now == "T"
            kill(owner.pid)
            os.kill(keeper, signal.SIGCONT)
            for name in ("kept", "stopped"):
                await (await engine.get(name)).delete(force=True)

    try:
        asyncio.run(look())
    finally:
        kill(owner.pid)
        with suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGCONT)
        owner.communicate()
    assert wait_for_nothing_left(state) == []


HAS_A_KEEPER = """
import os, subprocess, sys
script, lease, number, python = sys.argv[1:]
from longshore.fs.files import LockFile, try_lock
held = LockFile.opened(f"{lease}/owner.lock")
assert try_lock(held.fd)
os.dup2(held.fd, int(number))
read, write = os.pipe()
command = ["/bin/sh", script, lease, "/longshore/nobody", "state", python, "path"]
subprocess.Popen(command, stdin=read, stdout=subprocess.DEVNULL, pass_fds=[int(number)]).wait()
"""


@pytest.mark.parametrize("number", [3, 4, 7, 8, 9, 10, 20])
def test_a_keeper_at_work_has_the_lock_under_whatever_number_it_came(tmp_path: Path, number: int) -> None:
    """Else whoever opens the store takes the lease for one that nobody ends."""
    lease = tmp_path / "lease"
    (lease / "owned").mkdir(parents=True)
    (lease / "owned" / "box").touch()
    python, found = tmp_path / "python", tmp_path / "found"
    python.write_text(f"#!/bin/sh\nflock -n {lease}/owner.lock -c true; echo $? >{found}\n")
    python.chmod(0o700)
    script = Path(longshore.oci.__file__).with_name("keeper.sh")
    arguments = [str(script), str(lease), str(number), str(python)]
    subprocess.run([sys.executable, "-c", HAS_A_KEEPER, *arguments], check=True, timeout=300)
    deadline = time.monotonic() + 60
    while not (found.exists() and found.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)  # it is no child of anything here: its end is told to nobody
    assert found.read_text() == "1\n"  # flock(1): it could not be had


def test_nothing_is_left_of_a_store_that_nobody_uses(state: Path) -> None:
    assert wait_for_nothing_left(state, 0) == []
