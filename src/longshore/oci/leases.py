"""Ending what a lease has: what keeper.sh does, for who finds an owner and its keeper dead. Keep the two alike."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..files import try_hold
from . import processes
from .cgroup import Cgroup

log = logging.getLogger("longshore.lease")

LIMIT = 30.0  # seconds
KEEPER_LIMIT = 5.0  # seconds that a keeper which was killed may take to be dead


def end_lease(group: Cgroup, directory: Path, *, root: Path, limit: float = LIMIT) -> None:
    """Kill all that is in the lease's cgroup, and its execs elsewhere, until its last helper has ended. Blocks.

    A runtime in the middle of making a container holds the lease's lock: what it makes is killed as it appears.
    """
    deadline = time.monotonic() + limit
    pause = 0.001
    while True:
        group.kill()
        for entry in _entries(directory):
            _kill_exec(entry, root)
        try:
            held = try_hold(directory / "lease.lock")
        except FileNotFoundError:
            break
        if held is not None:
            held.release()
            break
        for holder in holders(directory / "lease.lock"):
            _kill_unwritten(holder)
        if time.monotonic() > deadline:
            log.warning("lease %s: a helper of it did not end within %g s", directory.name, limit)
            break
        time.sleep(pause)  # nobody tells of a lock that becomes free while we have to go on killing
        pause = min(pause * 2, 0.02)
    group.kill()
    group.remove()
    for entry in _entries(directory):
        entry.unlink(missing_ok=True)


def end_stopped_keeper(directory: Path) -> None:
    """Kill what stands still of a lease's keeper, and wait until that is dead: its lock is free then. Blocks."""
    for pid in list(holders(directory / "owner.lock")):
        pidfd = processes.open_pidfd(pid, None)
        if pidfd is None:
            continue
        try:  # whoever has this pid now: the signal meets the one that was opened, if that is still alive
            if _is_stopped_keeper(pid, directory):
                log.warning("lease %s: its owner is dead and its keeper is stopped; it is killed", directory.name)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(KEEPER_LIMIT * 1000)
        finally:
            os.close(pidfd)


def _is_stopped_keeper(pid: int, directory: Path) -> bool:
    """Whether a process that has the lock is the keeper, or longshore at work for it, and is stopped (proc(5))."""
    with suppress(OSError):
        if directory.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return processes.is_stopped(pid)
    return False


def _entries(directory: Path) -> list[Path]:
    try:
        return list((directory / "execs").iterdir())
    except FileNotFoundError:
        return []


def _kill_exec(entry: Path, root: Path) -> None:
    """An exec in a container that may outlive its owner: in the cgroup and, once known, of the start time noted."""
    with suppress(OSError, ValueError, IndexError):
        pidfile, within, *rest = entry.read_text().splitlines()
        pid = int(Path(pidfile).read_text())
        start = processes.start_time(pid)
        if start is None or (rest and rest[0] and int(rest[0]) != start):
            return
        if processes.is_in(pid, within):
            group = Cgroup(within, root=root)
            own = group.of_exec(pid)
            processes.kill_tree(pid, start, group)
            if own is not None:
                own.remove()


def holders(lock: Path) -> Iterator[int]:
    """Processes that have a file open: helpers which inherited a lock."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                for fd in os.listdir(f"/proc/{name}/fd"):
                    if os.readlink(f"/proc/{name}/fd/{fd}") == str(lock):
                        yield int(name)
                        break


def _kill_unwritten(holder: int) -> None:
    """An exec whose runtime lives, but whose pid nobody has written down: a child of that runtime. A runtime without
    a child only waits for the streams of an exec that has ended."""
    with suppress(OSError):
        command = Path(f"/proc/{holder}/cmdline").read_bytes().replace(b"\0", b" ")
        if b" exec --pid-file " not in command:
            return
        children = [
            int(child)
            for task in os.listdir(f"/proc/{holder}/task")
            for child in Path(f"/proc/{holder}/task/{task}/children").read_text().split()
        ]
        for pid in children or [holder]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
