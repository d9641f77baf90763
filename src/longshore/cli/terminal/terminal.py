"""This program's own terminal: raw while a container has it, and as it was afterwards on every path."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..arguments.parser import UsageError

if sys.platform == "win32":
    from .console import is_terminal, raw, show, typed, watching_size
else:
    from .unix_terminal import is_terminal, raw, show, typed, watching_size

DETACH_KEYS = "ctrl-p,ctrl-q"


def size(*fds: int) -> tuple[int, int] | None:
    """Rows and columns of the first of these that is a terminal; None if none is, or it does not know."""
    for fd in fds or (0, 1, 2):
        with suppress(OSError):
            columns, rows = os.get_terminal_size(fd)
            if rows and columns:
                return min(rows, 1000), min(columns, 1000)
    return None


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes that the keys send; empty for an empty text. UsageError if it is no such list."""
    keys = bytearray()
    for word in text.split(",") if text else []:
        name = word.removeprefix("ctrl-")
        if name != word and len(name) == 1 and (name.isascii() and (name.isalpha() or name in "@[\\]^_")):
            keys.append(ord(name.upper()) & 0x1F)
        elif len(word) == 1 and word.isascii():
            keys += word.encode()
        else:
            raise UsageError(
                f"--detach-keys: {word!r} is not a key", hint="write letters and ctrl-a to ctrl-z: ctrl-p,ctrl-q"
            )
    return bytes(keys)


class KeyWatch:
    """Looks for the detach keys in what is typed. Their beginning is held back until the next key decides."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys were typed."""
        if not self._keys:
            return data, False
        data = self._held + data
        found = data.find(self._keys)
        if found >= 0:
            return data[:found], True
        keep = 0
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                keep = length
                break
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep], False


@contextmanager
def resizes(act: Callable[[int, int], None]) -> Iterator[None]:
    """Within the block, `act` is told the new size whenever that of our terminal changes."""
    known = size()

    def look() -> None:
        nonlocal known
        found = size()
        if found is not None and found != known:
            known = found
            act(*found)

    with watching_size(look):
        yield


__all__ = ["KeyWatch", "is_terminal", "parse_keys", "raw", "resizes", "show", "size", "typed"]
