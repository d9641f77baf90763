"""Killing an exec process with all that it started, in a container that runs on.

In cgroup version 1 the container is frozen meanwhile, so that nothing is started between the look and the kill.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..processes.proc import KILL_PATIENCE, SETTLE_LIMIT, alive, open_pidfd, tree

if TYPE_CHECKING:
    from .cgroup import Cgroup


def kill_tree(root: int, start: int | None, cgroup: Cgroup) -> None:
    """Kill a process and what it has started. Blocks for milliseconds; the process alone is killed where a program that
    is stopped keeps others from freezing the container.

    An exec with a cgroup of its own is killed with all that is in it. Else its descendants and its session are: the
    container is frozen meanwhile, so that nothing is started behind our back, and what has made itself a daemon (a
    session and a parent of its own) is not found: it ends with the container.
    """
    own = cgroup.of_exec(root)  # before the look whether the pid is still its: then this is its, too
    if not alive(root, start) or (own is not None and own.kill_at_once()):
        return
    try:
        _kill_frozen(root, start, cgroup, own)
    except TimeoutError:
        pidfd = open_pidfd(root, start)
        if pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def _kill_frozen(root: int, start: int | None, cgroup: Cgroup, own: Cgroup | None) -> None:
    with cgroup.freezing_alone(KILL_PATIENCE):
        if not alive(root, start):
            return
        was_frozen = cgroup.frozen()
        killed: list[int] = []
        with cgroup.freezing_for_a_moment(paused=was_frozen):
            if not was_frozen:
                cgroup.freeze()
            try:
                for pid in {*tree(root, cgroup.pids()), *(own.pids() if own is not None else ())}:
                    with suppress(ProcessLookupError):
                        killed.append(os.pidfd_open(pid))
                        os.kill(pid, signal.SIGKILL)
            finally:
                cgroup.thaw()
                if was_frozen:
                    _wait_and_freeze(killed, cgroup)
                for fd in killed:
                    os.close(fd)


def let_die(pid: int, start: int | None, cgroup: Cgroup) -> None:
    """Have a killed process of a paused container die. Blocks for milliseconds.

    In cgroup version 1 the frozen die only when thawed, so the others run on for this moment.
    """
    if cgroup.unified:
        return
    with cgroup.freezing_alone():
        fd = open_pidfd(pid, start)
        if fd is None or not cgroup.frozen():
            if fd is not None:
                os.close(fd)
            return
        try:
            with cgroup.freezing_for_a_moment(paused=True):
                cgroup.thaw()
                _wait_and_freeze([fd], cgroup)
        finally:
            os.close(fd)


def _wait_and_freeze(pidfds: list[int], cgroup: Cgroup) -> None:
    deadline = time.monotonic() + SETTLE_LIMIT
    for fd in pidfds:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    if cgroup.pids():
        with suppress(OSError):
            cgroup.freeze()
