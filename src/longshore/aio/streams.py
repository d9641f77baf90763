"""asyncio's stream objects for pipes that are not asyncio's own: readers without a second copy, writers of an input.

asyncio's StreamReader copies each byte twice: from the pipe into its buffer, and from the buffer to the caller. The
buffer is needed for lines, exact counts, and data that arrives while no caller waits. A plain `read(n)` does not need
it. The two readers here hand data to such a caller directly. They differ in who moves the data:

- `PullReader` reads when its caller asks. It suits a descriptor that the event loop can watch (Unix).
- `PushReader` is fed when data arrives. It suits a loop that reads by itself (the Proactor of Windows).

`WriteEnd` and `WriteProtocol` are the other direction: what a StreamWriter needs of a transport that is not asyncio's.
This module knows no platform.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

LIMIT = 1 << 20  # bytes that a reader holds before the pipe fills; then the writing program waits, and no other
TURNS = 16  # pieces that go to one caller before other tasks run


class Source(Protocol):
    """The stream that a `PullReader` reads."""

    def take(self, n: int) -> bytes | None:
        """Return up to `n` bytes that are there now; None if there are none yet; b"" at the end."""
        ...

    async def readable(self) -> None:
        """Wait until `take` returns bytes or the end."""
        ...

    def fill(self) -> None:
        """Feed the reader's buffer from now on."""
        ...


class _DirectReader(asyncio.StreamReader):
    """A StreamReader with a way past its buffer. Only this class looks into asyncio's own reader."""

    @property
    def _is_idle(self) -> bool:
        """Whether the buffer is empty, and neither the end nor an error has come."""
        return not self._buffer and not self._eof and self._exception is None  # type: ignore[attr-defined]

    def _put_back(self, data: bytes) -> None:
        self._buffer[:0] = data  # type: ignore[attr-defined]


class PullReader(_DirectReader):
    """A StreamReader whose `read(n)` takes data from its source at the moment of the call."""

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=LIMIT, loop=loop)
        self._source = source
        self._turns = 0

    async def read(self, n: int = -1) -> bytes:
        if n <= 0:
            self._source.fill()
            return await super().read(n)
        while self._is_idle:
            data = self._source.take(n)
            if data is None:
                await self._source.readable()
            elif data:
                self._turns += 1
                if self._turns % TURNS == 0:
                    await asyncio.sleep(0)  # a fast stream does not keep other tasks from running
                return data
        return await super().read(n)

    async def readline(self) -> bytes:
        self._source.fill()
        return await super().readline()

    async def readuntil(self, separator: bytes = b"\n") -> bytes:  # type: ignore[override]
        self._source.fill()
        return await super().readuntil(separator)

    async def readexactly(self, n: int) -> bytes:
        self._source.fill()
        return await super().readexactly(n)


class PushReader(_DirectReader):
    """A StreamReader that hands arriving data directly to a `read(n)` that waits for it."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit=limit)
        self._waiting: asyncio.Future[bytes] | None = None
        self._most = 0

    async def read(self, n: int = -1) -> bytes:
        if n <= 0 or not self._is_idle or self._waiting is not None:
            return await super().read(n)
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting, self._most = waiter, n
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._put_back(waiter.result())  # the caller never got it
            raise
        finally:
            self._waiting = None

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Hand over data that has arrived."""
        waiter = self._waiting
        if waiter is None or waiter.done() or not data:
            super().feed_data(data)
            return
        waiter.set_result(data[: self._most])
        if len(data) > self._most:
            super().feed_data(data[self._most :])

    def feed_eof(self) -> None:
        """End the stream."""
        super().feed_eof()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(b"")

    def set_exception(self, exc: Exception) -> None:
        """Make reading fail."""
        super().set_exception(exc)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc)


class WriteProtocol(asyncio.StreamReaderProtocol):
    """The protocol of a StreamWriter without a reader. `lost` is done when the pipe is closed, from either side."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(asyncio.StreamReader(loop=loop), loop=loop)  # asyncio wants a reader; nothing is ever read
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.lost.done():
            self.lost.set_result(None)


class WriteEnd(asyncio.WriteTransport):
    """The write end of a process's input, with flow control. Closing it is the end of input.

    Subclasses write, and say by `_set_full` whether the writer must wait.
    """

    def __init__(self, protocol: WriteProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._is_full = False
        protocol.connection_made(self)

    def _set_full(self, full: bool) -> None:
        """Make `drain` of the writer wait, or return."""
        if full != self._is_full:
            self._is_full = full
            if full:
                self._protocol.pause_writing()
            else:
                self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing


def writer_of(open_end: Callable[[WriteProtocol], WriteEnd]) -> asyncio.StreamWriter:
    """Return a StreamWriter over a new write end."""
    protocol = WriteProtocol()
    return asyncio.StreamWriter(open_end(protocol), protocol, None, asyncio.get_running_loop())
