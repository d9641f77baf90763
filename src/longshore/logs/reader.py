"""The log of a kept container: views of what its monitor, or the engine, wrote of its output; and writing it.

The format is in format.py; how a log is bounded, and followed across that, in rotation.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

from .format import DAMAGE, Lines, LogGap, LogRecord, Stream, all_of_the_other, joined, runs
from .rotation import RotatingLog, mark_first
from .writer import LogWriter


class LogReader:
    """Reads one log. `expected_inode` is what `mark_first` said of it when it was new; None: make no claim.

    Where output was lost, or may have been, a LogGap stands; never silence. Raises OSError if the file cannot be
    read; one that does not exist is empty.
    """

    def __init__(self, path: Path, expected_inode: int | None = None) -> None:
        self._path = path
        self._expected = expected_inode
        self._open_logs: set[RotatingLog] = set()

    def close(self) -> None:
        """Close all files; running iterations end. Idempotent."""
        for rotating in list(self._open_logs):
            rotating.close()

    async def records(
        self,
        tail: int | None = None,
        since: datetime | None = None,
        until: asyncio.Future[Any] | None = None,
        *,
        lines: bool = False,
    ) -> AsyncGenerator[LogRecord | LogGap, None]:
        """The records, oldest first; with `lines`, what they make: whole lines, in the order of their ends.

        `tail`: only the last so many lines of both streams, and what comes after; 0 is only what comes from now on.
        `since`: only what was read from the program at or after this time (aware); a line counts by its end. Without
        `until`, ends at the last record that there is now; a record that is just being written does not count. With
        it, goes on as the log grows, until `until` is done, and then to the last byte. A line without an end comes
        when nothing more can come, and before a gap.
        """
        joining = Lines()
        async with aclosing(self._blocks(tail, since, until)) as blocks:
            async for block in blocks:
                for item in _items(block):
                    if isinstance(item, LogGap):
                        for record in joining.rest():
                            if since is None or record.at >= since:
                                yield record
                        yield item
                        continue
                    for record in joining.add(item) if lines else (item,):
                        if since is None or record.at >= since:
                            yield record
        for record in joining.rest():
            if since is None or record.at >= since:
                yield record

    async def chunks(
        self,
        tail: int | None = None,
        since: datetime | None = None,
        until: asyncio.Future[Any] | None = None,
        *,
        only: Stream | None = None,
    ) -> AsyncGenerator[tuple[Stream, bytes] | LogGap, None]:
        """As `records`, but only the bytes, many records of one stream joined: for who wants speed and no times.

        With `only`, what the other stream wrote is for the most part not even looked at; some of it may come.
        """
        async with aclosing(self._blocks(tail, since, until)) as blocks:
            async for block in blocks:
                if only is not None and isinstance(block, bytes) and all_of_the_other(block, only):
                    continue
                for item in joined(block, since):
                    yield item

    async def _blocks(
        self, tail: int | None, since: datetime | None, until: asyncio.Future[Any] | None
    ) -> AsyncGenerator[bytes | LogGap | list[LogRecord | LogGap], None]:
        try:
            rotating = RotatingLog(self._path, self._expected, follow=until is not None)
        except (FileNotFoundError, NotADirectoryError):
            return  # its directory is gone: the container was deleted
        self._open_logs.add(rotating)
        try:
            if tail is not None:
                yield rotating.tail(tail)
            elif since is not None:
                rotating.from_time(since)
            while not rotating.closed:
                last = until is None or until.done()  # asked before we read: all was written before it was done
                rotating.look()
                while (block := rotating.read()) is not None:
                    yield block
                    await asyncio.sleep(0)  # a long log does not keep others from running
                    rotating.look()
                if last:
                    if rotating.look():
                        continue
                    for rest in rotating.finish():
                        yield rest
                    return
                assert until is not None
                await rotating.change(until)
        finally:
            self._open_logs.discard(rotating)
            rotating.close()


def _items(block: bytes | LogGap | list[LogRecord | LogGap]) -> Iterator[LogRecord | LogGap]:
    """The records and gaps of a block."""
    if isinstance(block, LogGap):
        yield block
    elif isinstance(block, list):
        yield from block
    else:
        for run in runs(block):
            if run is None:
                yield LogGap(DAMAGE)
            else:
                yield from run.records()


__all__ = ["LogGap", "LogReader", "LogRecord", "LogWriter", "Stream", "mark_first"]
