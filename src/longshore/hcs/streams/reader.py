"""The reader of an output stream: asyncio's, with a way past its buffer."""

from __future__ import annotations

import asyncio


class PromptReader(asyncio.StreamReader):
    """A StreamReader that hands what comes straight to a `read(n)` that waits for it.

    The buffer costs two copies of every byte. It is there for what needs it: lines, exact counts, and what comes while
    nobody waits.
    """

    _waits: asyncio.Future[bytes] | None = None
    _most = 0

    async def read(self, n: int = -1) -> bytes:
        if n <= 0 or self._buffer or self._eof or self._exception is not None or self._waits is not None:  # type: ignore[attr-defined]
            return await super().read(n)
        waits: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waits, self._most = waits, n
        try:
            return await waits
        except asyncio.CancelledError:
            if waits.done() and not waits.cancelled() and waits.exception() is None:
                self._buffer[:0] = waits.result()  # type: ignore[attr-defined]  # nobody has had it
            raise
        finally:
            self._waits = None

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """What has come out of the pipe."""
        waits = self._waits
        if waits is None or waits.done() or not data:
            super().feed_data(data)
            return
        waits.set_result(data[: self._most])
        if len(data) > self._most:
            super().feed_data(data[self._most :])

    def feed_eof(self) -> None:
        """Nothing more will come."""
        super().feed_eof()
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(b"")

    def set_exception(self, exc: Exception) -> None:
        """Reading fails with this."""
        super().set_exception(exc)
        if self._waits is not None and not self._waits.done():
            self._waits.set_exception(exc)
