"""Between this program's own streams and those of a process that runs for it.

A pipe or socket of ours is given to the process as it is, and costs nothing. Anything else is not: a runtime makes
what it is given belong to the container's user (runc init_linux.go fixStdioPermissions, crun the same), which must
not happen to a file or terminal of our caller; and a terminal would let the process read what is typed next.
Those are copied, by a thread each, between a pipe of our own and them.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..compute import DEVNULL, INHERIT, STDOUT, Stdio
from ..tasks import in_thread
from .output import Unwritable

BUFFER = 1 << 20
SERVICE_COPIES = os.name == "nt"
"""HCS gives no descriptor of ours to a container: its pipes are copied to them in any case."""

WINDOWS = "not called where the service copies"


def _kind(fd: int) -> str:
    """`pipe` (or socket), `null`, `other`; `closed` if there is none."""
    try:
        status = os.fstat(fd)
        if SERVICE_COPIES:
            return "pipe"
        link = os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return "other"
    except OSError:
        return "closed"
    if sys.platform == "win32":
        raise AssertionError(WINDOWS)
    if link.startswith(("pipe:[", "socket:[")):
        return "pipe"
    null = os.stat(os.devnull)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == null.st_rdev:
        return "null"
    return "other"


def _same(first: int, second: int) -> bool:
    with suppress(OSError):
        one, other = os.fstat(first), os.fstat(second)
        return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
    return False


def _make_pipe() -> tuple[int, int]:
    if sys.platform == "win32":
        raise AssertionError(WINDOWS)
    read, write = os.pipe()
    with suppress(OSError):
        import fcntl

        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, BUFFER)
    return read, write


class Plumbing:
    """Where the streams of a process go, and the threads that copy.

    Start the process with `stdio`, then call `started`, or `abandon` if it failed; and `finish` once it has ended.

    `share` gives our pipes to the process itself; without it output is always copied, so that a process which
    lives on in the container cannot hold them open after the one that was waited for has ended.
    """

    def __init__(self, *, stdin: bool, share: bool) -> None:
        self._theirs: list[int] = []
        self._jobs: list[Callable[[], None]] = []
        self._outputs: list[Awaitable[None]] = []
        self._wake: list[int] = []
        self._copies: list[tuple[int, int, bool]] = []
        self.stdio = Stdio(stdin=self._input(stdin), stdout=DEVNULL, stderr=DEVNULL)
        out = self._output(1, share)
        err = STDOUT if out >= 0 and _kind(2) == "other" and _same(1, 2) else self._output(2, share)
        self.stdio = Stdio(stdin=self.stdio.stdin, stdout=out, stderr=err)

    def _input(self, wanted: bool) -> int:
        kind = _kind(0)
        if not wanted or kind in ("null", "closed"):
            return DEVNULL
        if kind == "pipe":
            return INHERIT
        read, write = _make_pipe()
        self._theirs.append(read)
        self._copies.append((0, write, False))
        return read

    def _output(self, fd: int, share: bool) -> int:
        kind = _kind(fd)
        if kind in ("null", "closed"):
            return DEVNULL
        if kind == "pipe" and (share or SERVICE_COPIES):
            return INHERIT
        read, write = _make_pipe()
        self._theirs.append(write)
        self._copies.append((read, fd, True))
        return write

    def started(self) -> None:
        """The process has its ends: ours of those are closed, and copying begins."""
        self._close_theirs()
        for source, target, is_output in self._copies:
            if is_output:
                wait, wake = os.pipe()
                self._wake.append(wake)
                job = in_thread(_copier(source, target, wait), f"copy to {target}")
                self._outputs.append(asyncio.ensure_future(job))
            else:
                # its end is nobody's concern: it ends with its input, or with this program
                _spare(asyncio.ensure_future(in_thread(_feeder(source, target), "copy from stdin")))
        self._copies.clear()

    async def finish(self) -> None:
        """The process has ended: what it wrote until then is passed on, and no more is waited for."""
        for wake in self._wake:
            os.close(wake)
        self._wake.clear()
        await asyncio.gather(*self._outputs)

    def _close_theirs(self) -> None:
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()

    def abandon(self) -> None:
        """The process did not start."""
        self._close_theirs()
        for source, target, is_output in self._copies:
            os.close(source if is_output else target)
        self._copies.clear()


_spared: set[asyncio.Future[None]] = set()


def _spare(future: asyncio.Future[None]) -> None:
    _spared.add(future)
    future.add_done_callback(_spared.discard)


def _copier(source: int, target: int, ended: int) -> Callable[[], None]:
    """Copy from our pipe to a stream of ours, until its end, or until it is empty once `ended` has an end."""
    if sys.platform == "win32":
        raise AssertionError(WINDOWS)

    def copy() -> None:
        poll = select.poll()
        poll.register(source, select.POLLIN)
        poll.register(ended, select.POLLIN)
        buffer = memoryview(bytearray(BUFFER))
        os.set_blocking(source, False)
        try:
            over = False
            while True:
                try:
                    count = os.readv(source, [buffer])
                except BlockingIOError:
                    if over:
                        return
                    over = any(fd == ended for fd, _ in poll.poll())
                    continue
                if not count:
                    return
                write_all(target, buffer[:count])
        except BrokenPipeError:
            return  # who read our output has gone; closing the pipe tells the process
        finally:
            os.close(source)
            os.close(ended)

    return copy


def _feeder(source: int, target: int) -> Callable[[], None]:
    """Copy from our standard input to the process, until either has enough."""
    if sys.platform == "win32":
        raise AssertionError(WINDOWS)

    def feed() -> None:
        buffer = memoryview(bytearray(1 << 16))
        try:
            while count := os.readv(source, [buffer]):
                write_all(target, buffer[:count])
        except OSError:
            pass  # the process reads no more (EPIPE), or our terminal is gone (EIO)
        finally:
            os.close(target)

    return feed


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Write all of it, also to a stream of ours that somebody has made non-blocking. Unwritable, if it is ours."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            if fd not in (1, 2):
                raise
            raise Unwritable(fd, error) from None
