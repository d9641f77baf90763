"""A machine in memory: systems, processes, signals, and the faults that a test asks for.

`Machine` is what survives when a program that used it dies: any number of `Simulator` services, one after the
other or at once, work on the same machine. Effects here are synchronous, as a kernel's are; what takes time
(pending completions, hanging steps) is in service.py. One machine belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ..errors import CommandNotExecutable, CommandNotFound, ServiceError
from ..exit_record import Cause, Exit
from .faults import Faults
from .process import KILL, Process, signalled
from .programs import BUILT_IN, NOT_EXECUTABLE, Program
from .system import System
from .temperament import BEHAVIOURS, Temperament

FIRST_PID = 1 << 23  # above Linux's PID_MAX_LIMIT: a pid from here never is one of a real process

OPERATIONS = {"attach_stdin": "attach to the input of", "exec": "exec in", "open_process": "find a process of"}
"""Words of an error, where they are not those of the step."""
LOOK = "look at `simulator.systems` to see the state of the simulated machine"


class Machine:
    """Systems and processes in memory, in one of two temperaments. It lives on when a service of it dies.

    `programs` are added to the built-in ones, by the first word of a command. `systems` (by id), `processes` (by
    pid, living ones only) and `calls` (how often each step was asked for) are there to be looked at.
    """

    def __init__(self, temperament: Temperament = "oci", *, programs: Mapping[str, Program] | None = None) -> None:
        if temperament not in BEHAVIOURS:
            raise ValueError(f"temperament is {temperament!r}: it must be oci or hcs")
        self.behaviour = BEHAVIOURS[temperament]
        self.id = os.urandom(4).hex().encode()  # tokens of another machine, or of one before its reboot, are strange
        self.systems: dict[str, System] = {}
        self.processes: dict[int, Process] = {}
        self._by_token: dict[bytes, System] = {}
        self.calls: Counter[str] = Counter()
        self.programs: dict[str, Program] = {**BUILT_IN, **(programs or {})}
        self.faults = Faults()
        self.serials = itertools.count(1)
        self.pids = itertools.count(FIRST_PID)
        self.disconnects: list[Callable[[], None]] = []
        self._late: set[asyncio.Task[None]] = set()

    @property
    def temperament(self) -> Temperament:
        """`oci` or `hcs`: as which service the machine behaves."""
        return self.behaviour.temperament

    def program(self, container_id: str, args: Sequence[str]) -> Program:
        """Return the program of a command.

        Raises: CommandNotFound, CommandNotExecutable.
        """
        name = args[0]
        if name in NOT_EXECUTABLE:
            raise CommandNotExecutable(container_id, name, "permission denied")
        program = self.programs.get(name) or self.programs.get(os.path.basename(name))
        if program is None:
            raise CommandNotFound(container_id, name)
        return program

    def error(self, operation: str, id: str | None, detail: str, code: str | None = None) -> ServiceError:
        """Return an error of the simulated service; on the HCS-like machine with HCS's code."""
        code_of = self.behaviour.error_code(code)
        return ServiceError(OPERATIONS.get(operation, operation), id, detail, code=code_of, hint=LOOK)

    def find(self, token: bytes) -> tuple[System | None, int | None]:
        """Return the system of a token, and its pid if the token is of a process."""
        system = self._by_token.get(token)
        if system is not None:
            return system, None
        base, _, pid = token.rpartition(b".")
        system = self._by_token.get(base)
        return system, int(pid) if system is not None else None

    def add(self, system: System) -> None:
        """Add a system, by its id and its token."""
        self.systems[system.id] = system
        self._by_token[system.token] = system

    def remove(self, system: System) -> None:
        """Kill what lives of a system, and forget it. Its id is free."""
        system.kill(self.killed)
        system.thaw()
        system.exit()
        system.publish_missing_exits()
        self.forget(system)

    def forget(self, system: System) -> None:
        """Forget a system's id and its token."""
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
        """The exit of a process that is killed from outside."""
        return self.behaviour.killed

    def later(self, until: float | asyncio.Event, act: Callable[[], None]) -> None:
        """Do something after so many seconds, or when the event is set."""

        async def wait() -> None:
            await (until.wait() if isinstance(until, asyncio.Event) else asyncio.sleep(until))
            act()

        task = asyncio.get_running_loop().create_task(wait())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    # what tests make happen

    def _system(self, id: str) -> System:
        if id not in self.systems:
            there = ", ".join(f"`{each}`" for each in sorted(self.systems)) or "none"
            raise ValueError(f"the simulator has no container `{id}`; it has {there}")
        return self.systems[id]

    def crash(self, id: str) -> None:
        """The system ends by itself, without anybody's asking: killed from outside, or an HCS system that crashes."""
        system = self._system(id)
        system.kill(self.behaviour.crashed)

    def kill_monitor(self, id: str) -> None:
        """The monitor of a kept container dies: its log ends there, and nobody will know how init ended."""
        system = self._system(id)
        if not system.kept:
            raise ValueError(f"container `{id}` has no monitor")
        system.monitor_lost = True
        if system.init is not None:
            system.init.stdin.feed_eof()
            system.init.stdout.cut()
            system.init.stderr.cut()

    def out_of_memory(self, id: str) -> None:
        """Kill init for lack of memory."""
        if not self.behaviour.features["oom-events"].supported:
            raise ValueError("only the OCI-like machine kills for lack of memory")
        system = self._system(id)
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
            system.publish_missing_exits()
            self.forget(system)
        waiting, self.disconnects = self.disconnects, []
        for wake in waiting:
            wake()
