"""A terminal of Unix: raw mode, its size, keys as they are typed. console.py has the same names for Windows."""

from __future__ import annotations

import asyncio
import atexit
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

from .streams import write_all

if sys.platform == "win32":
    raise ImportError("Windows has console.py in its place")

import termios
import tty

is_terminal = os.isatty
show = write_all
"""Write to a descriptor that may be a terminal."""


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Within the block the terminal passes every key on as it is."""
    before = termios.tcgetattr(fd)

    def restore() -> None:
        with suppress(termios.error, OSError):  # it may have been hung up
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    atexit.register(restore)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        restore()
        atexit.unregister(restore)


@contextmanager
def watching_size(look: Callable[[], None]) -> Iterator[None]:
    """Within the block, `look` is called whenever the size of our terminal may have changed."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, look)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


async def typed(fd: int) -> AsyncIterator[bytes]:
    """What can be read from `fd`, as it comes, to its end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # a regular file is always ready, and epoll refuses it
        while data := os.read(fd, 1 << 16):
            yield data
        return
    try:
        while True:
            await ready.wait()
            ready.clear()
            if not select.select([fd], [], [], 0)[0]:
                continue  # told once more while we were reading: a read would block, and all of us with it
            try:
                data = os.read(fd, 1 << 16)
            except BlockingIOError:
                continue
            except OSError:  # EIO: the terminal was hung up
                return
            if not data:
                return
            yield data
    finally:
        loop.remove_reader(fd)
