"""The file that is a container's log, and those that replace it when it has reached its bound.

How conmon bounds a log (2.1.6: read in its source and seen with strace; later versions with `--log-size-max` alone
do the same): when a record would take the file past the bound, it writes what it holds, closes the file, makes
`<log>.tmp` and renames that over the log. The file that is replaced is then complete, and gone but for those who
have it open: nothing is copied. All records of one read (8 KiB) bear one time, so that a time may stand on both
sides of a replacement. A record may be written in two steps: a reader may see its first half.

So a follower keeps its descriptor, and goes on in the next file when it has read to the end of this one. Whether
one came and went in between is known by counting renames over the log. The number of an inode proves nothing: ext4
gives the same two in turn. Hence the mark on the first file.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ..fs.files import open_file
from ..fs.watching import DirectoryWatch
from .format import BOUND, DAMAGE, FAR_BACK, GONE, HEAD, TORN, TRUNCATED, LogGap, LogRecord, Stream, moment, runs

BLOCK = 1 << 18  # bytes that are read at once; a record is much smaller
HELD = 4  # replaced files that a follower keeps open until it has read them: what it may lag behind
PATIENCE = 1 << 22  # bytes that `tail` looks back for the beginning of a line that it shows


def mark_first(path: Path) -> int | None:
    """Mark a log that nothing was lost of yet; the inode that LogReader wants as `expected_inode`.

    None if there is no such file. The mark is the sticky bit, which files that replace the log do not have.
    On Windows a file's number is never given again, and is enough.
    """
    try:
        found = os.stat(path)
        if os.name == "posix":
            os.chmod(path, stat.S_IMODE(found.st_mode) | stat.S_ISVTX)
    except OSError:
        return None
    return found.st_ino


def is_first(found: os.stat_result, expected_inode: int) -> bool:
    """Whether this is the file that was there when the container was made: nothing was dropped before it."""
    return found.st_ino == expected_inode and (os.name != "posix" or bool(found.st_mode & stat.S_ISVTX))


def read_at(fd: int, size: int, offset: int) -> bytes:
    """At most `size` bytes that stand at `offset`."""
    os.lseek(fd, offset, os.SEEK_SET)  # os.pread is not everywhere; nobody else has this descriptor
    return os.read(fd, size)


class _File:
    """One file that is, or was, the log; `offset` is where the first record stands that was not read yet."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.found = os.fstat(fd)
        self.offset = 0
        self.before: Literal["", "gap", "doubt"] = ""  # what may be missing between the file before and this one

    @property
    def identity(self) -> tuple[int, int]:
        return self.found.st_dev, self.found.st_ino

    def size(self) -> int:
        return os.fstat(self.fd).st_size


class RotatingLog:
    """The log, and the files that replaced it one after the other; `read` goes through them in order.

    All is synchronous: a few system calls on a local file, at most a block of which is read at once.
    """

    def __init__(self, path: Path, expected_inode: int | None, *, follow: bool) -> None:
        self._path = path
        self._expected = expected_inode
        self._files: deque[_File] = deque()
        self._gap = ""  # to be told before anything else
        self._stamp = b""  # of the last record that was read
        self._moves = 0  # renames over the log that are accounted for
        self._begun = False  # the first file was found
        self._watch: DirectoryWatch | None = None
        self.closed = False
        try:
            if follow:
                self._watch = DirectoryWatch(path.parent, moves_to=path.name)
            self._open_first()
        except BaseException:
            self.close()
            raise
        for file in self._files:
            if expected_inode is not None and not is_first(file.found, expected_inode):
                file.before = "gap"
        # without following, the end is where it is now: a fast writer must not keep a reader for ever
        self._end = None if follow or not self._files else self._files[0].size()

    def close(self) -> None:
        """Idempotent; who waits for a change is woken."""
        self.closed = True
        while self._files:
            os.close(self._files.popleft().fd)
        if self._watch is not None:
            self._watch.close()

    def _open_first(self) -> None:
        """Open the log that there is now, and begin to count from there."""
        while True:
            self._moves = self._count()
            self._begun = self._open_new()
            if self._count() == self._moves:
                return
            while self._files:  # replaced this very moment: the count may or may not be about what we opened
                os.close(self._files.pop().fd)

    def _count(self) -> int:
        return 0 if self._watch is None else self._watch.moves() or 0

    def _open_new(self) -> bool:
        """Open what stands at the path, unless it is the newest file that we have."""
        try:
            if self._files:
                found = os.stat(self._path)
                if (found.st_dev, found.st_ino) == self._files[-1].identity:
                    return False
            fd = open_file(self._path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            file = _File(fd)
        except BaseException:
            os.close(fd)
            raise
        if self._files and file.identity == self._files[-1].identity:
            os.close(fd)
            return False
        self._files.append(file)
        return True

    def look(self, entering: _File | None = None) -> bool:
        """Find what has replaced the log since the last look, and whether something came and went unseen.

        True if there is a file that was not there before. `entering` is a file of which nothing was told yet.
        """
        if self.closed or self._watch is None or len(self._files) >= HELD:
            return False  # what comes meanwhile is counted, and told with the next that is opened
        fresh: list[_File] = []
        first = not self._begun
        while True:
            while self._open_new():
                fresh.append(self._files[-1])
                self._moves += self._begun  # by a rename; only the very first is made in place
                self._begun = True
            moves = self._watch.moves()
            if moves is None:  # nobody counts: whether a file came between is seen at the seam, if at all
                for file in fresh[1:] if first else fresh:
                    file.before = "doubt"
                self._moves = self._count()
                break
            if moves <= self._moves:
                break  # less: a rename that we saw before we heard of it
            if not self._open_new():
                # the newest is the newest, and yet there were more renames than files that we saw
                self._moves = moves
                for file in fresh:  # before which of them, if there are several, nobody knows
                    file.before = "gap"
                if not fresh and entering is not None:
                    entering.before = "gap"
                elif not fresh:
                    self._gap = BOUND
                break
            fresh.append(self._files[-1])
            self._moves += 1
        if first and fresh and self._expected is not None and not is_first(fresh[0].found, self._expected):
            fresh[0].before = "gap"
        return bool(fresh)

    def read(self) -> bytes | LogGap | None:
        """The next whole lines, or a gap; None if there is nothing more now."""
        if self._gap:
            reason, self._gap = self._gap, ""
            return LogGap(reason)
        while self._files:
            file = self._files[0]
            want = BLOCK if self._end is None else min(BLOCK, self._end - file.offset)
            data = read_at(file.fd, want, file.offset) if want > 0 else b""
            whole = data.rfind(b"\n") + 1
            if whole:
                if file.offset == 0:
                    # a rename can be seen a moment before it is told of; one that is written to has been told of
                    self.look(file)
                if file.before:
                    certain = file.before == "doubt" and data[:64].partition(b" ")[0] == self._stamp
                    file.before = ""
                    if not certain:
                        return LogGap(BOUND)
                file.offset += whole
                last = data.rfind(b"\n", 0, whole - 1) + 1
                self._stamp = data[last : last + 64].partition(b" ")[0]
                return data if whole == len(data) else data[:whole]
            if len(data) == BLOCK:  # no record is that long
                file.offset += BLOCK
                return LogGap(DAMAGE)
            if len(self._files) > 1:
                self._leave(file)
                if data:
                    return self._torn(data)
                continue
            if not data and self._end is None and file.size() < file.offset:
                file.offset = 0
                return LogGap(TRUNCATED)
            return None
        return None

    def _leave(self, file: _File) -> None:
        """Go on to the next file: this one was replaced before we read it to its end, so nothing more comes here."""
        self._files.popleft()
        os.close(file.fd)
        if file.before:
            self._files[0].before = "gap"

    def _torn(self, data: bytes) -> bytes | LogGap:
        """A record without its end that will not come any more: what there is of its text, and then a gap."""
        head = HEAD.match(data)
        if head is None:
            return LogGap(TORN)
        self._gap = TORN
        return data[: head.start(3)] + b"P " + data[head.end() :] + b"\n"

    def finish(self) -> Iterator[bytes | LogGap]:
        """What is left when nothing more will be written."""
        if not self._files:
            if self._expected is not None and not self.closed:
                yield LogGap(GONE)
            return
        file = self._files[0]
        if file.before:
            file.before = ""
            yield LogGap(BOUND)
        if self._end is not None:
            return  # it may be ended yet
        if data := read_at(file.fd, BLOCK, file.offset):
            file.offset += len(data)
            yield self._torn(data)
        if self._gap:
            yield LogGap(self._gap)

    async def change(self, until: asyncio.Future[Any]) -> None:
        """Return when something has changed, or `until` is done."""
        assert self._watch is not None
        waiting = asyncio.ensure_future(self._watch.changed())
        try:
            await asyncio.wait((waiting, until), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    # where to begin

    def from_now(self) -> None:
        """Pass over all that there is; a record that is just being written is still to come."""
        if self._files:
            file = self._files[0]
            file.before = ""
            size = file.size()
            file.offset = size
            while file.offset > 0:
                start = max(0, file.offset - BLOCK)
                newline = read_at(file.fd, file.offset - start, start).rfind(b"\n")
                file.offset = start if newline < 0 else start + newline + 1
                if newline >= 0:
                    break

    def from_time(self, since: datetime) -> None:
        """Tell of nothing that was lost before `since`."""
        for file in list(self._files)[:1]:
            head = HEAD.match(read_at(file.fd, 128, 0))
            if file.before and head is not None and moment(head[1]) < since:
                file.before = ""

    def tail(self, lines: int) -> list[LogRecord | LogGap]:
        """The records of the last lines; `read` goes on after them."""
        self.from_now()
        if not self._files:
            return []
        file = self._files[0]
        lost = self._expected is not None and not is_first(file.found, self._expected)
        tail = _Tail(lines)
        position = file.offset
        rest = b""  # the end of a line whose beginning is further back
        while position > 0 and not tail.complete and not tail.tired:
            start = max(0, position - BLOCK // 4)
            data = read_at(file.fd, position - start, start) + rest
            position = start
            begin = data.find(b"\n") + 1 if start > 0 else 0
            rest = data[:begin]
            tail.add(data[begin:])
            if len(rest) > BLOCK:  # no record is that long
                tail.tired = DAMAGE
        found = tail.found[::-1]
        if not tail.complete and (tail.tired or lost):
            found.insert(0, LogGap(tail.tired or BOUND))
        return found


class _Tail:
    """Picks the last lines from records that come backwards. A line is its last record and the parts before it."""

    def __init__(self, lines: int) -> None:
        self.found: list[LogRecord | LogGap] = []  # newest first
        self._lines = lines
        self._taking: dict[Stream, bool] = {}  # whether the line whose end we saw last is one of ours
        self._beyond = 0  # bytes that were searched for beginnings only
        self.tired = ""  # why the search was given up

    @property
    def complete(self) -> bool:
        """Nothing further back is wanted."""
        return self._lines == 0 and not any(self._taking.values())

    def add(self, block: bytes) -> None:
        """Whole lines that stand before those of the last call."""
        for run in reversed(list(runs(block))):
            if run is None:
                if self.found and not isinstance(self.found[-1], LogGap) and not self.complete:
                    self.found.append(LogGap(DAMAGE))
                continue
            for record in reversed(run.records()):
                stream = record.stream
                if record.data.endswith(b"\n") or stream not in self._taking:
                    self._taking[stream] = self._lines > 0
                    self._lines -= self._taking[stream]
                if self._taking[stream]:
                    self.found.append(record)
            if self.complete:
                return
        if self._lines == 0:
            self._beyond += len(block)
            if self._beyond > PATIENCE:
                self.tired = FAR_BACK
