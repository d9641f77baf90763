"""Small tools for async code that must not lose what it made."""

from __future__ import annotations

import _thread
import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from .fork_safety import is_lost

T = TypeVar("T")


async def uninterrupted(awaitable: Awaitable[T]) -> T:
    """Await to the end, come what may; a cancellation meanwhile is delivered at the caller's next await.

    For steps that make something which the caller must then own: a process, a directory. Keep them short.
    """
    task = asyncio.current_task()
    assert task is not None
    inner = asyncio.ensure_future(awaitable)
    cancels = 0
    while not inner.done():
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError:
            if inner.cancelled() or is_lost():
                raise
            task.uncancel()  # so that an enclosing asyncio.timeout still counts right
            cancels += 1
        except BaseException:
            break  # it is the inner one's own: told below
    for _ in range(cancels):
        task.cancel()
    return inner.result()


async def shielded(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run cleanup to its end even when cancelled meanwhile; the cancellation is raised after it.

    In a forked child it is not run: what it would clean up is the parent's, which is still at it.
    """
    if is_lost():
        coroutine.close()
        raise asyncio.CancelledError
    inner = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not inner.done():
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError as error:
            if inner.cancelled() or is_lost():
                raise
            cancelled = error
        except BaseException:
            break
    result = inner.result()
    if cancelled is not None:
        raise cancelled
    return result


async def in_thread(function: Callable[[], T], name: str = "longshore", *, or_here: bool = False) -> T:
    """Run `function` in a fresh thread of its own: one that may be abandoned, or whose kernel state may be changed.

    Cancelling stops the waiting, not the thread. Where the limit of processes allows no thread: OSError (EAGAIN), or
    with `or_here` the loop is made to wait for it. That is for what ends, undoes and removes, and takes milliseconds.
    """
    if is_lost():
        raise asyncio.CancelledError
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T allows it

    def work() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = function()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(tell, result, failure)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    try:
        # not threading.Thread: its `start` waits until the thread runs, and the loop with it
        _thread.start_new_thread(work, ())
    except RuntimeError as error:
        if not (_program_ends or or_here):
            raise OSError(errno.EAGAIN, "no thread can be started") from error
        work()  # Python 3.12 makes no threads any more when it ends; nothing else waits for this one then
    return await future


_program_ends = False


def program_ends() -> None:
    """To be called when the interpreter has begun to end: `in_thread` then does without a thread if there is none."""
    global _program_ends
    _program_ends = True


def is_program_ending() -> bool:
    """Whether the interpreter has begun to end."""
    return _program_ends


_to_close: list[Callable[[], None]] = []


def close_engines_first(close: Callable[[], None]) -> None:
    """Have `close`, which may be called twice, called by `close_engines`."""
    _to_close.append(close)


def close_engines() -> None:
    """Close the engines that the program left open: for the interpreter's end, before what they need is taken away.

    What registers with atexit when it is imported may be imported by an engine's own thread, and is called first then.
    """
    for close in _to_close:
        close()
