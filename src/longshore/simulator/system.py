"""One container of the machine: its processes and streams, pausing, and its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from ..compute.values import DEVNULL, INHERIT, LOG, PIPE, STDOUT, Place, Stdio, now
from ..errors import InvalidSpec
from ..exit_record import Cause, Exit
from ..spec import Spec
from .process import KILL, TERM, Process, signalled
from .streams import ContainerLog, DescriptorInput, DescriptorOutput, Input, LogOutput, Output, PipeOutput

if TYPE_CHECKING:
    from .handles import SimulatedSystem
    from .machine import Machine

MEMORY_OF_A_PROCESS = 1 << 20


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
        self.unpublished: list[Process] = []  # ended ones whose notification was lost or is late
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
        """Make the streams of a new process, and the ends that its caller reads. An error leaves nothing."""
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
        """Begin its log, as the monitor does."""
        assert isinstance(self.spec.log_size, int)
        return ContainerLog(self.place.log, self.spec.log_size)

    # pausing

    def freeze(self) -> None:
        """Stop all of its programs."""
        self.frozen = True
        self.thawed.clear()

    def thaw(self) -> None:
        """Let its programs continue, with the signals that came meanwhile."""
        self.frozen = False
        self.thawed.set()
        for process in list(self.processes.values()):
            process.flush()

    # the end

    def began(self) -> None:
        """Note that a process was added."""
        self.peak = max(self.peak, self.memory)

    def process_ended(self, process: Process) -> None:
        """Note the end of a process. With init, an OCI container ends; an HCS system ends only when asked to."""
        self.past[process.pid] = process
        if process is self.init:
            self.phase = "stopped"
        if self.machine.behaviour.ends_with_init:
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
        if not processes and not self.machine.behaviour.ends_with_init:
            self.exit()

    def ask_to_end(self) -> None:
        """Shut down, as the HCS-like machine does: a program that handles the request may end by itself."""
        self.ending = True
        processes = list(self.processes.values())
        for process in processes:
            process.deliver(TERM)
        if not processes:
            self.exit()

    def exit(self) -> None:
        """End the system. All waiters wake, also those whose own notification was lost."""
        self.phase = "stopped"
        if not self.exited.done():
            self.exited.set_result(None)
        if self.machine.behaviour.forgets_ended:
            self.publish_missing_exits()
            self.machine.forget(self)  # its id is free, whoever still has a handle of it

    def publish_missing_exits(self) -> None:
        """Publish unknown exits for processes whose notification was lost: the end of the system ends every wait."""
        unpublished, self.unpublished = self.unpublished, []
        for process in unpublished:
            exit = process.exit
            assert exit is not None
            process.publish_exit(msgspec.structs.replace(exit, code=None, signal=None, cause=Cause.SYSTEM_GONE))


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
