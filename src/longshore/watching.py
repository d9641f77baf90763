"""Being woken when files change, without looking again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    from .inotify import subscribe
except ImportError:  # no inotify on this platform
    subscribe = None  # type: ignore[assignment]

INTERVAL = 0.05  # seconds between two looks, where the platform tells nobody of changes


class DirectoryWatch:
    """Tells when something in a directory was made, written, renamed or removed.

    What happens after the constructor returns is never missed: `changed` returns at once if something did since
    its last call. Raises OSError (FileNotFoundError) if the directory cannot be watched.
    """

    def __init__(self, directory: Path) -> None:
        self._event = asyncio.Event()
        self._closed = False
        self._unsubscribe: Callable[[], None] | None = None
        if subscribe is not None:
            self._unsubscribe = subscribe(directory, self._event.set)
        else:
            directory.stat()

    async def changed(self) -> None:
        """Return when something has changed since the last call, or when the watch is closed."""
        if self._unsubscribe is not None or self._closed:
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


__all__ = ["DirectoryWatch", "wait_for_file"]
