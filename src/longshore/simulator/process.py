"""Run one process of the machine: its program, its signals, its streams."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..compute.values import now
from ..exit_record import Cause, Exit
from .faults import EXIT_NOTIFICATION, Fate
from .programs import Program, complain
from .streams import Input, Output

if TYPE_CHECKING:
    from .handles import SimulatedProcess
    from .system import System

KILL = 9
PIPE_SIGNAL = 13
TERM = 15
WINCH = 28
IGNORED_BY_DEFAULT = frozenset({17, 18, 19, 20, 21, 22, 23, 28})  # CHLD, URG, WINCH; and the job control that we lack
AGAIN_AFTER = 0.01  # seconds between a notification and its double


class Signals:
    """The signals of one process: which it catches or ignores, and those that have come."""

    def __init__(self) -> None:
        self.caught: set[int] = set()
        self.ignored: set[int] = set()
        self._arrived: list[int] = []
        self._waiting: asyncio.Future[None] | None = None

    def catch(self, *numbers: int) -> None:
        """Have `get` return these signals from now on."""
        self.caught.update(numbers)

    def ignore(self, *numbers: int) -> None:
        """Ignore these signals from now on."""
        self.ignored.update(numbers)

    async def get(self) -> int:
        """Wait for the next caught signal."""
        while not self._arrived:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._arrived.pop(0)

    def put(self, number: int) -> None:
        """Deliver a signal."""
        self._arrived.append(number)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Process:
    """One process of the machine: what its program sees, and what tests may look at.

    `exit` is None while it lives. Its program runs as a task of the event loop.
    """

    def __init__(
        self,
        system: System,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        user: str | None,
        size: tuple[int, int] | None,
        stdin: Input,
        stdout: Output,
        stderr: Output,
        parent: Process | None = None,
        lease: str | None = None,
    ) -> None:
        machine = system.machine
        self.system = system
        self.pid = next(machine.pids)
        self.args = list(args)
        self.env = dict(env)
        self.cwd = cwd
        self.user = user
        self.size = size  # rows, columns of its terminal; None: it has none
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.parent = parent
        self.session: Process = parent.session if parent is not None else self
        self.lease = lease
        self.signals = Signals()
        self.started_at = now()
        self.cpu_time = 0.0  # seconds that its program has computed
        self.exit: Exit | None = None
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.watchers: set[SimulatedProcess] = set()
        self._verdict: Exit | None = None  # how it ends, once it was decided from outside
        self._task: asyncio.Task[int] | None = None
        self._program: Any = None
        self.began = False  # its program has reached its first wait
        self._pending: list[int] = []
        machine.processes[self.pid] = self
        system.processes[self.pid] = self

    def __repr__(self) -> str:
        return f"<simulated process {self.pid} {self.args!r} of {self.system.id}>"

    @property
    def token(self) -> bytes:
        """Identify it for later."""
        return b"%s.%d" % (self.system.token, self.pid)

    @property
    def is_init(self) -> bool:
        """Whether it is the first process of its container."""
        return self.system.init is self

    # for its program

    def spawn(self, args: Sequence[str]) -> Process:
        """Start a child, which shares the streams. CommandNotFound if there is no such program."""
        program = self.system.machine.program(self.system.id, args)
        child = Process(
            self.system,
            args,
            env=self.env,
            cwd=self.cwd,
            user=self.user,
            size=self.size,
            stdin=self.stdin,
            stdout=self.stdout,
            stderr=self.stderr,
            parent=self,
            lease=self.lease,
        )
        child.begin(program)
        return child

    # its life

    def begin(self, program: Program) -> None:
        """Run its program, from the loop's next turn on."""
        self.started_at = now()
        self._task = asyncio.get_running_loop().create_task(self._run(program))
        self._task.add_done_callback(self._done)

    async def _run(self, program: Program) -> int:
        try:
            self._program = _coroutine(program(self))
            return await _drive(self, self._program)
        except BrokenPipeError:
            if self.system.machine.behaviour.ends_by_broken_pipe and not self._is_protected:
                self._verdict = signalled(PIPE_SIGNAL)
            return 1
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception as error:  # a program may fail as it likes
            with suppress(OSError):
                await complain(self, error)
            return 1

    def _done(self, task: asyncio.Task[int]) -> None:
        if self._program is not None:
            with suppress(Exception):  # what it does on its way out is its own affair: it was killed
                self._program.close()
        if self._verdict is not None:
            verdict = self._verdict
            if not task.cancelled():
                task.exception()  # retrieved: it was killed, whatever it did
        elif task.cancelled():  # the loop is being shut down: as if the power went
            verdict = Exit(code=None, cause=Cause.SYSTEM_GONE)
        else:
            verdict = Exit(code=task.result() & self.system.machine.behaviour.exit_code_mask)
        self._finish(verdict)

    @property
    def dying(self) -> bool:
        """Whether its end is decided already."""
        return self._verdict is not None

    @property
    def _is_protected(self) -> bool:
        """Whether it gets only the signals that it handles, as pid 1 of a pid namespace (pid_namespaces(7))."""
        return self.is_init and self.system.machine.behaviour.protects_init and not self.system.spec.init

    def die(self, verdict: Exit) -> None:
        """End it; it is gone within the loop's next turns."""
        if self.exit is not None or self._verdict is not None:
            return
        self._verdict = verdict
        if self._task is None:
            self._finish(verdict)
        else:
            self._task.cancel()

    def _finish(self, verdict: Exit) -> None:
        if self.exit is not None:
            return
        system = self.system
        if self.is_init and system.monitor_lost:
            verdict = Exit(code=None, cause=Cause.MONITOR_LOST)
        self.exit = exit = Exit(
            code=verdict.code,
            signal=verdict.signal,
            cause=verdict.cause,
            started_at=self.started_at,
            at=now(),
            pid=self.pid,
        )
        del system.machine.processes[self.pid]
        del system.processes[self.pid]
        system.cpu_time += self.cpu_time
        if self.parent is None:
            self.stdin.end()
            self.stdout.end()
            self.stderr.end()
        self.ended.set_result(exit)
        system.process_ended(self)
        if self.watchers:
            self._notify(exit)

    def _notify(self, exit: Exit) -> None:
        """Publish the exit, or lose, delay or double the notification as a test asked."""
        machine, loop = self.system.machine, asyncio.get_running_loop()
        fate = machine.faults.fate(EXIT_NOTIFICATION)
        if fate is Fate.LOST:
            self.system.unpublished.append(self)
            return
        if fate is not None and fate is not Fate.DOUBLED:
            self.system.unpublished.append(self)  # if the system ends before, it is told by that
            machine.later(fate, lambda: self._publish_late(exit))
            return
        if machine.behaviour.notifies_later:
            loop.call_soon(self.publish_exit, exit)
        else:
            self.publish_exit(exit)
        if fate is Fate.DOUBLED:
            loop.call_later(AGAIN_AFTER, self.publish_exit, exit)

    def _publish_late(self, exit: Exit) -> None:
        if self in self.system.unpublished:
            self.system.unpublished.remove(self)
            self.publish_exit(exit)

    def publish_exit(self, exit: Exit) -> None:
        """Pass the exit to all watchers."""
        for watcher in list(self.watchers):
            watcher.receive_exit(exit)

    # signals

    def receives(self, number: int) -> bool:
        """Return whether this signal would have an effect."""
        return (
            number == KILL
            or not self._is_protected
            or number in self.signals.caught
            or (not self.began and self._task is not None)
        )

    def deliver(self, number: int) -> None:
        """Deliver a signal, or keep it until the process can run."""
        if number == KILL:
            self.die(signalled(KILL))
        elif not self.began or self.system.frozen:
            self._pending.append(number)
        elif number in self.signals.caught:
            self.signals.put(number)
        elif number in self.signals.ignored or number in IGNORED_BY_DEFAULT:
            pass
        elif not self._is_protected:
            self.die(self.system.machine.behaviour.death_by(number))

    def flush(self) -> None:
        """Deliver the signals that waited until the process can run."""
        if self._pending and self.began and not self.system.frozen:
            pending, self._pending = self._pending, []
            for number in pending:
                self.deliver(number)


def signalled(number: int) -> Exit:
    """Return the exit of a process that a signal ends."""
    return Exit(code=128 + number, signal=number, cause=Cause.SIGNALLED)


def _coroutine(awaitable: Any) -> Coroutine[Any, Any, int]:
    if asyncio.iscoroutine(awaitable):
        return awaitable
    raise TypeError("a program must be an `async def`")


def _loop_is_ending() -> bool:
    """Return whether all tasks are being cancelled, because the loop is being shut down."""
    return all(task.cancelling() for task in asyncio.all_tasks())


@types.coroutine
def _drive(process: Process, program: Coroutine[Any, Any, int]) -> Generator[Any, Any, int]:
    """Run a program step by step: no step while its system is paused, and none after it was killed."""
    error: BaseException | None = None
    system = process.system
    while True:
        while system.frozen and not process.dying and not (error is not None and _loop_is_ending()):
            try:
                yield from system.thawed.wait().__await__()
            except GeneratorExit:
                raise
            except BaseException as raised:  # a time limit of the program's own, perhaps
                if process.dying:
                    raise
                error = raised
        begin = perf_counter()
        try:
            awaited = program.send(None) if error is None else program.throw(error)
        except StopIteration as stop:
            code = stop.value
            if not isinstance(code, int):
                raise TypeError(f"a program must return its exit code, not {code!r}") from None
            return code
        finally:
            process.cpu_time += perf_counter() - begin
        error = None
        process.began = True
        process.flush()
        try:
            yield awaited
        except GeneratorExit:
            raise
        except BaseException as raised:  # what was awaited failed: the program's to handle
            if process.dying:
                raise
            error = raised
