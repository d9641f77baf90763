"""How one process ended: `Exit`, and `Completed` for a command whose output was collected.

A leaf, below the errors: some of these carry the result that there was when they were raised.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class Cause(StrEnum):
    """Why a process is no longer there."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OOM = "oom"
    TIME_LIMIT = "time_limit"
    KILLED = "killed"  # by longshore: kill, stop, delete, the end of its lease
    MONITOR_LOST = "monitor_lost"
    SYSTEM_GONE = "system_gone"
    NEVER_STARTED = "never_started"
    CHECKPOINTED = "checkpointed"  # ended by longshore, with a checkpoint to go on from


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How one process ended. Written once, never guessed: what nobody saw is None.

    `code` is the number that a shell shows: the exit code, or 128 + n for signal n; `signal` tells the two
    apart, and `signal_inferred` says that it was only concluded from a code above 128 (the host could not tell).
    `peak_memory` is in bytes, `cpu_time` in seconds; both belong to the whole container where the process is init.
    """

    code: int | None
    signal: int | None = None
    cause: Cause = Cause.EXITED
    started_at: datetime | None = None
    at: datetime | None = None
    pid: int | None = None
    peak_memory: int | None = None
    cpu_time: float | None = None
    signal_inferred: bool = False


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A command that has ended: as `subprocess.CompletedProcess`, with the whole exit record."""

    args: list[str]
    exit: Exit
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128 + n for signal n; None if nobody saw it."""
        return self.exit.code

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "replace")
