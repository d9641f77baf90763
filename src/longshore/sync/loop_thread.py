"""A thread with an event loop of its own, in which other threads have coroutines run while they wait.

Whoever waits can be interrupted: the coroutine is then cancelled, and what it does on its way out (kill, remove) is
waited for, before the interruption is raised.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ..aio.tasks import close_engines_first, program_ends
from ..errors import EngineClosed
from ..fs.standard_descriptors import placeholders

T = TypeVar("T")

log = logging.getLogger("longshore.sync")

EXIT_LIMIT = 30.0  # seconds that the end of the program waits for engines left open; the rest is their keepers'
STOP_LIMIT = 10.0  # seconds for the loop's thread to end once nothing is left to do

# A signal that comes just before its thread begins to wait for a lock does not wake it, and on Windows none does.
# The main thread, which is the one that hears Ctrl-C, therefore looks up from its wait: soon at first, then rarely.
FIRST_LOOK, LAST_LOOK = 0.02, 0.5  # seconds


class _Call(Generic[T]):
    """One coroutine in the loop, and the threads that wait for it."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._ended = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def start(self) -> None:
        """In the loop: begin."""
        if self._ended:
            return
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        """In the loop: have it undo what it did. Its end is waited for as ever."""
        if self._task is not None:
            self._task.cancel()
        elif not self._ended:  # interrupted before it was handed over
            self._coroutine.close()
            self._end()

    def drop(self) -> None:
        """Where there is no loop to take it: it never ran."""
        if self._task is None and not self._ended:
            self._coroutine.close()
            self._end()

    def _done(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # looked at: not "never retrieved" if nobody waits any more
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._lock.release()

    def wait(self, limit: float | None = None) -> bool:
        """Wait for its end, at most `limit` seconds; False if that did not come."""
        deadline = None if limit is None else time.monotonic() + limit
        look = FIRST_LOOK if threading.current_thread() is threading.main_thread() else -1.0
        while not self._ended:
            slice = look
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                slice = left if look < 0 else min(left, look)
            if self._lock.acquire(timeout=slice):
                self._lock.release()  # for the next one who waits
            if look > 0:
                look = min(look * 2, LAST_LOOK)
        return True

    def result(self) -> T:
        """What it returned or raised; EngineClosed if the engine's end overtook it."""
        if self._task is None or self._task.cancelled():
            raise EngineClosed
        return self._task.result()


class LoopThread:
    """A thread with an event loop, started at the first call. `last` makes the coroutine that `finish` ends with.

    Calls may come from any thread but its own, and from signal handlers. In a forked child there is no such
    thread: every call there raises EngineClosed.
    """

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._last = last
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may call while its own thread holds it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._early: list[Callable[[], object]] = []  # what is to be called once there is a loop
        self._stop: asyncio.Future[None] | None = None
        self._final: _Call[None] | None = None
        self._closed = False

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made it."""
        return self._pid != os.getpid()

    def post(self, callback: Callable[[], object]) -> None:
        """Have the loop call something soon. EngineClosed where there is no loop any more."""
        if self.forked:
            raise EngineClosed("this engine belongs to another process: it must not be used after a fork")
        with self._lock:
            if self._closed:
                raise EngineClosed
            if self._thread is threading.current_thread():
                raise RuntimeError("a blocking call in the engine's own thread would wait for itself")
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback)
                return
            self._early.append(callback)
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        # a daemon: the end of the program must not wait for it before it has been told (see _at_exit)
        thread = threading.Thread(target=self._run, name="longshore", daemon=True)
        _running.add(self)
        # the last registered is the first called: before what the engine's own parts have registered, as the
        # removal of the state directory that an engine with a service of its own has
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
        thread.start()  # interrupted in here, it may run or not: who comes next starts another, and one of them goes
        self._thread = thread

    def _run(self) -> None:
        # the loop is made here, where no signal handler can interrupt that
        # its end cancels what is left
        with placeholders(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            loop = runner.get_loop()
            with self._lock:
                if self._closed or self._loop is not None:
                    return
                self._thread = threading.current_thread()
                self._loop, stop = loop, loop.create_future()
                self._stop = stop
                for callback in self._early:
                    loop.call_soon(callback)
                self._early.clear()

            async def until_stopped() -> None:
                await stop

            runner.run(until_stopped())

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it in the loop, and wait. Interrupted: it is cancelled, and its cleanup waited for.

        A second interruption ends the waiting at once; the cleanup goes on, and `finish` waits for it.
        """
        call = _Call(coroutine)
        try:
            self.post(call.start)
            call.wait()
        except BaseException:  # KeyboardInterrupt, what else a signal handler of the program raises; or refused
            try:
                self.post(call.cancel)
            except (EngineClosed, RuntimeError):
                call.drop()
            else:
                call.wait()
            raise
        return call.result()

    def finish(self) -> None:
        """Run the last coroutine to its end, then end the thread. Idempotent.

        Interrupted: it goes on, and the interruption is raised after it; interrupted again: at once, and what is
        left is waited for when the program ends.
        """
        final = self.begin_finish()
        if final is None:
            return
        interruption: BaseException | None = None
        try:
            final.wait()
        except BaseException as error:
            interruption = error
            final.wait()
        self.stop()
        if interruption is not None:
            raise interruption
        final.result()

    def begin_finish(self) -> _Call[None] | None:
        """Begin what `finish` waits for; None if there is nothing to wait for."""
        if self.forked:
            return None
        with self._lock:
            if self._closed:
                return None
            if self._final is None:
                final = _Call(self._last())
                self.post(final.start)
                self._final = final
            return self._final

    def stop(self) -> None:
        """End the thread: what still runs in it is cancelled, and who waits for that gets EngineClosed."""
        if self.forked:
            return
        with self._lock:
            if not self._closed and self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set_result, None)
            self._closed = True
        if self._thread is not None:
            self._thread.join(STOP_LIMIT)
        _running.discard(self)

    def finish_at_exit(self, deadline: float) -> None:
        """What `finish` does, for the end of the program: bounded, and silent but for the log."""
        final = self._final
        try:
            if final is not None and not self._closed:
                if final.wait(max(0.0, deadline - time.monotonic())):
                    final.result()
                else:
                    log.warning("an engine left open did not close within %g s: its keeper does the rest", EXIT_LIMIT)
        except Exception as error:
            log.warning("closing an engine left open: %s", error)
        self.stop()

    def _forget(self) -> None:
        """In a forked child: the tasks copied from the parent will never end here; say nothing of that."""
        if self._loop is not None:
            self._loop.set_exception_handler(lambda loop, context: None)


_running: set[LoopThread] = set()


def _at_exit() -> None:
    """Close the engines that the program left open, all at once, within a bound."""
    program_ends()
    left = [thread for thread in _running if not thread.forked]
    deadline = time.monotonic() + EXIT_LIMIT
    for thread in left:
        with suppress(EngineClosed):
            thread.begin_finish()
    for thread in left:
        thread.finish_at_exit(deadline)


close_engines_first(_at_exit)


def _after_fork() -> None:
    for thread in _running:
        thread._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


__all__ = ["LoopThread"]
