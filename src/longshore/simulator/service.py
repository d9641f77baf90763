"""The simulator's compute service: the three protocols of compute/protocols.py over a machine in memory.

One `Simulator` is one caller of the machine: what it holds (streams, handles, pending operations) ends with it,
what the machine holds goes on. temperament.py says in what the two temperaments differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..compute.protocols import SystemGone
from ..compute.values import LOG, Features, Lease, Place, Plan, State, Stdio
from ..errors import ServiceError
from ..spec import Spec
from .faults import ANY, EXIT_NOTIFICATION, Fate, Faults
from .handles import SimulatedProcess, SimulatedSystem, command_of
from .machine import Machine
from .process import Process
from .programs import Program
from .system import System
from .temperament import Temperament

VERSION = "1"

STEPS = frozenset(
    "probe create launch start exec open open_process signal kill_tree close_stdin resize shutdown terminate settle"
    " delete pause resume stats processes update attach_stdin abandon end_lease leftovers version".split()
)
"""The steps of `fail_at` and `delay`, besides `any`. `launch` is also a `create` and a `start`."""

NEEDS_LIFE = frozenset({"create", "start", "exec", "pause", "resume"})
"""Steps that a system which has ended meanwhile can never complete."""


class Simulator:
    """A compute service with memory, for tests of programs that use containers.

    `temperament` is how it behaves: `oci` as Linux's runtimes, `hcs` as Windows' service. `programs` adds to the
    built-in commands (`longshore.simulator.programs`). `machine` is one that another Simulator used before, or
    uses too: its containers are still there.

    What shall go wrong is asked for beforehand: `fail_at`, `delay`, `drop`, `double`; or made to happen now: `crash`,
    `kill_monitor`, `out_of_memory`, `disconnect`, `caller_died`. docs/simulator.md explains it by examples.
    """

    name = "simulator"

    def __init__(
        self,
        temperament: Temperament = "oci",
        *,
        programs: Mapping[str, Program] | None = None,
        machine: Machine | None = None,
    ) -> None:
        if machine is None:
            machine = Machine(temperament, programs=programs)
        elif programs:
            machine.programs.update(programs)
        self.machine = machine
        self.dead = False
        self._buried = False
        self._closed = False
        self._systems: set[SimulatedSystem] = set()
        self._processes: set[SimulatedProcess] = set()
        self._leases: set[str] = set()

    @property
    def temperament(self) -> Temperament:
        """`oci` or `hcs`: as which service it behaves."""
        return self.machine.temperament

    @property
    def systems(self) -> dict[str, System]:
        """The systems that the machine has now, by id."""
        return self.machine.systems

    @property
    def processes(self) -> dict[int, Process]:
        """The living processes of the machine, by pid."""
        return self.machine.processes

    # what is to go wrong

    def fail_at(self, step: str, error: BaseException | type[BaseException], *, times: int = 1, after: int = 0) -> None:
        """Make calls of `step` (one of STEPS, or `any`) fail with `error`, half-way through.

        The next `after` calls go well, the `times` after those fail. `any` counts all steps: to try every instant at
        which something can fail, run the same code again and again, each time with one more in `after`.
        """
        made = error() if isinstance(error, type) else error
        if not isinstance(made, BaseException):
            raise TypeError(f"`{step}` can fail with an exception only, not {made!r:.100}")
        self.machine.faults.fail(_known(step), made, times, after)

    def delay(self, step: str, until: float | asyncio.Event, *, times: int = 1, after: int = 0) -> None:
        """Make calls of `step` hang half-way, for some seconds or until an event is set.

        With `exit notification` in place of a step, the process ends at once, and its waiters wake that much later.
        """
        known = step if step == EXIT_NOTIFICATION else _known(step)
        self.machine.faults.delay(known, until, times, after)

    def drop(self, what: str = EXIT_NOTIFICATION, *, times: int = 1, after: int = 0) -> None:
        """Lose notifications of a kind; there is one: `exit notification`, of a process.

        Its waiters wake at the end of the whole system, and then without an exit code.
        """
        self.machine.faults.change(_notification(what, "dropped"), Fate.LOST, times, after)

    def double(self, what: str = EXIT_NOTIFICATION, *, times: int = 1, after: int = 0) -> None:
        """Send notifications twice: the second some turns of the loop later, when the first was handled."""
        self.machine.faults.change(_notification(what, "doubled"), Fate.DOUBLED, times, after)

    def clear_faults(self) -> None:
        """Cancel all faults that were asked for and have not happened yet."""
        self.machine.faults = Faults()

    def crash(self, id: str) -> None:
        """Crash a system. OCI: its processes are killed; HCS: its exit code is not known."""
        self.machine.crash(id)

    def kill_monitor(self, id: str) -> None:
        """Kill the monitor of a kept container (OCI-like only). The log ends, and init's exit code will be unknown."""
        self.machine.kill_monitor(id)

    def out_of_memory(self, id: str) -> None:
        """Kill a container's init for lack of memory (OCI-like only)."""
        self.machine.out_of_memory(id)

    def disconnect(self) -> None:
        """Lose the service with all systems. Every wait ends with code None and Cause.SYSTEM_GONE.

        Hanging calls fail with ServiceError. It is there again at once, empty.
        """
        self.machine.disconnect()

    def caller_died(self) -> Simulator:
        """Behave as if the program that uses this service was killed. Return a new service on the same machine.

        Its streams break, what it had in a lease is killed, the rest goes on. Nothing that still waits in this
        service ever returns, and no call of it has any effect.
        """
        self.dead = True
        for handle in list(self._processes):
            handle._release()
        for handle_ in list(self._systems):
            handle_.system.handles.discard(handle_)
        for lease in self._leases:
            self.machine.end_lease(lease)
        return Simulator(machine=self.machine)

    # steps

    async def _step(self, step: str, system: System | None = None) -> None:
        """Take one step of the service: a turn of the loop, and the fault that a test asked for."""
        machine = self.machine
        machine.calls[step] += 1
        if self.dead:
            await self._never(step)
        if self._closed:
            raise ServiceError(step, system.id if system else None, "the service is closed", hint="open a new Engine")
        failure, until = machine.faults.at(step)
        await machine.behaviour.complete()
        lost: Exception | None = None
        if until is not None:
            try:
                await self._hang(step, system, until)
            except ServiceError as error:
                lost = error
        if self.dead:
            await self._never(step)
        if lost is not None:
            raise lost
        if failure is not None:
            raise failure

    async def _never(self, step: str) -> None:
        """Never return: the program that called is dead, and only its coroutine is left.

        Once that is cancelled (the loop is being shut down), what it tries on its way out fails at once.
        """
        if not self._buried:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self._buried = True
                raise
        raise ServiceError(step, None, "the simulated program has died", hint="use the service of another program")

    async def _hang(self, step: str, system: System | None, until: float | asyncio.Event) -> None:
        """Wait until released. If the system or the service ends, every pending operation ends, too."""
        machine = self.machine
        if system is not None and system.exited.done() and step in NEEDS_LIFE:
            raise machine.error(step, system.id, "the container ended unexpectedly", "exit")
        lost = asyncio.get_running_loop().create_future()

        def lose() -> None:
            if not lost.done():
                lost.set_result(None)

        machine.disconnects.append(lose)
        released = asyncio.ensure_future(until.wait() if isinstance(until, asyncio.Event) else asyncio.sleep(until))
        wanted: list[asyncio.Future[Any]] = [released, lost]
        exits = system is not None and not system.exited.done()
        if system is not None and exits:
            wanted.append(system.exited)
        try:
            await asyncio.wait(wanted, return_when=asyncio.FIRST_COMPLETED)
        finally:
            released.cancel()
            with suppress(ValueError):
                machine.disconnects.remove(lose)
        if lost.done():
            raise machine.error(step, system.id if system else None, "the connection to the service was lost", "lost")
        if system is not None and exits and system.exited.done() and step not in ("terminate", "shutdown", "settle"):
            raise machine.error(step, system.id, "the container ended unexpectedly", "exit")

    # the protocol

    async def probe(self) -> Features:
        await self._step("probe")
        behaviour = self.machine.behaviour
        return Features(
            service="simulator",
            version=VERSION,
            items=dict(behaviour.features),
            keeps_output=behaviour.has_monitors,
        )

    def plan(self, id: str, spec: Spec, place: Place) -> Plan:
        document = {
            "id": id,
            "temperament": self.temperament,
            "process": {"args": spec.command, "cwd": spec.cwd or "/"},
        }
        command = ["simulate", id, *spec.command]
        return Plan(documents={"simulator.json": document}, commands=[command], reasons={"cwd": "/ unless asked for"})

    async def _create(self, id: str, spec: Spec, stdio: Stdio, place: Place, *, kept: bool) -> SimulatedSystem:
        machine = self.machine
        if id in machine.systems:
            raise machine.error("create", id, "a container of this id exists", "exists")
        if machine.behaviour.makes_init_at_create:
            machine.program(id, command_of(spec))
        if place.lease is not None:
            self._leases.add(place.lease.id)
        system = System(machine, id, spec, stdio, place, kept=kept)
        machine.add(system)
        handle: SimulatedSystem | None = None
        try:
            await self._step("create", system)
            if machine.systems.get(id) is not system:
                raise machine.error("create", id, "it ended while it was being created", "exit")
            handle = SimulatedSystem(self, system)
            if machine.behaviour.makes_init_at_create:
                handle._wire_init()
        except BaseException:
            if not self.dead:
                machine.remove(system)
                if handle is not None:
                    await handle.close()
            raise
        system.phase = "created"
        return handle

    async def create(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> SimulatedSystem:
        return await self._create(id, spec, stdio, place, kept=self.machine.behaviour.has_monitors)

    async def launch(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> tuple[SimulatedSystem, SimulatedProcess]:
        kept = self.machine.behaviour.has_monitors and LOG in (stdio.stdout, stdio.stderr)
        system: SimulatedSystem | None = None
        try:
            await self._step("launch")
            system = await self._create(id, spec, stdio, place, kept=kept)
            return system, await system.start()
        except BaseException:
            if system is not None and not self.dead:
                self.machine.remove(system.system)
                await system.close()
            raise

    async def open(self, id: str, token: bytes, place: Place) -> SimulatedSystem:
        await self._step("open")
        system, _ = self.machine.find(token)
        if system is None or system.id != id or system.phase == "creating":
            raise SystemGone
        if self.machine.behaviour.forgets_ended and system.exited.done():
            raise SystemGone
        handle = SimulatedSystem(self, system)
        if system.init is not None:
            handle.init = SimulatedProcess(self, system.init)
        return handle

    async def state(self, token: bytes) -> State:
        system, _ = self.machine.find(token)
        if system is None or not system.alive or system.exited.done():
            return State.STOPPED
        return State.PAUSED if system.state == "paused" else State.RUNNING

    async def abandon(self, id: str, place: Place) -> None:
        await self._step("abandon")
        system = self.machine.systems.get(id)
        if system is not None:
            self.machine.remove(system)

    def keeper(self, lease: Lease, directory: Path) -> Sequence[str] | None:
        """Return None: the machine ends a lease when its owner dies (`caller_died`)."""
        self._leases.add(lease.id)
        return None

    async def end_lease(self, lease: Lease | str, directory: Path, limit: float | None = None) -> None:
        await self._step("end_lease")
        self.machine.end_lease(lease if isinstance(lease, str) else lease.id)

    async def leftovers(self, owner: str) -> list[str]:
        await self._step("leftovers")
        return sorted(self.machine.systems)

    async def version(self) -> Mapping[str, str]:
        await self._step("version")
        return {"simulator": f"{VERSION} ({self.temperament})"}

    async def close(self) -> None:
        """Release all handles. The machine continues."""
        if self._closed:
            return
        for system in list(self._systems):
            await system.close()
        for process in list(self._processes):
            await process.close()
        self._closed = True


def _known(step: str) -> str:
    if step not in STEPS and step != ANY:
        raise ValueError(f"{step!r} is not a step: {ANY}, {', '.join(sorted(STEPS))}")
    return step


def _notification(what: str, done: str) -> str:
    if what != EXIT_NOTIFICATION:
        raise ValueError(f"{what!r} cannot be {done}: only `{EXIT_NOTIFICATION}`")
    return what


__all__ = ["STEPS", "SimulatedProcess", "SimulatedSystem", "Simulator"]
