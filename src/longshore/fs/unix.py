"""What files.py asks of the operating system, on Unix. windows.py has the same names for Windows."""

from __future__ import annotations

import errno
import os
import stat
import sys

if sys.platform == "win32":
    raise ImportError("Windows has windows.py in its place")

import fcntl

from ..errors import StoreError

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
    """As `os.open`: not inherited, bytes as they are; others may replace and remove the file meanwhile.

    Files and directories only. OSError (EINVAL) for everything else, at once: a FIFO would block its reader, a device
    may have no end.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            name = os.path.basename(os.fspath(path))
            raise OSError(errno.EINVAL, f"{name} is neither a file nor a directory", os.fspath(path))
        if flags & os.O_CREAT and mode & 0o600 != 0o600:
            os.fchmod(fd, 0o600)  # the umask has taken rights from it that its owner needs
    except BaseException:
        os.close(fd)
        raise
    return fd


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


def sync_file_system(path: PathLike) -> None:
    """Wait until all that was written to the file system of `path` is on the disk: syncfs(2), which Python has not.

    Raises: OSError if the disk failed since the last call, from Linux 5.8 on.
    """
    import ctypes

    fd = open_file(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fspath(path))
    finally:
        os.close(fd)


def lock_at_last(fd: int) -> None:
    """Lock, waiting for as long as it takes."""
    fcntl.flock(fd, fcntl.LOCK_EX)


_NODE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40  # as many as the kernel follows


def make_private(path: PathLike, *, closed: bool = True) -> None:
    """Make a directory that only this user can use, with its parents; mode 0700 whatever the umask.

    Every component is checked on its descriptor. StoreError if another user owns a directory, a parent or a link on the
    way, or may replace one: so who uses the path afterwards meets what was checked. A directory that others can
    read is closed; one that others can write is refused, since what is in it may be theirs. With `closed` off the last
    one is treated as a parent: others may read it.
    """
    _walk_private(path, make=True, closed=closed)


def check_private(path: PathLike) -> None:
    """Check a path as `make_private` does, and change nothing: what is not there yet is not missed.

    So a program may read what is there before it decides whether to make the rest. Raises: StoreError.
    """
    _walk_private(path, make=False, closed=True)


def _walk_private(path: PathLike, *, make: bool, closed: bool) -> None:
    trusted = {0, os.geteuid(), os.stat("/").st_uid}  # in a user namespace the outside root has another number
    fd = os.open("/", _NODE | os.O_DIRECTORY)
    left = _parts(os.path.abspath(path))
    where, links = "/", 0
    try:
        while left:
            name = left.pop(0)
            try:
                node = _make_and_open(name, fd) if make else os.open(name, _NODE, dir_fd=fd)
            except FileNotFoundError:
                if make:
                    raise
                return
            found = os.fstat(node)
            here = os.path.join(where, name)
            if found.st_uid not in trusted:
                os.close(node)
                raise _untrusted(f"{here} belongs to user {found.st_uid}", "use a directory below root's own folders")
            if stat.S_ISLNK(found.st_mode):
                target = os.readlink("", dir_fd=node)
                os.close(node)
                links += 1
                if links > _LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
                left = _parts(target) + left
                if target.startswith("/"):
                    os.close(fd)
                    fd, where = os.open("/", _NODE | os.O_DIRECTORY), "/"
                continue
            os.close(fd)
            fd, where = node, here
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), here)
            if left or not closed:
                _check_parent(found, here)
        if closed and make:
            _close_to_others(fd, where)
    finally:
        os.close(fd)


def _untrusted(problem: str, hint: str) -> StoreError:
    return StoreError(f"cannot use the state directory: {problem}", hint=hint)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _make_and_open(name: str, fd: int) -> int:
    try:
        return os.open(name, _NODE, dir_fd=fd)
    except FileNotFoundError:
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            return os.open(name, _NODE, dir_fd=fd)
        node = os.open(name, _NODE, dir_fd=fd)
        if os.fstat(node).st_uid == os.geteuid():
            _set_mode(node)  # the umask may have taken rights from it that its owner needs
        return node


def _set_mode(node: int) -> None:
    if stat.S_IMODE(os.fstat(node).st_mode) == 0o700:
        return
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=node)
    try:
        os.fchmod(fd, 0o700)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    finally:
        os.close(fd)


def _check_parent(found: os.stat_result, path: str) -> None:
    mode = found.st_mode
    by_group = mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid())
    if (mode & stat.S_IWOTH or by_group) and not mode & stat.S_ISVTX:  # sticky: only owners rename and remove
        raise _untrusted(f"other users can replace what is in {path}", f"chmod go-w {path}, or use another directory")


def _close_to_others(node: int, path: str) -> None:
    found = os.fstat(node)
    if found.st_uid != os.geteuid():
        raise _untrusted(f"{path} belongs to user {found.st_uid}", "use a directory of your own")
    if found.st_mode & 0o022:
        hint = f"look at its files; then remove it, or chmod -R go-w {path}"
        raise _untrusted(f"other users can write in {path}, so its files may be theirs", hint)
    if found.st_mode & 0o777 != 0o700:
        _set_mode(node)
