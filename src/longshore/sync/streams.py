"""What blocking objects are made of, beside what is made from the asyncio ones: files, iterators, how an engine ends.

__init__.py is made by a script; this is its part that is made by hand.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from ..errors import EngineClosed, OutputLimit, TimeLimit
from .loop_thread import LoopThread

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ..engine.container import Completed
    from ..engine.engine import Engine

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741  # the asyncio class that a blocking one stands for

CHUNK = 1 << 18  # bytes that go to or come from a stream at once
AHEAD = 64  # items that an iterator over the past may have ready before they are asked for


class Reader(io.BufferedIOBase):
    """Output of a process as a binary file: `read`, `readline`, iteration; `io.TextIOWrapper` makes text of it.

    It reads ahead, up to what is there. Interrupted in a read, nothing is lost. Closing it lets go of the pipe:
    the program then finds that nobody reads.
    """

    def __init__(self, loop: LoopThread, stream: asyncio.StreamReader) -> None:
        self._loop = loop
        self._stream = stream
        self._ahead = bytearray()
        self._ended = False
        self._reading = threading.RLock()
        self._filling: asyncio.Task[Any] | None = None

    def __del__(self) -> None:
        """Dropping it is not closing it: the process may go on writing to whoever takes it up again."""

    def readable(self) -> bool:
        """True."""
        return True

    def _check(self) -> None:
        if self.closed:
            raise ValueError("read of a closed file")

    async def _fill(self, wanted: int | None, *, line: bool = False) -> None:
        """In the loop: have at least `wanted` bytes (None: all there will be) or, with `line`, a whole line."""
        seen = 0
        self._filling = asyncio.current_task()
        while not self._ended and not self.closed:
            if line and (self._ahead.find(b"\n", seen) >= 0):
                return
            seen = len(self._ahead)
            if wanted is not None and seen >= wanted:
                return
            try:
                data = await self._stream.read(CHUNK)
            except asyncio.CancelledError:
                if self.closed:
                    return
                raise
            self._ahead += data
            self._ended = not data

    def _take(self, size: int) -> bytes:
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data

    def take_ahead(self) -> bytes:
        """What was read ahead and not asked for yet; it is then gone from here."""
        with self._reading:
            return self._take(len(self._ahead))

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, fewer only at the end; without a size, all to the end."""
        self._check()
        wanted = None if size is None or size < 0 else size
        with self._reading:
            if not self._ended and (wanted is None or len(self._ahead) < wanted):
                self._loop.call(self._fill(wanted))
                self._check()
            return self._take(len(self._ahead) if wanted is None else wanted)

    def read1(self, size: int = -1, /) -> bytes:
        """What is there, at most `size` bytes; waits only if there is nothing. Empty at the end."""
        self._check()
        if size == 0:
            return b""
        with self._reading:
            if not self._ended and not self._ahead:
                self._loop.call(self._fill(1))
                self._check()
            return self._take(len(self._ahead) if size < 0 else size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer`, less only at the end; returns how many bytes."""
        return self._read_into(buffer, self.read)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """Put what is there into `buffer`; waits only if there is nothing."""
        return self._read_into(buffer, self.read1)

    @staticmethod
    def _read_into(buffer: WriteableBuffer, read: Callable[[int], bytes]) -> int:
        view = memoryview(buffer).cast("B")
        data = read(len(view))
        view[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1, /) -> bytes:
        """The next line with its newline, of any length (or at most `size` bytes); empty at the end."""
        self._check()
        bound = None if size is None or size < 0 else size
        with self._reading:
            end = self._ahead.find(b"\n", 0, bound) + 1
            if not end and not self._ended and (bound is None or len(self._ahead) < bound):
                self._loop.call(self._fill(bound, line=True))
                self._check()
                end = self._ahead.find(b"\n", 0, bound) + 1
            return self._take(end or (len(self._ahead) if bound is None else bound))

    def close(self) -> None:
        """Let go of the stream; a read that waits in another thread ends. Idempotent."""
        if self.closed:
            return
        super().close()
        with suppress(EngineClosed):
            self._loop.post(self._release)

    def _release(self) -> None:
        transport = getattr(self._stream, "_transport", None)  # asyncio has no public way to stop reading
        if transport is not None:
            with suppress(NotImplementedError):  # a view of a log has no pipe to let go of
                transport.close()
        if self._filling is not None:
            self._filling.cancel()


class Writer(io.BufferedIOBase):
    """Input of a process as a binary file: `write` waits until the pipe has taken it; `close` is the end of input.

    Writing to a process that has gone raises BrokenPipeError or ConnectionResetError.
    """

    def __init__(
        self,
        loop: LoopThread,
        stream: asyncio.StreamWriter,
        close: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._loop = loop
        self._stream = stream
        self._close = close or self._close_stream

    def __del__(self) -> None:
        """Dropping it is not closing it."""

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it; returns how many bytes that were."""
        if self.closed:
            raise ValueError("write to a closed file")
        view = memoryview(data).cast("B")
        self._loop.call(self._write(view))
        return len(view)

    async def _write(self, view: memoryview) -> None:
        for start in range(0, len(view), CHUNK):
            self._stream.write(bytes(view[start : start + CHUNK]))  # a copy: the caller may reuse what it gave
            await self._stream.drain()

    async def _close_stream(self) -> None:
        self._stream.close()

    def flush(self) -> None:
        """Nothing to do: `write` keeps nothing back."""
        if self.closed:
            raise ValueError("flush of a closed file")

    def close(self) -> None:
        """Give the process the end of its input. Idempotent."""
        if self.closed:
            return
        try:
            with suppress(EngineClosed):
                self._loop.call(self._close())
        finally:
            super().close()


class _Prefetcher(Generic[T]):
    """Takes the items of an asynchronous iterator, in one task of the loop; at most `ahead` before they are wanted."""

    def __init__(self, ahead: int) -> None:
        self.items: deque[T] = deque()
        self.error: BaseException | None = None
        self.ended = False
        self._ahead = ahead
        self._asked = False
        self._go_on = asyncio.Event()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, source: AsyncIterator[T]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(source), name="a blocking iterator")

    async def _run(self, source: AsyncIterator[T]) -> None:
        try:
            await self._wanted()
            async for item in source:
                self.items.append(item)
                self._asked = False
                self._news.set()
                await self._wanted()
        except asyncio.CancelledError:
            pass  # closed
        except BaseException as error:
            self.error = error
        finally:
            close = getattr(source, "aclose", None)
            try:
                if close is not None:
                    await close()
            finally:
                self.ended = True
                self._news.set()

    async def _wanted(self) -> None:
        while len(self.items) >= self._ahead and not self._asked:
            self._go_on.clear()
            await self._go_on.wait()

    async def available(self) -> None:
        """Return when there is an item, or the end."""
        self._asked = True
        self._go_on.set()
        while not self.items and not self.ended:
            self._news.clear()
            await self._news.wait()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        self.cancel()
        if self._task is not None:
            await asyncio.wait((self._task,))


class ClosingIterator(Iterator[T]):
    """An iterator whose `next` waits, and which can be closed, also by another thread: `next` then ends at once.

    Use it in a `for`, with `with` if you leave it early. Interrupted in `next`, it can be gone on with.
    """

    def __init__(self, loop: LoopThread, source: AsyncIterator[T], ahead: int = 0) -> None:
        self._closed = True  # until it is under way: __del__ looks
        self._loop = loop
        self._prefetcher: _Prefetcher[T] = _Prefetcher(ahead)
        prefetcher = self._prefetcher
        loop.post(lambda: prefetcher.start(source))
        self._closed = False

    def __next__(self) -> T:
        prefetcher = self._prefetcher
        while not self._closed:
            ended = prefetcher.ended  # before looking for an item: it may be the last
            with suppress(IndexError):
                return prefetcher.items.popleft()
            if ended:
                self._closed = True
                if prefetcher.error is not None:
                    raise prefetcher.error
                break
            try:
                self._loop.call(prefetcher.available())
            except EngineClosed:
                if self._loop.forked:
                    raise
                self._closed = not prefetcher.items
        raise StopIteration

    def close(self) -> None:
        """End it, and what it watches. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with suppress(EngineClosed):
            self._loop.call(self._prefetcher.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed and not self._prefetcher.ended:
            with suppress(EngineClosed, RuntimeError):
                self._loop.post(self._prefetcher.cancel)


class BlockingProxy(Generic[I]):
    """A blocking object that stands for an asyncio one. The same one stands for it each time it is met."""

    _inner: I
    _loop: LoopThread
    _files: dict[str, Any]

    @classmethod
    def _of(cls, loop: LoopThread, inner: I) -> Self:
        proxy = cls.__new__(cls)
        proxy._inner, proxy._loop, proxy._files = inner, loop, {}
        # kept with the other one: what a Reader has read ahead must not depend on who still holds it
        found: Self = inner.__dict__.setdefault("_blocking_proxy", proxy)
        return found

    def __repr__(self) -> str:
        return repr(self._inner)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.call(coroutine)

    def _iterate(self, source: AsyncIterator[T], ahead: int = 0) -> ClosingIterator[T]:
        return ClosingIterator(self._loop, source, ahead)

    def _call_limited(self, coroutine: Coroutine[Any, Any, T], timeout: float | None, what: str) -> T:
        """Wait at most so long: then TimeLimit, and what was waited for goes on."""
        return self._loop.call(coroutine if timeout is None else _limited(coroutine, timeout, what))

    def _reader(self, name: str, stream: asyncio.StreamReader | None) -> Reader | None:
        return None if stream is None else self._open_reader(name, stream)

    def _open_reader(self, name: str, stream: asyncio.StreamReader) -> Reader:
        found: Reader | None = self._files.get(name)
        if found is None or found._stream is not stream:
            found = self._files[name] = Reader(self._loop, stream)
        return found

    def _writer(
        self, stream: asyncio.StreamWriter | None, close: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> Writer | None:
        if stream is None:
            return None
        found: Writer | None = self._files.get("stdin")
        if found is None or found._stream is not stream:
            found = self._files["stdin"] = Writer(self._loop, stream, close)
        return found

    def _communicate(self, coroutine: Coroutine[Any, Any, tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        """What was read ahead belongs in front of what is read now."""
        try:
            stdout, stderr = self._loop.call(coroutine)
        except (TimeLimit, OutputLimit) as error:
            if error.result is not None:
                result: Completed = error.result
                error.result = msgspec.structs.replace(
                    result,
                    stdout=self._taken_ahead("stdout") + result.stdout,
                    stderr=self._taken_ahead("stderr") + result.stderr,
                )
            raise
        return self._taken_ahead("stdout") + stdout, self._taken_ahead("stderr") + stderr

    def _taken_ahead(self, name: str) -> bytes:
        found: Reader | None = self._files.get(name)
        return b"" if found is None else found.take_ahead()


async def _limited(coroutine: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await coroutine
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeLimit(what, seconds) from None


class BlockingEngine(BlockingProxy["Engine"]):
    """The part of the blocking Engine that is not made from the asyncio one: how it begins and ends."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self._grace: float | None = None
        self._loop = LoopThread(self._last)
        self._files = {}

    def _last(self) -> Coroutine[Any, Any, None]:
        return self._inner.close() if self._grace is None else self._inner.close(self._grace)

    def _close(self, grace: float) -> None:
        self._grace = grace
        self._loop.finish()

    def __enter__(self) -> Self:
        try:
            self._loop.call(self._inner.__aenter__())
        except BaseException:
            self._loop.finish()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.finish()

    if not TYPE_CHECKING:  # as in the asyncio one

        async def __aenter__(self) -> None:
            raise TypeError(
                "a longshore.sync.Engine is opened by plain `with`; for `async with` there is longshore.Engine"
            )

        async def __aexit__(self, *exc: object) -> None:
            """Python looks for it before it calls `__aenter__`."""


__all__ = ["BlockingEngine", "BlockingProxy", "ClosingIterator", "Reader", "Writer"]
