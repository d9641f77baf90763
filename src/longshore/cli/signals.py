"""Signals that this program gets: they end what it waits for, or are passed on to what it runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PASSED_ON = (*ENDING, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_pass_on: Callable[[int], None] | None = None
_end: Callable[[int], None] | None = None


def end_program(number: int) -> None:
    """Do what this signal does when it is not passed on."""
    if _end is not None:
        _end(number)


async def interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Run `work`; a signal cancels it, and the exit code then tells which one: 128 + n."""
    loop = asyncio.get_running_loop()
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
    for number in watched:
        loop.add_signal_handler(number, arrived, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        task.uncancel()
        return 128 + received[0]
    finally:
        for number in watched:
            loop.remove_signal_handler(number)


@contextmanager
def passed_on(to: Callable[[int], None]) -> Iterator[None]:
    """Within the block, signals are given to `to` instead of ending this program."""
    global _pass_on
    loop = asyncio.get_running_loop()
    more = [n for n in PASSED_ON if n not in ENDING and signal.getsignal(n) != signal.SIG_IGN]
    before, _pass_on = _pass_on, to
    for number in more:
        loop.add_signal_handler(number, to, number)
    try:
        yield
    finally:
        _pass_on = before
        for number in more:
            loop.remove_signal_handler(number)
