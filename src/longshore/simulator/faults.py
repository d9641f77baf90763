"""What is to go wrong on the machine: failures, delays, notifications lost, late or doubled, each in its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from enum import Enum
from typing import Generic, TypeVar

ANY = "any"
EXIT_NOTIFICATION = "exit notification"

T = TypeVar("T")
Until = float | asyncio.Event


class Fate(Enum):
    """What becomes of a notification."""

    LOST = "lost"
    DOUBLED = "doubled"


class _Turns(Generic[T]):
    """What is to happen at which turn of each thing, in the order in which it was asked for."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[tuple[int, T]]] = {}

    def add(self, thing: Hashable, what: T, times: int, after: int) -> None:
        waiting = self._waiting.setdefault(thing, [])
        waiting += [(after if number == 0 else 0, what) for number in range(times)]

    def take(self, thing: Hashable) -> T | None:
        """What is to happen at this turn; None if nothing is."""
        waiting = self._waiting.get(thing)
        if not waiting:
            return None
        turns, what = waiting[0]
        if turns:
            waiting[0] = (turns - 1, what)
            return None
        del waiting[0]
        return what


class Faults:
    """What is to go wrong, in the order in which it was asked for. `after` turns go well before."""

    def __init__(self) -> None:
        self._failures: _Turns[BaseException] = _Turns()
        self._delays: _Turns[Until] = _Turns()
        self._fates: _Turns[Fate | Until] = _Turns()
        self._none = True  # nothing was ever asked for: the usual case costs one look

    def fail(self, step: str, error: BaseException, times: int, after: int) -> None:
        self._none = False
        self._failures.add(step, error, times, after)

    def delay(self, step: str, until: Until, times: int, after: int) -> None:
        self._none = False
        (self._fates if step == EXIT_NOTIFICATION else self._delays).add(step, until, times, after)

    def change(self, notification: str, fate: Fate, times: int, after: int) -> None:
        self._none = False
        self._fates.add(notification, fate, times, after)

    def at(self, step: str) -> tuple[BaseException | None, Until | None]:
        """The error that this step is to end with, and what it is to wait for: taken off the list."""
        if self._none:
            return None, None
        error, other = self._failures.take(step), self._failures.take(ANY)
        until, any_until = self._delays.take(step), self._delays.take(ANY)
        return error or other, any_until if until is None else until

    def fate(self, notification: str) -> Fate | Until | None:
        """What becomes of this one, taken off the list; None: it is told, once, now."""
        return None if self._none else self._fates.take(notification)
