"""Streams of a process: the pipe handles that HcsCreateProcess gives, as asyncio's stream objects.

The handles are overlapped named pipes; the Proactor loop reads and writes them. HCS always makes pipes, whatever the
caller wants, so what is wanted is done here: output is thrown away, copied to a descriptor, or joined.

A grandchild may hold the pipes after the process has ended, and may write as long as its system lives. They are read
until they end; or until the system has ended and nothing has come for a second; or, of a process beside others, until
nothing has come for `HcsLimits.late_output` seconds, which the log then says. A reader that is slow loses nothing by
that, nor does a descriptor: the pipe waits for it. One that stops early leaks nothing: the pipes belong to the process
object, not to the reader's diligence, and end with it.

The end of a process is told when its output has been copied to the descriptors that were given for it; for one that is
ended by force, a descriptor that takes nothing more holds that up only so long.
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

CHUNK = 1 << 18
LATE_OUTPUT = 1.0  # seconds of silence after which no more is to come from a system that has ended
COPY_LIMIT = 5.0  # seconds that copying to descriptors may hold up the end of a process that is ended by force


class OutputPipe(asyncio.Protocol):
    """One output stream, read as fast as its reader takes it. `reader` None throws it away."""

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
        """The reader has enough for now."""
        if not self.paused and not self.done.done():
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """The reader takes more."""
        if self.paused and not self.done.done():
            self.paused = False
            self._last = self._loop.time()
            self._transport.resume_reading()

    def release_after(self, patience: float) -> None:
        """Release the pipe once nothing has come for so many seconds, also if another process holds its other end."""
        if patience < self._patience and not self.done.done():
            self._patience = patience
            if self._look_again is not None:
                self._look_again.cancel()
            self._look_again = self._loop.call_later(patience, self._look)

    @property
    def silence(self) -> float:
        """Seconds since something came; 0 while its reader does not take anything."""
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
        """Let go of the pipe now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()  # there is nothing to write; the Proactor's have no `abort`
        self._finish()


class Feed(asyncio.ReadTransport):
    """A StreamReader over one output, or over two that are joined; carries its flow control."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.stream = PushReader()
        self.stream.set_transport(self)
        self._open = count
        self._outputs: list[OutputPipe] = []

    def add(self, output: OutputPipe) -> None:
        """One of its outputs is connected."""
        self._outputs.append(output)

    def ended(self, output: OutputPipe) -> None:
        """One of its outputs has ended: the reader ends with the last."""
        self._open -= 1
        if self._open <= 0:
            self.stream.feed_eof()

    def pause_reading(self) -> None:
        """Stop taking what the process writes: its pipes fill, and it waits."""
        for output in self._outputs:
            output.pause()

    def resume_reading(self) -> None:
        """Go on taking what it writes."""
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
    """The writer of a process's standard input. Closing it is the end of input: the service is told, too."""

    closed: Callable[[], None] | None = None
    _tells = True

    def close(self) -> None:
        super().close()
        if self._tells and self.closed is not None:
            self._tells = False
            self.closed()

    def close_pipe(self) -> None:
        """Close the pipe alone: who calls this tells the service, or nobody is to be told."""
        self._tells = False
        super().close()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()


def _abort(transport: Any) -> None:
    """Close a transport now, also one that is closing and still has something to write."""
    if not transport.is_closing():
        getattr(transport, "abort", transport.close)()
    elif isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size():
        transport.abort()


class Wiring:
    """What becomes of the pipes of one process. `streams` are the caller's."""

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
        self._copied_at = 0.0  # when a descriptor last took something
        self._hurried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._feed: asyncio.Task[None] | None = None
        self._descriptors: list[Handle[int]] = []
        self._unread: asyncio.TimerHandle | None = None  # the input of a process that has ended
        self._left = 0  # pipes that are open
        self._writing = 0  # descriptors that take something now
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
        """Whether there is an input pipe that nobody is to write to: it is to be ended at once."""
        return self.input is not None and self.streams.stdin is None and self._feed is None

    async def open(self, handles: tuple[int, int, int]) -> None:
        """Take the pipes. OSError if one is no pipe; all are closed then."""
        left = dict(zip(("stdin", "stdout", "stderr"), handles, strict=True))
        try:
            await self._open_outputs(left)
            await self._open_input(left)
        except BaseException:
            self.discard(left.values())
            self.close()
            raise

    def discard(self, handles: Iterable[int]) -> None:
        """Close pipes that nobody is to have."""
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
        """Where an output goes, or `count` of them; None if nowhere."""
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
        """A copy of the caller's descriptor: closed when no thread reads or writes it any more."""
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
        """The process has ended: what it wrote is in the pipes, or on its way. Its input has no reader any more."""
        self._has_ended = True
        for output in self._outputs:
            output.release_after(LATE_OUTPUT if self._system_ended else late_output)
        if self._feed is not None:
            self._feed.cancel()
        if self.input is not None and not self.input.is_closing():
            self._unread = asyncio.get_running_loop().call_later(patience, _abort, self.input.transport)

    def system_ended(self) -> None:
        """The system has ended: no process is left that could write."""
        self._system_ended = True
        if self._has_ended:
            for output in self._outputs:
                output.release_after(LATE_OUTPUT)

    def hurry(self) -> None:
        """It is ended by force: a descriptor that takes nothing is not waited for much longer."""
        if not self._hurried.done():
            self._hurried.set_result(None)

    async def copied(self) -> bool:
        """Return when what came of a process that has ended was copied to descriptors.

        What another process, which holds its pipes, writes after a second of silence is copied behind that. False if
        the copying was given up after `hurry`: it goes on then until `close`.
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
        """Seconds in which nothing came from the pipes that are open; 0 while there is something to be written."""
        still = [output.silence for output in self._outputs if not output.done.done()]
        return 0.0 if self._writing or not still else min(still)

    def close(self) -> None:
        """Let go of all pipes; readers see the end."""
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
