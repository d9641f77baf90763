"""Removing a tree that an untrusted program filled, on Unix. windows_trees.py has the same name for Windows.

Each call takes a descriptor of the containing directory and one name, so that no path is too long and no link is
followed. A directory that is not empty is moved to the top of the tree before it is entered. So three descriptors are
enough for any depth. The kernel refuses to move a mount point (EBUSY), so no mount is entered. If a program replaces a
directory with a link meanwhile, the open does not follow the link, and the link itself is removed.

A program that adds names as fast as they are removed must not keep the caller here. So the names of a directory are
counted before the first is removed, which is faster than any program adds them. Not many more than these are removed.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from .removal_limit import LimitReachedError, RemovalLimit

if sys.platform == "win32":
    raise ImportError("Windows has windows_trees.py in its place")

LARGE = 32 << 20  # bytes of a file whose removal may take a disk longer than a loop may stand still
BRIEF = 0.02  # seconds for which a removal with a bound may go on
PART = 10_000  # names of a directory that are listed before the first of them is removed
ADDED = 10_000  # names that other programs may add to a directory while it is removed
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = getattr(os, "O_PATH", 0)  # Linux


def remove(path: str, limit: RemovalLimit) -> None:
    """Remove what `path` names.

    With a limit, the call also ends before it takes longer than an event loop may stand still.

    Raises: LimitReachedError if `limit` ends it. OSError for the first that cannot be removed, after all the rest is.
    FileNotFoundError if there is no `path`.
    """
    _Removal(limit).remove(path)


class _AddedError(Exception):
    """Another program adds names without end."""


class _Removal:
    def __init__(self, limit: RemovalLimit) -> None:
        self._limit = limit
        self._end = time.monotonic() + BRIEF
        self._prefix = f".{os.urandom(8).hex()}."  # of what was moved up
        self._moved = 0
        self._allowed: dict[str, int] = {}  # by directory (the top is ""): names that may still be removed there
        self._progress = False
        self._error: OSError | None = None

    def remove(self, path: str) -> None:
        try:
            top = _open(path, None)
        except NotADirectoryError:
            self._count(path, None)
            os.unlink(path)
            return
        try:
            while not self._is_emptied(top):
                pass
        except _AddedError:
            raise OSError(errno.EBUSY, "another program adds files while they are removed", path) from None
        finally:
            os.close(top)
        os.rmdir(path)

    def _is_emptied(self, top: int) -> bool:
        """Remove what is found at the top, with what the directories there hold moved up. OSError if nothing goes."""
        self._progress, self._error = False, None
        names = self._list("", top)
        for name, is_directory in names:
            with self._noting():
                if is_directory:
                    self._remove_directory(top, name)
                else:
                    self._unlink(top, name)
                if not name.startswith(self._prefix):
                    self._allowed[""] -= 1
        if self._error is not None and not self._progress:
            raise self._error
        return not names

    def _list(self, key: str, fd: int) -> list[tuple[str, bool]]:
        """List the next part of a directory. _AddedError if more was removed there than could have been there."""
        names = list(islice(_entries(fd), PART))
        if key not in self._allowed:
            self._allowed[key] = ADDED + (len(names) if len(names) < PART else sum(1 for _ in _entries(fd)))
        if self._allowed[key] < 0:
            raise _AddedError
        return names

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Go on with the rest after an error; what is gone or has changed meanwhile is looked at again."""
        try:
            yield
        except FileNotFoundError:
            self._progress = True
        except OSError as error:
            self._error = self._error or error

    def _remove_directory(self, top: int, name: str) -> None:
        """Remove a directory at the top: at once if it is empty, else after moving up what it holds."""
        if self._remove_empty(top, name):
            return
        if not name.startswith(self._prefix):  # a mount in its place is not entered: it cannot be moved
            name = self._move_up(top, name, top)
        try:
            inner = _open(name, top)
        except NotADirectoryError:  # replaced meanwhile
            self._unlink(top, name)
            return
        try:
            for each, is_directory in self._list(name, inner):
                with self._noting():
                    if not is_directory:
                        self._unlink(inner, each)
                    elif not self._remove_empty(inner, each):
                        self._move_up(inner, each, top)
                    self._allowed[name] -= 1
        finally:
            os.close(inner)
        if self._remove_empty(top, name):  # else the next look finds it again
            self._allowed.pop(name, None)

    def _move_up(self, fd: int, name: str, top: int) -> str:
        self._moved += 1
        new = f"{self._prefix}{self._moved}"

        def move() -> None:
            os.rename(name, new, src_dir_fd=fd, dst_dir_fd=top)

        try:
            _permitted(fd, move)
        except PermissionError:  # to move a directory one must be able to write in it, too
            _open_up(name, fd)
            move()
        self._progress = True
        return new

    def _remove_empty(self, fd: int, name: str) -> bool:
        self._count(name, fd)
        try:
            _permitted(fd, lambda: os.rmdir(name, dir_fd=fd))
        except NotADirectoryError:  # replaced meanwhile
            self._unlink(fd, name)
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            return False
        self._progress = True
        return True

    def _unlink(self, fd: int, name: str) -> None:
        self._count(name, fd)
        _permitted(fd, lambda: os.unlink(name, dir_fd=fd))
        self._progress = True

    def _count(self, name: str, fd: int | None) -> None:
        if not self._limit.exists:
            return
        if time.monotonic() > self._end:
            raise LimitReachedError
        self._limit.count()
        if os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512 > LARGE:
            raise LimitReachedError


_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)  # either may stand for it (rmdir(2))


def _entries(fd: int) -> Iterator[tuple[str, bool]]:
    """Names in a directory, and whether each is a directory, read from its beginning; what is added may be missed."""
    os.lseek(fd, 0, os.SEEK_SET)
    with os.scandir(fd) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)


def _open(name: str, fd: int | None) -> int:
    """Open a directory without following a link. NotADirectoryError for everything else."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=fd)
    except PermissionError:  # overlayfs makes a directory without permissions
        _open_up(name, fd)
        return os.open(name, _DIRECTORY, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
        raise


def _open_up(name: str, fd: int | None) -> None:
    if not _PATH:
        os.chmod(name, 0o700, dir_fd=fd, follow_symlinks=False)
        return
    node = os.open(name, _PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.chmod(f"/proc/self/fd/{node}", 0o700)
    finally:
        os.close(node)


def _permitted(fd: int, action: Callable[[], None]) -> None:
    """Change a directory, after opening it up if its mode forbids that."""
    try:
        action()
    except PermissionError:
        with suppress(OSError):
            os.fchmod(fd, 0o700)
        action()


__all__ = ["remove"]
