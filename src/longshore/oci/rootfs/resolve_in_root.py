"""Looking at files inside a root file system that somebody else filled: no symbolic link in it leads outside.

openat2(2) with RESOLVE_IN_ROOT treats the root's folder as `/` for absolute links and `..`, whatever is in it;
RESOLVE_NO_MAGICLINKS refuses links such as /proc/self/fd/3. (Linux 5.6.)
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from ...aio.tasks import in_thread
from ...errors import ServiceError
from ...machine.libc import libc

T = TypeVar("T")

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_O_PATH = 0o10000000  # os.O_PATH; written out, because this module is imported on Windows too
_O_NONBLOCK = 0o4000
_O_CLOEXEC = 0o2000000
_O_DIRECTORY = 0o200000
_O_NOFOLLOW = 0o400000

_O_NOCTTY = 0o400

READ_LIMIT = 1 << 20  # bytes of a file of a root that are read: of a longer one, its beginning

# File systems whose files are the kernel's own tables and switches (linux/magic.h). A link in a root may lead to one,
# as /proc/kmsg: to read that takes the machine's messages away from the program that they are for.
_KERNELS_OWN = frozenset(
    (
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xF97CFF8C,  # selinuxfs
        0x43415D53,  # smackfs
        0x5A3C69F0,  # apparmorfs
        0xDE5E81E4,  # efivarfs
        0xCAFE4A11,  # bpf
        0x62656570,  # configfs
        0x6165676C,  # pstore
        0x42494E4D,  # binfmt_misc
        0x65735543,  # fusectl
        0x19800202,  # mqueue
        0x6E736673,  # nsfs
    )
)


async def look(container_id: str, function: Callable[[], T], limit: float) -> T:
    """Run what reads the files of a root in a thread: a file system may take its time, or never answer.

    Raises ServiceError at the limit; the thread then stays behind until the file system answers or goes.
    """
    try:
        async with asyncio.timeout(limit) as scope:
            return await in_thread(function)
    except TimeoutError:
        if not scope.expired():
            raise
        reason = f"its file system did not answer within {limit:g} s"
        hint = "check that the network and user-space file systems in it respond"
        raise ServiceError("read the root of", container_id, reason, hint=hint) from None


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


def _content(found: int, limit: int) -> bytes | None:
    """The beginning of what an O_PATH descriptor means, if that is a regular file of a file system for files.

    The kind is known before anything is opened: to open a device may have effects of its own. What is opened then is
    what was looked at, whatever has been put in its place. Not blocking: it may have a lease. Raises OSError.
    """
    if not stat.S_ISREG(os.fstat(found).st_mode) or _file_system(found) in _KERNELS_OWN:
        return None
    fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | _O_NONBLOCK | _O_NOCTTY | _O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        pieces = []
        while limit > 0 and (piece := file.read(limit)):
            pieces.append(piece)
            limit -= len(piece)
    return b"".join(pieces)


def _file_system(fd: int) -> int:
    """The kind of file system that a descriptor is of: the first member of statfs(2). Raises OSError."""
    found = (ctypes.c_long * 64)()  # larger than any struct statfs
    if libc().fstatfs(fd, found) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found[0]) & 0xFFFFFFFF


def make_points(root: str, points: Sequence[tuple[str, bool]]) -> None:
    """Make places of mounts in a root, inside of it whatever links it has: paths, and whether each is a folder.

    What cannot be made is left to the runtime, which says why.
    """
    fd = os.open(root, _O_PATH | _O_DIRECTORY | _O_CLOEXEC)
    try:
        for path, folder in points:
            with suppress(OSError):
                _make_point(fd, [part for part in path.split("/") if part], folder=folder)
    finally:
        os.close(fd)


def _make_point(root: int, parts: list[str], *, folder: bool) -> None:
    above = os.dup(root)
    try:
        for count, part in enumerate(parts, 1):
            try:
                found = open_inside(root, "/".join(parts[:count]), _O_PATH)
            except FileNotFoundError:
                if folder or count < len(parts):
                    os.mkdir(part, 0o755, dir_fd=above)
                else:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_NOFOLLOW | _O_CLOEXEC
                    os.close(os.open(part, flags, 0o644, dir_fd=above))
                found = open_inside(root, "/".join(parts[:count]), _O_PATH)
            os.close(above)
            above = found
    finally:
        os.close(above)


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
            fd = open_inside(self._fd, path, _O_PATH)
        except OSError:
            return None
        try:
            return _content(fd, limit)
        except OSError:
            return None
        finally:
            os.close(fd)

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
