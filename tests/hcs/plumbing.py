"""The pipes of scripted processes: OS pipes in place of Windows' named ones, and the thread at their far ends."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

PIECE = 1 << 16


class PosixPipes:
    """Handles that are file descriptors, for the stdio of an HcsService that is not on Windows."""

    async def reader(self, handle: int, protocol: asyncio.Protocol) -> None:
        file = os.fdopen(handle, "rb", buffering=0)
        try:
            await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
        except BaseException:
            file.close()
            raise

    async def writer(self, handle: int, protocol: asyncio.BaseProtocol) -> asyncio.WriteTransport:
        file = os.fdopen(handle, "wb", buffering=0)
        try:
            transport, _ = await asyncio.get_running_loop().connect_write_pipe(lambda: protocol, file)
        except BaseException:
            file.close()
            raise
        return transport

    def close(self, handle: int) -> None:
        os.close(handle)


class Outlet:
    """What a process writes into one pipe: kept until the pipe takes it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.waiting: deque[bytes] = deque()
        self.ending = False
        self.closed = False


class Plumbing:
    """One thread that writes what processes say and reads what they are told, without blocking on any of them."""

    def __init__(self, lock: threading.RLock) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = lock  # the machine's: what a pipe brings changes it
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._outlets: set[Outlet] = set()
        self._readers: dict[int, Callable[[bytes], None]] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="scripted pipes", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything is on its way that somebody takes."""
        with self._lock:
            return any(outlet.waiting and not outlet.closed for outlet in self._outlets)

    def outlet(self) -> tuple[int, Outlet]:
        """A pipe that a process writes into: the reader's end, and where to write."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        outlet = Outlet(write)
        with self._lock:
            self._outlets.add(outlet)
        return read, outlet

    def inlet(self, told: Callable[[bytes], None]) -> tuple[int, int]:
        """A pipe that a process reads from: the writer's end, and its own. `told` gets the data, b"" at the end."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        with self._lock:
            self._readers[read] = told
            self._selector.register(read, selectors.EVENT_READ)
        self._wake()
        return write, read

    def close_inlet(self, descriptor: int) -> None:
        """The process reads no more."""
        with self._lock:
            if self._readers.pop(descriptor, None) is not None:
                self._selector.unregister(descriptor)
                os.close(descriptor)

    def is_hung_up(self, descriptor: int) -> bool:
        """Whether the writer's end of a pipe that a process reads from is closed; what was written may be unread."""
        with self._lock:
            if descriptor not in self._readers:
                return True
            poll = select.poll()
            poll.register(descriptor, 0)
            return any(events & select.POLLHUP for _, events in poll.poll(0))

    def write(self, outlet: Outlet, data: bytes) -> None:
        """Have data written."""
        with self._lock:
            if data and not outlet.closed and not outlet.ending:
                outlet.waiting.append(data)
                self._push(outlet)

    def end(self, outlet: Outlet) -> None:
        """Close the pipe after what is still to be written."""
        with self._lock:
            outlet.ending = True
            self._push(outlet)

    def discard(self, descriptor: int) -> None:
        """Close a client's end that it is not to have."""
        os.close(descriptor)

    def _push(self, outlet: Outlet) -> None:
        try:
            while outlet.waiting:
                written = os.write(outlet.descriptor, outlet.waiting[0][:PIECE])
                rest = outlet.waiting.popleft()[written:]
                if rest:
                    outlet.waiting.appendleft(rest)
        except BlockingIOError:
            with suppress(KeyError):
                self._selector.register(outlet.descriptor, selectors.EVENT_WRITE, outlet)
                self._wake()
            return
        except OSError:
            outlet.waiting.clear()  # nobody reads it any more
        with suppress(KeyError, ValueError):
            self._selector.unregister(outlet.descriptor)
        if outlet.ending and not outlet.closed:
            outlet.closed = True
            self._outlets.discard(outlet)
            os.close(outlet.descriptor)

    def _wake(self) -> None:
        os.write(self._wake_write, b"x")

    def _serve(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select():
                with self._lock:
                    if key.fd == self._wake_read:
                        with suppress(BlockingIOError):
                            os.read(self._wake_read, 1000)
                    elif isinstance(key.data, Outlet):
                        self._push(key.data)
                    elif key.fd in self._readers:
                        self._read(key.fd)

    def _read(self, descriptor: int) -> None:
        told = self._readers[descriptor]
        try:
            data = os.read(descriptor, PIECE)
        except BlockingIOError:
            return
        if not data:
            self.close_inlet(descriptor)
        told(data)

    def close(self) -> None:
        """End the thread, close what is left."""
        self._stopped = True
        self._wake()
        self._thread.join()
        for outlet in list(self._outlets):
            outlet.waiting.clear()
            self.end(outlet)
        for descriptor in list(self._readers):
            self.close_inlet(descriptor)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
