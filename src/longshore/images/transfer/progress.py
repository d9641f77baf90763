"""Tell a caller, in its event loop, how far the layers are that threads work on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..locks import Stop
from ..values import PullProgress

_INTERVAL = 0.05  # seconds between two words about one layer in the same state

Told = Callable[[PullProgress], None]


class Teller:
    """Passes on what threads say, and not too often. An error of the caller's function ends the work, and is kept."""

    def __init__(self, told: Told | None, stop: Stop) -> None:
        self._told = told
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._last: dict[str, tuple[str, float]] = {}
        self.error: BaseException | None = None

    def __call__(self, layer: str, state: str, done: int, total: int) -> None:
        """Say how far a layer is; from any thread."""
        if self._told is None:
            return
        before, at = self._last.get(layer, ("", 0.0))
        now = time.monotonic()
        if state == before and now - at < _INTERVAL and done < total:
            return
        self._last[layer] = state, now
        progress = PullProgress(layer=layer, state=state, done=done, total=total)  # type: ignore[arg-type]
        self._loop.call_soon_threadsafe(self._tell, progress)

    def _tell(self, progress: PullProgress) -> None:
        if self._told is None or self.error is not None:
            return
        try:
            self._told(progress)
        except BaseException as error:
            self.error = error
            self._stop.set()
