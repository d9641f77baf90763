"""What a forked child of this program must not do: keep its parent's locks, clean up after its parent's work, or
take the parent's loop apart.

A child that is forked amid an operation has a copy of all of it. It may live on for long, or unwind: then asyncio
cancels in the child what the parent is still at, and whatever undoes that would undo it under the parent's hands.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

_guard = threading.RLock()  # also taken by a signal handler that forks: in the thread that has it
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
_lost: WeakSet[asyncio.Task[Any]] = WeakSet()


@contextmanager
def not_now() -> Iterator[None]:
    """Nobody forks meanwhile, in whatever thread: for opening what a child has to close, until it is noted."""
    with _guard:
        yield


def in_child(callback: Callable[[], object]) -> None:
    """Have this called in every forked child, before anything else runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


def works_in(loop: asyncio.AbstractEventLoop) -> None:
    """Note a loop with tasks that no forked child is to clean up after."""
    _loops.add(loop)


def is_lost() -> bool:
    """Whether the present task was at work when its process was forked, and this is the child: it must do nothing."""
    if not _lost:
        return False
    task = asyncio.current_task()
    return task is not None and task in _lost


def _lose() -> None:
    for loop in list(_loops):
        with suppress(RuntimeError):
            _lost.update(asyncio.all_tasks(loop))  # the one that forked, too: no loop runs for it in the child
        _part(loop)


def _part(loop: Any) -> None:
    """Give a running loop a selector and a wake-up pipe of its own in the child, with nothing else registered.

    Nobody can go on with it there, but it may be unwound. An epoll is shared across fork(2): each reader that the child
    removes then, the wake-up pipe's at last, is removed in the parent, which waits for ever (CPython's gh-66197); and
    what the child reads meanwhile, the parent misses.
    """
    if not (loop.is_running() and hasattr(loop, "_make_self_pipe") and hasattr(loop, "_selector")):
        return  # not asyncio's own
    before = loop._csock.fileno()
    loop._selector = selectors.DefaultSelector()
    for sock in (loop._ssock, loop._csock):
        sock.close()
    loop._make_self_pipe()
    with suppress(ValueError):  # in a thread that is not the main one
        wakeup = signal.set_wakeup_fd(-1)
        if wakeup != -1:  # else the child's signals would be told to the parent's loop
            signal.set_wakeup_fd(loop._csock.fileno() if wakeup == before else wakeup)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release)
    in_child(_lose)
