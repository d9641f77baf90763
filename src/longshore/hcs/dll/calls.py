"""Call the blocking service in threads, and close a handle only when no call uses it any more.

A caller may stop waiting for a call. The call continues in its thread, and everything that it uses stays open until it
returns. Otherwise the DLL runs into access violations, as hcsshim has found.
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
CLOSE_LIMIT = 2.0  # seconds that `close` waits for a call that still uses the handle; that call then closes it
RELEASE_LIMIT = 30.0  # seconds that it waits for the closing itself, which waits for notifications under way


class Threads:
    """As many threads as there are calls at a time: some block for minutes, and no call must wait for another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = 0
        self.under_way = 0  # jobs that were submitted and are not done
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def submit(self, job: Callable[[], None], *, or_here: bool = False) -> None:
        """Run `job`, which must not raise, in a thread.

        With `or_here`, it runs in this thread where no other can be started: at the limit of threads, and at the end of
        a program with Python 3.12. That is for jobs that end or close something.

        Raises: OSError (EAGAIN) where no thread can be started.
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
            job = None  # it refers to the arguments of the call
            with self._lock:
                self.under_way -= 1
                self._idle += 1
            job = self._next()

    def _next(self) -> Callable[[], None] | None:
        """Return the next job; None if there was none for a while."""
        try:
            return self._jobs.get(timeout=IDLE_LIMIT)
        except queue.Empty:
            with self._lock:
                try:
                    return self._jobs.get_nowait()  # one may have arrived just now
                except queue.Empty:
                    self._idle -= 1
                    return None

    async def call(self, function: Callable[..., T], *arguments: Any, or_here: bool = False) -> T:
        """Return what `function` returns.

        If cancelled: the call continues in its thread.
        """
        return await self.begin(function, *arguments, or_here=or_here)

    def begin(self, function: Callable[..., T], *arguments: Any, or_here: bool = False) -> asyncio.Future[T]:
        """Start a call, and return the future of its result; `or_here` as in `submit`.

        Raises: OSError if the call cannot be started.
        """
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
            with suppress(RuntimeError):  # the loop is closed: there is no waiter any more
                loop.call_soon_threadsafe(deliver, result, failure)

        self.submit(job, or_here=or_here)
        return future


class Handle(Generic[H]):
    """A handle of the service, and the calls that use it now.

    `undo` unregisters and closes it. It is called once, in a thread, when no call uses the handle any more.
    """

    def __init__(self, threads: Threads, value: H, container_id: str, undo: Callable[[], None]) -> None:
        self.value = value
        self.container_id = container_id
        self._threads = threads
        self._undo = undo
        self._lock = threading.Lock()
        self._calls = 0
        self._requests = 0  # calls that may last until the process or system has ended
        self._closing = False
        self._closed = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def closing(self) -> bool:
        """Whether it is closed, or will be when the last call returns."""
        return self._closing

    @property
    def has_open_request(self) -> bool:
        """Whether a request is open: the next call on this handle may wait for its answer."""
        return self._requests > 0

    async def request(self, operation: str, function: Callable[..., T], *arguments: Any) -> T:
        """Call as `call` does, for a request that the service may answer only when the process or system has ended."""

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
        """Call `function(handle, *arguments)` in a thread. Errors name `operation`."""
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
            raise NotSupported(f"`{operation}` ({error.feature})", error.reason, hint=error.hint) from error

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
        """Allow no further call. Return whether to close it now; otherwise the last call does, or it is closed."""
        with self._lock:
            begun, self._closing = self._closing, True
            return not begun and not self._calls

    def close_now(self) -> None:
        """Close it in this thread, unless a call uses it. For the end of the program."""
        if self._begin_to_close():
            self._close()

    def release(self) -> None:
        """Close it without waiting."""
        if self._begin_to_close():
            self._threads.submit(self._close, or_here=True)

    async def close(self) -> None:
        """Close it after the last call that uses it, and wait for both up to a limit. Idempotent."""
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
