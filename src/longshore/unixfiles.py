"""What files.py asks of the operating system, on Unix. winfiles.py has the same names for Windows."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    raise ImportError("Windows has winfiles.py in its place")

import fcntl

PathLike = str | os.PathLike[str]

MOVES_WHAT_IS_OPEN = True
"""Whether a directory can be renamed while somebody has a file in it open."""


MARK = 63  # a signal number that the kernel keeps with an open file, and does not send unless it is asked to


def mark(fd: int) -> None:
    """Mark what is open as ours (fcntl(2), F_SETSIG)."""
    fcntl.fcntl(fd, fcntl.F_SETSIG, MARK)


def is_marked(fd: int) -> bool:
    """Whether a descriptor is what was marked: the program may have put something else in its place."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETSIG) == MARK
    except OSError:
        return False


def descriptors() -> tuple[int, int] | None:
    """How many descriptors this program has, and how many it may have; None where the system does not tell."""
    try:
        used = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # the size is told since Linux 6.2
    except OSError:
        return None
    limit = os.sysconf("SC_OPEN_MAX")
    return (used, limit) if limit > 0 else None


def open_file(path: PathLike, flags: int) -> int:
    """As `os.open`: not inherited, bytes as they are; others may replace and remove the file meanwhile."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def canonical(path: PathLike) -> str:
    """A path without symbolic links: runc takes no other, and it stays right when a link is changed."""
    return os.path.realpath(path)


def is_usable_name(name: str) -> bool:
    """Whether a file can have this name, which is one that `check_id` accepts."""
    return True


def replace(source: PathLike, target: PathLike) -> None:
    """As `os.replace`."""
    os.replace(source, target)


def replace_open(source: PathLike, target: PathLike) -> None:
    """As `replace`, also while readers have the target open."""
    os.replace(source, target)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file against other programs, if nobody has it. It ends when its last descriptor is closed."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """End a lock at once: closing would not, while a child that was forked meanwhile is not yet its own program."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def sync_one(path: PathLike) -> None:
    """Have a file, or what a directory lists, on the disk. OSError where the file system syncs nothing."""
    fd = open_file(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_at_last(fd: int) -> None:
    """Lock, waiting for as long as it takes."""
    fcntl.flock(fd, fcntl.LOCK_EX)
