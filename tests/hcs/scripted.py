"""A scripted vmcompute in Python, beneath the binding: what vectors/README.md calls the service.

It has the exports of the DLL as C functions, called with the real calling convention and the prototypes of the
binding; it allocates texts that must be freed, hands out handles that must be closed, and calls back on threads of its
own. What it answers, when, and with which failures is told by a script (`vectors.Service`); without one it behaves as
the recordings' double did. With a `Crew` (crew.py), processes are real children instead of scripted ones.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from tests.conformance.vectors import PENDING, Notification, ProcessExit, Rule, Service, number

from .plumbing import Outlet, Plumbing
from .postmen import Clock, Mailbox, PostOffice

if TYPE_CHECKING:
    from .exports import Client

TYPES = {
    "SystemExited": 0x1,
    "SystemCreateCompleted": 0x2,
    "SystemStartCompleted": 0x3,
    "SystemPauseCompleted": 0x4,
    "SystemResumeCompleted": 0x5,
    "ProcessExited": 0x10000,
    "ServiceDisconnect": 0x1000000,
}
COMPLETIONS = {
    "HcsCreateComputeSystem": "SystemCreateCompleted",
    "HcsStartComputeSystem": "SystemStartCompleted",
    "HcsPauseComputeSystem": "SystemPauseCompleted",
    "HcsResumeComputeSystem": "SystemResumeCompleted",
}
NOT_IN_2017 = {"HcsSignalProcess", "HcsGetServiceProperties"}

E_FAIL, E_INVALID_STATE, E_NOT_FOUND, E_EXISTS = 0x80004005, 0xC0370105, 0xC037010E, 0xC037010F
E_STOPPED, E_NO_PROCESS, E_HANDLE = 0xC0370110, 0x80070490, 0x80070006
CONTROL_C, ABORTED = 0xC000013A, 1067
INVALID_PIPE = 0x7FFFFF00


def type_number(type: str) -> int:
    """A notification's number, by its name or as "0x…"."""
    return TYPES[type] if type in TYPES else int(type, 16)


class ScriptedProcess:
    """One process of a system."""

    def __init__(self, system: ScriptedSystem, pid: int, document: dict[str, Any]) -> None:
        self.system = system
        self.pid = pid
        self.document = document
        self.created = time.time()
        self.exited = False
        self.exit_code = 259
        self.outlets: dict[str, Outlet] = {}
        self.inlet: int | None = None
        self.given = bytearray()  # what it was told on its standard input
        self.input_closed = False  # by the client, as its pipe shows
        self.pipe_closed_first: bool | None = None  # when the service was told of the end of its input
        self.echo = False
        self.on_stdin_close: ProcessExit | None = None
        self.handles: list[ScriptedHandle] = []
        self.child: Any = None
        self.name = ""


class ScriptedSystem:
    """One system of the machine."""

    def __init__(self, id: str, document: dict[str, Any]) -> None:
        self.id = id
        self.document = document
        self.state = "Created"
        self.processes: dict[int, ScriptedProcess] = {}
        self.ended: list[ScriptedProcess] = []
        self.ending = False  # asked to; with a crew
        self.exit_scheduled = False
        self.exit_delivered = False
        self.handles: list[ScriptedHandle] = []
        self.untold: list[tuple[int, int, str | None]] = []  # due before there was a registration


class ScriptedHandle:
    """A handle that a client holds: of a system, a process or a registration."""

    def __init__(self, client: Client, name: str, of: ScriptedSystem | ScriptedProcess, box: Mailbox | None) -> None:
        self.client = client
        self.name = name
        self.of = of
        self.box = box
        self.on: ScriptedHandle | None = None  # of a registration: the handle that it is for
        self.through = ""  # of a process: the name of the system's handle that it was made with
        self.value = 0
        self.untold: list[tuple[int, int, str | None]] = []  # of a process: due before there was a registration


class Hcs:
    """The service of one machine; `Client`s are programs that use it."""

    def __init__(
        self,
        script: Service | None = None,
        *,
        missing: tuple[str, ...] | list[str] = (),
        crew: Any = None,
        modern: bool = False,
    ) -> None:
        self.script = script or Service()
        self.missing = set(missing) | (set() if modern else NOT_IN_2017)
        self.crew = crew
        self.furnish()
        self.systems: dict[str, ScriptedSystem] = {}
        self.processes: dict[int, ScriptedProcess] = {}  # all there were; those that are over only with `keep_calls`
        self.handles: dict[int, ScriptedHandle] = {}
        self.calls: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []  # of the double itself: there must be none
        self.layers: dict[str, set[str]] = {}  # path -> made, active, prepared
        self.preparing = 0
        self.in_call = 0
        self.last = self.now()
        self.keep_calls = True
        self._values = itertools.count(0x1000, 0x10)
        self._pids = itertools.count(1004, 4)
        self._names = {kind: itertools.count(1) for kind in "spc"}
        self._used: Counter[int] = Counter()
        self.clients: list[Client] = []
        if crew is not None:
            crew.join(self)

    def furnish(self) -> None:
        """What it has of threads and time."""
        self.lock = threading.RLock()
        self.clock = Clock(self.lock)
        self.post = PostOffice(self.lock)
        self.plumbing = Plumbing(self.lock)
        self.now = time.monotonic
        self.sleep: Callable[[float], None] = time.sleep

    def client(self) -> Client:
        """One more program on this machine."""
        from .exports import Client

        made = Client(self)
        self.clients.append(made)
        return made

    def close(self) -> None:
        """End all threads."""
        if self.crew is not None:
            self.crew.close()
        self.clock.close()
        self.post.close()
        self.plumbing.close()

    # what a test looks at

    @property
    def quiet_for(self) -> float:
        """Seconds since anything happened, 0 while something is still to come."""
        with self.lock:
            busy = self.clock.pending or self.post.busy or self.in_call or self.plumbing.busy
            return 0.0 if busy else self.now() - self.last

    def touch(self) -> None:
        self.last = self.now()

    def open_handles(self) -> dict[str, list[str]]:
        """Names of the handles that are still open, as the recordings have them."""
        kinds = {"s": "systems", "p": "processes", "c": "callbacks"}
        found: dict[str, list[str]] = {kind: [] for kind in kinds.values()}
        with self.lock:
            for handle in self.handles.values():
                found[kinds[handle.name[0]]].append(handle.name)
        for names in found.values():
            names.sort(key=lambda name: int(name[1:]))
        return found

    def process(self, pid: int) -> ScriptedProcess:
        """A process by its pid, dead or alive."""
        return self.processes[pid]

    # the service acts by itself

    def process_exit(self, process: ScriptedProcess, code: int, *, status: int = 0, silent: bool = False) -> None:
        """A process ends: its output pipes, too; whoever has it open is told."""
        with self.lock:
            if process.exited:
                return
            process.exited = True
            process.exit_code = code & 0xFFFFFFFF
            self.touch()
            for outlet in process.outlets.values():
                self.plumbing.end(outlet)
            if process.child is not None and process.inlet is not None:
                self.plumbing.close_inlet(process.inlet)
            process.system.processes.pop(process.pid, None)
            process.system.ended.append(process)
            if not silent:
                self.notify_process(process, TYPES["ProcessExited"], status)

    def notify_process(self, process: ScriptedProcess, type: int, status: int) -> None:
        """A notification on all handles of a process; it waits for those that register later."""
        with self.lock:
            for handle in process.handles:
                if handle.box is None:
                    handle.untold.append((type, status, None))
                else:
                    self._send(handle, type, status, None)

    def notify_system(self, system: ScriptedSystem, type: int, status: int = 0, data: str | None = None) -> None:
        """A notification on all handles of a system; it waits for one that registers."""
        with self.lock:
            if type == TYPES["SystemExited"]:
                self._down(system)
            boxes = [handle for handle in system.handles if handle.box is not None]
            if not boxes:
                system.untold.append((type, status, data))
            for handle in boxes:
                self._send(handle, type, status, data)

    def _down(self, system: ScriptedSystem) -> None:
        """The system is gone: its id is free."""
        system.state = "Stopped"
        system.exit_scheduled = True
        if self.systems.get(system.id) is system and self.crew is not None:
            del self.systems[system.id]

    def _send(self, handle: ScriptedHandle, type: int, status: int, data: str | None) -> None:
        if handle.box is None:
            return
        self.touch()

        def delivered() -> None:
            self.touch()
            if type == TYPES["SystemExited"] and isinstance(handle.of, ScriptedSystem):
                handle.of.exit_delivered = True

        self.post.send(handle.box, type, status, data, delivered)

    def write(self, process: ScriptedProcess, stream: str, data: bytes) -> None:
        """A process writes."""
        with self.lock:
            self.touch()
            if stream in process.outlets:
                self.plumbing.write(process.outlets[stream], data)

    def end(self, process: ScriptedProcess, stream: str) -> None:
        """A process closes one of its output streams."""
        with self.lock:
            self.touch()
            if stream in process.outlets:
                self.plumbing.end(process.outlets[stream])

    def finish(self) -> None:
        """The script is over, and everything ends."""
        with self.lock:
            self.script = Service()
            for system in list(self.systems.values()):
                self.kill_all(system, ABORTED)
                if not system.exit_delivered:
                    self.notify_system(system, TYPES["SystemExited"])

    # the script

    def rule(self, function: str, text: str, system: str | None) -> Rule | None:
        """The rule that this call uses up."""
        for rule in self.script.functions.get(function, []):
            if rule.match is not None and rule.match not in text:
                continue
            if rule.system is not None and rule.system != system:
                continue
            if rule.times is not None and self._used[id(rule)] >= rule.times:
                continue
            self._used[id(rule)] += 1
            return rule
        return None

    def follow_up(self, rule: Rule | None, function: str, hr: int, system: ScriptedSystem) -> None:
        """What a verb of a system brings about: notifications, and the end of processes."""
        scripted = rule is not None and (rule.notify is not UNSET or rule.kill is not None or rule.hr is not UNSET)
        if rule is not None and rule.kill is not None:
            kill = rule.kill
            self.clock.after(kill.after_ms, lambda: self.kill_all(system, kill.exit_code))
        if rule is not None and rule.notify is not UNSET:
            for each in rule.notify:
                self._notify_later(system, each)
        elif hr == PENDING and function in COMPLETIONS:
            self._notify_later(system, Notification(COMPLETIONS[function]))
        elif hr == PENDING and not scripted:
            self.kill_all(system, CONTROL_C if function == "HcsShutdownComputeSystem" else ABORTED)
            self._exit_later(system)
        elif hr == PENDING and (rule is None or rule.kill is None):
            self._exit_later(system)

    def _exit_later(self, system: ScriptedSystem) -> None:
        if not system.exit_scheduled:
            system.exit_scheduled = True
            self.clock.after(60, lambda: self.notify_system(system, TYPES["SystemExited"]))

    def _notify_later(self, system: ScriptedSystem, each: Notification) -> None:
        type, status = type_number(each.type), number(each.status)
        self.clock.after(each.after_ms, lambda: self.notify_system(system, type, status, each.data))

    def kill_all(self, system: ScriptedSystem, code: int) -> None:
        """All processes of a system exit."""
        with self.lock:
            for process in list(system.processes.values()):
                self.process_exit(process, code)

    def next_name(self, kind: str) -> str:
        return f"{kind}{next(self._names[kind])}"

    def next_value(self) -> int:
        return next(self._values)

    def next_pid(self) -> int:
        return next(self._pids)
