"""How one process ended: `Exit`, and `Completed` for a command whose output was collected.

This module imports nothing of longshore, because `errors` imports it: some errors carry a result.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class Cause(StrEnum):
    """Why a process has ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OOM = "oom"
    TIME_LIMIT = "time_limit"
    KILLED = "killed"  # by longshore: kill, stop, delete, the end of its lease
    MONITOR_LOST = "monitor_lost"
    SYSTEM_GONE = "system_gone"
    NEVER_STARTED = "never_started"
    CHECKPOINTED = "checkpointed"  # ended by longshore, after writing a checkpoint


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How one process ended. It is recorded once and never guessed: what is not known is None.

    `code` is the number that a shell shows: the exit code, or 128 + n for signal n. `signal` is set in the second case;
    `signal_inferred` means that it was concluded from a code above 128, because the host does not report signals.
    `peak_memory` is in bytes, `cpu_time` in seconds. For init, both are those of the whole container.
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
    """A command that has ended, like `subprocess.CompletedProcess`, with the whole exit record."""

    args: list[str]
    exit: Exit
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128 + n for signal n; None if it is not known."""
        return self.exit.code

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "replace")
