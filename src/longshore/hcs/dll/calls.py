"""Calls of the service, which block, in threads; and handles, which are closed only when no call uses them any more.

A caller may stop waiting for a call. The call goes on in its thread, which has its arguments, and whatever it uses
stays open until it has returned: hcsshim learnt what happens otherwise (lessons: access violations in the DLL).
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ...aio.tasks import is_program_ending
from ...errors import NotSupported
from .hresults import INVALID_HANDLE, HcsError

T = TypeVar("T")
H = TypeVar("H", bound=int)

IDLE_LIMIT = 5.0  # seconds that a thread waits for its next call
CLOSE_LIMIT = 2.0  # seconds that `close` waits for a call which still uses the handle; it is closed after it, then
RELEASE_LIMIT = 30.0  # seconds that it waits for the closing itself: notifications that are under way come first


class Threads:
    """As many threads as there are calls at once: some block for minutes, and none must wait for another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = 0
        self.under_way = 0  # jobs that were submitted and are not done
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def submit(self, job: Callable[[], None], *, or_here: bool = False) -> None:
        """Have `job`, which must not raise, done in a thread.

        Where the limit of threads allows none: OSError (EAGAIN), or with `or_here` it is done here. That is for what
        ends and closes; and Python 3.12 makes no threads any more when it ends.
        """
        with self._lock:
            self.under_way += 1
            if self._idle:
                self._idle -= 1
                self._jobs.put(job)
                return
        try:
            # in a list: a thread keeps its arguments as long as it lives
            threading.Thread(target=self._work, args=([job],), name="longshore-hcs", daemon=True).start()
        except RuntimeError as error:
            if not (or_here or is_program_ending()):
                self._done()
                raise OSError(errno.EAGAIN, "no thread can be started") from error
            job()
            self._done()

    def _done(self) -> None:
        with self._lock:
            self.under_way -= 1

    def _work(self, first: list[Callable[[], None]]) -> None:
        job: Callable[[], None] | None = first.pop()
        while job is not None:
            job()
            job = None  # it holds what the call was given
            with self._lock:
                self.under_way -= 1
                self._idle += 1
            job = self._next()

    def _next(self) -> Callable[[], None] | None:
        """The next job; None if there was none for a while. Who takes another thread's leaves it idle in its place."""
        try:
            return self._jobs.get(timeout=IDLE_LIMIT)
        except queue.Empty:
            with self._lock:
                try:
                    return self._jobs.get_nowait()  # one may have been put for us in this moment
                except queue.Empty:
                    self._idle -= 1
                    return None

    async def call(self, function: Callable[..., T], *arguments: Any, or_here: bool = False) -> T:
        """What `function` returns. Cancelled: only the waiting ends."""
        return await self.begin(function, *arguments, or_here=or_here)

    def begin(self, function: Callable[..., T], *arguments: Any, or_here: bool = False) -> asyncio.Future[T]:
        """What `function` will return; `or_here` as in `submit`. OSError if it is not called at all."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def deliver(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def job() -> None:
            result, failure = None, None
            try:
                result = function(*arguments)
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(deliver, result, failure)

        self.submit(job, or_here=or_here)
        return future


class Handle(Generic[H]):
    """A handle of the service, and the calls that use it now.

    `release` unregisters and closes it; it is called once, in a thread, when nobody uses the handle any more.
    """

    def __init__(self, threads: Threads, value: H, container_id: str, release: Callable[[], None]) -> None:
        self.value = value
        self.container_id = container_id
        self._threads = threads
        self._undo = release
        self._lock = threading.Lock()
        self._calls = 0
        self._requests = 0  # of the calls, those that may last until what they are for has ended
        self._closing = False
        self._closed = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def closing(self) -> bool:
        """Whether it is closed, or is to be."""
        return self._closing

    @property
    def has_open_request(self) -> bool:
        """Whether a word is being given by it that may last: the next one on this handle would wait for that."""
        return self._requests > 0

    async def request(self, operation: str, function: Callable[..., T], *arguments: Any) -> T:
        """As `call`, of a word to a process or system, to which the service may answer only when that has ended."""

        def give(value: H, *arguments: Any) -> T:
            with self._lock:
                self._requests += 1
            try:
                return function(value, *arguments)
            finally:
                with self._lock:
                    self._requests -= 1

        return await self.call(operation, give, *arguments)

    async def call(self, operation: str, function: Callable[..., T], *arguments: Any) -> T:
        """`function(handle, *arguments)` in a thread. What the service refuses is told in words of `operation`."""
        with self._lock:
            if self._closing:
                raise HcsError(operation, self.container_id, INVALID_HANDLE)
            self._calls += 1
        try:
            future: asyncio.Future[T] = self._threads.begin(self._use, function, *arguments)
        except OSError:
            self._end_call()
            raise
        try:
            return await future
        except HcsError as error:
            raise error.about(operation, self.container_id) from error
        except NotSupported as error:
            raise NotSupported(f"{operation} ({error.feature})", error.reason, hint=error.hint) from error

    def _use(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return function(self.value, *arguments)
        finally:
            self._end_call()

    def _end_call(self) -> None:
        with self._lock:
            self._calls -= 1
            last = self._closing and not self._calls
        if last:
            self._close()

    def _close(self) -> None:
        try:
            self._undo()
        finally:
            with self._lock:
                self._closed.set()
                waiting, self._waiting = self._waiting, []
            for loop, future in waiting:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_finish, future)

    def _begin_to_close(self) -> bool:
        """Let no further call begin. Whether to close it now: else the last call does, or somebody has."""
        with self._lock:
            begun, self._closing = self._closing, True
            return not begun and not self._calls

    def close_now(self) -> None:
        """Close it in this thread, unless a call uses it: for the end of the program."""
        if self._begin_to_close():
            self._close()

    def release(self) -> None:
        """As `close`, without waiting for it."""
        if self._begin_to_close():
            self._threads.submit(self._close, or_here=True)

    async def close(self) -> None:
        """Close it, after the last call that uses it: both are waited for only so long. Idempotent."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._closed.is_set():
                return
            self._waiting.append((loop, future))
            busy = self._calls
        self.release()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT if busy else RELEASE_LIMIT):
                await future


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
