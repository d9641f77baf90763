"""Time that passes only when nothing is left to do: threads that take turns, and the scripted service among them.

What the model of the original does must not depend on the machine that it runs on. Here one thread runs at a time,
until it waits for something; the next one is the first whose wait is over. Where none is, the time is set to the next
moment at which something is due. So every run of a scenario is the same run, and takes no longer than its work.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.hcs.plumbing import Outlet
from tests.hcs.postmen import Mailbox
from tests.hcs.scripted import Hcs


class Over(BaseException):
    """The scenario is over: raised in every thread that still waits."""


class _Turn:
    """One thread, while it waits."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.ready: Callable[[], bool] = lambda: True
        self.until: float | None = None
        self.thread: threading.Thread | None = None


class Turns:
    """The threads of one scenario, and its time in seconds. Made by its first thread."""

    def __init__(self) -> None:
        self.now = 0.0
        self.is_over = False
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting: list[_Turn] = []
        self._mine = threading.local()
        self._mine.turn = _Turn()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Have something done at a later moment."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), do))

    @property
    def due(self) -> int:
        """How many things are still to be done."""
        return len(self._due)

    def forget(self) -> None:
        """Do nothing later any more."""
        self._due.clear()

    def spawn(self, work: Callable[[], object]) -> None:
        """Have a thread do something when its turn comes."""
        turn = _Turn()

        def run() -> None:
            turn.go.acquire()
            self._mine.turn = turn
            with suppress(Over):
                if not self.is_over:
                    work()
            if not self.is_over:
                self._next()

        turn.thread = threading.Thread(target=run, daemon=True)
        turn.thread.start()
        self._waiting.append(turn)

    def wait(self, ready: Callable[[], bool], seconds: float | None = None) -> bool:
        """Let others run until something is so, or so many seconds have passed. Whether it is so."""
        if self.is_over:
            raise Over
        if ready():
            return True
        turn: _Turn = self._mine.turn
        turn.ready, turn.until = ready, None if seconds is None else self.now + seconds
        self._waiting.append(turn)
        self._next()
        turn.go.acquire()
        if self.is_over:
            raise Over
        return ready()

    def sleep(self, seconds: float) -> None:
        """Let others run for so long."""
        self.wait(lambda: False, seconds)

    def _next(self) -> None:
        """Give the turn to the first thread whose wait is over."""
        while True:
            for turn in self._waiting:
                if turn.ready() or (turn.until is not None and turn.until <= self.now):
                    self._waiting.remove(turn)
                    turn.go.release()
                    return
            moments = [turn.until for turn in self._waiting if turn.until is not None]
            moments += [self._due[0][0]] if self._due else []
            self.now = max(self.now, min(moments))  # the scenario's first thread waits for nothing without an end
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()

    def end(self) -> None:
        """Have every thread end, one after the other. Called by the first."""
        self.is_over = True
        while self._waiting:
            turn = self._waiting.pop(0)
            turn.go.release()
            if turn.thread is not None:
                turn.thread.join()


class Lock:
    """A lock, for `with`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._held = False

    def __enter__(self) -> None:
        self._turns.wait(lambda: not self._held)
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False


class _NoLock:
    """Only one thread runs."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class _Clock:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    @property
    def pending(self) -> int:
        return self._turns.due

    def after(self, milliseconds: float, do: Callable[[], None]) -> None:
        if milliseconds <= 0:
            do()
        else:
            self._turns.after(milliseconds / 1000, do)

    def close(self) -> None:
        self._turns.forget()


class _PostOffice:
    """A thread for each registration that has something to be told: a callback may not come back."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._working = 0

    @property
    def busy(self) -> bool:
        return self._working > 0

    def send(self, box: Mailbox, type: int, status: int, data: str | None, after: Callable[[], None]) -> None:
        if box.closed:
            return
        box.letters.append((type, status, data, after))
        if not box.delivering:
            box.delivering = True
            self._working += 1
            self._turns.spawn(lambda: self._deliver(box))

    def _deliver(self, box: Mailbox) -> None:
        while box.letters and not box.closed:
            type, status, _, after = box.letters.popleft()
            box.callback(type, box.context, status - (1 << 32) if status & 0x80000000 else status, None)
            after()
        self._working -= 1
        box.delivering = False

    def close_box(self, box: Mailbox) -> None:
        box.closed = True
        box.letters.clear()
        self._turns.wait(lambda: not box.delivering)

    def close(self) -> None: ...


class Pipe:
    """One pipe: what was written and not read yet."""

    def __init__(self, told: Callable[[bytes], None] | None = None) -> None:
        self.data = bytearray()
        self.ended = False
        self.told = told


class Plumbing:
    """Pipes in memory, by numbers that stand for both of their ends."""

    busy = False

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._pipes: dict[int, Pipe] = {}
        self._numbers = itertools.count(1000)

    def _new(self, told: Callable[[bytes], None] | None = None) -> int:
        number = next(self._numbers)
        self._pipes[number] = Pipe(told)
        return number

    def outlet(self) -> tuple[int, Outlet]:
        number = self._new()
        return number, Outlet(number)

    def inlet(self, told: Callable[[bytes], None]) -> tuple[int, int]:
        number = self._new(told)
        return number, number

    def close_inlet(self, descriptor: int) -> None:
        self._pipes[descriptor].told = None

    def is_hung_up(self, descriptor: int) -> bool:
        return self._pipes[descriptor].ended

    def write(self, outlet: Outlet, data: bytes) -> None:
        if not outlet.ending:
            self._pipes[outlet.descriptor].data += data

    def end(self, outlet: Outlet) -> None:
        outlet.ending = outlet.closed = True
        self._pipes[outlet.descriptor].ended = True

    def discard(self, descriptor: int) -> None:
        """A handle that is given away for another one."""

    # the client's ends

    def read(self, number: int) -> bytes:
        """What has come; b"" at the end."""
        pipe = self._pipes[number]
        self._turns.wait(lambda: bool(pipe.data) or pipe.ended)
        data, pipe.data = bytes(pipe.data), bytearray()
        return data

    def give(self, number: int, data: bytes) -> int:
        """Write to a process."""
        told = self._pipes[number].told
        if told is not None:
            told(data)
        return len(data)

    def close_end(self, number: int) -> None:
        """Close the client's end of a pipe."""
        pipe = self._pipes[number]
        pipe.ended = True
        if pipe.told is not None:
            pipe.told(b"")

    def close(self) -> None: ...


class TurnTakingHcs(Hcs):
    """The scripted service, on the time and the threads of a scenario."""

    plumbing: Any

    def __init__(self, turns: Turns, *arguments: Any, **options: Any) -> None:
        self.turns = turns
        super().__init__(*arguments, **options)

    def furnish(self) -> None:
        turns = self.turns
        self.lock: Any = _NoLock()
        self.clock: Any = _Clock(turns)
        self.post: Any = _PostOffice(turns)
        self.plumbing = Plumbing(turns)
        self.now: Callable[[], float] = lambda: turns.now
        self.sleep: Callable[[float], None] = turns.sleep


__all__ = ["Lock", "Over", "TurnTakingHcs", "Turns"]
