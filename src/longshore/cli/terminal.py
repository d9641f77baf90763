"""This program's own terminal: raw while a container has it, and as it was afterwards on every path."""

from __future__ import annotations

import asyncio
import atexit
import os
import select
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

from ..errors import NotSupported
from ..tasks import in_thread
from .parser import UsageError

try:
    import termios
    import tty
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

DETACH_KEYS = "ctrl-p,ctrl-q"


def size(*fds: int) -> tuple[int, int] | None:
    """Rows and columns of the first of these that is a terminal; None if none is, or it does not know."""
    for fd in fds or (0, 1, 2):
        with suppress(OSError):
            columns, rows = os.get_terminal_size(fd)
            if rows and columns:
                return min(rows, 1000), min(columns, 1000)
    return None


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes that the keys send; empty for an empty text. UsageError if it is no such list."""
    keys = bytearray()
    for word in text.split(",") if text else []:
        name = word.removeprefix("ctrl-")
        if name != word and len(name) == 1 and (name.isascii() and (name.isalpha() or name in "@[\\]^_")):
            keys.append(ord(name.upper()) & 0x1F)
        elif len(word) == 1 and word.isascii():
            keys += word.encode()
        else:
            raise UsageError(
                f"--detach-keys: {word!r} is not a key", hint="write letters and ctrl-a to ctrl-z: ctrl-p,ctrl-q"
            )
    return bytes(keys)


class KeyWatch:
    """Looks for the detach keys in what is typed. Their beginning is held back until the next key decides."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys were typed."""
        if not self._keys:
            return data, False
        data = self._held + data
        found = data.find(self._keys)
        if found >= 0:
            return data[:found], True
        keep = 0
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                keep = length
                break
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep], False


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Within the block the terminal passes every key on as it is."""
    if termios is None:
        raise NotSupported(
            "an interactive terminal (-it)",
            "longshore does not know the console of Windows yet",
            hint="leave -t away: `-i` passes the input on",
        )
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
def resizes(act: Callable[[int, int], None]) -> Iterator[None]:
    """Within the block, `act` is told the new size whenever that of our terminal changes."""
    if not hasattr(signal, "SIGWINCH"):  # Windows tells nobody
        yield
        return
    loop = asyncio.get_running_loop()

    def changed() -> None:
        new = size()
        if new is not None:
            act(*new)

    loop.add_signal_handler(signal.SIGWINCH, changed)
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
    except NotImplementedError:  # Windows' loop waits for no descriptors
        while data := await in_thread(lambda: os.read(fd, 1 << 16), "input"):
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
