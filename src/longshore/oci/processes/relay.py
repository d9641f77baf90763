"""Copies between a stream of the caller and the pipe that a process gets in its place.

A process can reopen its streams through /proc/self/fd. It could then read from a pipe that it was given for output,
truncate a file, make a terminal non-blocking, or change the owner of any of them; crun does the last by itself. So no
process gets a descriptor of the caller: it gets a pipe of the engine, and a thread copies. splice(2) moves the data
without a copy in this program. The mode of the caller's stream is never changed.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import termios
import threading
from collections.abc import Callable
from contextlib import suppress

from ...aio.tasks import in_thread
from ...errors import InvalidSpec
from ...fs.standard_descriptors import is_of_loop

CHUNK = 1 << 16  # bytes of a read, where splice(2) does not work
SPLICED = 1 << 20  # bytes that are moved at once, at most
SMALL = 1 << 12  # bytes for which there is room where poll(2) says so; a larger write would wait
PATIENCE = 1.0  # seconds without progress after which nobody waits for a stream of the caller's at the engine's end
AGAIN = -1  # nothing was moved, and something may be now
SPLICE = 1 | 2  # SPLICE_F_MOVE, SPLICE_F_NONBLOCK


class _Cut(Exception):
    """The copying is to end at once."""


def check_given(name: str, fd: int) -> None:
    """InvalidSpec if a descriptor cannot be the stream `name` of a process."""
    try:
        found = os.fstat(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError:
        raise InvalidSpec(name, f"{fd} is not an open descriptor of this program") from None
    if is_of_loop(fd, asyncio.get_running_loop()):
        raise InvalidSpec(name, f"{fd} belongs to the event loop of this program")
    kinds = (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISSOCK, stat.S_ISCHR, stat.S_ISBLK)
    if flags & os.O_PATH or not any(is_kind(found.st_mode) for is_kind in kinds):
        raise InvalidSpec(name, f"{fd} is not a file, pipe, socket or terminal that is open")
    mode = flags & os.O_ACCMODE
    if mode == (os.O_WRONLY if name == "stdin" else os.O_RDONLY):
        raise InvalidSpec(name, f"{fd} is not open for {'reading' if name == 'stdin' else 'writing'}")


def is_same(first: int, second: int) -> bool:
    """Whether two descriptors are one stream."""
    one, other = os.fstat(first), os.fstat(second)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


class Relay:
    """Copies between the engine's end of a pipe, which it owns, and a stream of the caller.

    It begins when the process runs, so that a failed start consumes no input. The caller may close its descriptor at
    once: the relay has a duplicate.
    """

    def __init__(self, name: str, pipe: int, given: int) -> None:
        self.name = name
        self.output = name != "stdin"
        self.inode = os.fstat(pipe).st_ino
        self.error: OSError | None = None  # why the rest of an output could not be written
        self.moved = 0  # bytes
        self.overrun = False
        self._end: int | None = None  # of what it moves, in bytes, once the process has ended
        self._pipe = pipe
        self._mode = os.fstat(given).st_mode
        os.set_blocking(pipe, False)
        self._stream = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:
            os.close(self._stream)
            raise
        self._guard = threading.Lock()
        self._over = False  # what is in the pipe is all there is
        self._is_cut = False
        self._takes_all = False  # from the pipe, whether or not the caller's stream has room
        self._held = bytearray()  # what was so taken
        self._pipe_ended = False
        self._task: asyncio.Future[None] | None = None

    # in the loop

    async def begin(self) -> None:
        """Begin to copy. OSError if no thread can be started."""
        self._task = asyncio.ensure_future(in_thread(self._run, f"copy {self.name}"))
        await asyncio.sleep(0)
        if self._task.done():
            self._release()
            self._task.result()

    def fill(self) -> None:
        """Do nothing: a relay always reads. A PipeReader reads on after this call."""

    def fill_to_the_end(self) -> None:
        """Take all that is to come, also while the caller's stream has no room: for when nobody is left who could write
        more than a runtime has yet to pass on, for which it would wait for ever."""
        self._takes_all = self.output
        self._wake_up()

    def end_after(self, count: int) -> None:
        """The process has ended: of what is to come at most some `count` bytes are its own, and no more is copied.
        `overrun` tells whether anything followed."""
        self._end = self.moved + count if self.output else None

    def process_ended(self, rest: bytes = b"") -> None:
        """The process has ended: what it wrote until then is passed on, and no more; nothing is read for it."""
        del rest  # a terminal's
        self._over = True
        if not self.output:
            self._is_cut = True
        self._wake_up()

    close = process_ended

    def cut(self) -> None:
        """End the copying at once."""
        self._is_cut = True
        self._wake_up()
        if self._task is None:
            self._release()

    async def ended(self, limit: float | None = None) -> bool:
        """Wait until all was copied; with a limit, not longer than so many seconds."""
        if self._task is None:
            return True
        done, _ = await asyncio.wait((self._task,), timeout=limit)
        return bool(done)

    def _wake_up(self) -> None:
        with self._guard, suppress(OSError):
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _release(self) -> None:
        with self._guard:
            for fd in (self._pipe, self._stream, self._wake):
                if fd >= 0:
                    os.close(fd)
            self._pipe = self._stream = self._wake = -1

    # in the thread

    def _run(self) -> None:
        # a broken pipe is an error here, and no signal for the program; no other signal is to interrupt this
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._copy()
        except (_Cut, BrokenPipeError):
            pass  # nobody reads any more: closing the pipe tells the process
        except OSError as error:
            self.error = error
        finally:
            self._release()

    def _copy(self) -> None:
        move = self._choose()
        while True:
            if self._end is not None and self.moved > self._end:
                self.overrun = True
                return
            over = self._over  # asked before we look: what the process wrote before it ended is there then
            count = move()
            if count is None:
                if over:
                    return
                self._wait(self._pipe if self.output else self._stream, select.POLLIN)
            elif count:
                self.moved += max(0, count)
            else:
                return

    def _choose(self) -> Callable[[], int | None]:
        """How to move some bytes: their number, 0 at the end, None if there are none yet."""
        if stat.S_ISFIFO(self._mode):
            return self._splice_out if self.output else self._splice_in
        return self._write_out if self.output else self._read_in

    def _splice_out(self) -> int | None:
        return self._write_out() if self._takes_all else self._splice(self._pipe, self._stream)

    def _splice_in(self) -> int | None:
        return self._splice(self._stream, self._pipe)

    def _splice(self, source: int, target: int) -> int | None:
        try:
            return os.splice(source, target, SPLICED, flags=SPLICE)
        except BlockingIOError:
            if not _is_ready(source, select.POLLIN):
                return None
            self._wait(target, select.POLLOUT)
            return AGAIN

    def _write_out(self) -> int | None:
        if self._held:
            data = bytes(self._held)
            self._held.clear()
        elif self._pipe_ended:
            return 0
        else:
            try:
                data = os.read(self._pipe, CHUNK)
            except BlockingIOError:
                return None
        size = CHUNK if stat.S_ISREG(self._mode) or stat.S_ISSOCK(self._mode) else SMALL
        self._write_all(self._stream, data, size)
        return len(data)

    def _read_in(self) -> int | None:
        if not _is_ready(self._stream, select.POLLIN):
            return None
        try:
            data = os.read(self._stream, CHUNK)
        except BlockingIOError:
            return None
        except OSError:  # EIO: the terminal was hung up
            return 0
        self._write_all(self._pipe, data, CHUNK)
        return len(data)

    def _write_all(self, target: int, data: bytes, size: int) -> None:
        view = memoryview(data)
        while view:
            self._wait(target, select.POLLOUT)
            with suppress(BlockingIOError):
                view = view[self._write(target, view[:size]) :]

    def _write(self, target: int, data: memoryview) -> int:
        if target != self._stream or not stat.S_ISSOCK(self._mode):
            return os.write(target, data)
        with socket.socket(fileno=os.dup(target)) as sock:  # a write to a socket waits for room for all of it
            return sock.send(data, socket.MSG_DONTWAIT)

    def _wait(self, fd: int, event: int) -> None:
        """Wait until a descriptor is ready, or the process has ended. _Cut if the copying is to end."""
        while True:
            poll = select.poll()
            poll.register(fd, event)
            poll.register(self._wake, select.POLLIN)
            if not self.output and fd != self._pipe:
                poll.register(self._pipe, 0)  # an error there: the process reads no more
            taking = self._takes_all and fd == self._stream and not self._pipe_ended
            if taking:
                poll.register(self._pipe, select.POLLIN)
            ready = dict(poll.poll())
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if self._is_cut or ready.get(self._pipe, 0) & select.POLLERR:
                raise _Cut
            if fd in ready or event != select.POLLOUT:  # a write to what is not ready would block
                return
            if taking and self._pipe in ready:
                data = os.read(self._pipe, CHUNK)
                self._held += data
                self._pipe_ended = not data


def waiting(fd: int) -> int:
    """How many bytes are in a pipe now (pipe(7), FIONREAD)."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0])


def _is_ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(0))


__all__ = ["PATIENCE", "Relay", "check_given", "is_same", "waiting"]
