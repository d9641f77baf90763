"""What is to go wrong on the machine: failures, delays and lost notifications, each taken when its step comes."""

from __future__ import annotations

import asyncio
from collections import Counter


class Faults:
    """What is to go wrong, in the order in which it was asked for."""

    def __init__(self) -> None:
        self._failures: dict[str, list[BaseException]] = {}
        self._delays: dict[str, list[float | asyncio.Event]] = {}
        self._drops: Counter[str] = Counter()

    def fail(self, step: str, error: BaseException, times: int) -> None:
        self._failures.setdefault(step, []).extend([error] * times)

    def delay(self, step: str, until: float | asyncio.Event, times: int) -> None:
        self._delays.setdefault(step, []).extend([until] * times)

    def drop(self, what: str, times: int) -> None:
        self._drops[what] += times

    def failure(self, step: str) -> BaseException | None:
        """The error that this step is to end with, taken off the list."""
        if not self._failures:
            return None
        waiting = self._failures.get(step)
        return waiting.pop(0) if waiting else None

    def wait(self, step: str) -> float | asyncio.Event | None:
        """What this step is to wait for, taken off the list."""
        if not self._delays:
            return None
        waiting = self._delays.get(step)
        return waiting.pop(0) if waiting else None

    def drops(self, what: str) -> bool:
        """Whether this one is to be lost."""
        if self._drops[what] <= 0:
            return False
        self._drops[what] -= 1
        return True
