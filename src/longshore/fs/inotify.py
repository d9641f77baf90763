"""inotify(7) on an asyncio loop: one instance per loop, shared by all who watch (a user has only 128 of them)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

if sys.platform != "linux":
    raise ImportError("inotify is a part of Linux")

# told of changes: the names that something was renamed to, in order; None if the kernel dropped some of them
Told = Callable[[list[bytes] | None], None]

IN_MODIFY = 0x2
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_IGNORED = 0x8000
IN_Q_OVERFLOW = 0x4000
IN_ONLYDIR = 0x1000000

MASK = IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
_HEADER = struct.Struct("iIII")

try:
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.inotify_init1.restype = ctypes.c_int
except (AttributeError, OSError) as missing:
    raise ImportError("this C library has no inotify") from missing


class _Notifier:
    """The inotify instance of one loop; it stays until `release`, since to make and end one is slow."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"inotify: {os.strerror(code)} (fs.inotify.max_user_instances may be reached)")
        self._watchers: dict[int, list[Told]] = {}
        loop.add_reader(self._fd, self._read)

    @property
    def used(self) -> bool:
        """Whether somebody watches."""
        return bool(self._watchers)

    def add(self, directory: Path, callback: Told) -> int:
        watch = _libc.inotify_add_watch(self._fd, os.fsencode(directory), MASK)
        if watch < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
        self._watchers.setdefault(watch, []).append(callback)
        return int(watch)

    def remove(self, watch: int, callback: Told) -> None:
        callbacks = self._watchers.get(watch)
        if callbacks is not None:
            if callback in callbacks:
                callbacks.remove(callback)
            if not callbacks:
                del self._watchers[watch]
                _libc.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        """Give the descriptor back. In a thread: the kernel waits for all who might still look at a mark, which takes
        many milliseconds (fsnotify_destroy_group)."""
        if self._fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            threading.Thread(target=os.close, args=(self._fd,), name="longshore-inotify", daemon=True).start()
            self._fd = -1

    def drain(self) -> None:
        """Tell of all that has happened up to now, without waiting for the loop."""
        while self._read():
            pass

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return False
        offset = 0
        overflow = False
        seen: dict[int, list[bytes]] = {}
        while offset < len(data):
            watch, mask, _, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            if mask & IN_Q_OVERFLOW:
                overflow = True
            elif not mask & IN_IGNORED:
                moved = seen.setdefault(watch, [])
                if mask & IN_MOVED_TO:
                    moved.append(data[offset : offset + length].rstrip(b"\0"))
            offset += length
        for watch in list(self._watchers) if overflow else seen:
            for callback in self._watchers.get(watch, ()):
                callback(None if overflow else seen[watch])
        return True


_notifiers: dict[asyncio.AbstractEventLoop, _Notifier] = {}


def subscribe(directory: Path, callback: Told) -> Callable[[], None]:
    """Have `callback` called in this loop after changes in `directory`; returns what ends that."""
    loop = asyncio.get_running_loop()
    notifier = _notifiers.get(loop)
    if notifier is None:
        for dead in [other for other in _notifiers if other.is_closed()]:
            _notifiers.pop(dead).close()
        notifier = _notifiers[loop] = _Notifier(loop)
    notifier.drain()  # the directory may be watched already: what happened before this is not for `callback`
    watch = notifier.add(directory, callback)
    return lambda: notifier.remove(watch, callback)


def drain() -> None:
    """Call the callbacks of this loop for all that has happened up to now, without waiting for the loop."""
    notifier = _notifiers.get(asyncio.get_running_loop())
    if notifier is not None:
        notifier.drain()


def release() -> None:
    """Give back what this loop has, if nobody watches any more."""
    loop = asyncio.get_running_loop()
    notifier = _notifiers.get(loop)
    if notifier is not None and not notifier.used:
        del _notifiers[loop]
        notifier.close()
