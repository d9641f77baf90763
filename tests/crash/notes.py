"""What a program writes down before and after each thing that it does, so that others can hold it to that.

A line is written with one write(2). SIGKILL cuts that short where the line crosses from one page of the file to the
next, so a last line without its end is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Notes:
    """The notes of one program."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, phase: str, operation: str, **facts: Any) -> None:
        """`phase` is try, did, failed, saw or bug."""
        line = json.dumps({"phase": phase, "operation": operation, **facts}, default=str)
        os.write(self.fd, line.encode() + b"\n")


class Told:
    """The notes of all programs of a round, as one book."""

    def __init__(self, paths: list[Path]) -> None:
        self.lines: list[dict[str, Any]] = []
        for path in paths:
            if path.exists():
                whole, _, _ = path.read_text().rpartition("\n")
                self.lines += [{"by": path.name, **json.loads(line)} for line in whole.splitlines()]

    def find(self, phase: str, *operations: str, **facts: Any) -> Iterator[dict[str, Any]]:
        """The lines of one phase, of these operations (of any, if none is given), with these facts."""
        for line in self.lines:
            if line["phase"] != phase or (operations and line["operation"] not in operations):
                continue
            if all(line.get(name) == value for name, value in facts.items()):
                yield line

    def has(self, phase: str, *operations: str, **facts: Any) -> bool:
        """Whether there is such a line."""
        return next(self.find(phase, *operations, **facts), None) is not None

    def ids(self, phase: str, *operations: str, **facts: Any) -> set[str]:
        """The containers that such lines are about."""
        return {line["id"] for line in self.find(phase, *operations, **facts)}
