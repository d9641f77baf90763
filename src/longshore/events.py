"""Events: what happened to containers, in one ordered, resumable stream; and the journal that keeps it.

One journal per store: segments of JSON lines, numbered by a sequence without holes. A line is appended under
the journal's lock, so that every program sees one order. The format is in docs/state.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from .compute import Exit, now
from .files import open_lock, store_error, try_lock

SEGMENT_SIZE = 4 << 20  # bytes after which a new segment begins
SEGMENTS_KEPT = 8

EventType = Literal[
    "start-container", "pause", "resume", "exit", "exit-process", "restore", "oom", "delete"
]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One state change. `seq` is its place in the journal and the cursor for `events(since=)`.

    `container` is the id, `uid` tells two containers apart that had the same id one after the other; `process`
    is the name of the process that an `exit` or `exit-process` is about.
    """

    seq: int
    at: datetime
    type: EventType
    container: str
    uid: str = ""
    process: str | None = None
    exit: Exit | None = None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Events `since` to `until` (both included) were dropped by age: what happened then is not known any more."""

    since: int
    until: int


class Position(msgspec.Struct, frozen=True):
    """A place in the journal: segment and offset."""

    segment: int = 0
    offset: int = 0


class _Line(msgspec.Struct):
    seq: int


class Journal:
    """The files of the journal. All calls are short and synchronous: a few system calls on local files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = directory / "lock"

    def segments(self) -> list[int]:
        """Numbers of the segments there are, oldest first."""
        return sorted(int(name[:-6]) for name in os.listdir(self.directory) if name.endswith(".jsonl"))

    def path(self, segment: int) -> Path:
        return self.directory / f"{segment:010d}.jsonl"

    def end(self) -> Position:
        """Where the next line will be, or be after."""
        segments = self.segments()
        if not segments:
            return Position()
        with suppress(FileNotFoundError):
            return Position(segments[-1], os.path.getsize(self.path(segments[-1])))
        return Position(segments[-1], 0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = open_lock(self._lock)
        try:
            if not try_lock(fd):
                import fcntl

                # held by another program for the length of one write; never across anything that waits
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def append(
        self,
        type: EventType,
        container: str,
        uid: str,
        *,
        process: str | None = None,
        exit: Exit | None = None,
        at: datetime | None = None,
        unless_since: Position | None = None,
    ) -> int:
        """Append one event and return its number.

        With `unless_since`, an event of the same type, container and process that stands after that position is
        taken for it: so that what a program that died had already told is not told twice.
        """
        try:
            with self._locked():
                if unless_since is not None:
                    for event in self._read_from(unless_since):
                        if (event.type, event.uid, event.process) == (type, uid, process):
                            return event.seq
                segment, size, seq = self._tail()
                event = Event(
                    seq=seq + 1, at=at or now(), type=type, container=container, uid=uid, process=process, exit=exit
                )
                if size >= SEGMENT_SIZE:
                    segment += 1
                    self._drop_old(segment)
                self._write(segment, msgspec.json.encode(event) + b"\n")
                return event.seq
        except OSError as error:
            raise store_error(f"write the journal in {self.directory}", error) from error

    def _write(self, segment: int, line: bytes) -> None:
        fd = os.open(self.path(segment), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(fd).st_size
            written = os.write(fd, line)
            if written != len(line):
                os.ftruncate(fd, size)
                raise OSError(28, os.strerror(28))
        finally:
            os.close(fd)

    def _drop_old(self, newest: int) -> None:
        for segment in self.segments():
            if segment <= newest - SEGMENTS_KEPT:
                with suppress(FileNotFoundError):
                    self.path(segment).unlink()

    def _tail(self) -> tuple[int, int, int]:
        """The newest segment, its size and the last number; a line torn by a crash is cut off."""
        segments = self.segments()
        if not segments:
            return 1, 0, 0
        for segment in reversed(segments):
            path = self.path(segment)
            with open(path, "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                position = max(0, size - 65536)
                file.seek(position)
                tail = file.read()
                whole = tail.rfind(b"\n") + 1
                if whole != len(tail):
                    size = position + whole
                    file.truncate(size)
                lines = tail[:whole].splitlines()
            for line in reversed(lines):
                with suppress(msgspec.MsgspecError):
                    return segments[-1], (size if segment == segments[-1] else 0), msgspec.json.decode(line, type=_Line).seq
        return segments[-1], 0, 0

    def _read_from(self, position: Position) -> Iterator[Event]:
        for segment in self.segments():
            if segment >= position.segment:
                offset = position.offset if segment == position.segment else 0
                yield from self._read_segment(segment, offset)

    def _read_segment(self, segment: int, offset: int) -> Iterator[Event]:
        try:
            with open(self.path(segment), "rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            with suppress(msgspec.MsgspecError):
                yield msgspec.json.decode(line, type=Event)


class JournalReader:
    """Reads a journal from a cursor on; `read` gives what is new since the last call."""

    def __init__(self, journal: Journal, since: int | None) -> None:
        self._journal = journal
        self._next: int | None = None if since is None else since + 1
        if since is None:
            self._position = journal.end()
        else:
            self._position = Position(self._first_segment(since), 0)

    def _first_segment(self, since: int) -> int:
        """The newest segment that begins at or before the event after `since`."""
        found = 0
        for segment in self._journal.segments():
            first = next(self._journal._read_segment(segment, 0), None)
            if first is None or (found and first.seq > since + 1):
                break
            found = segment
        return found

    def read(self) -> list[Event | Gap]:
        """The events since the last call, in order; a Gap where some were dropped by age."""
        found: list[Event | Gap] = []
        for segment in self._journal.segments():
            if segment < self._position.segment:
                continue
            offset = self._position.offset if segment == self._position.segment else 0
            try:
                with open(self._journal.path(segment), "rb") as file:
                    file.seek(offset)
                    data = file.read()
            except FileNotFoundError:
                continue
            whole = data[: data.rfind(b"\n") + 1]
            self._position = Position(segment, offset + len(whole))
            for line in whole.splitlines():
                try:
                    event = msgspec.json.decode(line, type=Event)
                except msgspec.MsgspecError:
                    continue
                if self._next is not None and event.seq < self._next:
                    continue
                if self._next is not None and event.seq > self._next:
                    found.append(Gap(since=self._next, until=event.seq - 1))
                self._next = event.seq + 1
                found.append(event)
        return found
