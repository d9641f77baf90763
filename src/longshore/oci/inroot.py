"""Looking at files inside a root file system that somebody else filled: no symbolic link in it leads outside.

openat2(2) with RESOLVE_IN_ROOT treats the root's folder as `/` for absolute links and `..`, whatever is in it;
RESOLVE_NO_MAGICLINKS refuses links such as /proc/self/fd/3. (Linux 5.6.)
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from .launch import libc

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_O_PATH = 0o10000000  # os.O_PATH; written out, because this module is imported on Windows too
_O_NONBLOCK = 0o4000
_O_CLOEXEC = 0o2000000
_O_DIRECTORY = 0o200000
_O_NOFOLLOW = 0o400000

READ_LIMIT = 16 << 20  # bytes of a passwd or group file that we are willing to read


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def open_inside(root: int, path: str, flags: int) -> int:
    """openat2(2) of `path` as seen by somebody whose root is the directory `root`. Raises OSError."""
    how = _OpenHow(flags | _O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    for _ in range(32):  # EAGAIN: something on the way was renamed meanwhile
        fd = libc().syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


class Inside(Protocol):
    """A root file system, as far as a check before the start can see it."""

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """The content of a regular file, or its beginning; None if there is none that can be read."""
        ...

    def stat(self, path: str) -> os.stat_result | None:
        """What is at `path`, links followed; None if there is nothing."""
        ...

    def link(self, path: str) -> str | None:
        """Where the symbolic link at `path` leads, as it is written there; None if there is no link."""
        ...

    def close(self) -> None: ...


class Folder:
    """The root file system that a folder is; also `/proc/PID/root`, the root of a running process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, _O_PATH | _O_DIRECTORY | _O_CLOEXEC)

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        try:
            # not blocking: it may be a fifo, which nobody will ever write to
            fd = open_inside(self._fd, path, os.O_RDONLY | _O_NONBLOCK)
        except OSError:
            return None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            return file.read(limit)

    def stat(self, path: str) -> os.stat_result | None:
        try:
            fd = open_inside(self._fd, path, _O_PATH)
        except OSError:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def link(self, path: str) -> str | None:
        try:
            fd = open_inside(self._fd, path, _O_PATH | _O_NOFOLLOW)
        except OSError:
            return None
        try:
            return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        except OSError:
            return None
        finally:
            os.close(fd)

    def resolve(self, path: str) -> str | None:
        """Where `path` leads, as a path of the machine; None if nowhere."""
        try:
            fd = open_inside(self._fd, path, _O_PATH)
        except OSError:
            return None
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def hides(self, path: str) -> bool:
        """Whether this layer removes the folder at `path`, or shows nothing of it but its own (overlayfs)."""
        try:
            fd = open_inside(self._fd, path, _O_PATH)
        except OSError:
            return False
        try:
            if _whiteout(os.fstat(fd)):
                return True
            return os.getxattr(f"/proc/self/fd/{fd}", "trusted.overlay.opaque") == b"y"
        except OSError:
            return False
        finally:
            os.close(fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Stack:
    """Layers, nearest first, as an overlay would show them, near enough for checks: what is hidden is not found."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers: list[Folder] = []
        try:
            for path in layers:
                with suppress(FileNotFoundError):  # a scratch folder that is yet to be made
                    self._layers.append(Folder(path))
        except BaseException:
            self.close()
            raise

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        layer = self._layer_of(path)
        return None if layer is None else layer.read(path, limit)

    def stat(self, path: str) -> os.stat_result | None:
        layer = self._layer_of(path)
        return None if layer is None else layer.stat(path)

    def link(self, path: str) -> str | None:
        parts = [part for part in path.split("/") if part]
        for layer in self._layers:
            found = layer.link(path)
            if found is not None:
                return found
            if layer.stat(path) is not None or any(
                layer.hides("/".join(parts[:count])) for count in range(1, len(parts))
            ):
                return None
        return None

    def _layer_of(self, path: str) -> Folder | None:
        parts = [part for part in path.split("/") if part]
        for layer in self._layers:
            found = layer.stat(path)
            if found is not None:
                return None if _whiteout(found) else layer
            for count in range(1, len(parts)):  # a folder on the way may hide what lower layers have
                if layer.hides("/".join(parts[:count])):
                    return None
        return None

    def close(self) -> None:
        for layer in self._layers:
            layer.close()


def _whiteout(found: os.stat_result) -> bool:
    """overlayfs marks what a layer removed with a character device 0:0."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
