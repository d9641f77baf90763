"""Records of a container's log, and how they stand in the file.

A line of the file is a record, in the format that CRI and `k8s-file` name: when the output was read, its stream,
F if the program ended the line there or P if not, and its bytes as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

Stream = Literal["stdout", "stderr"]

MAX_LINE = 1 << 20  # bytes of a line; a longer one comes in parts of that size

NEAR, FAR = 1 << 11, 1 << 14  # bytes in which records of the same read are looked for, at first and then

HEAD = re.compile(
    rb"(\d{4}-(?:0[1-9]|1[0-2])-[0-3]\d[Tt][0-2]\d:[0-5]\d:[0-6]\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d))"
    rb" (stdout|stderr) ([FP]) "
)
_STREAMS: dict[bytes, Stream] = {b"stdout": "stdout", b"stderr": "stderr"}

BOUND = "the log had reached its bound, and began anew"
DAMAGE = "there is something in the log that is no record"
TORN = "the last record was not written to its end"
TRUNCATED = "the log was cut"
FAR_BACK = "a line begins further back"
GONE = "the log is gone"


class LogRecord(msgspec.Struct, frozen=True):
    """A line that a program wrote to one stream; or a piece of it: up to the end of what the monitor read at once.

    `data` is exact: it ends with a newline if the program wrote one, so that the data of one stream, joined, is
    what the program wrote. `at` is when its end was read from the program, in UTC, to the microsecond;
    `nanoseconds` is the part of that second in nanoseconds, 0 to 999,999,999.
    """

    at: datetime
    stream: Stream
    data: bytes
    nanoseconds: int = 0


class LogGap(msgspec.Struct, frozen=True):
    """Here output was lost, or may have been; `reason` says why."""

    reason: str


@lru_cache(maxsize=64)
def moment(stamp: bytes) -> datetime:
    """A record's time, in UTC. Records of one read have the same, so that the last few are kept."""
    try:
        return datetime.fromisoformat(stamp.decode().upper()).astimezone(UTC)
    except (ValueError, OverflowError):  # as the 31st of a short month; nobody can tell what is meant
        return datetime.fromtimestamp(0, UTC)


@lru_cache(maxsize=64)
def fraction(stamp: bytes) -> int:
    """The nanoseconds of a record's time within its second."""
    digits = re.search(rb"\.(\d+)", stamp)
    return int(digits[1][:9].ljust(9, b"0")) if digits else 0


class Run(NamedTuple):
    """Records that follow each other and have the same head: mostly those of one read."""

    stamp: bytes
    stream: Stream
    texts: list[bytes]  # without their newlines, but for the last one's if the program wrote it

    def joined(self) -> bytes:
        return self.texts[0] if len(self.texts) == 1 else b"\n".join(self.texts)

    def records(self) -> list[LogRecord]:
        at, nanoseconds, stream = moment(self.stamp), fraction(self.stamp), self.stream
        records = [LogRecord(at, stream, text + b"\n", nanoseconds) for text in self.texts[:-1]]
        records.append(LogRecord(at, stream, self.texts[-1], nanoseconds))
        return records


class Lines:
    """Makes whole lines of records that are pieces, of each stream by itself."""

    def __init__(self) -> None:
        self._begun: dict[Stream, list[LogRecord]] = {}  # the pieces of a line whose end has not come
        self._sizes: dict[Stream, int] = {}

    def add(self, record: LogRecord) -> Iterator[LogRecord]:
        """The next record, in the order of the log; the lines that it ends, or that have become too long."""
        stream, data = record.stream, record.data
        if self._begun.get(stream) and self._sizes[stream] + len(data) > MAX_LINE:
            yield self._take(stream)
        ends = data.endswith(b"\n")
        if ends and stream not in self._begun:
            yield record
            return
        self._begun.setdefault(stream, []).append(record)
        self._sizes[stream] = self._sizes.get(stream, 0) + len(data)
        if ends:
            yield self._take(stream)

    def rest(self) -> list[LogRecord]:
        """The lines that have begun, without their ends: before a gap, and when nothing more comes."""
        found = [self._take(stream) for stream in list(self._begun)]
        return sorted(found, key=lambda record: (record.at, record.nanoseconds))

    def _take(self, stream: Stream) -> LogRecord:
        pieces = self._begun.pop(stream)
        del self._sizes[stream]
        last = pieces[-1]
        return LogRecord(last.at, stream, b"".join(piece.data for piece in pieces), last.nanoseconds)


def runs(block: bytes) -> Iterator[Run | None]:
    """The records of a block of whole lines; None for one or more lines that are no records.

    Most of a long log is lines that were read at once, and differ in their text only: those are taken apart at
    their common head, which is several times faster than one by one.
    """
    position, end = 0, len(block)
    window = NEAR
    damaged = False
    while position < end:
        head = HEAD.match(block, position)
        newline = block.index(b"\n", position)
        if head is None:
            if not damaged:
                yield None
            damaged = True
            position = newline + 1
            continue
        damaged = False
        stamp, stream, tag = head.groups()
        text = head.end()
        if tag == b"P":
            if text < newline:  # an empty one tells nothing: see LogWriter
                yield Run(stamp, _STREAMS[stream], [block[text:newline]])
            position = newline + 1
            continue
        separator = b"\n" + head[0]
        texts = []
        if block.startswith(separator, newline):
            last = block.rfind(separator, newline, newline + window)
            last = block.index(b"\n", last + len(separator))
            body = block[text : last + 1]
            texts = body.split(separator)
            if len(texts) == body.count(b"\n"):
                newline = last
                window = FAR if block.startswith(separator, last) else NEAR
            else:  # something else stands between: a coarse clock gave one time to several reads
                texts = []
        yield Run(stamp, _STREAMS[stream], texts or [block[text : newline + 1]])
        position = newline + 1


def all_of_the_other(block: bytes, stream: Stream) -> bool:
    """Whether no record of a block can be this stream's, seen without taking it apart."""
    own, other = (b" stdout ", b" stderr ") if stream == "stdout" else (b" stderr ", b" stdout ")
    return own not in block and other in block


def joined(
    block: bytes | LogGap | list[LogRecord | LogGap], since: datetime | None
) -> Iterator[tuple[Stream, bytes] | LogGap]:
    """The data of a block, in as few pieces as their order allows."""
    if isinstance(block, LogGap):
        yield block
        return
    parts: list[bytes] = []
    current: Stream | None = None
    for item in block if isinstance(block, list) else runs(block):
        gap = item is None or isinstance(item, LogGap)
        if current is not None and (gap or current != item.stream):  # type: ignore[union-attr]  # not a gap
            yield current, b"".join(parts)
            parts, current = [], None
        if item is None or isinstance(item, LogGap):
            yield item or LogGap(DAMAGE)
        elif since is None or (moment(item.stamp) if isinstance(item, Run) else item.at) >= since:
            current = item.stream
            parts.append(item.joined() if isinstance(item, Run) else item.data)
    if current is not None:
        yield current, b"".join(parts)
