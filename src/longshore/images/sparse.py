"""Sparse files in tar archives: maps of the parts that have data; between them are holes, which read as zeros.

GNU tar has written four forms. All end up as a `SparseMap`, and none is believed before it was checked: parts in
ascending order, none beyond the file's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import InvalidImage

PARTS_LIMIT = 1 << 18  # of one file


class SparseMap(NamedTuple):
    """Where the data of a sparse file belongs: (offset, length) of each part, and the size of the whole file."""

    parts: list[tuple[int, int]]
    size: int


def map_of(numbers: Sequence[int], size: int, what: str) -> SparseMap:
    """Return the map of a row of offsets and lengths by turns.

    Raises: InvalidImage, about `what`, if that is no map of a file of this size.
    """
    if len(numbers) % 2 or len(numbers) > 2 * PARTS_LIMIT:
        raise _damaged(what)
    parts = []
    end = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if length:
            if offset < end or length < 0:
                raise _damaged(what)
            parts.append((offset, length))
            end = offset + length
    if not end <= size < 1 << 63:
        raise _damaged(what)
    return SparseMap(parts, size)


def map_of_records(records: Mapping[bytes, bytes], numbers: Sequence[int] | None, what: str) -> SparseMap:
    """Return the map that PAX records describe; of version 1.0, the numbers stood in front of the data.

    Raises: InvalidImage, about `what`.
    """
    size = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size", b""))
    if numbers is None:
        text = records.get(b"GNU.sparse.map", b"")
        texts = text.split(b",") if text else []
        if not all(each.isdigit() and len(each) < 20 for each in texts):
            raise _damaged(what)
        numbers = [int(each) for each in texts]
    if not size.isdigit() or len(size) > 20:
        raise _damaged(what)
    return map_of(numbers, int(size), what)


class NumberLines:
    """The map of version 1.0: a count of parts, then their numbers, one a line, in as many blocks as they need."""

    def __init__(self, what: str) -> None:
        self.numbers: list[int] = []
        self._count: int | None = None
        self._rest = b""
        self._what = what

    @property
    def complete(self) -> bool:
        return self._count is not None and len(self.numbers) >= 2 * self._count

    def add(self, block: bytes) -> None:
        """Read one more block. Raises: InvalidImage."""
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            if self.complete:
                return
            if not line.isdigit() or len(line) > 20:
                raise _damaged(self._what)
            if self._count is None:
                self._count = int(line)
                if self._count > PARTS_LIMIT:
                    raise _damaged(self._what)
            else:
                self.numbers.append(int(line))
        if len(self._rest) > len(block):
            raise _damaged(self._what)


def _damaged(what: str) -> InvalidImage:
    return InvalidImage(what, "the map of a sparse file in it is damaged")
