"""How far the layers of a pull or push are: bars on a terminal, else a line when the state of a layer changes.

It goes to standard error. Nothing is imported or written before the first word from the engine.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .output import size_text, to_stderr

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...images.values import PullProgress

REDRAWN = 0.1  # seconds between two pictures


class LayerProgress:
    """Shows progress while it is entered. Pass it as `progress`; with `quiet` it shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._show: Callable[[PullProgress], None] | None = None
        self._bars: _Bars | None = None

    def __enter__(self) -> LayerProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.end()

    def __call__(self, progress: PullProgress) -> None:
        """Show how far a layer is."""
        if self._quiet:
            return
        if self._show is None:
            self._show = self._chosen()
        self._show(progress)

    def _chosen(self) -> Callable[[PullProgress], None]:
        if sys.stderr is not None and sys.stderr.isatty():
            try:
                self._bars = _Bars()
                return self._bars
            except ImportError:  # rich was left out: lines do
                pass
        return _Lines()


def _short(layer: str) -> str:
    return layer.partition(":")[2][:12]


class _Lines:
    """A line for each change of a layer's state."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def __call__(self, progress: PullProgress) -> None:
        if self._states.get(progress.layer) == progress.state:
            return
        self._states[progress.layer] = progress.state
        size = f" {size_text(progress.total)}" if progress.total else ""
        to_stderr(f"{_short(progress.layer)} {progress.state}{size}\n")


class _Bars:
    """A bar for each layer, with its speed and the time that is left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            TextColumn("{task.fields[state]:<11}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._tasks: dict[str, Any] = {}
        self._drawn = 0.0
        self._progress.start()

    def __call__(self, progress: PullProgress) -> None:
        task = self._tasks.get(progress.layer)
        total = progress.total or None
        # there is nothing to wait for: its bar is full
        done = progress.total if progress.state in ("done", "there") else progress.done
        if task is None:
            task = self._tasks[progress.layer] = self._progress.add_task(
                _short(progress.layer), total=total, completed=done, state=progress.state
            )
        else:
            self._progress.update(task, total=total, completed=done, state=progress.state)
        now = time.monotonic()
        if now - self._drawn >= REDRAWN:
            self._drawn = now
            self._progress.refresh()

    def end(self) -> None:
        """Leave the last picture, and give the terminal back."""
        self._progress.refresh()
        self._progress.stop()
