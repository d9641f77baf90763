"""Streams of simulated processes: pipes in memory with real flow control, the log file, the caller's descriptors.

A pipe here behaves as the kernel's does: it holds only so much, a writer waits for a reader that stops reading,
a reader sees the end when nobody writes any more, and writing where nobody reads is a broken pipe.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from ..aio.streams import WriteEnd, WriteProtocol, writer_of
from ..fs.files import open_file, replace_open

PIPE_SIZE = 1 << 16  # bytes that an input holds, and that a reader holds before the program has to wait
LOG_CHUNK = 8192  # conmon reads so much at a time; each piece gets one time stamp
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
END_OF_TRANSMISSION = b"\x04"  # what a terminal takes for the end of input


class Output:
    """Where a program writes to; this one is /dev/null. `write` returns when all is written."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`; waits while the other side is full. BrokenPipeError if nobody can ever read it."""

    def end(self) -> None:
        """The process has ended: what it wrote stays readable, then comes the end."""

    def cut(self) -> None:
        """Nobody reads any more: writing is a broken pipe from now on."""


class PipeOutput(Output, asyncio.ReadTransport):
    """A pipe to the caller. It ends with its process, also where a grandchild still holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = asyncio.StreamReader(limit=PIPE_SIZE)
        self.reader.set_transport(self)
        self._paused = False
        self._ended = False
        self._waiting: list[asyncio.Future[None]] = []

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if len(data) <= PIPE_SIZE and not self._paused and not self._ended:  # the usual case, without ado
            if data:
                self.reader.feed_data(data)
            return
        view = memoryview(data)
        while view:
            if self._ended:
                raise BrokenPipeError("the read end of this stream is closed")
            if self._paused:
                room = asyncio.get_running_loop().create_future()
                self._waiting.append(room)
                await room
                continue
            self.reader.feed_data(view[:PIPE_SIZE])
            view = view[PIPE_SIZE:]
        if self._ended:
            raise BrokenPipeError("the read end of this stream is closed")

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for room in waiting:
            if not room.done():
                room.set_result(None)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self.reader.feed_eof()
            self._wake()

    cut = end
    close = end  # of the transport

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._wake()

    def is_reading(self) -> bool:
        return not self._paused and not self._ended

    def is_closing(self) -> bool:
        return self._ended


class DescriptorOutput(Output):
    """A file descriptor of the caller's, duplicated: it may close its own at once."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self._fd < 0:
                raise BrokenPipeError("the read end of this stream is closed")
            if self._regular:
                written = os.write(self._fd, view)
            else:
                await _ready(self._fd, writing=True)
                written = os.write(self._fd, view[:512])  # POSIX's least PIPE_BUF: this much does not block
            view = view[written:]

    def end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ContainerLog:
    """A container's log as conmon writes it: `<RFC3339Nano> <stdout|stderr> <P|F> <text>`, P where no newline came.

    When `limit` bytes would be exceeded, it begins anew in a file of its own, as conmon's does.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._fd = -1
        self._size = 0
        self._second = -1
        self._stamp = ""
        os.close(open_file(path, _APPEND))

    def write(self, stream: bytes, data: bytes | bytearray | memoryview) -> None:
        """Append what was read from one stream at one moment, at most LOG_CHUNK bytes."""
        head = b"%s %s " % (self._now(), stream)
        *lines, rest = bytes(data).split(b"\n")
        text = b"".join(b"%sF %s\n" % (head, line) for line in lines)
        if rest:
            text += b"%sP %s\n" % (head, rest)
        try:
            if self._fd < 0:
                self._fd = open_file(self.path, _APPEND)
                self._size = os.fstat(self._fd).st_size
            if self._size + len(text) > self.limit:
                self._begin_anew()
            os.write(self._fd, text)
            self._size += len(text)
        except OSError:
            pass  # a full disk costs log lines, not the container: conmon goes on, too

    def _begin_anew(self) -> None:
        fresh = f"{self.path}.tmp"
        os.close(open_file(fresh, _APPEND | os.O_TRUNC))
        self.close()
        replace_open(fresh, self.path)
        self._fd = open_file(self.path, _APPEND)
        self._size = os.fstat(self._fd).st_size

    def _now(self) -> bytes:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if seconds != self._second:
            self._second = seconds
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return b"%s.%09d+00:00" % (self._stamp.encode(), nanoseconds)

    def close(self) -> None:
        """Let go of the file until the next line."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LogOutput(Output):
    """One stream of a kept container: its monitor reads it at once, so that nobody's reader stalls it."""

    def __init__(self, log: ContainerLog, stream: bytes) -> None:
        self._log = log
        self._stream = stream
        self._cut = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self._cut:
                raise BrokenPipeError("the monitor is gone")
            self._log.write(self._stream, view[:LOG_CHUNK])
            view = view[LOG_CHUNK:]
            if view:
                await asyncio.sleep(0)  # a program that writes much does not keep others from running

    def end(self) -> None:
        self._log.close()

    def cut(self) -> None:
        self._cut = True
        self._log.close()


class Input:
    """A program's standard input: a pipe that the caller's writers feed."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.terminal = terminal
        self._buffer: deque[bytes] = deque()
        self._size = 0
        self._eof = False
        self._broken = False
        self._reading: list[asyncio.Future[None]] = []
        self._writers: set[InputTransport] = set()

    # the program's side

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, as soon as there are any; b"" at the end of input. Without `n`: all, up to the end."""
        if n < 0:
            return await self._read_all()
        while not self._buffer:
            if self._eof or self._broken:
                return b""
            arrived = asyncio.get_running_loop().create_future()
            self._reading.append(arrived)
            await arrived
        data = self._buffer.popleft()
        if len(data) > n:
            self._buffer.appendleft(data[n:])
            data = data[:n]
        self._size -= len(data)
        if self._size < PIPE_SIZE // 2:
            for writer in self._writers:
                writer.room()
        return data

    async def _read_all(self) -> bytes:
        parts = []
        while part := await self.read(PIPE_SIZE):
            parts.append(part)
        return b"".join(parts)

    async def readline(self) -> bytes:
        """One line with its newline; less than that only at the end of input."""
        line = bytearray()
        while not line.endswith(b"\n"):
            data = await self.read(1)
            if not data:
                break
            line += data
        return bytes(line)

    # the other side

    @property
    def full(self) -> bool:
        """Whether the pipe takes no more for now."""
        return self._size > PIPE_SIZE

    def feed(self, data: bytes) -> None:
        """Put data into the pipe."""
        if self._broken or self._eof:
            return
        end = False
        if self.terminal and END_OF_TRANSMISSION in data:
            data = data.partition(END_OF_TRANSMISSION)[0]
            end = True
        if data:
            self._buffer.append(data)
            self._size += len(data)
            self._wake()
        if end:
            self.feed_eof()

    def feed_eof(self) -> None:
        """The last writer has closed it."""
        self._eof = True
        self._wake()

    def _wake(self) -> None:
        reading, self._reading = self._reading, []
        for arrived in reading:
            if not arrived.done():
                arrived.set_result(None)

    def end(self) -> None:
        """The process has ended: whoever still writes gets a broken pipe."""
        if self._broken:
            return
        self._broken = True
        self._buffer.clear()
        for writer in list(self._writers):
            writer.lost()
        self._wake()

    def open_writer(self) -> asyncio.StreamWriter:
        """A StreamWriter of the caller's that feeds this input."""
        return writer_of(self._open_end)

    def _open_end(self, protocol: WriteProtocol) -> InputTransport:
        transport = InputTransport(self, protocol)
        if self._broken:
            transport.lost()
        else:
            self._writers.add(transport)
        return transport

    def forget(self, writer: InputTransport) -> None:
        """One that wrote to it has let go."""
        self._writers.discard(writer)


class DescriptorInput(Input):
    """A file descriptor of the caller's as a program's input, duplicated."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = os.dup(fd)
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)

    async def read(self, n: int = -1) -> bytes:
        if n < 0:
            return await self._read_all()
        if self._fd < 0:
            return b""
        if not self._regular:
            await _ready(self._fd, writing=False)
        return os.read(self._fd, min(n, PIPE_SIZE))

    def end(self) -> None:
        super().end()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class InputTransport(WriteEnd):
    """The caller's end of an input. At a terminal, closing it is not the end of input."""

    def __init__(self, input: Input, protocol: WriteProtocol) -> None:
        super().__init__(protocol)
        self._input = input

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        self._input.feed(bytes(data))
        if self._input.full:
            self._set_full(True)

    def room(self) -> None:
        """Let the writer continue: the program has read."""
        self._set_full(False)

    def lost(self, *, eof: bool = False) -> None:
        """Close it, because the program reads no more, or the caller writes no more (`eof`)."""
        if self._closing:
            return
        self._closing = True
        self._input.forget(self)
        if eof and not self._input.terminal:
            self._input.feed_eof()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def close(self) -> None:
        self.lost(eof=True)

    def abort(self) -> None:
        self.lost(eof=True)

    def get_write_buffer_size(self) -> int:
        return self._input._size


async def _ready(fd: int, *, writing: bool) -> None:
    """Wait until a descriptor can be read or written without blocking. What cannot be watched is always ready."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    copy = os.dup(fd)  # each waiter watches a descriptor of its own
    try:
        try:
            add(copy, lambda: None if future.done() else future.set_result(None))
        except (OSError, NotImplementedError):  # a device such as /dev/null; Windows' proactor
            return
        await future
    finally:
        with suppress(NotImplementedError):
            remove(copy)
        os.close(copy)
