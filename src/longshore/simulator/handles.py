"""Give a caller handles of the machine's processes and systems, by the protocols of compute/protocols.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..compute.limits import Limits
from ..compute.values import DEVNULL, LOG, PIPE, Place, ProcessInfo, Stats, Stdio, Streams, SystemEnd, now
from ..errors import EngineClosed, InvalidState, LongshoreError, ProcessNotFound
from ..exit_record import Cause, Exit
from ..spec import ProcessSpec, Resources, Spec
from .machine import Machine
from .process import KILL, WINCH, Process
from .streams import ContainerLog, PipeOutput
from .system import MEMORY_OF_A_PROCESS, System

if TYPE_CHECKING:
    from .service import Simulator


class SimulatedProcess:
    """A caller's handle of one process of the machine."""

    def __init__(self, service: Simulator, process: Process, streams: Streams | None = None) -> None:
        self.streams = streams or Streams()
        self.failure: LongshoreError | None = None  # `start` and `exec` find out here whether it ran
        self._service = service
        self._process = process
        self._outputs: tuple[PipeOutput | None, ...] = ()
        self._closed = False
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        service._processes.add(self)
        exit = process.exit
        if exit is None:
            process.watchers.add(self)
        elif process.is_init and process.system.kept:  # its monitor has written down how it ended
            self.receive_exit(exit)
        else:
            self.receive_exit(msgspec.structs.replace(exit, code=None, signal=None, cause=Cause.SYSTEM_GONE))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def token(self) -> bytes:
        return self._process.token

    @property
    def process(self) -> Process:
        """The machine's own object, for tests to look at."""
        return self._process

    def receive_exit(self, exit: Exit) -> None:
        """Set the exit, when the machine publishes it."""
        if not self._exit.done() and not self._service.dead:
            self._exit.set_result(exit)

    async def wait(self) -> Exit:
        if self._service.dead:
            await self._service._never("wait")
        return await asyncio.shield(self._exit)

    def _check(self, operation: str) -> None:
        if self._closed:
            raise self._service.machine.error(operation, self._process.system.id, "the handle is closed")

    async def signal(self, signal: int) -> None:
        self._check("signal")
        if signal != KILL:
            self._service.machine.behaviour.require("signals")
        await self._service._step("signal", self._process.system)
        process = self._process
        if process.exit is not None or process.dying:
            if signal != KILL:
                raise ProcessNotFound(process.system.id, f"pid {process.pid}")
        elif signal == KILL:
            process.die(self._service.machine.killed)
        else:
            process.deliver(signal)

    async def kill_tree(self) -> None:
        self._check("kill_tree")
        await self._service._step("kill_tree", self._process.system)
        machine = self._service.machine
        if machine.behaviour.knows_relations:
            for other in list(self._process.system.processes.values()):
                if other.session is self._process.session:
                    other.die(machine.killed)
        self._process.die(machine.killed)

    async def close_stdin(self) -> None:
        self._check("close_stdin")
        await self._service._step("close_stdin", self._process.system)
        if self.streams.stdin is not None:
            self.streams.stdin.close()
        if self._service.machine.behaviour.closes_input:
            self._process.stdin.feed_eof()

    async def resize(self, rows: int, columns: int) -> None:
        self._check("resize")
        await self._service._step("resize", self._process.system)
        process = self._process
        if process.size is None:
            raise InvalidState(
                "resize the terminal of",
                process.system.id,
                "without a terminal",
                reason="its process has no terminal",
                hint="start the process with terminal=True (`-t`)",
            )
        if process.exit is not None:
            raise InvalidState("resize the terminal of", process.system.id, "stopped", hint="start another process")
        process.size = (rows, columns)
        process.deliver(WINCH)

    def _release(self) -> None:
        """Close the caller's ends of the streams, and stop watching."""
        self._process.watchers.discard(self)
        if self.streams.stdin is not None:
            self.streams.stdin.close()
        for output in self._outputs:
            if output is not None:
                output.cut()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._service._processes.discard(self)
        self._release()
        if not self._exit.done():
            self._exit.set_exception(EngineClosed())
            self._exit.exception()  # retrieved: nobody has to have waited


class SimulatedSystem:
    """A caller's handle of one system of the machine."""

    def __init__(self, service: Simulator, system: System) -> None:
        self.id = system.id
        self.init: SimulatedProcess | None = None
        self._service = service
        self._system = system
        self._closed = False
        self._execs: list[SimulatedProcess] = []
        system.handles.add(self)
        service._systems.add(self)

    @property
    def token(self) -> bytes:
        return self._system.token

    @property
    def system(self) -> System:
        """The machine's own object, for tests to look at."""
        return self._system

    @property
    def _machine(self) -> Machine:
        return self._service.machine

    def _check(self, operation: str, *phases: str) -> None:
        """Raise what the real service would: after close, when it is gone, or not in one of `phases`."""
        if self._closed:
            raise self._machine.error(operation, self.id, "the handle is closed")
        if phases:
            if self._machine.systems.get(self.id) is not self._system:
                raise self._machine.error(operation, self.id, "there is no such container", "gone")
            if self._system.state not in phases:
                raise self._machine.error(operation, self.id, f"it is {self._system.state}", "state")

    # its life

    async def start(self) -> SimulatedProcess:
        self._check("start", "created")
        system, machine = self._system, self._machine
        system.phase = "starting"
        try:
            await self._service._step("start", system)
            program = machine.program(self.id, command_of(system.spec))
            if system.phase != "starting" or system.ending:
                raise machine.error("start", self.id, "it ended while it was being started", "exit")
            init = self._wire_init() if self.init is None else self.init
        except BaseException:
            if not self._service.dead:
                self._undo_start()
            raise
        if system.kept and system.stdio.stdin not in (DEVNULL, LOG):
            init.streams.stdin = init.process.stdin.open_writer()
        system.phase = "running"
        init.process.begin(program)
        return init

    def _undo_start(self) -> None:
        """Undo a failed start. HCS forgets the system then; with an OCI runtime it is stopped."""
        system, machine = self._system, self._machine
        if machine.behaviour.forgets_ended:
            machine.remove(system)
        else:
            system.kill(machine.killed)
            system.phase = "stopped"

    def _wire_init(self) -> SimulatedProcess:
        """Make init and its streams: at create on the OCI-like machine, at start on the HCS-like one."""
        system, machine = self._system, self._machine
        spec, stdio = system.spec, machine.behaviour.stdio_of_init(system.stdio, kept=system.kept)
        log = system.new_log() if system.kept else None
        has_input = not system.kept and (stdio.stdin == PIPE or spec.terminal)
        self.init = self._make_process(command_of(spec), spec, stdio, log, system.lease, has_input=has_input)
        system.init = self.init.process
        return self.init

    def _make_process(
        self,
        args: Sequence[str],
        asked: Spec | ProcessSpec,
        stdio: Stdio,
        log: ContainerLog | None,
        lease: str | None,
        *,
        has_input: bool,
    ) -> SimulatedProcess:
        """Make a process that has not begun, with its streams."""
        system = self._system
        stdin, stdout, stderr, out, err = system.wire(stdio, terminal=asked.terminal, log=log)
        process = Process(
            system,
            args,
            env=asked.env,
            cwd=asked.cwd or "/",
            user=asked.user,
            size=(asked.size or (24, 80)) if asked.terminal else None,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            lease=lease,
        )
        system.began()
        streams = Streams(stdout=out.reader if out else None, stderr=err.reader if err else None)
        if has_input:
            streams.stdin = stdin.open_writer()
        handle = SimulatedProcess(self._service, process, streams)
        handle._outputs = (out, err)
        return handle

    async def exec(self, process: ProcessSpec, stdio: Stdio, name: str, place: Place) -> SimulatedProcess:
        self._check("exec")
        system, machine = self._system, self._machine
        if system.state == "paused":
            raise InvalidState("exec in", self.id, "paused", hint="resume it first")
        self._check("exec", "running")
        args = process.args or (process.command_line or "").split() or process.command
        program = machine.program(self.id, args)
        await self._service._step("exec", system)
        self._check("exec", "running", "paused")
        if system.ending or not system.alive:
            raise machine.error("exec", self.id, "it is ending", "state")
        lease = place.lease.id if place.lease is not None else None
        spec = system.spec
        asked = msgspec.structs.replace(
            process, env={**spec.env, **process.env}, cwd=process.cwd or spec.cwd, user=process.user or spec.user
        )
        has_input = stdio.stdin == PIPE or process.terminal
        handle = self._make_process(args, asked, stdio, None, lease, has_input=has_input)
        if lease is not None:
            self._service._leases.add(lease)
        made = handle.process
        self._execs.append(handle)
        made.ended.add_done_callback(lambda _: self._execs.remove(handle) if handle in self._execs else None)
        made.begin(program)
        return handle

    async def open_process(self, token: bytes) -> SimulatedProcess:
        self._check("open_process")
        await self._service._step("open_process", self._system)
        system, pid = self._machine.find(token)
        if system is not self._system:
            raise self._machine.error("open_process", self.id, "there is no such process", "gone")
        if self.init is not None and pid in (None, self.init.pid):
            return self.init
        if pid is None:
            raise self._machine.error("open_process", self.id, "it was not started", "state")
        process = system.processes.get(pid) or system.past.get(pid)
        if process is None:
            raise self._machine.error("open_process", self.id, f"there never was a process {pid}", "gone")
        return SimulatedProcess(self._service, process)

    async def attach_stdin(self) -> asyncio.StreamWriter:
        """Return a writer to the input of a running container that was made with one.

        Raises: NotSupported where the input is lost.
        """
        self._check("attach_stdin", "created", "starting", "running", "paused")
        await self._service._step("attach_stdin", self._system)
        system = self._system
        self._machine.behaviour.require("attach-stdin")
        if not system.kept or system.init is None or system.stdio.stdin in (DEVNULL, LOG) or system.monitor_lost:
            raise self._machine.error("attach_stdin", self.id, "it has no input that can be reached")
        return system.init.stdin.open_writer()

    # its end

    async def shutdown(self, signal: int | None = None) -> None:
        self._check("shutdown")
        await self._service._step("shutdown", self._system)
        if self._system.alive:
            self._machine.behaviour.shut_down(self._system, signal)

    def is_ending(self) -> bool:
        """Return whether it has ended: a simulated end takes no time."""
        return not self._system.alive

    async def can_receive(self, signal: int) -> bool:
        return self._machine.behaviour.can_receive(self._system, signal)

    async def terminate(self) -> None:
        self._check("terminate")
        await self._service._step("terminate", self._system)
        self._machine.behaviour.terminate(self._system)

    async def urge(self) -> None:
        """Do nothing: the next step is to kill."""

    def settle_limit(self, limits: Limits) -> float:
        return limits.settle

    async def settle(self, init: Exit, limit: float) -> SystemEnd:
        self._check("settle")
        system, machine = self._system, self._machine
        if system.alive and machine.systems.get(self.id) is system:
            raise machine.error("settle", self.id, f"it is {system.state}", "state")
        error: str | None = None
        try:
            async with asyncio.timeout(limit):
                await self._service._step("settle", system)
                if not system.exited.done():
                    system.ask_to_end()
                    await asyncio.shield(system.exited)
        except TimeoutError:
            error = f"it did not shut down within {limit:g} s and was terminated"
            system.kill(machine.killed)
            await asyncio.shield(system.exited)
        if init.cause is Cause.SYSTEM_GONE:
            error = error or "the system ended by itself"
        cause = Cause.OOM if system.oom and init.signal == KILL and init.cause is Cause.SIGNALLED else init.cause
        exit = msgspec.structs.replace(init, peak_memory=system.peak, cpu_time=system.cpu_time, cause=cause)
        return SystemEnd(exit=exit, oom=system.oom, error=error)

    async def delete(self) -> None:
        self._check("delete")
        system, machine = self._system, self._machine
        known = machine.systems.get(self.id) is system
        if system.deleted or (not known and not machine.behaviour.deletes_forgotten):
            return
        if known and system.phase in ("starting", "running") and not system.ending and system.alive:
            dying = system.init is not None and system.init.dying
            if not dying:
                raise machine.error("delete", self.id, f"it is {system.state}: terminate it first", "state")
        await self._service._step("delete", system)
        left = list(system.processes.values())
        machine.remove(system)
        system.deleted = True
        for process in left:
            await asyncio.shield(process.ended)

    # the rest

    async def pause(self) -> None:
        self._check("pause")
        system = self._system
        self._machine.behaviour.check_pause(system.spec)
        self._check("pause", "running")
        system.freeze()
        try:
            await self._service._step("pause", system)
        except BaseException:
            if not self._service.dead:
                system.thaw()
            raise
        self._check("pause", "paused")  # it may have ended meanwhile

    async def resume(self) -> None:
        self._check("resume", "paused")
        await self._service._step("resume", self._system)
        self._system.thaw()

    async def paused(self) -> bool:
        self._check("paused")
        return self._system.state == "paused"

    async def stats(self) -> Stats:
        self._check("stats", "created", "running", "paused")
        await self._service._step("stats", self._system)
        return self._stats()

    def _stats(self) -> Stats:
        system = self._system
        cpu = system.cpu_time + sum(process.cpu_time for process in system.processes.values())
        counts = self._machine.behaviour.counts_resources
        limit, pids = system.resources.memory, system.resources.pids
        return Stats(
            at=now(),
            cpu_time=cpu,
            cpu_user=cpu,
            cpu_system=0.0,
            memory=system.memory,
            memory_peak=system.peak,
            memory_limit=limit if counts and isinstance(limit, int) else None,
            oom_kills=int(system.oom) if counts else None,
            pids=len(system.processes) if counts else None,
            pids_limit=pids if counts and pids not in (None, -1) else None,
            read_bytes=0,
            written_bytes=0,
            read_operations=0,
            write_operations=0,
            network=[],
        )

    async def processes(self) -> list[ProcessInfo]:
        self._check("processes", "created", "running", "paused", "stopped")
        await self._service._step("processes", self._system)
        known = self._machine.behaviour.knows_relations
        return [
            ProcessInfo(
                pid=process.pid,
                command=process.args[0],
                arguments=process.args if known else None,
                parent_pid=process.parent.pid if known and process.parent is not None else None,
                user=process.user if known else None,
                started_at=process.started_at,
                cpu_user=process.cpu_time,
                cpu_system=0.0,
                memory=MEMORY_OF_A_PROCESS,
            )
            for process in self._system.processes.values()
        ]

    async def update(self, change: Resources) -> None:
        self._check("update")
        self._machine.behaviour.require("update")
        self._check("update", "created", "running", "paused")
        await self._service._step("update", self._system)
        wanted = {name: getattr(change, name) for name in change.__struct_fields__}
        set_ = {name: value for name, value in wanted.items() if value is not None}
        self._system.resources = msgspec.structs.replace(self._system.resources, **set_)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._service._systems.discard(self)
        system = self._system
        system.handles.discard(self)
        for handle in [*self._execs, *([self.init] if self.init is not None else [])]:
            await handle.close()
        if self._machine.behaviour.ends_with_last_handle and system.lease is not None and not system.handles:
            system.kill(self._machine.killed)  # TerminateOnLastHandleClosed


def command_of(spec: Spec) -> list[str]:
    """Return the command of init."""
    return spec.command or ["true"]  # servicing runs no command of the user's
