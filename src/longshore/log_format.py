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
    """What a program wrote to one stream, up to a newline or to the end of what the monitor read.

    `data` is exact: it ends with a newline if the program wrote one, so that the data of one stream, joined, is
    what the program wrote. `stamp` is the time as it stands in the log; `at` is that time.
    """

    stamp: bytes
    stream: Stream
    data: bytes

    @property
    def at(self) -> datetime:
        """When the output was read from the program, in UTC."""
        return moment(self.stamp)


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


class Run(NamedTuple):
    """Records that follow each other and have the same head: mostly those of one read."""

    stamp: bytes
    stream: Stream
    texts: list[bytes]  # without their newlines, but for the last one's if the program wrote it

    def joined(self) -> bytes:
        return self.texts[0] if len(self.texts) == 1 else b"\n".join(self.texts)

    def records(self) -> list[LogRecord]:
        stamp, stream = self.stamp, self.stream
        records = [LogRecord(stamp, stream, text + b"\n") for text in self.texts[:-1]]
        records.append(LogRecord(stamp, stream, self.texts[-1]))
        return records


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
        elif since is None or moment(item.stamp) >= since:
            current = item.stream
            parts.append(item.joined() if isinstance(item, Run) else item.data)
    if current is not None:
        yield current, b"".join(parts)
