"""What is tried again at a registry, when, and how often."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from .interrupts import Interrupt
from .limits import RegistryLimits
from .transport import ConnectionFailure

BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


class Tries:
    """Counts the failures of one step, and pauses between them. Progress begins the count anew.

    A host that never answered may be a wrong name, or down: users are to hear of that soon.
    """

    def __init__(
        self, limits: RegistryLimits, interrupt: Interrupt, has_answered: Callable[[], bool] = lambda: True
    ) -> None:
        self._limits = limits
        self._interrupt = interrupt
        self._has_answered = has_answered
        self._failures = 0

    def progress(self) -> None:
        """Begin the count anew."""
        self._failures = 0

    def again(self, wanted: float | None = None) -> bool:
        """Wait before another try, and return True; False if there were enough.

        `wanted` is the pause that the registry asked for. Raises: Interrupted.
        """
        self._failures += 1
        most = self._limits.tries if self._has_answered() else self._limits.first_tries
        if self._failures >= most or (wanted is not None and wanted > self._limits.retry_after):
            return False
        growing = self._limits.first_wait * 2 ** (self._failures - 1)
        pause = min(growing, self._limits.longest_wait) * random.uniform(0.75, 1.25)
        self._interrupt.pause(max(pause, wanted or 0))
        return True

    def after(self, failure: ConnectionFailure) -> bool:
        """Do the same after a failure of the connection."""
        return failure.retry and self.again()


def retry_after(header: str) -> float | None:
    """Return the seconds of a Retry-After header, which has a number or a date; None if it cannot be read."""
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    now = datetime.fromtimestamp(time.time(), UTC)
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
