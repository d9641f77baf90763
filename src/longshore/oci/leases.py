"""Ending what a lease has: what keeper.sh does, for who finds an owner and its keeper dead. Keep the two alike."""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from ..fs.files import try_hold
from .cgroups import killing, membership
from .cgroups.cgroup import Cgroup
from .processes import proc

log = logging.getLogger("longshore.store")

LIMIT = 30.0  # seconds
KEEPER_LIMIT = 5.0  # seconds that a keeper which was killed may take to be dead
KILLED_LIMIT = 1.0  # seconds that a helper which was killed may take to be dead
SCRIPT = "keeper.sh"


def keeper() -> list[str]:
    """How the keeper's script is begun: as a file, or by its text where there is none (a program in a zip archive)."""
    script = Path(__file__).with_name(SCRIPT)
    if script.is_file():
        return ["/bin/sh", str(script)]
    from importlib import resources  # loads tempfile, random and shutil: milliseconds

    return ["/bin/sh", "-c", resources.files(__package__).joinpath(SCRIPT).read_text(encoding="utf-8"), SCRIPT]


def interpreter() -> list[str]:
    """The Python that can close the records of a lease, and the path on which it finds what it needs.

    Empty where there is none: in a frozen program, and in one that Python is embedded in, `sys.executable` is that
    program, or nothing. Whoever opens the store next closes the records then.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [sys.executable or "", os.path.join(sys.base_exec_prefix, "bin", name)]
    found = "" if getattr(sys, "frozen", False) else next((path for path in candidates if _is_python(path)), "")
    needed = (Path(__file__).parents[2], Path(msgspec.__file__).parents[1])
    return [found, os.pathsep.join(dict.fromkeys(os.path.abspath(path) for path in needed))]


def _is_python(path: str) -> bool:
    """Whether a file is an interpreter by its name: no other program may be begun to find out."""
    return re.match(r"(python|pypy)[0-9.]*(t|d)*$", os.path.basename(path)) is not None and os.access(path, os.X_OK)


def end_lease(group: Cgroup, directory: Path, *, root: Path, limit: float = LIMIT) -> bool:
    """Kill all that is in the lease's cgroup, and its execs elsewhere, until its last helper has ended. Blocks.

    A runtime in the middle of making a container holds the lease's lock: what it makes is killed as it appears. False
    if something was left after `limit` seconds: then the lease is not at its end.
    """
    deadline = time.monotonic() + limit
    pause, last_resort = 0.001, False
    while True:
        ended = group.kill(max(0.1, deadline - time.monotonic()))
        for entry in _entries(directory):
            _kill_exec(entry, root)
        try:
            held = try_hold(directory / "lease.lock")
        except FileNotFoundError:
            break
        if held is not None:
            held.release()
            break
        late = time.monotonic() > deadline
        if late and last_resort:
            ended = False
            break
        for holder in holders(directory / "lease.lock"):
            _end_holder(holder, at_once=late)
        if late:
            log.warning("lease %s: one of its helpers did not end within %g s, and is killed", directory.name, limit)
            last_resort, deadline = True, time.monotonic() + KILLED_LIMIT
        time.sleep(pause)  # nobody tells of a lock that becomes free while we have to go on killing
        pause = min(pause * 2, 0.02)
    if not ended or not group.kill(max(0.1, deadline - time.monotonic())):
        return False
    group.remove()
    for entry in _entries(directory):
        entry.unlink(missing_ok=True)
    return True


def end_stopped_keeper(directory: Path) -> None:
    """Kill what stands still of a lease's keeper, and wait until that is dead: its lock is free then. Blocks."""
    for pid in list(holders(directory / "owner.lock")):
        pidfd = proc.open_pidfd(pid, None)
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
            return proc.is_stopped(pid)
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
        start = proc.start_time(pid)
        if start is None or (rest and rest[0] and int(rest[0]) != start):
            return
        if membership.is_in(pid, within):
            group = Cgroup(within, root=root)
            own = group.of_exec(pid)
            killing.kill_tree(pid, start, group)
            if own is not None:
                own.remove()


def holders(lock: Path) -> Iterator[int]:
    """Processes that have a file open: helpers which inherited a lock.

    They are known by the file itself, not by its path, which is another through a symbolic link or a bind mount.
    """
    try:
        wanted = lock.stat()
    except OSError:
        return
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                if any(_is_file(f"/proc/{name}/fd/{fd}", lock.name, wanted) for fd in os.listdir(f"/proc/{name}/fd")):
                    yield int(name)


def _is_file(link: str, name: str, wanted: os.stat_result) -> bool:
    """Whether a descriptor is of the file `wanted`, called `name`. Others are not asked: their file system may hang."""
    with suppress(OSError):
        if os.path.basename(os.readlink(link)).removesuffix(" (deleted)") == name:
            return os.path.samestat(os.stat(link), wanted)
    return False


def _end_holder(holder: int, *, at_once: bool) -> None:
    """End a helper: with what it has started and not told, if it is an exec's runtime; itself `at_once`, or if it is
    stopped, since it would never come to its end. What it leaves half done is undone with its container."""
    if at_once or proc.is_stopped(holder):
        with suppress(ProcessLookupError):
            os.kill(holder, signal.SIGKILL)
    else:
        _kill_unwritten(holder)


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
