"""What a calling program has set for itself does not become its containers'."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from longshore.engine.engine import Engine
from longshore.errors import StoreError
from longshore.logs.reader import LogRecord
from longshore.oci.processes.launch import spawn
from longshore.oci.runtimes.foreground import PidFile
from longshore.oci.runtimes.runtime import Runtime

from ..conftest import wait_for_nothing_left

real = pytest.mark.real

CALLER = textwrap.dedent("""
    import asyncio, os, signal, sys
    from longshore import Engine

    async def main():
        async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
            done = await engine.run("host", ["sh", "-c", "umask; exit 3"], timeout=300)
            print(done.exit_code, done.text.strip())
            box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
            process = await box.exec(["sh", "-c", "umask; exit 4"])
            out, _ = await process.communicate(timeout=300)
            print((await process.wait()).code, out.decode().strip())

    os.umask(int(sys.argv[3], 8))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    asyncio.run(main())
""")


@real
@pytest.mark.parametrize("umask", ["077", "377", "777"])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_caller_with_a_strict_umask_and_no_sigchld_runs_containers(state: Path, runtime: str, umask: str) -> None:
    program = [sys.executable, "-c", CALLER, str(state), runtime, umask]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["3 0022", "4 0022"], "")


@real
@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_the_state_directory_may_have_letters_and_signs_of_any_kind(tmp_path: Path, runtime: str) -> None:
    state = tmp_path / "größe, 'a b' %s = 日本"
    async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
        assert (await engine.run("host", ["sh", "-c", "exit 3"])).exit_code == 3
        box = await engine.launch("box", root="host", args=["sh", "-c", "echo here; exit 4"])
        assert (await box.wait()).code == 4
        assert [record.data async for record in box.logs() if isinstance(record, LogRecord)] == [b"here\n"]
        await box.delete()
    assert wait_for_nothing_left(state) == []


@real
async def test_a_program_that_ends_before_it_could_be_looked_at_has_ended() -> None:
    children = [await spawn(["/bin/true"]) for _ in range(20)]
    async with asyncio.timeout(300):
        assert [await child.wait() for child in children] == [0] * 20


async def test_a_pid_that_could_not_be_written_down_is_still_known_to_who_undoes_the_start(tmp_path: Path) -> None:
    with PidFile(Runtime("/usr/bin/crun", tmp_path, hide_unified=False), tmp_path / "gone" / "pid") as pidfile:
        os.write(pidfile.pass_fds[0], b"1234")
        child = await spawn(["/bin/true"])
        with pytest.raises(StoreError):
            await pidfile.wait(child)
        async with asyncio.timeout(300):
            assert await pidfile.wait(child) == 1234
        await child.wait()
