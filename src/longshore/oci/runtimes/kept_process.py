"""Watch the init of a container that has a monitor: conmon is its parent, and writes its exit code to a file.

`watch.py` explains how the end of a process becomes known.
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

from ...compute.values import now
from ...errors import InvalidState
from ...exit_record import Cause, Exit
from ..cgroups.cgroup import Cgroup
from ..processes import proc
from . import conmon
from .status import read_record
from .watch import OciProcess, ProcessToken, ended, status_of

MONITOR_LIMIT = 10.0  # seconds that a monitor may take to write the status after init has ended


class KeptProcess(OciProcess):
    """The init of a container with a monitor. The monitor writes the exit code."""

    def __init__(
        self,
        container_id: str,
        name: str,
        identity: ProcessToken,
        cgroup: Cgroup,
        *,
        run: Path,
        monitor: ProcessToken,
        terminal: bool,
    ) -> None:
        super().__init__(container_id, name, identity, cgroup)
        self._files = run
        self._terminal = terminal
        self._monitor = monitor

    async def _watch(self) -> Exit:
        pidfd = self._pidfd
        if pidfd is not None:
            await ended(pidfd)
        at = now()
        # at once: it will be reaped soon, and a parent other than the monitor writes no file
        raw = proc.status_of_zombie(self._pid, self._start)
        await self._monitor_done()
        outcome = read_record(self._files)
        if outcome is not None and not outcome.ran:
            return self._never_started(at)
        if raw is not None:
            return self.from_status(raw, at)
        found = conmon.read_exit(self._files, self.container_id)
        if found is not None and found[0] is not None:
            code, mtime = found
            assert code is not None
            if pidfd is None:  # it ended before we looked
                at = datetime.fromtimestamp(mtime, UTC)
            raw = proc.wait_status(pidfd) if pidfd is not None and code > 128 else None
            return self.from_code(code, at) if raw is None else self.from_status(raw, at)
        raw = await status_of(pidfd, self.identity) if pidfd is not None else None
        if raw is not None:
            return self.from_status(raw, at)
        return Exit(code=None, cause=Cause.MONITOR_LOST, at=at, pid=self._pid, started_at=self.started_at)

    async def _monitor_done(self) -> None:
        """Wait for the monitor, which ends when the exit code is in its file.

        Its pidfd is opened only now: a thousand running containers take one thousand descriptors, not two.
        """
        monitor = proc.open_pidfd(self._monitor.pid, self._monitor.start)
        if monitor is None:
            return
        try:
            async with asyncio.timeout(MONITOR_LIMIT):
                await ended(monitor)
        except TimeoutError:
            pass
        finally:
            os.close(monitor)

    async def resize(self, rows: int, columns: int) -> None:
        if not self._terminal:
            await super().resize(rows, columns)
            return
        if proc.resize_terminal(self._pid, self._start, rows, columns):
            return
        try:
            await conmon.resize(self._files, rows, columns)
        except OSError:
            raise InvalidState(
                "resize the terminal of", self.container_id, "stopped", hint="start another process"
            ) from None
