"""Kill an exec process with all that it started, in a container that continues to run.

In cgroup version 1 the container is frozen meanwhile, so that no process is started between the look and the kill.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..processes.proc import alive, open_pidfd, tree

if TYPE_CHECKING:
    from .cgroup import Cgroup

KILL_PATIENCE = 3.0  # seconds to wait for another program that freezes a container in which a process is to be killed
SETTLE_LIMIT = 1.0  # seconds that killed processes of a paused container may take to be gone


def kill_tree(root: int, start: int | None, cgroup: Cgroup) -> None:
    """Kill a process and what it has started. Blocks for milliseconds.

    An exec with a cgroup of its own is killed with all that is in the group. Otherwise its descendants and its session
    are killed, while the container is frozen. A daemon, with a session and a parent of its own, is not found then: it
    ends with the container. If another program, for example a stopped one, holds the freezer, only the process itself
    is killed.
    """
    own = cgroup.of_exec(root)  # asked first: if the pid is still its own after that, so was the group
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
                # itself, too, where it has yet to enter the cgroup: then it stops there before it becomes the command
                for pid in {root, *tree(root, cgroup.pids()), *(own.pids() if own is not None else ())}:
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
    """Let a killed process of a paused container die. Blocks for milliseconds.

    In cgroup version 1 a frozen process dies only when it is thawed. So the others run for this moment, too.
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
