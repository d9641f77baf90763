"""What the command line says: data to stdout, words for people to stderr, and no text of a stranger unescaped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any


def escaped(text: str) -> str:
    """`text` on one line, without anything that a terminal would obey: controls and direction marks are spelled out."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


def complain(message: str, *, hint: str | None = None) -> None:
    """Tell people what went wrong, and the next step: two lines on stderr."""
    to_stderr(f"longshore: {escaped(' '.join(message.split()))}\n")
    if hint:
        to_stderr(f"  hint: {escaped(' '.join(hint.split()))}\n")


def note(message: str) -> None:
    """Words for people that are no error."""
    to_stderr(f"longshore: {escaped(message)}\n")


def to_stderr(text: str) -> None:
    """Write text for people, if there is somewhere to write it."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        pass  # nobody can be told


class Unwritable(Exception):
    """One of our own outputs takes no more: a full disk."""

    def __init__(self, fd: int, error: OSError) -> None:
        name = {1: "standard output", 2: "standard error"}.get(fd, f"descriptor {fd}")
        super().__init__(f"cannot write to {name}: {error.strerror or error}")


def write(data: str | bytes) -> None:
    """Data to stdout; text that the locale cannot spell is escaped. Unwritable, or BrokenPipeError."""
    if sys.stdout is None:
        return
    if isinstance(data, str):
        data = data.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
    try:
        sys.stdout.buffer.write(data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(1, error) from None


def flush() -> None:
    """Have what was written reach whoever reads it now. Unwritable, or BrokenPipeError."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(1, error) from None


def on_terminal() -> bool:
    """Whether a person reads what we write."""
    return sys.stdout is not None and sys.stdout.isatty()


def as_json(value: Any) -> bytes:
    """One document, indented, in an order that can be compared; a line ends it."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def json_line(value: Any) -> bytes:
    """One document on one line, for streams of them."""
    import msgspec

    return msgspec.json.encode(value) + b"\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Columns as wide as their widest cell; `right` are the columns of numbers. Cells are escaped here."""
    lines = [list(headings), *([escaped(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    numbers = set(right)
    text = []
    for line in lines:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("   ".join(cells).rstrip())
    return "\n".join(text) + "\n"


def shortened(text: str, width: int) -> str:
    """At most `width` characters; what was cut is told by dots."""
    return text if len(text) <= width else text[: width - 1] + "…"


def command_text(command: Sequence[str], width: int | None = None) -> str:
    """A command as one would type it."""
    import shlex

    text = escaped(shlex.join(command))
    return text if width is None else shortened(text, width)


def size_text(number: int | None) -> str:
    """Bytes for people: `12.3M`; a dash for what nobody knows."""
    if number is None:
        return "-"
    value = float(number)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.0f}{unit}" if unit == "B" or value >= 100 else f"{value:.1f}{unit}"
        value /= 1024
    return ""


def seconds_text(seconds: float | None) -> str:
    """A length of time for people."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.2f}s" if seconds < 10 else f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
    if seconds < 86400:
        return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02d}m"
    return f"{int(seconds // 86400)}d{int(seconds % 86400 // 3600):02d}h"


def ago_text(moment: datetime | None) -> str:
    """How long ago something was."""
    if moment is None:
        return "-"
    seconds = max(0.0, (datetime.now(moment.tzinfo) - moment).total_seconds())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}s ago"
    return f"{int(seconds)} s ago"
