"""Locks of the image store: one a digest, and one between use and removal.

- `digest_lock`: one program at a time fetches a blob, or unpacks a layer. The next one waits, and then finds it done.
- `gc.lock`: shared by whoever looks up an image and is about to say that it is used; exclusive for whoever removes.
  It is held for some file operations only, never while anything is fetched or unpacked.

All are flock(2), which ends with its holder. A thread that waits looks at a `Stop` in between. The file of a digest's
lock is removed by its last holder, so a lock counts only if the file is still the one that the path names.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..errors import StoreError
from ..fs.files import LockFile, as_store_errors, try_lock

GC_LIMIT = 30.0  # seconds that the other side may hold `gc.lock`
_PAUSE = 0.02  # seconds between two tries to get a lock that is held for a download


class Stopped(Exception):
    """The work of a thread is no longer wanted."""


class Stop:
    """Tells threads to end their work: `check` raises Stopped there once `set` was called.

    A thread that waits for something else, such as a network, registers what ends that.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], object]] = []

    def set(self) -> None:
        """Stop all. Idempotent; what threads have registered is called here."""
        with self._lock:
            self._event.set()
            interrupts, self._interrupts = self._interrupts, []
        for interrupt in interrupts:
            with suppress(OSError):
                interrupt()

    def is_set(self) -> bool:
        """Return whether work is to end."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise Stopped if work is to end."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Wait so long. Raises: Stopped as soon as work is to end."""
        if self._event.wait(seconds):
            raise Stopped

    @contextmanager
    def interrupting(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Have `interrupt` called by `set`, from another thread, while the block runs."""
        with self._lock:
            self.check()
            self._interrupts.append(interrupt)
        try:
            yield
        finally:
            with self._lock, suppress(ValueError):
                self._interrupts.remove(interrupt)


@contextmanager
def digest_lock(path: str, stop: Stop, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock at `path`, which is removed afterwards. It blocks; `waiting` is called if another holder has it.

    Raises: Stopped; OSError.
    """
    said = False
    while True:
        held = _try_named(path)
        if held is not None:
            break
        if not said:
            said = True
            waiting()
        stop.wait(_PAUSE)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)
        held.release()


def _try_named(path: str) -> LockFile | None:
    """Take a lock if it is free, and its file was not removed in between."""
    held = LockFile.opened(path)
    try:
        if try_lock(held.fd) and _names(path, held.fd):
            return held
    except BaseException:
        held.release()
        raise
    held.close()
    return None


def _names(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


@contextmanager
def gc_lock(path: str, *, shared: bool, limit: float = GC_LIMIT) -> Iterator[None]:
    """Hold the lock between use (`shared`) and removal of images. It blocks.

    Raises: StoreError after `limit` seconds.
    """
    with as_store_errors(f"lock {path}"):
        held = LockFile.opened(path)
    try:
        deadline = time.monotonic() + limit
        pause = 0.0005
        while not try_lock(held.fd, shared=shared):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"cannot lock {path}: another program has held it for {limit:g} s",
                    hint=f"find that program with `fuser {os.fspath(path)}`: it may be suspended",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
        yield
    finally:
        held.release()
