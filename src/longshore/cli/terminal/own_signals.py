"""Handle the signals of this program: they cancel its work, or are passed on to a process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


def _those_there(*names: str) -> tuple[int, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


ENDING = _those_there("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
PASSED_ON = (*ENDING, *_those_there("SIGQUIT", "SIGUSR1", "SIGUSR2"))

_pass_on: Callable[[int], None] | None = None
_end: Callable[[int], None] | None = None


def end_program(number: int) -> None:
    """Do what this signal does by default."""
    if _end is not None:
        _end(number)


def _watch(number: int, act: Callable[[int], None]) -> Callable[[], object]:
    """Call `act` in this loop when the signal comes. Return the function that ends that."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, act, number)
    except NotImplementedError:  # the loop of Windows wakes for a signal, but has no handlers of its own
        before = signal.signal(number, lambda got, frame: loop.call_soon_threadsafe(act, got))
        return lambda: signal.signal(number, before)
    return lambda: loop.remove_signal_handler(number)


async def interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Run `work`. A signal cancels it; the exit code is then 128 + n."""
    task = asyncio.current_task()
    assert task is not None
    received: list[int] = []

    def end(number: int) -> None:
        if not received:  # a second one must not cut the cleanup short
            received.append(number)
            task.cancel()

    def arrived(number: int) -> None:
        (_pass_on or end)(number)

    global _end
    _end = end

    watched = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]  # nohup, `&` in a script
    undo = [_watch(number, arrived) for number in watched]
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        task.uncancel()
        return 128 + received[0]
    finally:
        for end_watch in undo:
            end_watch()


@contextmanager
def passed_on(to: Callable[[int], None]) -> Iterator[None]:
    """Pass signals to `to` within the block, in place of ending this program."""
    global _pass_on
    more = [n for n in PASSED_ON if n not in ENDING and signal.getsignal(n) != signal.SIG_IGN]
    before, _pass_on = _pass_on, to
    undo = [_watch(number, to) for number in more]
    try:
        yield
    finally:
        _pass_on = before
        for end_watch in undo:
            end_watch()
