"""A machine in memory: systems, processes, signals, and the faults that a test asks for.

`Machine` is what survives when a program that used it dies: any number of `Simulator` services, one after the
other or at once, work on the same machine. Effects here are synchronous, as a kernel's are; what takes time
(pending completions, hanging steps) is in service.py. One machine belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..compute import DEVNULL, INHERIT, LOG, PIPE, STDOUT, Cause, Exit, Place, Stdio, now
from ..errors import CommandNotExecutable, CommandNotFound, InvalidSpec, ServiceError
from ..spec import Spec
from .programs import BUILT_IN, NOT_EXECUTABLE, Program, complain
from .streams import ContainerLog, DescriptorInput, DescriptorOutput, Input, LogOutput, Output, PipeOutput

if TYPE_CHECKING:
    from .service import SimulatedProcess, SimulatedSystem

Temperament = Literal["oci", "hcs"]

FIRST_PID = 1 << 23  # above Linux's PID_MAX_LIMIT: a pid from here never is one of a real process
KILL = 9
PIPE_SIGNAL = 13
TERM = 15
WINCH = 28
IGNORED_BY_DEFAULT = frozenset({17, 18, 19, 20, 21, 22, 23, 28})  # CHLD, URG, WINCH; and the job control that we lack
CONTROL_C = 0xC000013A  # STATUS_CONTROL_C_EXIT: how Windows ends a program that does not handle the request
TERMINATED = 0xFFFFFFFF  # the code that a terminated process of the HCS-like machine has
MEMORY_OF_A_PROCESS = 1 << 20

HCS_CODES = {"exists": 0xC037010F, "state": 0xC0370105, "gone": 0xC037010E, "exit": 0xC0370106, "lost": 0x8037011E}


class Signals:
    """The signals of one process: which it catches or ignores, and those that have come."""

    def __init__(self) -> None:
        self.caught: set[int] = set()
        self.ignored: set[int] = set()
        self._arrived: list[int] = []
        self._waiting: asyncio.Future[None] | None = None

    def catch(self, *numbers: int) -> None:
        """From now on `get` tells of these."""
        self.caught.update(numbers)

    def ignore(self, *numbers: int) -> None:
        """From now on these do nothing."""
        self.ignored.update(numbers)

    async def get(self) -> int:
        """The next caught signal, once there is one."""
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
        """What finds it again."""
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
        """Let its program run, from the loop's next turn on."""
        self.started_at = now()
        self._task = asyncio.get_running_loop().create_task(self._run(program))
        self._task.add_done_callback(self._done)

    async def _run(self, program: Program) -> int:
        try:
            self._program = _coroutine(program(self))
            return await _drive(self, self._program)
        except BrokenPipeError:
            if self.system.machine.temperament == "oci" and not self._is_protected:
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
            code = task.result()
            verdict = Exit(code=code & (0xFF if self.system.machine.temperament == "oci" else 0xFFFFFFFF))
        self._finish(verdict)

    @property
    def dying(self) -> bool:
        """Whether how it ends is decided already."""
        return self._verdict is not None

    @property
    def _is_protected(self) -> bool:
        """As pid 1 of its pid namespace it gets only the signals that it handles (pid_namespaces(7))."""
        return self.is_init and self.system.machine.temperament == "oci" and not self.system.spec.init

    def die(self, verdict: Exit) -> None:
        """End it, wherever it is; it is gone within the loop's next turns."""
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
            if system.machine.faults.drops("exit notification"):
                system.untold.append(self)
            elif system.machine.temperament == "hcs":
                asyncio.get_running_loop().call_soon(self.tell, exit)
            else:
                self.tell(exit)

    def tell(self, exit: Exit) -> None:
        """Notify whoever watches."""
        for watcher in list(self.watchers):
            watcher.told(exit)

    # signals

    def receives(self, number: int) -> bool:
        """Whether it would notice this signal at all."""
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
        elif self.system.machine.temperament == "hcs":
            self.die(Exit(code=CONTROL_C))
        elif not self._is_protected:
            self.die(signalled(number))

    def flush(self) -> None:
        """Deliver what has waited until the process can run."""
        if self._pending and self.began and not self.system.frozen:
            pending, self._pending = self._pending, []
            for number in pending:
                self.deliver(number)


def signalled(number: int) -> Exit:
    """The end by a signal."""
    return Exit(code=128 + number, signal=number, cause=Cause.SIGNALLED)


def _coroutine(awaitable: Any) -> Coroutine[Any, Any, int]:
    if asyncio.iscoroutine(awaitable):
        return awaitable
    raise TypeError("a program must be an `async def`")


def _loop_is_ending() -> bool:
    """Whether all tasks are being cancelled: the loop of who uses the machine is being shut down."""
    return all(task.cancelling() for task in asyncio.all_tasks())


@types.coroutine
def _drive(process: Process, program: Coroutine[Any, Any, int]) -> Generator[Any, Any, int]:
    """Run a program step by step: never while its system is paused, and no step after it was killed."""
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


class System:
    """One container of the machine."""

    def __init__(self, machine: Machine, id: str, spec: Spec, stdio: Stdio, place: Place, *, kept: bool) -> None:
        self.machine = machine
        self.id = id
        self.token = b"%s.%d" % (machine.id, next(machine.serials))
        self.spec = spec
        self.stdio = stdio
        self.place = place
        self.kept = kept  # has a monitor, which holds its log and its exit status
        self.lease = place.lease.id if place.lease is not None else None
        self.resources = spec.resources
        self.created_at = now()
        self.phase = "creating"  # creating, created, starting, running, stopped
        self.init: Process | None = None
        self.processes: dict[int, Process] = {}
        self.past: dict[int, Process] = {}  # ended ones
        self.untold: list[Process] = []  # ended ones whose notification was lost
        self.handles: set[SimulatedSystem] = set()
        self.frozen = False
        self.thawed = asyncio.Event()
        self.ending = False  # terminate or shutdown was asked for
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.deleted = False
        self.monitor_lost = False
        self.oom = False
        self.cpu_time = 0.0
        self.peak = 0

    def __repr__(self) -> str:
        return f"<simulated system {self.id}, {self.state}>"

    @property
    def state(self) -> str:
        """creating, created, starting, running, paused or stopped."""
        return "paused" if self.frozen and self.phase == "running" else self.phase

    @property
    def alive(self) -> bool:
        """Whether init lives, or may still be started."""
        if self.phase in ("creating", "created", "starting"):
            return self.init is None or self.init.exit is None
        return self.phase == "running" and self.init is not None and self.init.exit is None

    @property
    def memory(self) -> int:
        """Bytes that it uses now."""
        return len(self.processes) * MEMORY_OF_A_PROCESS

    # streams

    def wire(
        self, stdio: Stdio, *, terminal: bool, log: ContainerLog | None
    ) -> tuple[Input, Output, Output, PipeOutput | None, PipeOutput | None]:
        """The streams of a new process, and the ends that its caller reads. Raises before anything is changed."""
        outputs: list[Output] = []
        try:
            for name, target in (("stdout", stdio.stdout), ("stderr", stdio.stderr)):
                if name == "stderr" and (terminal or target == STDOUT):
                    outputs.append(outputs[0])
                elif terminal and target != LOG:
                    outputs.append(PipeOutput())
                else:
                    outputs.append(_output(name, target, log))
            stdin = _input(stdio.stdin, terminal=terminal)
        except BaseException:
            for output in outputs:
                output.end()
            raise
        out, err = outputs
        readable = out if isinstance(out, PipeOutput) else None
        readable_error = err if isinstance(err, PipeOutput) and err is not out else None
        return stdin, out, err, readable, readable_error

    def new_log(self) -> ContainerLog:
        """Its log, as the monitor begins it."""
        assert isinstance(self.spec.log_size, int)
        return ContainerLog(self.place.log, self.spec.log_size)

    # pausing

    def freeze(self) -> None:
        """No program of it runs any more."""
        self.frozen = True
        self.thawed.clear()

    def thaw(self) -> None:
        """They go on, and get the signals that came meanwhile."""
        self.frozen = False
        self.thawed.set()
        for process in list(self.processes.values()):
            process.flush()

    # the end

    def began(self) -> None:
        """A process was added."""
        self.peak = max(self.peak, self.memory)

    def process_ended(self, process: Process) -> None:
        """One of its processes is gone: with init an OCI container ends, an HCS system when asked to."""
        self.past[process.pid] = process
        if process is self.init:
            self.phase = "stopped"
        if self.machine.temperament == "oci":
            if process is self.init:
                for other in list(self.processes.values()):
                    other.die(signalled(KILL))
                self.exit()
        elif self.ending and not self.processes:
            self.exit()

    def kill(self, verdict: Exit) -> None:
        """End all of it, also what is paused or was never started."""
        self.ending = True
        processes = list(self.processes.values())
        for process in processes:
            process.die(verdict)
        if not processes and self.machine.temperament == "hcs":
            self.exit()

    def ask_to_end(self) -> None:
        """What a shutdown of the HCS-like machine does: each program may end by itself, or is ended if it can't."""
        self.ending = True
        processes = list(self.processes.values())
        for process in processes:
            process.deliver(TERM)
        if not processes:
            self.exit()

    def exit(self) -> None:
        """The system has ended: whoever waits for it wakes, also those whose own notification was lost."""
        self.phase = "stopped"
        if not self.exited.done():
            self.exited.set_result(None)
        if self.machine.temperament == "hcs":
            self.tell_untold()
            self.machine.forget(self)  # its id is free, whoever still has a handle of it

    def tell_untold(self) -> None:
        """The end of the system ends every wait; nobody saw how those processes ended."""
        untold, self.untold = self.untold, []
        for process in untold:
            exit = process.exit
            assert exit is not None
            process.tell(msgspec.structs.replace(exit, code=None, signal=None, cause=Cause.SYSTEM_GONE))


def _output(name: str, target: int, log: ContainerLog | None) -> Output:
    if target == PIPE:
        return PipeOutput()
    if target == DEVNULL:
        return Output()
    if target == LOG and log is not None:
        return LogOutput(log, name.encode())
    if target == INHERIT:
        return DescriptorOutput(1 if name == "stdout" else 2)
    if target >= 0:
        return DescriptorOutput(target)
    raise InvalidSpec(name, f"{target} is not a place for a stream of this process")


def _input(target: int, *, terminal: bool) -> Input:
    if target == PIPE or terminal:
        return Input(terminal=terminal)
    if target == INHERIT:
        return DescriptorInput(0)
    if target >= 0:
        return DescriptorInput(target)
    stdin = Input()
    stdin.feed_eof()
    return stdin


class Faults:
    """What is to go wrong, in the order in which it was asked for."""

    def __init__(self) -> None:
        self._failures: dict[str, list[BaseException]] = {}
        self._delays: dict[str, list[float | asyncio.Event]] = {}
        self._drops: Counter[str] = Counter()

    def fail(self, step: str, error: BaseException, times: int) -> None:
        self._failures.setdefault(step, []).extend([error] * times)

    def delay(self, step: str, until: float | asyncio.Event, times: int) -> None:
        self._delays.setdefault(step, []).extend([until] * times)

    def drop(self, what: str, times: int) -> None:
        self._drops[what] += times

    def failure(self, step: str) -> BaseException | None:
        """The error that this step is to end with, taken off the list."""
        if not self._failures:
            return None
        waiting = self._failures.get(step)
        return waiting.pop(0) if waiting else None

    def wait(self, step: str) -> float | asyncio.Event | None:
        """What this step is to wait for, taken off the list."""
        if not self._delays:
            return None
        waiting = self._delays.get(step)
        return waiting.pop(0) if waiting else None

    def drops(self, what: str) -> bool:
        """Whether this one is to be lost."""
        if self._drops[what] <= 0:
            return False
        self._drops[what] -= 1
        return True


class Machine:
    """Systems and processes in memory, in one of two temperaments. It lives on when a service of it dies.

    `programs` are added to the built-in ones, by the first word of a command. `systems` (by id), `processes` (by
    pid, living ones only) and `calls` (how often each step was asked for) are there to be looked at.
    """

    def __init__(self, temperament: Temperament = "oci", *, programs: Mapping[str, Program] | None = None) -> None:
        if temperament not in ("oci", "hcs"):
            raise ValueError(f"temperament is {temperament!r}: it must be oci or hcs")
        self.temperament: Temperament = temperament
        self.id = secrets.token_hex(4).encode()  # tokens of another machine, or of one before its reboot, are strange
        self.systems: dict[str, System] = {}
        self.processes: dict[int, Process] = {}
        self._by_token: dict[bytes, System] = {}
        self.calls: Counter[str] = Counter()
        self.programs: dict[str, Program] = {**BUILT_IN, **(programs or {})}
        self.faults = Faults()
        self.serials = itertools.count(1)
        self.pids = itertools.count(FIRST_PID)
        self.disconnects: list[Callable[[], None]] = []

    def program(self, container_id: str, args: Sequence[str]) -> Program:
        """What a command runs. CommandNotFound, CommandNotExecutable."""
        name = args[0]
        if name in NOT_EXECUTABLE:
            raise CommandNotExecutable(container_id, name, "permission denied")
        program = self.programs.get(name) or self.programs.get(os.path.basename(name))
        if program is None:
            raise CommandNotFound(container_id, name)
        return program

    def error(self, operation: str, id: str | None, detail: str, code: str | None = None) -> ServiceError:
        """An error of the simulated service; on the HCS-like machine with HCS's code."""
        number = HCS_CODES.get(code or "") if self.temperament == "hcs" else None
        return ServiceError(operation, id, detail, code=number)

    def find(self, token: bytes) -> tuple[System | None, int | None]:
        """The system, and the pid if there is one, that a token means."""
        system = self._by_token.get(token)
        if system is not None:
            return system, None
        base, _, pid = token.rpartition(b".")
        system = self._by_token.get(base)
        return system, int(pid) if system is not None else None

    def add(self, system: System) -> None:
        """Know a system, by its id and its token."""
        self.systems[system.id] = system
        self._by_token[system.token] = system

    def remove(self, system: System) -> None:
        """Forget a system: whatever of it lives is killed, and its id is free."""
        system.kill(signalled(KILL) if self.temperament == "oci" else Exit(code=TERMINATED, cause=Cause.KILLED))
        system.thaw()
        system.exit()
        system.tell_untold()
        self.forget(system)

    def forget(self, system: System) -> None:
        """Know it no more, neither by its id nor by its token."""
        if self.systems.get(system.id) is system:
            del self.systems[system.id]
        self._by_token.pop(system.token, None)

    def end_lease(self, lease: str) -> None:
        """Kill what belongs to a lease, as its keeper would; kept systems stay known, as stopped ones."""
        for system in list(self.systems.values()):
            if system.lease == lease:
                if system.phase == "creating" or not system.kept:
                    self.remove(system)
                else:
                    system.kill(self.killed)
        for process in list(self.processes.values()):
            if process.lease == lease:
                process.die(self.killed)

    @property
    def killed(self) -> Exit:
        """How a process ends that is killed from outside."""
        return signalled(KILL) if self.temperament == "oci" else Exit(code=TERMINATED, cause=Cause.KILLED)

    # what tests make happen

    def crash(self, id: str) -> None:
        """The system ends by itself, without anybody's asking: killed from outside, or an HCS system that crashes."""
        system = self.systems[id]
        system.kill(signalled(KILL) if self.temperament == "oci" else Exit(code=None, cause=Cause.SYSTEM_GONE))

    def kill_monitor(self, id: str) -> None:
        """The monitor of a kept container dies: its log ends there, and nobody will know how init ended."""
        system = self.systems[id]
        if not system.kept:
            raise ValueError(f"container `{id}` has no monitor")
        system.monitor_lost = True
        if system.init is not None:
            system.init.stdin.feed_eof()
            system.init.stdout.cut()
            system.init.stderr.cut()

    def out_of_memory(self, id: str) -> None:
        """The kernel kills init for lack of memory."""
        if self.temperament != "oci":
            raise ValueError("only the OCI-like machine kills for lack of memory")
        system = self.systems[id]
        system.oom = True
        assert system.init is not None
        system.init.die(signalled(KILL))

    def disconnect(self) -> None:
        """The service itself dies, with all its systems: every wait of every caller ends; then it is there again."""
        for system in list(self.systems.values()):
            for process in list(system.processes.values()):
                process.die(Exit(code=None, cause=Cause.SYSTEM_GONE))
            system.ending = True
            system.exit()
            system.tell_untold()
            self.forget(system)
        waiting, self.disconnects = self.disconnects, []
        for wake in waiting:
            wake()
