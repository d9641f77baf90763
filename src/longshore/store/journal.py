"""Events: what happened to containers, in one ordered, resumable stream; and the journal that keeps it.

One journal per store: segments of JSON lines, numbered by a sequence whose only holes are between two boots. Lines are
appended under the journal's lock, so that every program sees one order. docs/events.md says what users may rely on; the
format is in docs/state.md.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from ..compute.events import Event, EventType, Gap
from ..compute.values import now
from ..errors import InvalidSpec
from ..exit_record import Exit
from ..fs.files import open_file, read_whole, short_lock, store_error, sync
from ..typed_json import decoder

SEGMENT_SIZE = 4 << 20  # bytes after which a new segment begins
SEGMENTS_KEPT = 8
LEFT_OUT = 1_000_000  # numbers at the first event of a boot: more than a loss of power can have taken
TAIL = 1 << 12  # bytes in which the last line is looked for first


class Position(msgspec.Struct, frozen=True):
    """A place in the journal: segment and offset."""

    segment: int = 0
    offset: int = 0


class NewEvent(msgspec.Struct, frozen=True):
    """What an event will say, before it has its number."""

    type: EventType
    at: datetime | None = None
    process: str | None = None
    exit: Exit | None = None


class _Line(msgspec.Struct):
    seq: int


class _Boot(msgspec.Struct):
    """The boot that events were last told in: all of it have numbers above `base`."""

    boot: str
    base: int


# what is no event is a ValueError: msgspec's own, or that of bytes which are no UTF-8
_EVENT = decoder(Event)
_LINE = decoder(_Line)
_BOOT = decoder(_Boot)
_ENCODER = msgspec.json.Encoder()


class Journal:
    """The files of the journal. All calls are short and synchronous: a few system calls on local files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.boot = ""  # this boot of the machine, if it can be told from others
        self._lock = str(directory / "lock")
        self._boot_path = str(directory / "boot")
        self._base: int | None = None  # of this boot, once it is known
        self._known: tuple[int, int, int] | None = None  # segment, its size and the last number, as we last saw them

    def segments(self) -> list[int]:
        """Numbers of the segments there are, oldest first."""
        names = (name.removesuffix(".jsonl") for name in os.listdir(self.directory) if name.endswith(".jsonl"))
        return sorted(int(name) for name in names if len(name) == 10 and name.isascii() and name.isdigit())

    def path(self, segment: int) -> str:
        """The file of a segment."""
        return f"{self.directory}/{segment:010d}.jsonl"

    def end(self) -> Position:
        """Where the next line will be, or be after."""
        segments = self.segments()
        if not segments:
            return Position()
        with suppress(FileNotFoundError):
            return Position(segments[-1], os.stat(self.path(segments[-1])).st_size)
        return Position(segments[-1], 0)

    def append(self, container: str, uid: str, *news: NewEvent, unless_since: Position | None = None) -> None:
        """Append events of one container, in this order and with nothing between them.

        With `unless_since`, one of the same type and process that stands after that position is taken for it, so
        that what a program that died had already told is not told twice. StoreError: then none was appended.
        """
        try:
            with short_lock(self._lock):  # blocks: others hold it for the length of one write
                if unless_since is not None:
                    told = {(event.type, event.process) for event in self.about(uid, unless_since)}
                    news = tuple(item for item in news if (item.type, item.process) not in told)
                if not news:
                    return
                segment, size, seq = self._tail()
                seq = max(seq, self._begin())
                lines = b""
                for item in news:
                    seq += 1
                    event = Event(
                        seq=seq,
                        at=item.at or now(),
                        type=item.type,
                        container=container,
                        uid=uid,
                        process=item.process,
                        exit=item.exit,
                    )
                    lines += _ENCODER.encode(event) + b"\n"
                if size >= SEGMENT_SIZE:
                    segment, size = segment + 1, 0
                    self._drop_old(segment)
                self._write(segment, lines, size)
                self._known = (segment, size + len(lines), seq)
        except OSError as error:
            raise store_error(f"write the journal in {self.directory}", error) from error

    def begin(self, limit: float) -> None:
        """Have no number given in this boot that an earlier one may have given, and lost with the power.

        That is on the disk then, unless the disk takes longer than `limit` seconds. It blocks. OSError, StoreError.
        """
        with short_lock(self._lock):
            self._begin()
        syncing = threading.Thread(
            target=sync, args=(self._boot_path, self.directory), name="longshore-sync", daemon=True
        )
        with suppress(RuntimeError):  # no thread to be had
            syncing.start()
            syncing.join(limit)

    def _begin(self) -> int:
        """What all numbers of this boot are above. The lock is held."""
        if self._base is None:
            known, there = self._last_boot()
            base = 0 if known is None else known.base
            if self.boot and (known is None or known.boot != self.boot):
                last = max(self.last(), base)
                base = last + LEFT_OUT if last or there else 0
                with suppress(OSError):  # then each program leaves out some, which harms nobody
                    self._write_boot(_ENCODER.encode(_Boot(self.boot, base)))
            self._base = base
        return self._base

    def _last_boot(self) -> tuple[_Boot | None, bool]:
        """The boot that events were last told in, if that can be read; and whether there may have been any."""
        try:
            return _BOOT.decode(read_whole(self._boot_path)), True
        except FileNotFoundError:
            return None, False
        except (OSError, ValueError):
            return None, True

    def _write_boot(self, data: bytes) -> None:
        # in its place: a temporary file could be left here, and half of it is as good as none
        fd = open_file(self._boot_path, os.O_WRONLY | os.O_CREAT)
        try:
            os.write(fd, data)
            os.ftruncate(fd, len(data))
        finally:
            os.close(fd)

    def base(self) -> int:
        """A number that may be taken for that of an event, though none with it or one below is there any more."""
        if self._base is not None:
            return self._base
        known, _ = self._last_boot()
        return 0 if known is None else known.base

    def _write(self, segment: int, lines: bytes, size: int) -> None:
        fd = open_file(self.path(segment), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if os.write(fd, lines) != len(lines):
                os.ftruncate(fd, size)
                raise OSError(28, os.strerror(28))
        finally:
            os.close(fd)

    def _drop_old(self, newest: int) -> None:
        for segment in self.segments():
            if segment <= newest - SEGMENTS_KEPT:
                with suppress(FileNotFoundError, PermissionError):  # Windows, while it is read: the next time
                    os.unlink(self.path(segment))

    def _tail(self) -> tuple[int, int, int]:
        """The newest segment, its size and the last number; a line torn by a crash is cut off."""
        segments = self.segments()
        if not segments:
            return 1, 0, 0
        newest = segments[-1]
        known = self._known
        if known is not None and known[0] == newest and os.stat(self.path(newest)).st_size == known[1]:
            return known
        size = self._cut_torn(newest)
        for segment in reversed(segments):
            seq = self._last_number(segment)
            if seq is not None:
                return newest, size, seq
        return newest, size, 0

    def _cut_torn(self, segment: int) -> int:
        """Cut off what a program that was killed in the middle of a write left; returns the size."""
        with open(self.path(segment), "r+b", buffering=0, opener=open_file) as file:
            size = file.seek(0, os.SEEK_END)
            back = min(size, TAIL)
            while True:
                file.seek(size - back)
                tail = file.read(back)
                whole = tail.rfind(b"\n") + 1
                if whole or back == size:
                    break
                back = min(size, back * 16)
            if whole != len(tail):
                size = size - back + whole
                file.truncate(size)
            return size

    def _last_number(self, segment: int) -> int | None:
        """The number of the last line of a segment that can be read; None if there is none."""
        with open(self.path(segment), "rb", buffering=0, opener=open_file) as file:
            size = file.seek(0, os.SEEK_END)
            back = min(size, TAIL)
            while back:
                file.seek(size - back)
                lines = file.read(back).splitlines()
                for line in reversed(lines if back == size else lines[1:]):
                    with suppress(ValueError):
                        return _LINE.decode(line).seq
                if back == size:
                    return None
                back = min(size, back * 16)
        return None

    def about(self, uid: str, since: Position) -> Iterator[Event]:
        """The events of one container that stand after a position. Skims: 20 MB are milliseconds."""
        return (event for event in self._with(uid.encode(), since) if event.uid == uid)

    def latest_of(self, container: str) -> list[Event]:
        """The events of the last container that had this id, as far as they are kept."""
        found: list[Event] = []
        for event in self._with(f'"{container}"'.encode(), Position()):
            if event.container == container:
                if found and found[-1].uid != event.uid:
                    found.clear()
                found.append(event)
        return found

    def _with(self, mark: bytes, since: Position) -> Iterator[Event]:
        for segment in self.segments():
            if segment < since.segment:
                continue
            try:
                with open(self.path(segment), "rb", buffering=0, opener=open_file) as file:
                    file.seek(since.offset if segment == since.segment else 0)
                    data = file.readall()
            except FileNotFoundError:
                continue
            found = data.find(mark)
            while found >= 0:
                end = data.find(b"\n", found)
                if end < 0:
                    break
                with suppress(ValueError):
                    yield _EVENT.decode(data[data.rfind(b"\n", 0, found) + 1 : end])
                found = data.find(mark, end)

    def first_of(self, segment: int) -> int | None:
        """The number of the first line of a segment that can be read; None if there is none."""
        try:
            with open(self.path(segment), "rb", opener=open_file) as file:
                for line in file:
                    with suppress(ValueError):
                        return _LINE.decode(line).seq
        except FileNotFoundError:
            pass
        return None

    def last(self) -> int:
        """The number of the last event; 0 if there was none yet."""
        for segment in reversed(self.segments()):
            with suppress(FileNotFoundError):
                seq = self._last_number(segment)
                if seq is not None:
                    return seq
        return 0


class JournalReader:
    """Reads a journal from a cursor on; `read` gives what is new since the last call.

    `since` is the number of the last event that is known, 0 for none, None for "from now on".
    """

    def __init__(self, journal: Journal, since: int | None) -> None:
        self._journal = journal
        if since is None:
            last, self._position = self._now()
            self._next = max(last, journal.base()) + 1
            return
        if since < 0 or since > max(journal.last(), journal.base()):
            raise InvalidSpec(
                "since", f"no event has the number {since}", hint="use 0, or the number of the last event that was seen"
            )
        self._position = Position(self._first_segment(since), 0)
        self._next = since + 1

    def _now(self) -> tuple[int, Position]:
        """The number of the last event, and the position after it."""
        while True:
            last, position = self._journal.last(), self._journal.end()
            if self._journal.last() == last:
                return last, position

    def _first_segment(self, since: int) -> int:
        """The newest segment that begins at or before the event after `since`."""
        found = 0
        for segment in self._journal.segments():
            first = self._journal.first_of(segment)
            if first is None:
                continue
            if found and first > since + 1:
                break
            found = segment
        return found

    def read(self) -> list[Event | Gap]:
        """The events since the last call, in order; a Gap where some are not known any more."""
        found: list[Event | Gap] = []
        for segment in self._journal.segments():
            if segment < self._position.segment:
                continue
            offset = self._position.offset if segment == self._position.segment else 0
            try:
                with open(self._journal.path(segment), "rb", buffering=0, opener=open_file) as file:
                    file.seek(offset)
                    data = file.readall()
            except FileNotFoundError:
                continue
            whole = data[: data.rfind(b"\n") + 1]
            self._position = Position(segment, offset + len(whole))
            for line in whole.splitlines():
                try:
                    event = _EVENT.decode(line)
                except ValueError:
                    continue  # its number is missing: told as a Gap by the next
                if event.seq < self._next:
                    continue
                if event.seq > self._next:
                    found.append(Gap(since=self._next, until=event.seq - 1))
                self._next = event.seq + 1
                found.append(event)
        return found


__all__ = ["Event", "EventType", "Gap", "Journal", "JournalReader", "NewEvent", "Position"]
