"""Time and delivery in the scripted service: what happens later, and notifications on threads that are not ours."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any


class Clock:
    """One thread that does things when they are due."""

    def __init__(self, lock: threading.RLock) -> None:
        self._changed = threading.Condition(lock)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._stopped = False
        self._thread = threading.Thread(target=self._tick, name="scripted clock", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """How many things are still to be done."""
        return len(self._due)

    def after(self, milliseconds: float, do: Callable[[], None]) -> None:
        """Have something done later; at once and here if that is now."""
        if milliseconds <= 0:
            do()
            return
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + milliseconds / 1000, next(self._numbers), do))
            self._changed.notify()

    def _tick(self) -> None:
        with self._changed:
            while not self._stopped:
                wait = None if not self._due else self._due[0][0] - time.monotonic()
                if wait is not None and wait <= 0:
                    heapq.heappop(self._due)[2]()
                else:
                    self._changed.wait(wait)

    def close(self) -> None:
        """Do nothing any more."""
        with self._changed:
            self._stopped = True
            self._due.clear()
            self._changed.notify()
        self._thread.join()


class Mailbox:
    """One registration: its notifications are delivered one after the other."""

    def __init__(self, name: str, callback: Any, context: int) -> None:
        self.name = name
        self.callback = callback
        self.context = context
        self.letters: deque[tuple[int, int, str | None, Callable[[], None]]] = deque()
        self.delivering = False
        self.closed = False


class PostOffice:
    """Threads of the service's own, which call back. `threads` of them, shared by all registrations."""

    def __init__(self, lock: threading.RLock, threads: int = 8) -> None:
        self._changed = threading.Condition(lock)
        self._boxes: deque[Mailbox] = deque()
        self._stopped = False
        self.delivered = 0
        self._threads = [
            threading.Thread(target=self._deliver, name=f"scripted postman {number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything is being delivered, or is to be."""
        return bool(self._boxes) or self._working > 0

    _working = 0

    def send(self, box: Mailbox, type: int, status: int, data: str | None, after: Callable[[], None]) -> None:
        """Have a notification delivered; `after` is called when it was."""
        with self._changed:
            if box.closed:
                return
            box.letters.append((type, status, data, after))
            if not box.delivering and box not in self._boxes:
                self._boxes.append(box)
                self._changed.notify()

    def close_box(self, box: Mailbox) -> None:
        """Deliver nothing to it any more; returns when what is under way has been delivered."""
        with self._changed:
            box.closed = True
            box.letters.clear()
            while box.delivering:
                self._changed.wait()

    def _deliver(self) -> None:
        import ctypes

        while True:
            with self._changed:
                while not self._boxes and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                box = self._boxes.popleft()
                if not box.letters:
                    continue
                type, status, data, after = box.letters.popleft()
                box.delivering = True
                self._working += 1
            text = None if data is None else ctypes.create_unicode_buffer(data)
            signed = status - (1 << 32) if status & 0x80000000 else status
            box.callback(type, box.context, signed, None if text is None else ctypes.addressof(text))
            with self._changed:
                after()
                self.delivered += 1
                self._working -= 1
                box.delivering = False
                if box.letters and not box.closed:
                    self._boxes.append(box)
                self._changed.notify_all()

    def close(self) -> None:
        """End the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
