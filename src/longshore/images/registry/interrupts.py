"""Ending what blocks in a thread: another thread shuts the sockets down that it may be waiting on.

A blocking call of a socket ends at once when the connection is shut down by another thread, so an `Interrupt` knows the
sockets of one operation. Only the look-up of a host's address cannot be ended: the resolver's own limit holds there.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The operation was ended by its caller, who does not look at its result any more."""


class Handle:
    """A second descriptor of a socket, with which it can be shut down whoever uses it now, TLS or not."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock: socket.socket | None = sock.dup()  # the first one changes hands when TLS begins
        self._lock = threading.Lock()

    def shut_down(self) -> None:
        """Have every call that waits for the connection end."""
        with self._lock, contextlib.suppress(OSError):
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            if self._sock is not None:
                self._sock.close()
                self._sock = None


class Interrupt:
    """Ends one operation, which may have several threads and connections."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._handles: set[Handle] = set()

    def set(self) -> None:
        """End the operation: each of its calls raises Interrupted within moments. Can be called from any thread."""
        with self._lock:
            self._event.set()
            handles = list(self._handles)
        for handle in handles:
            handle.shut_down()

    def is_set(self) -> bool:
        """Return whether the operation was ended."""
        return self._event.is_set()

    def check(self) -> None:
        """Raises: Interrupted if the operation was ended."""
        if self._event.is_set():
            raise Interrupted

    def pause(self, seconds: float) -> None:
        """Wait. Raises: Interrupted if the operation is ended meanwhile."""
        if self._event.wait(seconds):
            raise Interrupted

    def add(self, handle: Handle) -> None:
        """Take a socket into account, and shut it down if the operation was ended already."""
        with self._lock:
            self._handles.add(handle)
        if self._event.is_set():
            handle.shut_down()

    def remove(self, handle: Handle) -> None:
        """Forget a socket."""
        with self._lock:
            self._handles.discard(handle)


@contextmanager
def deadline(handle: Callable[[], Handle | None], seconds: float) -> Iterator[threading.Event]:
    """Shut a socket down unless the block is done in time; the event that is yielded tells whether that happened.

    A time limit of a socket counts from byte to byte: a peer that sends one now and then would never exceed it.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        if (found := handle()) is not None:
            found.shut_down()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread is left: the socket's own limit has to do
        timer.start()
    try:
        yield late
    finally:
        timer.cancel()
