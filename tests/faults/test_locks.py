"""Programs that have a lock and were killed, or stopped: the dead hold nobody, and the stopped not for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from longshore.compute.limits import Limits
from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound, StoreError
from longshore.fs import files
from longshore.simulator import Machine, Simulator

from ..engine.world import FOREVER

HOLD = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(1000)
"""


@contextmanager
def holder(path: Path, *, stopped: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Another program that has a lock; stopped, it cannot let go of it."""
    program = subprocess.Popen([sys.executable, "-S", "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == b"held\n"
        if stopped:
            program.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, program.pid, os.WSTOPPED)
        yield program
    finally:
        program.kill()
        program.communicate()


LOCKS = {
    "the store's": "run/lock",
    "the journal's": "lib/journal/lock",
    "a container's": "run/containers/box/lock",
    "a container's claim": "run/containers/box/claim",
}


@pytest.mark.parametrize("which", LOCKS)
async def test_a_stopped_program_that_has_a_lock_holds_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(files.short_lock.__wrapped__, "__defaults__", (0.2,))  # type: ignore[attr-defined]
    limits = Limits(lock=0.2, end=0.5)
    machine = Machine("oci")
    async with asyncio.timeout(300), Engine(Simulator(machine=machine), state=tmp_path, limits=limits) as engine:
        box = await engine.launch("box", args=FOREVER)
        neighbour = await engine.launch("neighbour", args=FOREVER)
        with holder(tmp_path / LOCKS[which], stopped=True) as program:
            assert {info.id for info in await engine.list()} == {"box", "neighbour"}  # to look takes no lock
            with pytest.raises(StoreError, match="another program has held it") as caught:
                await box.delete(force=True)
            assert caught.value.hint is not None
            assert "stopped" in caught.value.hint
            if which.startswith("a container"):
                await neighbour.pause()  # the others go on
                await neighbour.resume()
            program.send_signal(signal.SIGCONT)
        try:
            await (await engine.get("box")).delete(force=True)
        except ContainerNotFound:
            pass
        await neighbour.delete(force=True)
        assert machine.systems == {}
    assert list((tmp_path / "run" / "trash").iterdir()) == []


@pytest.mark.parametrize("which", LOCKS)
async def test_a_program_that_was_killed_with_a_lock_holds_nobody(tmp_path: Path, which: str) -> None:
    async with asyncio.timeout(300), Engine(Simulator(), state=tmp_path) as engine:
        box = await engine.launch("box", args=FOREVER)
        with holder(tmp_path / LOCKS[which], stopped=False) as program:
            program.kill()
            program.wait()
            await box.delete(force=True)


async def test_who_opens_a_store_whose_lock_is_held_for_ever_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.short_lock.__wrapped__, "__defaults__", (0.2,))  # type: ignore[attr-defined]
    async with Engine(Simulator(), state=tmp_path) as engine:
        await engine.run("host", ["true"])
    with holder(tmp_path / "run" / "lock", stopped=True), pytest.raises(StoreError, match="another program has held"):
        async with Engine(Simulator(), state=tmp_path) as engine:
            await engine.run("host", ["true"])
