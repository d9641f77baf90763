"""ReadDirectoryChangesW on an asyncio loop: one thread and one completion port per loop, shared by all who watch.

The counterpart of inotify.py on Windows. It says that something changed, not what: Windows tells names, too, but in
a buffer that overflows, and not before the change is over for who made it; so nobody here counts by them.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from ctypes import byref, c_int32, c_uint32, c_void_p
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    raise ImportError("ReadDirectoryChangesW is a part of Windows")

from .windows import INVALID, SHARE_ALL, Overlapped, kernel32, last_error

# told of changes: None, since it is not known what was renamed
Told = Callable[[list[bytes] | None], None]

BUFFER = 4096  # bytes for names that nobody reads; when it overflows, that is told as a change like any other

_LIST_DIRECTORY = 0x1
_OPEN_EXISTING = 3
_BACKUP_SEMANTICS, _OVERLAPPED = 0x02000000, 0x40000000  # the first: it is a directory
_CHANGES = 0x1 | 0x2 | 0x8 | 0x10 | 0x40  # names of files and directories, sizes, writes, creations
_INFINITE = 0xFFFFFFFF


@cache
def _kernel32() -> Any:
    dll = kernel32()
    dll.CreateIoCompletionPort.restype = c_void_p
    dll.CreateIoCompletionPort.argtypes = [c_void_p, c_void_p, c_void_p, c_uint32]
    dll.GetQueuedCompletionStatus.restype = c_int32
    dll.GetQueuedCompletionStatus.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p, c_uint32]
    dll.PostQueuedCompletionStatus.restype = c_int32
    dll.PostQueuedCompletionStatus.argtypes = [c_void_p, c_uint32, c_void_p, c_void_p]
    dll.CancelIoEx.argtypes = [c_void_p, c_void_p]
    dll.ReadDirectoryChangesW.restype = c_int32
    dll.ReadDirectoryChangesW.argtypes = [c_void_p, c_void_p, c_uint32, c_int32, c_uint32]
    dll.ReadDirectoryChangesW.argtypes += [c_void_p, c_void_p, c_void_p]
    dll.CloseHandle.argtypes = [c_void_p]
    return dll


class _Watch:
    """One directory that is watched. Its buffer lives until Windows has answered the last request."""

    def __init__(self, directory: Path, callback: Told) -> None:
        self.callback = callback
        self.buffer = (c_uint32 * (BUFFER // 4))()  # aligned as ReadDirectoryChangesW wants it
        self.overlapped = Overlapped()
        self.handle: int | None = _kernel32().CreateFileW(
            str(directory), _LIST_DIRECTORY, SHARE_ALL, None, _OPEN_EXISTING, _BACKUP_SEMANTICS | _OVERLAPPED, None
        )
        if self.handle is None or self.handle == INVALID:
            raise last_error(directory)

    def ask(self) -> bool:
        """Ask for the next change; False if the directory is gone."""
        done = _kernel32().ReadDirectoryChangesW(
            self.handle, byref(self.buffer), BUFFER, 0, _CHANGES, None, byref(self.overlapped), None
        )
        return bool(done)

    def close(self) -> None:
        """Let go of the directory; a request that is under way ends, and is told."""
        if self.handle is not None:
            _kernel32().CancelIoEx(self.handle, byref(self.overlapped))
            _kernel32().CloseHandle(self.handle)
            self.handle = None


class _Notifier:
    """The completion port of one loop, and the thread that waits at it; from the first watch to `release`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._port = _kernel32().CreateIoCompletionPort(INVALID, None, None, 0)
        if not self._port:
            raise last_error()
        self._mutex = threading.Lock()  # for the two tables: the thread looks at them, too
        self._watches: dict[int, _Watch] = {}
        self._ending: dict[int, _Watch] = {}  # closed, but Windows still has their buffers
        self._keys = count(1)
        threading.Thread(target=self._wait, name="longshore-watch", daemon=True).start()

    def add(self, directory: Path, callback: Told) -> int:
        watch = _Watch(directory, callback)
        key = next(self._keys)
        try:
            if not _kernel32().CreateIoCompletionPort(watch.handle, self._port, key, 0):
                raise last_error(directory)
            with self._mutex:
                self._watches[key] = watch
            if not watch.ask():
                raise last_error(directory)
        except BaseException:
            with self._mutex:
                self._watches.pop(key, None)
            watch.close()
            raise
        return key

    def remove(self, key: int) -> None:
        with self._mutex:
            watch = self._watches.pop(key, None)
            if watch is not None and watch.handle is not None:
                self._ending[key] = watch
                watch.close()

    @property
    def used(self) -> bool:
        return bool(self._watches)

    def close(self) -> None:
        """End the thread; it closes the port."""
        _kernel32().PostQueuedCompletionStatus(self._port, 0, None, None)

    def _wait(self) -> None:
        """The thread: tells the loop of each change. It ends when nobody watches, and every buffer is ours again."""
        last = False
        while not last or self._ending:
            size, key, overlapped = c_uint32(), c_void_p(), c_void_p()
            done = _kernel32().GetQueuedCompletionStatus(
                self._port, byref(size), byref(key), byref(overlapped), _INFINITE
            )
            if not done and not overlapped.value:
                break  # the port itself fails
            if not overlapped.value:
                last = True  # `close`
                continue
            number = key.value or 0
            with self._mutex:
                self._ending.pop(number, None)
                watch = self._watches.get(number)
                if watch is not None and not (done and watch.ask()):
                    watch.close()  # the directory is gone: told once, as a change
            if watch is not None:
                try:
                    self._loop.call_soon_threadsafe(self._notify, number)
                except RuntimeError:
                    pass  # the loop is closed: nobody is told any more
        _kernel32().CloseHandle(self._port)

    def _notify(self, key: int) -> None:
        watch = self._watches.get(key)
        if watch is not None:
            watch.callback(None)


_notifiers: dict[asyncio.AbstractEventLoop, _Notifier] = {}


def subscribe(directory: Path, callback: Told) -> Callable[[], None]:
    """Have `callback` called in this loop after changes in `directory`; returns what ends that."""
    loop = asyncio.get_running_loop()
    notifier = _notifiers.get(loop)
    if notifier is None:
        notifier = _notifiers[loop] = _Notifier(loop)
    key = notifier.add(directory, callback)
    return lambda: notifier.remove(key)


def release() -> None:
    """Give back what this loop has, if nobody watches any more."""
    loop = asyncio.get_running_loop()
    notifier = _notifiers.get(loop)
    if notifier is not None and not notifier.used:
        del _notifiers[loop]
        notifier.close()
