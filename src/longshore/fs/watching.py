"""Being woken when files change, without looking again and again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    from .inotify import drain, subscribe
    from .inotify import release as _release_shared
except ImportError:
    drain = None  # type: ignore[assignment]  # elsewhere changes are told, but not of what, nor at once
    try:
        from .directory_changes import release as _release_shared
        from .directory_changes import subscribe
    except ImportError:  # neither Linux nor Windows
        subscribe = None  # type: ignore[assignment]

log = logging.getLogger("longshore.fs")

INTERVAL = 0.05  # seconds between two looks, where changes are told to nobody: neither Linux nor Windows, or none left
NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)
"""What inotify(7) says when the user has no instance or watch left: containers of the same user count, too."""


class DirectoryWatch:
    """Tells when something in a directory was made, written, renamed or removed.

    What happens after the constructor returns is never missed: `changed` returns at once if something did since
    its last call. Raises OSError (FileNotFoundError) if the directory cannot be watched. Where the system has no watch
    left, it looks again and again instead.

    With `moves_to`, it also counts how many times something was renamed to that name (`moves`).
    """

    def __init__(self, directory: Path, *, moves_to: str | None = None) -> None:
        self._event = asyncio.Event()
        self._name = None if moves_to is None else os.fsencode(moves_to)
        self._moves = 0
        self._dropped = False
        self._closed = False
        self._unsubscribe: Callable[[], None] | None = None
        self._looks = subscribe is None or not self._subscribe(directory)  # instead of being told
        if self._looks:
            directory.stat()

    def _subscribe(self, directory: Path) -> bool:
        """Whether changes will be reported."""
        try:
            self._unsubscribe = subscribe(directory, self._on_change)
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
            _warn_once(error)
            return False
        return True

    def _on_change(self, moved: list[bytes] | None) -> None:
        self._event.set()
        if moved is None:
            self._dropped = True
        elif self._name is not None:
            self._moves += moved.count(self._name)

    def moves(self) -> int | None:
        """How many renames to the name there were since the watch began, up to this moment.

        None if that is not known: on platforms that do not tell, and once after the kernel has dropped events.
        """
        if drain is None or self._looks:
            return None
        if not self._closed:
            drain()
        if self._dropped:
            self._dropped = False
            return None
        return self._moves

    async def changed(self) -> None:
        """Return when something has changed since the last call, or when the watch is closed."""
        if self._closed or not self._looks:
            await self._event.wait()
        else:
            await asyncio.sleep(INTERVAL)
        if not self._closed:
            self._event.clear()

    def close(self) -> None:
        """Stop watching; who waits is woken. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._event.set()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_warned = False


def _warn_once(error: OSError) -> None:
    global _warned
    if not _warned:
        _warned = True
        log.warning(
            "directories cannot be watched (%s; see fs.inotify.max_user_instances): longshore polls every %g s",
            error.strerror,
            INTERVAL,
        )


async def wait_for_file(path: Path) -> None:
    """Return when `path` exists and holds something. Raises FileNotFoundError if its directory does not exist."""
    with DirectoryWatch(path.parent) as watch:
        while not _filled(path):
            await watch.changed()


def _filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def release() -> None:
    """Give back what the watches of this loop have shared, if there are none left. For when an engine is closed."""
    if subscribe is not None:
        _release_shared()


__all__ = ["DirectoryWatch", "release", "wait_for_file"]
