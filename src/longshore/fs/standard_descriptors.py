"""Descriptors 0, 1 and 2 of this program, where it was started without one of them or has closed it.

The kernel gives the lowest free number to the next file that is opened. A lock, a pipe or an event loop with number 1
would get the program's prints, or the output of a container that inherits the stream. So the null device takes the
number of each closed one while an engine is open, and is closed with the last engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..aio import fork_safety

if os.name == "nt":
    from .windows import is_marked, mark
else:
    from .unix import is_marked, mark

STANDARD = (0, 1, 2)

_users = 0
_placed: set[int] = set()


def fill() -> list[int]:
    """Open the null device in place of each closed one, and return these. Other programs do not inherit them.

    A number that another thread takes meanwhile is in use, and is not returned.
    """
    lacking = [fd for fd in STANDARD if _is_closed(fd)]
    opened: list[int] = []
    try:
        for _ in lacking:
            opened.append(os.open(os.devnull, os.O_RDWR))  # noqa: PERF401  # one that fails loses no others
    finally:
        for fd in opened:
            if fd not in lacking:
                os.close(fd)
    return [fd for fd in opened if fd in lacking]


def _is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


class Placeholders:
    """One user of the placeholders: they stay until the last has called `release`."""

    def __init__(self) -> None:
        self._held = False

    def hold(self) -> None:
        """Have no standard descriptor closed from now on: also not one that the program has closed since the last call.

        It does nothing on Windows, where no descriptor is given to a container.
        """
        global _users
        if os.name == "nt" or (self._held and not any(map(_is_closed, STANDARD))):
            return
        with fork_safety.not_now():
            for fd in fill():
                mark(fd)
                _placed.add(fd)
            if not self._held:
                self._held = True
                _users += 1

    def release(self) -> None:
        """Close them, if this was the last user. Idempotent."""
        global _users
        if not self._held:
            return
        with fork_safety.not_now():
            self._held = False
            _users -= 1
            if _users:
                return
            for fd in _placed:
                if is_marked(fd):
                    os.close(fd)
            _placed.clear()


@contextmanager
def placeholders() -> Iterator[None]:
    """Within the block no standard descriptor is closed."""
    held = Placeholders()
    held.hold()
    try:
        yield
    finally:
        held.release()


def is_of_loop(fd: int, loop: Any) -> bool:
    """Whether a descriptor is the event loop's own: it was made while a standard descriptor was closed, and took its
    number. Nothing may be written there or read from there."""
    own = (getattr(loop, name, None) for name in ("_selector", "_ssock", "_csock"))
    for each in own:
        with suppress(AttributeError, OSError, ValueError):
            if each is not None and each.fileno() == fd:
                return True
    return False
