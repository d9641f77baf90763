"""Turn the pipes or the terminal of a process in the foreground into asyncio's stream objects."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import struct
import termios
from contextlib import suppress
from typing import Any

from ...aio.streams import PullReader, WriteProtocol
from ...compute.values import DEVNULL, INHERIT, PIPE, STDOUT, Stdio, Streams
from ...errors import InvalidSpec
from ...fs.standard_descriptors import is_of_loop
from ...machine.libc import libc
from .relay import PATIENCE, Relay, check_given, is_same, waiting

PIPE_SIZE = 1 << 20  # fewer wakeups on a fast stream; also the kernel's usual limit for users
CHUNK = 1 << 16  # bytes of one read; larger pieces leave the processor's cache, and the allocator maps each one anew
LAST_LIMIT = 1.0  # seconds until the last output of a runtime has come through a terminal
FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432  # the same on every architecture (syscalls(2))


class PipeReader(asyncio.ReadTransport):
    """The read end of a pipe or terminal, with the StreamReader that reads it. Owns the descriptor.

    Nothing is read before a caller asks: until then, the pipe is the buffer. After `process_ended`, only what is in the
    pipe is read. So a grandchild that holds the pipe cannot keep the reader from its end.
    """

    def __init__(self, fd: int, *, terminal: bool = False, other_side: int | None = None) -> None:
        super().__init__()
        self._fd = fd
        self._terminal = terminal
        self._other_side = other_side  # held open, so that the end comes with `process_ended`, not before
        self._rest = b""  # output that came another way, to follow all that comes through the pipe
        self.inode = os.fstat(fd).st_ino
        self.overrun = False
        self._own: int | None = None  # bytes that may still be the process's own, after its end
        self._loop = asyncio.get_running_loop()
        self.reader = PullReader(self, self._loop)
        self.reader.set_transport(self)
        self._watching = False
        self._filling = False  # the buffer is being filled
        self._paused = False  # but it is full
        self._unbounded = False  # what is to come has an end, and is taken even if no caller asks
        self._ending = False
        self._waiter: asyncio.Future[None] | None = None
        os.set_blocking(fd, False)

    # straight to the caller

    def take(self, n: int) -> bytes | None:
        """Return up to `n` bytes that are there now; None if there are none yet. At the end, end the reader and
        return b""."""
        if self._fd < 0:
            return b""
        self._filling = self._unbounded
        data = self._read(min(n, CHUNK))
        if data is None:
            return None
        if not data:
            self._finish()
        elif self._unbounded:
            self._watch(True)
        return data

    def _read(self, n: int) -> bytes | None:
        """Return up to `n` bytes that are there, then of the rest; None if there are none yet; b"" at the end."""
        most = n if self._own is None else min(n, self._own)
        self.overrun = most == 0
        try:
            data = os.read(self._fd, most)
        except BlockingIOError:
            if not self._ending:
                return None
            data = b""
        except OSError:  # EIO: the other side of a terminal is closed
            data = b""
        if self._own is not None:
            self._own -= len(data)
        if not data:
            data, self._rest = self._rest[:n], self._rest[n:]
        return data

    async def readable(self) -> None:
        """Wait until there is something to take, or the process has ended."""
        if self._waiter is not None:
            raise RuntimeError("another coroutine is already waiting for incoming data")
        self._waiter = self._loop.create_future()
        self._watch(True)
        try:
            await self._waiter
        finally:
            self._waiter = None

    # into the buffer

    def fill(self) -> None:
        """Fill the reader's buffer from now on."""
        self._filling = True
        self._watch(not self._paused)

    def fill_to_the_end(self) -> None:
        """Take everything that is still to come, also without a caller that reads.

        For a process that has ended: only its runtime still writes, and would wait for a reader for ever.
        """
        self._unbounded = True
        self._paused = False
        self.fill()

    def end_after(self, count: int) -> None:
        """Read at most `count` more bytes: the process has ended, and more cannot be its own output.

        `overrun` says whether more followed.
        """
        self._own = count

    def _watch(self, on: bool) -> None:
        if on != self._watching and self._fd >= 0:
            self._watching = on
            if on:
                self._loop.add_reader(self._fd, self._ready)
            else:
                self._loop.remove_reader(self._fd)

    def _ready(self) -> None:
        if self._waiter is not None or not self._filling:
            self._watch(False)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
            return
        data = self._read(CHUNK)
        if data is None:
            return
        if not data:
            self._finish()
        else:
            self.reader.feed_data(data)

    def _finish(self) -> None:
        if self._fd < 0:
            return
        self._watch(False)
        os.close(self._fd)
        self._fd = -1
        self._close_other_side()
        self.reader.feed_eof()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def process_ended(self, rest: bytes = b"") -> None:
        """Read what is in the pipe now, and `rest`, then end, even if another process still holds the pipe.

        The process has ended, so all of its output is in the pipe.
        """
        self._rest = rest
        if self._other_side is not None:  # output may still be on its way; EIO marks its end
            self._close_other_side()
            self._loop.call_later(LAST_LIMIT, self._give_up)  # another child of this program may hold it, too
            if self._waiter is None and self._fd >= 0:
                self.fill()
            return
        self._give_up()

    def _close_other_side(self) -> None:
        if self._other_side is not None:
            os.close(self._other_side)
            self._other_side = None

    def _give_up(self) -> None:
        """Treat what is there now as all there is."""
        self._ending = True
        if self._fd >= 0 and not self._terminal:
            self.end_after(waiting(self._fd))
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)  # it finds the rest, or the end
        elif self._fd >= 0:
            self._filling = True
            if not self._paused:
                self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self._fd >= 0 and self._filling and not self._paused:
            self._ready()
            if self._fd >= 0:
                self._loop.call_soon(self._drain)

    def pause_reading(self) -> None:
        if self._fd >= 0 and not self._paused and not self._unbounded:
            self._paused = True
            self._watch(False)

    def resume_reading(self) -> None:
        if self._fd >= 0 and self._paused:
            self._paused = False
            if self._filling:
                self._watch(True)
                if self._ending:
                    self._loop.call_soon(self._drain)

    def is_reading(self) -> bool:
        return self._fd >= 0 and not self._paused

    def is_closing(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        self._finish()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._fd if name == "fd" else default


async def open_writer(fd: int) -> asyncio.StreamWriter:
    """Return a StreamWriter on the write end of a pipe, or on a terminal. It owns the descriptor."""
    loop = asyncio.get_running_loop()
    file = os.fdopen(fd, "wb", buffering=0)
    try:
        transport, protocol = await loop.connect_write_pipe(WriteProtocol, file)
    except BaseException:
        file.close()
        raise
    return asyncio.StreamWriter(transport, protocol, None, loop)


def make_pipe() -> tuple[int, int]:
    """Return a large pipe that is not inheritable."""
    read, write = os.pipe()
    with suppress(OSError):  # over the user's pipe quota: the usual size is enough
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read, write


def open_null() -> int | None:
    """Open a null device of our own, in place of the machine's; None where that fails.

    `crun exec` changes the owner of its streams to the container's user (seen with 1.8.1). That user could then change
    the mode of the machine's /dev/null. This device is in a file system of its own that no other program sees
    (fsopen(2), fsmount(2), Linux 5.2), and that is freed with the descriptor.
    """
    call = libc().syscall
    context = call(FSOPEN, b"tmpfs", 1)  # FSOPEN_CLOEXEC
    if context < 0:
        return None
    try:
        mount = -1
        if call(FSCONFIG, context, 6, None, None, 0) == 0:  # FSCONFIG_CMD_CREATE
            mount = call(FSMOUNT, context, 1, 0)  # FSMOUNT_CLOEXEC
    finally:
        os.close(context)
    if mount < 0:
        return None
    try:
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3), dir_fd=mount)
        os.chmod("null", 0o666, dir_fd=mount)  # whatever our umask is
        return os.open("null", os.O_RDWR, dir_fd=mount)
    except OSError:
        return None
    finally:
        os.close(mount)


def is_closed(number: int) -> bool:
    """Return whether this program has no such standard stream: it is closed, or the loop uses its number."""
    try:
        os.fstat(number)
    except OSError:
        return True
    return is_of_loop(number, asyncio.get_running_loop())


def check_stdio(stdio: Stdio) -> None:
    """Check that the caller's streams can be those of a process. Nothing is made.

    Raises: InvalidSpec.
    """
    given = {"stdin": stdio.stdin, "stdout": stdio.stdout, "stderr": stdio.stderr}
    for number, (name, target) in enumerate(given.items()):
        if target == INHERIT and not is_closed(number):
            check_given(name, number)
        elif target >= 0:
            check_given(name, target)


def set_terminal_size(fd: int, size: tuple[int, int]) -> None:
    """Set rows and columns of a terminal (tty_ioctl(4), TIOCSWINSZ)."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))


class Wiring:
    """The descriptors of one process: those for its runtime, and those for the caller. A context manager.

    Leaving it closes the runtime's ends. If `open` was not called, it closes the caller's ends, too.
    """

    def __init__(self, stdio: Stdio, *, terminal: bool = False, size: tuple[int, int] | None = None) -> None:
        self.terminal = terminal
        self.piped = not terminal and DEVNULL not in (stdio.stdout, stdio.stderr)  # longshore reads all output
        self.child: list[int] = []
        self._theirs: list[int] = []
        self._ours: dict[str, int] = {}
        self._taken = False
        self.readers: list[PipeReader | Relay] = []
        self._relays: list[Relay] = []
        self._null: int | None = None
        self._opened = False
        self.control: int | None = None  # the terminal's master, for resize
        try:
            if terminal:
                self._make_terminal(size)
            else:
                self._make_pipes(stdio)
        except BaseException:
            self._close_all()
            raise

    def _make_terminal(self, size: tuple[int, int] | None) -> None:
        master, slave = os.openpty()
        self._ours["stdout"] = master
        self._theirs.append(slave)
        for name in ("stdin", "control"):
            self._ours[name] = os.dup(master)
        if size is not None:
            set_terminal_size(slave, size)
        self.child = [slave, slave, slave]

    def _make_pipes(self, stdio: Stdio) -> None:
        places = [stdio.stdin, stdio.stdout, stdio.stderr]
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            target = places[number]
            if target == INHERIT:
                target = places[number] = DEVNULL if is_closed(number) else number
            if target == PIPE:
                self._ours[name] = self._pipe(number)
            elif target == DEVNULL:
                self._give_null(number)
            elif number == 2 and (target == STDOUT or (target >= 0 <= places[1] and is_same(target, places[1]))):
                self.child.append(self.child[1])  # one pipe keeps the order of the output
            elif target >= 0:
                self._give(number, name, target)
            else:
                raise InvalidSpec(name, f"{target} is not a place for a stream of this process")

    def _pipe(self, number: int) -> int:
        """Make a pipe for a stream of the process, and return our end."""
        read, write = make_pipe()
        ours, theirs = (write, read) if number == 0 else (read, write)
        self._theirs.append(theirs)
        self.child.append(theirs)
        return ours

    def _give_null(self, number: int) -> None:
        if self._null is None:
            self._null = open_null()
            if self._null is not None:
                self._theirs.append(self._null)
        if self._null is not None:
            self.child.append(self._null)
            return
        fd = os.open(os.devnull, os.O_RDWR)  # the machine's own, so it is not given to the process
        try:
            self._give(number, ("stdin", "stdout", "stderr")[number], fd)
        finally:
            os.close(fd)

    def _give(self, number: int, name: str, fd: int) -> None:
        check_given(name, fd)
        ours = self._pipe(number)
        try:
            self._relays.append(Relay(name, ours, fd))
        except BaseException:
            os.close(ours)
            raise

    async def open(self) -> Streams:
        """Return the caller's streams, which own the descriptors from now on."""
        streams = Streams()
        for relay in self._relays:
            await relay.begin()
            self.readers.append(relay)
        self._opened = True
        if self.terminal:
            self.control = self._ours.pop("control")
            reader = PipeReader(self._ours.pop("stdout"), terminal=True, other_side=self._theirs.pop())
            self.readers.append(reader)
            streams.stdout = reader.reader
            streams.stdin = await open_writer(self._ours.pop("stdin"))
            return streams
        for name in ("stdout", "stderr"):
            if name in self._ours:
                reader = PipeReader(self._ours.pop(name))
                self.readers.append(reader)
                setattr(streams, name, reader.reader)
        if "stdin" in self._ours:
            streams.stdin = await open_writer(self._ours.pop("stdin"))
        return streams

    def end_relays(self) -> None:
        """Pass on what the process has written until now, and no more: it has ended."""
        for relay in self._relays:
            relay.process_ended()

    def cut_relays(self) -> None:
        """Stop copying."""
        for relay in self._relays:
            relay.cut()

    async def passed_on(self) -> None:
        """Wait until its output has reached the caller's streams."""
        for relay in self._relays:
            if relay.output:
                await relay.ended()

    async def relays_ended(self) -> bool:
        """Wait until the copying has ended. Return False if the caller's streams take no more data."""
        while left := [relay for relay in self._relays if not await relay.ended(0)]:
            before = sum(relay.moved for relay in left)
            if not await left[0].ended(PATIENCE) and before == sum(relay.moved for relay in left):
                return False
        return True

    @property
    def unwritten(self) -> dict[str, OSError]:
        """The outputs that the caller's streams did not take, with the reason."""
        return {relay.name: relay.error for relay in self._relays if relay.output and relay.error is not None}

    @property
    def relays_output(self) -> bool:
        """Whether an output goes to a stream of the caller."""
        return any(relay.output for relay in self._relays)

    def _close_all(self) -> None:
        for fd in [*self._theirs, *self._ours.values()]:
            os.close(fd)
        self._theirs.clear()
        self._ours.clear()
        if not self._opened:
            for relay in self._relays:
                relay.cut()

    def close_theirs(self) -> None:
        """Close the runtime's ends, else the end of a stream would never come. The reader owns that of a terminal."""
        if self.terminal:
            return
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()

    def __enter__(self) -> Wiring:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close_all()
