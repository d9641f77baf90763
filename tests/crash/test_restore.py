"""What the next program finds after the death of the one before: each clause of it by itself, on real containers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from longshore.compute.events import Event
from longshore.engine.engine import Engine
from longshore.exit_record import Cause
from longshore.fs.watching import DirectoryWatch
from longshore.logs.reader import LogRecord
from longshore.oci.cgroups.hierarchies import mode
from longshore.oci.runtimes.watch import ProcessToken
from longshore.oci.system import SystemToken
from longshore.store.state_directory import Store

from ..conftest import wait_for_nothing_left
from ..needs import needs
from .victims import kill

pytestmark = pytest.mark.real

PROGRAM = """
import asyncio, os, sys
from longshore import Engine
async def main():
    async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        {body}
asyncio.run(main())
"""


def owner(state: Path, runtime: str, body: str) -> subprocess.Popen[str]:
    """A program that runs `body` on an engine, and prints when it is ready."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body), str(state), runtime],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def next_line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def end(program: subprocess.Popen[str]) -> None:
    kill(program.pid)
    program.communicate()


async def events(engine: Engine, since: int) -> list[Event]:
    return [event async for event in engine.events(since=since, follow=False) if isinstance(event, Event)]


@pytest.mark.modern
@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_what_a_killed_owner_kept_is_found_worked_in_attached_to_and_waited_for(
    state: Path, runtime: str
) -> None:
    program = owner(
        state,
        runtime,
        """
        script = "trap 'echo bye; exit 9' TERM; echo hello; while :; do sleep 0.05; done"
        await engine.launch("runs", root="host", args=["sh", "-c", script])
        await engine.launch("ends", root="host", args=["sh", "-c", "sleep 0.3; exit 5"])
        print("ready", flush=True)
        await asyncio.sleep(1000)
        """,
    )
    assert next_line(program) == "ready"
    end(program)
    async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
        cursor = (await events(engine, 0))[-1].seq
        box = await engine.get("runs")
        assert (await box.run(["echo", "hi"])).stdout == b"hi\n"
        async with await box.attach(logs=True) as attachment:
            assert await attachment.stdout.readline() == b"hello\n"
            exit = await box.stop(grace=300)
            assert await attachment.stdout.read() == b"bye\n"
        assert (exit.code, exit.cause) == (9, Cause.EXITED)
        ended = await (await engine.get("ends")).wait()
        assert (ended.code, ended.cause) == (5, Cause.EXITED)
        assert ended.at is not None
        assert ended.started_at is not None
        assert 0.2 < (ended.at - ended.started_at).total_seconds() < 60
        told = await events(engine, cursor)
        assert [event.seq for event in told] == list(range(cursor + 1, cursor + 1 + len(told)))
        exits = sorted(
            (event.container, event.exit.code)
            for event in await events(engine, 0)
            if event.exit is not None and event.type == "exit"
        )
        assert exits == [("ends", 5), ("runs", 9)]
        for name in ("runs", "ends"):
            await (await engine.get(name)).delete()
    assert wait_for_nothing_left(state) == []


@pytest.mark.parametrize("keeper_dies", [False, True], ids=["by-its-keeper", "by-who-comes-next"])
@pytest.mark.parametrize("runtime", [pytest.param("crun", marks=pytest.mark.modern), "runc"])
async def test_an_exec_of_a_killed_owner_is_ended_with_all_it_started_where_it_has_a_cgroup(
    state: Path, runtime: str, keeper_dies: bool
) -> None:
    program = owner(
        state,
        runtime,
        """
        from longshore.compute.values import PIPE
        box = await engine.launch("kept", root="host", args=["sleep", "1000"])
        command = "(setsid sh -c 'echo up; sleep 1001; :' &); sleep 1002 & sleep 1003; :"
        process = await box.exec(["sh", "-c", command], stdout=PIPE)
        await process.stdout.readline()
        while len(await box.pids()) < 6:
            await asyncio.sleep(0.01)
        print(engine._state.lease.keeper_pid, flush=True)
        await asyncio.sleep(1000)
        """,
    )
    keeper = int(next_line(program))
    if keeper_dies:
        os.kill(keeper, signal.SIGSTOP)  # it must not come to anything before
    end(program)
    if keeper_dies:
        kill(keeper)
    async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
        box = await engine.get("kept")
        left = 1 if mode() == "v2" else 3  # the daemon, a shell with its child, is not found in version 1
        while len(await box.pids()) > left:
            await asyncio.sleep(0.01)
        assert (await box.run(["echo", "hi"])).stdout == b"hi\n"
        assert [info.command for info in await box.top()] == ["sleep", "sh", "sleep"][:left]
        if mode() == "v2":
            [init] = await box.pids()
            path = Path(f"/proc/{init}/cgroup").read_text().strip().removeprefix("0::/")
            assert [each for each in (Path("/sys/fs/cgroup") / path).iterdir() if each.is_dir()] == []
        await box.delete(force=True)
    assert wait_for_nothing_left(state) == []


@pytest.mark.modern
@needs("systemd")
async def test_what_a_service_kept_outlives_the_service(state: Path, tmp_path: Path) -> None:
    """systemd kills what is in the cgroup of a service that is stopped: the caller, its keeper, and no monitor."""
    unit = f"longshore-test-{os.getpid()}"
    ready = tmp_path / "ready"
    body = """
        script = "trap 'echo bye; exit 9' TERM; echo hello; while :; do sleep 0.05; done"
        await engine.launch("kept", root="host", args=["sh", "-c", script])
        await engine.launch("mine", root="host", args=["sleep", "1000"], owner="remove")
        open(sys.argv[3], "x").close()
        await asyncio.sleep(1000)
        """
    program = [sys.executable, "-c", PROGRAM.format(body=body), str(state), "crun", str(ready)]
    path = f"--setenv=PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"
    subprocess.run(["systemd-run", "--quiet", "--collect", f"--unit={unit}", path, *program], check=True)
    async with asyncio.timeout(300):
        with DirectoryWatch(tmp_path) as watch:
            while not ready.exists():
                await watch.changed()
    subprocess.run(["systemctl", "stop", unit], check=True)
    async with asyncio.timeout(300), Engine(state=state, runtime="crun") as engine:
        assert [(info.id, info.state) for info in await engine.list()] == [("kept", "running")]
        exit = await (await engine.get("kept")).stop(grace=300)
        assert (exit.code, exit.cause) == (9, Cause.EXITED)
        box = await engine.get("kept")
        lines = [record.data async for record in box.logs() if isinstance(record, LogRecord)]
        assert lines == [b"hello\n", b"bye\n"]
        await box.delete()
    assert wait_for_nothing_left(state) == []


@pytest.mark.modern
async def test_a_forked_child_that_lives_on_does_not_keep_the_lease_alive(state: Path) -> None:
    program = owner(
        state,
        "crun",
        """
        await engine.launch("mine", root="host", args=["sleep", "1000"], owner="remove")
        pid = os.fork()
        if pid == 0:
            os.close(1)
            os.execvp("sleep", ["sleep", "1000"])
        print(pid, flush=True)
        await asyncio.sleep(1000)
        """,
    )
    child = int(next_line(program))
    try:
        end(program)
        assert wait_for_nothing_left(state, 60) == []
        os.kill(child, 0)  # it lives, and that was not what ended the lease
    finally:
        kill(child)


@pytest.mark.modern
async def test_a_process_that_got_the_pid_of_an_init_is_not_taken_for_it(state: Path) -> None:
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        async with asyncio.timeout(300), Engine(state=state, runtime="crun") as engine:
            box = await engine.launch("box", root="host", args=["sleep", "1000"])
            await box.kill()
            store = Store.at(state)
            store.open()
            entry = store.container_dir("box")
            record = entry.read()
            await box.wait()
        # as if nobody had recorded its end, and its pids were others' by now
        (entry.home / "exit.json").unlink()
        for left in (state / "run" / "containers" / "box" / "exits").iterdir():
            left.unlink()
        token = msgspec.json.decode(record.token, type=SystemToken)
        token.init = token.monitor = ProcessToken(stranger.pid, 1)
        record.token, record.process = msgspec.json.encode(token), msgspec.json.encode(token.init)
        entry.write(record)
        async with asyncio.timeout(300), Engine(state=state, runtime="crun") as engine:
            box = await engine.get("box")
            exit = await box.wait()
            assert (exit.code, exit.cause) == (None, Cause.MONITOR_LOST)
            await box.kill()
            await box.delete(force=True)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
