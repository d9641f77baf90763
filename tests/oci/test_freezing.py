"""Freezing: what kills, pauses and resumes at the same moment leaves a container as somebody asked for it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from longshore.compute.events import Event
from longshore.compute.values import DEVNULL, PIPE
from longshore.engine.engine import Engine
from longshore.oci.cgroups import killing
from longshore.oci.cgroups.cgroup import EXEC, Cgroup
from longshore.oci.cgroups.hierarchies import mode
from longshore.oci.processes import proc

from ..conftest import crun_is_modern

pytestmark = pytest.mark.real


@crun_is_modern
async def test_execs_that_are_killed_together_leave_the_container_running(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    for _ in range(5):
        command = ["sh", "-c", "sleep 100 & sleep 100"]
        execs = [await box.exec(command, stdout=DEVNULL, stderr=DEVNULL) for _ in range(6)]
        await asyncio.gather(*(process.kill() for process in execs))
        async with asyncio.timeout(300):
            await asyncio.gather(*(process.wait() for process in execs))
        assert [info.state for info in await engine.list()] == ["running"]


@pytest.mark.modern
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


@pytest.mark.modern
async def test_a_resume_that_is_cancelled_at_any_moment_is_done_and_told_or_not_done(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    for step in range(40):
        await box.pause()
        resuming = asyncio.create_task(box.resume())
        await asyncio.sleep(0.0003 * (step % 20))
        resuming.cancel()
        await asyncio.gather(resuming, return_exceptions=True)
        if (await box.info()).state == "paused":
            await box.resume()  # nothing of the one that was cancelled goes on
        assert (await box.info()).state == "running"
    told = [event async for event in engine.events(since=0, follow=False)]
    assert [event.type for event in told if isinstance(event, Event)] == ["start-container", *["pause", "resume"] * 40]


@pytest.mark.modern
async def test_a_paused_container_is_paused_also_while_an_exec_is_joining_it(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    for step in range(40):
        joining = asyncio.create_task(box.run(["true"]))
        await asyncio.sleep(0.0008 * step)
        await box.pause()
        seen = {(await box.info()).state for _ in range(100)}
        await box.resume()
        await asyncio.gather(joining, return_exceptions=True)
        assert seen == {"paused"}, step


@pytest.mark.modern
async def test_a_daemon_that_an_exec_made_of_itself_ends_with_it_where_the_exec_has_a_cgroup(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    [init] = await box.pids()
    daemon = "(setsid sh -c 'echo up; sleep 100; :' &); sleep 200; :"
    process = await box.exec(["sh", "-c", daemon], stdout=PIPE, timeout=300)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    assert len(await box.pids()) > 3
    await process.kill()
    await process.wait()
    left = 1 if mode() == "v2" else 3  # version 1 ends it with the container
    async with asyncio.timeout(300):
        while len(await box.pids()) > left:
            await asyncio.sleep(0.01)
    assert init in await box.pids()
    assert len(await box.pids()) == left
    group = Cgroup(group_of(init))
    assert await box.run(["true"])
    assert [path for path in group.directories() if any(each.is_dir() for each in path.iterdir())] == []


@pytest.mark.modern
async def test_an_exec_is_killed_in_a_paused_container_which_stays_paused(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    process = await box.exec(["sh", "-c", "sleep 100 & sleep 200; :"], stdout=DEVNULL, stderr=DEVNULL)
    while len(await box.pids()) < 4:
        await asyncio.sleep(0.01)
    await box.pause()
    await process.kill()
    async with asyncio.timeout(300):
        assert (await process.wait()).signal == signal.SIGKILL
        while len(await box.pids()) > 1:
            await asyncio.sleep(0.01)
    assert (await box.info()).state == "paused"
    await box.resume()
    assert (await box.run(["echo", "hi"], timeout=300)).stdout == b"hi\n"


@pytest.mark.modern
async def test_an_exec_is_killed_with_what_it_started_and_lost(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    process = await box.exec(["sh", "-c", "(sleep 100 &); sleep 200"], stdout=DEVNULL, stderr=DEVNULL)
    while len(await box.top()) < 4:
        await asyncio.sleep(0.01)
    await process.kill()
    await process.wait()
    async with asyncio.timeout(300):
        while len(await box.top()) > 1:
            await asyncio.sleep(0.01)


class Shared(Cgroup):
    """One whose execs have no groups of their own, as in version 1 and before Linux 5.14."""

    def of_exec(self, pid: int) -> Cgroup | None:
        return None


class DiesFrozen(Shared):
    """Whoever looks what is in it is killed at that moment: it is frozen then."""

    def pids(self) -> list[int]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


class DiesThawed(Shared):
    """Whoever thaws it is killed right after."""

    def thaw(self) -> None:
        super().thaw()
        os.kill(os.getpid(), signal.SIGKILL)


def be_killed_while_killing(pid: int, group: Cgroup) -> None:
    child = os.fork()
    if child == 0:
        killing.kill_tree(pid, proc.start_time(pid), group)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def group_of(pid: int) -> str:
    """The cgroup of the container that a process is in."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = (line.split(":", 2)[2].partition(f"/{EXEC}")[0] for line in lines)
    return next(path for path in paths if path.endswith("/box"))


@pytest.mark.modern
async def test_who_is_killed_while_it_kills_an_exec_leaves_no_container_paused(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    process = await box.exec(["sleep", "100"], stdout=DEVNULL, stderr=DEVNULL)
    be_killed_while_killing(process.pid, DiesFrozen(group_of(process.pid)))
    assert Cgroup(group_of(process.pid)).frozen()
    assert (await box.info()).state == "running"
    assert not Cgroup(group_of(process.pid)).frozen()
    assert (await box.run(["echo", "hi"], timeout=300)).stdout == b"hi\n"


@pytest.mark.modern
async def test_who_is_killed_while_it_kills_in_a_paused_container_leaves_it_paused(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    process = await box.exec(["sleep", "100"], stdout=DEVNULL, stderr=DEVNULL)
    group = Cgroup(group_of(process.pid))
    await box.pause()
    be_killed_while_killing(process.pid, DiesFrozen(group.path))
    assert (await box.info()).state == "paused"
    be_killed_while_killing(process.pid, DiesThawed(group.path))
    with group.freezing_alone():
        pass
    assert (await box.info()).state == "paused"
    await box.resume()
    assert (await box.info()).state == "running"
