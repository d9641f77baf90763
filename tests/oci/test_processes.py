"""A process is its pid and its start time; the number alone may be somebody else's by now."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from longshore.engine.engine import Engine
from longshore.machine import linux_viewpoint
from longshore.oci.processes import proc


@contextmanager
def thread() -> Iterator[int]:
    """The number of a thread that is there meanwhile."""
    told: list[int] = []
    known, done = threading.Event(), threading.Event()

    def work() -> None:
        told.append(threading.get_native_id())
        known.set()
        done.wait()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        known.wait()
        yield told[0]
    finally:
        done.set()
        worker.join()


def test_a_pid_that_became_the_number_of_a_thread_is_nobodys() -> None:
    """Pids and thread ids are one row of numbers: in a crowd, that of a dead init is soon a thread's."""
    with thread() as number:
        assert proc.open_pidfd(number, 1) is None


def test_a_pid_with_another_start_time_is_another_process() -> None:
    own = os.getpid()
    start = proc.start_time(own)
    assert start is not None
    assert proc.open_pidfd(own, start + 1) is None
    assert not proc.alive(own, start + 1)
    assert proc.alive(own, start)


async def test_a_container_whose_old_pid_is_now_a_threads_can_be_deleted(state: Path) -> None:
    """crun opens the pid that it remembers before it asks whose it is, and gives up."""
    async with Engine(state=state, runtime="crun") as engine:
        box = await engine.launch("box", root="host", args=["true"])
        await box.wait()
        status = state / "run" / "runtime" / "crun" / "box" / "status"
        with thread() as number:
            known = json.loads(status.read_text())
            status.write_text(json.dumps({**known, "pid": number}))
            await box.delete()
        assert await engine.list() == []


of_linux_5_17 = pytest.mark.skipif(not proc._linux_is(5, 17), reason="the kernel shows only the first thread's")
FIRST_THREAD_ENDS_BEFORE_THE_OTHER = """
import ctypes, os, sys, threading

def other():
    sys.stdin.readline()
    os._exit(7)

threading.Thread(target=other).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@contextmanager
def zombie(*argv: str) -> Iterator[tuple[int, int | None]]:
    """Pid and start time of a program that has ended, and is not reaped; on the way out it is."""
    program = subprocess.Popen(argv)
    start = proc.start_time(program.pid)
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    try:
        yield program.pid, start
    finally:
        program.wait()


@of_linux_5_17
@pytest.mark.parametrize("end", ["exit 0", "exit 7", "exit 137", "kill -KILL $$", "kill -SEGV $$"])
def test_the_status_of_what_nobody_has_reaped_is_the_one_that_its_parent_will_get(end: str) -> None:
    with zombie("sh", "-c", f"ulimit -c 0; {end}") as (pid, start):
        told = proc.status_of_zombie(pid, start)
        assert told is not None
        assert os.waitpid(pid, 0) == (pid, told)
        assert proc.status_of_zombie(pid, start) is None  # it was reaped


@of_linux_5_17
def test_the_status_of_another_process_with_that_pid_is_not_told() -> None:
    with zombie("false") as (pid, start):
        assert start is not None
        assert proc.status_of_zombie(pid, start + 1) is None
        assert proc.status_of_zombie(pid, None) is None


def test_what_runs_has_no_status() -> None:
    assert proc.status_of_zombie(os.getpid(), proc.start_time(os.getpid())) is None


@of_linux_5_17
def test_a_program_whose_first_thread_has_ended_has_no_status_before_the_last_has() -> None:
    program = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS_BEFORE_THE_OTHER], stdin=subprocess.PIPE)
    assert program.stdin is not None
    start = proc.start_time(program.pid)
    fields = linux_viewpoint.read_stat(program.pid)
    while fields is not None and fields[0] != b"Z":  # of the end of a thread nobody is told
        fields = linux_viewpoint.read_stat(program.pid)
    assert proc.status_of_zombie(program.pid, start) is None
    program.stdin.close()
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    assert proc.status_of_zombie(program.pid, start) == 7 << 8
    assert program.wait() == 7


@of_linux_5_17
def test_who_may_not_see_a_status_does_not_take_it_for_a_success() -> None:
    """The kernel shows 0 to who may not trace a process (ptrace(2)): here to another user, without capabilities."""
    with zombie("sh", "-c", "exit 7") as (pid, start):
        looking = os.fork()
        if looking == 0:
            try:
                os.setresuid(65534, 65534, 65534)
                fields = linux_viewpoint.read_stat(pid)
                shown = fields is not None and fields[0] == b"Z" and fields[49] == b"0"
                os._exit(int(not (shown and proc.status_of_zombie(pid, start) is None)))
            finally:
                os._exit(2)
        assert os.waitpid(looking, 0)[1] == 0
