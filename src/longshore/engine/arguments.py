"""Checks of what is given beside a spec: streams, input, limits. InvalidSpec names the argument; nothing was begun."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..compute.values import DEVNULL, INHERIT, LOG, PIPE, STDOUT, Stdio
from ..errors import InvalidSpec

_NOT_THE_LOG = "PIPE, DEVNULL, INHERIT or a file descriptor"


def check_streams(stdio: Stdio, *, log: bool) -> Stdio:
    """Streams that can be meant together. `log`: the container may be one that writes to its log (LOG)."""
    for name, value in (("stdin", stdio.stdin), ("stdout", stdio.stdout), ("stderr", stdio.stderr)):
        _check_stream(name, value)
    if LOG not in (stdio.stdout, stdio.stderr):
        return stdio
    if not log:
        name = "stdout" if stdio.stdout == LOG else "stderr"
        raise InvalidSpec(
            name,
            "cannot be LOG: this container has no log",
            hint="use PIPE or DEVNULL; `launch` makes containers that write to a log",
        )
    if stdio.stdout != LOG:
        raise InvalidSpec(
            "stderr",
            "goes to the log and `stdout` does not: both must go there, or neither",
            hint="give stderr=PIPE, STDOUT or DEVNULL",
        )
    if stdio.stderr != LOG:
        raise InvalidSpec(
            "stderr",
            "does not go to the log and `stdout` does: both must go there, or neither",
            hint="give stdout=PIPE",
        )
    if stdio.stdin not in (DEVNULL, PIPE):
        raise InvalidSpec(
            "stdin",
            "must be DEVNULL or PIPE for a container that writes to its log: it may outlive this program",
            hint="use stdin=PIPE, and write to the input of `attach(stdin=True)`",
        )
    return stdio


def _check_stream(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec(
            name,
            f"must be {_NOT_THE_LOG}, not {type(value).__name__}",
            hint=_stream_hint(name, value),
        )
    special = {"stdin": (PIPE, DEVNULL, INHERIT), "stdout": (PIPE, DEVNULL, INHERIT, LOG)}
    if value < 0 and value not in special.get(name, (PIPE, DEVNULL, INHERIT, LOG, STDOUT)):
        hint = "use STDOUT for `stderr` only" if value == STDOUT else None
        raise InvalidSpec(name, f"must be {_NOT_THE_LOG}, not {value}", hint=hint)


def _stream_hint(name: str, value: Any) -> str | None:
    if hasattr(value, "fileno"):
        return "give `file.fileno()` of an open file"
    if name == "stdin" and isinstance(value, (bytes, str)):
        return "give input as bytes: `run(input=...)`, or `communicate(...)` with stdin=PIPE"
    return None


def check_seconds(value: float | None, name: str = "timeout") -> float | None:
    """A length of time in seconds, or None for no limit."""
    if value is None:
        return None
    hint = f"write {name}=10, or None for no limit" if name == "timeout" else f"write {name}=10"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidSpec(name, f"must be a number of seconds, not {value!r}"[:200], hint=hint)
    if not value >= 0:  # nor "nan"
        raise InvalidSpec(name, f"must be a number of seconds from 0 on, not {value}", hint=hint)
    return value


def check_input(value: Any) -> bytes | None:
    """What goes to a standard input: bytes, or what can be seen as such."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    hint = "write input=text.encode()" if isinstance(value, str) else None
    raise InvalidSpec("input", f"must be bytes, not {type(value).__name__}", hint=hint)


def check_input_and_stdin(input: bytes | None, stdin: int) -> int:
    """Where a standard input comes from: a pipe if there is `input`."""
    if input is None:
        return stdin
    if stdin not in (DEVNULL, PIPE):
        raise InvalidSpec("stdin", "cannot be combined with `input`", hint="give one of them")
    return PIPE


def check_tail(value: int | None) -> int | None:
    """A number of lines, or None for all."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidSpec(
            "tail", f"{value!r:.80} is not a number of lines", hint="write tail=10, or None for all lines"
        )
    return value


def check_since(value: datetime | None, name: str = "since") -> datetime | None:
    """A time that is the same one everywhere, or None for the beginning."""
    if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
        return value
    hint = f"write {name}=datetime.now(timezone.utc) - timedelta(minutes=5)"
    raise InvalidSpec(name, f"{value!r:.80} is not a datetime with a time zone", hint=hint)


def check_bound(value: int, name: str = "max_output") -> int:
    """A number of bytes."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec(name, f"must be a number of bytes, not {value!r}"[:200])
    if value < 0:
        raise InvalidSpec(name, f"{value} is negative")
    return value
