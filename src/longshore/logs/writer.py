"""Writing the log of a container whose output no monitor keeps."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from ..fs.files import open_file, replace_open
from .format import Stream
from .rotation import BLOCK, read_at

PIECE = 1 << 13  # bytes that LogWriter gives one time, as conmon does


class LogWriter:
    """Writes a log as conmon does, for services without a monitor; one writer per log. Calls are short and blocking.

    A write that fails (the disk is full) costs output, not the container: it is not raised, and a note in the log
    becomes a LogGap. When `limit` bytes would be exceeded, a new file takes the place of the log. The old one then
    ends with an empty record that has the time of the new one's first: who cannot count renames knows by it that
    no file came between. Where a reader keeps a file from being replaced (on Windows, one that opened it by other
    means than LogReader), the log grows to twice its limit and is then emptied in place.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._patience = limit  # the size at which the next attempt to replace the file is made
        self._time = 0
        self._note = b""
        self._fd = -1
        self._size = 0
        self._open()
        self._mend()

    def write(self, stream: Stream, data: bytes | bytearray | memoryview) -> None:
        """Append what was read from one stream at one moment."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            self._write(stream, bytes(view[start : start + PIECE]))

    def close(self) -> None:
        """Close the file. All was written already. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = open_file(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size

    def _mend(self) -> None:
        """Cut off a record that a writer which was killed did not end."""
        start = max(0, self._size - BLOCK)
        data = read_at(self._fd, self._size - start, start)
        if data and not data.endswith(b"\n"):
            self._size = start + data.rfind(b"\n") + 1
            os.ftruncate(self._fd, self._size)
            self._note = b"# the end of a record was lost\n"

    def _write(self, stream: Stream, data: bytes) -> None:
        stamp = self._next_stamp()
        head = b"%s %s " % (stamp, stream.encode())
        full, newline, rest = data.rpartition(b"\n")
        text = head + b"F " + full.replace(b"\n", b"\n" + head + b"F ") + b"\n" if newline else b""
        if rest:
            text += head + b"P " + rest + b"\n"
        if len(text) > self._limit // 4 and len(data) > 1:  # many short lines: one write must not fill a file
            self._write(stream, data[: len(data) // 2])
            self._write(stream, data[len(data) // 2 :])
            return
        seal = head + b"P \n"
        try:
            if self._size + len(text) + len(seal) > self._patience:
                self._begin_anew(seal)
            self._append(self._note + text)
            self._note = b""
        except OSError as error:
            self._note = b"# output was lost: %s\n" % (error.strerror or "error").encode(errors="replace")

    def _append(self, text: bytes) -> None:
        written = os.write(self._fd, text)
        if written < len(text):
            os.ftruncate(self._fd, self._size)  # a part of a record would spoil the next
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def _begin_anew(self, seal: bytes) -> None:
        with suppress(OSError):  # a disk that is full may have room again afterwards
            self._append(seal)
        fresh = self._path.with_name(f"{self._path.name}.tmp")
        os.close(open_file(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        self.close()
        try:
            replace_open(fresh, self._path)
        except PermissionError:
            with suppress(OSError):
                os.unlink(fresh)
            self._open()
            self._patience = self._size + max(self._limit // 8, 1)
            if self._size >= 2 * self._limit:
                os.ftruncate(self._fd, 0)
                self._size, self._patience = 0, self._limit
                self._note = b"# what was here before is lost\n"
            return
        except OSError:
            self._open()
            raise
        self._patience = self._limit
        self._open()

    def _next_stamp(self) -> bytes:
        """The time now; never the same twice, however coarse the clock is."""
        self._time = max(time.time_ns(), self._time + 1)
        seconds, nanoseconds = divmod(self._time, 1_000_000_000)
        return b"%s.%09d+00:00" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode(), nanoseconds)


__all__ = ["LogWriter"]
