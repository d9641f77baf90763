"""Turn the pipe handles of a process into asyncio's stream objects.

HcsCreateProcess gives overlapped named pipes, which the Proactor loop reads and writes. HCS always makes pipes. So this
module does what the caller wants instead: it discards output, copies it to a descriptor, or joins two outputs.

A grandchild may hold the pipes after the process has ended, and may write as long as its system lives. A pipe is read
until the first of these:

- it ends;
- the system has ended, and no data has come for a second;
- other processes of the system run on, and no data has come for `HcsLimits.late_output` seconds. The log says so.

A slow reader, or a slow descriptor, loses nothing: the pipe waits for it, and that time does not count. A reader that
stops early leaks nothing: the process object owns the pipes, and they end with it.

The exit of a process is published when its output has been copied to the caller's descriptors. If the process was
killed, a descriptor that takes no more data delays the exit only up to `COPY_LIMIT`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ...aio.streams import PushReader, WriteProtocol
from ...compute.values import DEVNULL, INHERIT, LOG, PIPE, STDOUT, Stdio, Streams
from ...errors import InvalidSpec
from ..dll.calls import Handle, Threads
from .pipes import Pipes

log = logging.getLogger("longshore.hcs")

CHUNK = 1 << 18  # bytes of one read
LATE_OUTPUT = 1.0  # seconds of silence after which a system that has ended has no more output
COPY_LIMIT = 5.0  # seconds that copying to descriptors may delay the exit of a process that was killed


class OutputPipe(asyncio.Protocol):
    """One output stream, read as fast as its reader takes it. Without a reader, the output is discarded."""

    def __init__(self, reader: Feed | None, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._patience = math.inf  # seconds of silence after which it is released, once the process has ended
        self._reader = reader
        self._transport: Any = None
        self._last = self._loop.time()
        self._look_again: asyncio.TimerHandle | None = None  # once the process has ended
        self.paused = False
        self.done: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._reader is not None:
            self._reader.add(self)

    def data_received(self, data: bytes) -> None:
        self._last = self._loop.time()
        if self._reader is not None and not self.done.done():
            self._reader.stream.feed_data(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not isinstance(exc, (BrokenPipeError, ConnectionResetError)):
            log.debug("reading a stream: %s", exc)
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
            if self._look_again is not None:
                self._look_again.cancel()
            if self._reader is not None:
                self._reader.ended(self)

    def pause(self) -> None:
        """Stop reading for now."""
        if not self.paused and not self.done.done():
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Continue to read."""
        if self.paused and not self.done.done():
            self.paused = False
            self._last = self._loop.time()
            self._transport.resume_reading()

    def release_after(self, patience: float) -> None:
        """Release the pipe after `patience` seconds without data, even if another process still holds its other end."""
        if patience < self._patience and not self.done.done():
            self._patience = patience
            if self._look_again is not None:
                self._look_again.cancel()
            self._look_again = self._loop.call_later(patience, self._look)

    @property
    def silence(self) -> float:
        """Seconds since the last data; 0 while the reader takes none."""
        return 0.0 if self.paused else self._loop.time() - self._last

    def _look(self) -> None:
        left = self._patience - self.silence
        if left > 0:
            self._look_again = self._loop.call_later(left, self._look)
            return
        if self._patience > LATE_OUTPUT:
            log.warning(
                "%s: no output for %g s after the end of its process; its pipe is released", self._name, self._patience
            )
        self.cut()

    def cut(self) -> None:
        """Release the pipe now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()  # the Proactor's transports have no `abort`; there is nothing to write
        self._finish()


class Feed(asyncio.ReadTransport):
    """A StreamReader over one output, or over two joined ones, with its flow control."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.stream = PushReader()
        self.stream.set_transport(self)
        self._open = count
        self._outputs: list[OutputPipe] = []

    def add(self, output: OutputPipe) -> None:
        """Add an output that is connected."""
        self._outputs.append(output)

    def ended(self, output: OutputPipe) -> None:
        """Note the end of one output. The reader ends with the last."""
        self._open -= 1
        if self._open <= 0:
            self.stream.feed_eof()

    def pause_reading(self) -> None:
        """Stop reading. The pipes fill, and then the process waits."""
        for output in self._outputs:
            output.pause()

    def resume_reading(self) -> None:
        """Read again."""
        for output in self._outputs:
            output.resume()

    def is_reading(self) -> bool:
        """Whether any of its outputs is being read."""
        return any(not output.paused for output in self._outputs)

    def close(self) -> None:
        for output in self._outputs:
            output.cut()

    def is_closing(self) -> bool:
        """Whether all of its outputs have ended."""
        return self._open <= 0


class InputWriter(asyncio.StreamWriter):
    """The writer of a process's standard input. Closing it ends the input, and calls `closed` for the service."""

    closed: Callable[[], None] | None = None
    _tells = True

    def close(self) -> None:
        super().close()
        if self._tells and self.closed is not None:
            self._tells = False
            self.closed()

    def close_pipe(self) -> None:
        """Close the pipe without calling `closed`."""
        self._tells = False
        super().close()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()


def _abort(transport: Any) -> None:
    """Close a transport now, even if it is closing and still has data to write."""
    if not transport.is_closing():
        getattr(transport, "abort", transport.close)()
    elif isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size():
        transport.abort()


class Wiring:
    """The pipes of one process, and what is done with them. `streams` are the caller's."""

    def __init__(self, container_id: str, pipes: Pipes, threads: Threads, stdio: Stdio, *, terminal: bool) -> None:
        self._container_id = container_id
        self.streams = Streams()
        self.input: InputWriter | None = None
        self._pipes = pipes
        self._threads = threads
        self._stdio = stdio
        self._terminal = terminal
        self._outputs: list[OutputPipe] = []
        self._copies: list[asyncio.Task[None]] = []
        self._copied_at = 0.0  # when a descriptor last took data
        self._hurried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._feed: asyncio.Task[None] | None = None
        self._descriptors: list[Handle[int]] = []
        self._unread: asyncio.TimerHandle | None = None  # closes the input of a process that has ended
        self._left = 0  # pipes that are open
        self._writing = 0  # writes to descriptors that are under way
        self._has_ended = self._system_ended = False
        self.when_over: Callable[[], None] | None = None
        self._check()

    def _check(self) -> None:
        stdio = self._stdio
        for name, target, special in (
            ("stdin", stdio.stdin, (PIPE, DEVNULL, INHERIT, LOG)),
            ("stdout", stdio.stdout, (PIPE, DEVNULL, INHERIT, LOG)),
            ("stderr", stdio.stderr, (PIPE, DEVNULL, INHERIT, LOG, STDOUT)),
        ):
            if target < 0 and target not in special:
                raise InvalidSpec(name, f"{target} is not a place for a stream of this process")

    @property
    def ends_input(self) -> bool:
        """Whether there is an input pipe without a writer. It must be ended at once."""
        return self.input is not None and self.streams.stdin is None and self._feed is None

    async def open(self, handles: tuple[int, int, int]) -> None:
        """Take over the pipes.

        Raises: OSError if one is not a pipe; all are closed then.
        """
        left = dict(zip(("stdin", "stdout", "stderr"), handles, strict=True))
        try:
            await self._open_outputs(left)
            await self._open_input(left)
        except BaseException:
            self.discard(left.values())
            self.close()
            raise

    def discard(self, handles: Iterable[int]) -> None:
        """Close pipes that have no use."""
        for handle in handles:
            if handle:
                with suppress(OSError):
                    self._pipes.close(handle)

    async def _open_outputs(self, left: dict[str, int]) -> None:
        stdio = self._stdio
        out, err, joined = bool(left["stdout"]), bool(left["stderr"]), stdio.stderr == STDOUT
        count = out + (err and joined)
        reader = self._target("stdout", stdio.stdout, count) if count else None
        if out:
            await self._connect("stdout", left.pop("stdout"), reader)
        if err:
            if not joined:
                reader = self._target("stderr", stdio.stderr, 1)
            await self._connect("stderr", left.pop("stderr"), reader)

    async def _connect(self, name: str, handle: int, reader: Feed | None) -> None:
        output = OutputPipe(reader, f"container `{self._container_id}`: {name}")
        await self._pipes.reader(handle, output)
        self._outputs.append(output)
        self._watch(output.done)

    def _target(self, name: str, target: int, count: int) -> Feed | None:
        """Return where `count` outputs go; None if they are discarded."""
        if target == DEVNULL:
            return None
        reader = Feed(count)
        if target in (PIPE, LOG):
            setattr(self.streams, name, reader.stream)
            return reader
        descriptor = self._duplicate({"stdout": 1, "stderr": 2}[name] if target == INHERIT else target)
        self._copies.append(asyncio.create_task(self._copy(reader.stream, descriptor), name=f"{name} to a file"))
        return reader

    def _duplicate(self, descriptor: int) -> Handle[int]:
        """Duplicate a descriptor of the caller. The copy is closed when no thread uses it any more."""
        copy = os.dup(descriptor)
        handle = Handle(self._threads, copy, self._container_id, lambda: os.close(copy))
        self._descriptors.append(handle)
        return handle

    async def _copy(self, source: asyncio.StreamReader, descriptor: Handle[int]) -> None:
        try:
            while data := await source.read(CHUNK):
                self._writing += 1
                try:
                    await descriptor.call("write", _write_all, data)
                finally:
                    self._writing -= 1
                self._copied_at = asyncio.get_running_loop().time()
        except OSError as error:
            log.warning("writing to the caller's descriptor: %s", error)
            while await source.read(CHUNK):
                pass
        finally:
            descriptor.release()

    async def _open_input(self, left: dict[str, int]) -> None:
        handle, target = left.pop("stdin"), self._stdio.stdin
        if not handle:
            return
        protocol = WriteProtocol()
        transport = await self._pipes.writer(handle, protocol)
        self._watch(protocol.lost)
        self.input = InputWriter(transport, protocol, None, asyncio.get_running_loop())
        if target == PIPE or self._terminal:
            self.streams.stdin = self.input
        elif target not in (DEVNULL, LOG):
            descriptor = self._duplicate(0 if target == INHERIT else target)
            self._feed = asyncio.create_task(self._feed_from(self.input, descriptor), name="stdin from a file")

    async def _feed_from(self, writer: InputWriter, descriptor: Handle[int]) -> None:
        with suppress(OSError):
            while data := await descriptor.call("read", os.read, 1 << 16):
                writer.write(data)
                await writer.drain()
        descriptor.release()
        writer.close()

    def _watch(self, end: asyncio.Future[None]) -> None:
        self._left += 1
        end.add_done_callback(self._one_is_over)

    def _one_is_over(self, _: object) -> None:
        self._left -= 1
        if not self._left and self.when_over is not None:
            self.when_over()

    @property
    def over(self) -> bool:
        """Whether all pipes are closed."""
        return not self._left

    def process_ended(self, patience: float, late_output: float) -> None:
        """Note the end of the process: its output is in the pipes, or on its way, and its input has no reader."""
        self._has_ended = True
        for output in self._outputs:
            output.release_after(LATE_OUTPUT if self._system_ended else late_output)
        if self._feed is not None:
            self._feed.cancel()
        if self.input is not None and not self.input.is_closing():
            self._unread = asyncio.get_running_loop().call_later(patience, _abort, self.input.transport)

    def system_ended(self) -> None:
        """Note the end of the system: no process is left that could write."""
        self._system_ended = True
        if self._has_ended:
            for output in self._outputs:
                output.release_after(LATE_OUTPUT)

    def hurry(self) -> None:
        """Do not wait much longer for a descriptor that takes no data: the process is being killed."""
        if not self._hurried.done():
            self._hurried.set_result(None)

    async def copied(self) -> bool:
        """Wait until the output of a process that has ended was copied to descriptors.

        Output that another process writes to the same pipes after a second of silence is copied later. Returns False if
        the wait ended early because of `hurry`. The copying then continues until `close`.
        """
        if not self._copies:
            return True
        copying = asyncio.ensure_future(asyncio.wait(self._copies))
        try:
            while not copying.done() and not self._hurried.done():
                left = LATE_OUTPUT - self._silence
                if left <= 0:
                    return True
                await asyncio.wait((copying, self._hurried), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            while not copying.done() and (now := loop.time()) < begin + COPY_LIMIT:
                left = max(begin, self._copied_at) + LATE_OUTPUT - now
                if left <= 0:
                    break
                await asyncio.wait((copying,), timeout=left)
            return copying.done()
        finally:
            copying.cancel()

    @property
    def _silence(self) -> float:
        """Seconds without data from the open pipes; 0 while data is being written."""
        still = [output.silence for output in self._outputs if not output.done.done()]
        return 0.0 if self._writing or not still else min(still)

    def close(self) -> None:
        """Release all pipes. Readers see the end."""
        for output in self._outputs:
            output.cut()
        if self.input is not None:
            _abort(self.input.transport)
        if self._unread is not None:
            self._unread.cancel()
        for task in [*self._copies, *([self._feed] if self._feed is not None else [])]:
            task.cancel()
        for descriptor in self._descriptors:
            descriptor.release()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
