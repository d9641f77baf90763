"""The two temperaments of the simulator: what differs between an OCI-like and an HCS-like machine, in one object each.

| | oci | hcs |
|---|---|---|
| streams | wired at create; LOG goes to the log | pipes at start; LOG is the caller's to write |
| completion | within the call | pending, completed by the loop later |
| signals | all | kill only; shutdown for the rest |
| the end of init | ends the system | the system waits for its shutdown |
| pause | any | Hyper-V isolation only |
| update | yes | NotSupported |
| found again after its caller died | code of kept containers always known | unknown if it ended meanwhile |

No other module of the simulator compares a temperament's name. They ask the machine's `behaviour`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..compute.values import DEVNULL, LOG, PIPE, Feature, Stdio
from ..errors import NotSupported
from ..exit_record import Cause, Exit
from ..spec import Spec
from .process import KILL, TERM, signalled

if TYPE_CHECKING:
    from .system import System

Temperament = Literal["oci", "hcs"]

TERMINATED = 0xFFFFFFFF  # the exit code of a terminated process on the HCS-like machine
CONTROL_C = 0xC000013A  # STATUS_CONTROL_C_EXIT: how Windows ends a program that does not handle the request
HCS_CODES = {"exists": 0xC037010F, "state": 0xC0370105, "gone": 0xC037010E, "exit": 0xC0370106, "lost": 0x8037011E}

NO_SIGNALS = "Windows has no signals: longshore can only kill a process, and shut a container down"
NO_UPDATE = "the HCS-like machine cannot change limits of a running container"
NO_PAUSE = "the container has process isolation, and Windows pauses only utility VMs"
NO_INPUT = "the streams of a container end with the program that started it"
NO_CHECKPOINT = "the simulator has no memory images"


class Behaviour(ABC):
    """What one temperament does. A machine has one; it holds no state."""

    temperament: Temperament
    features: dict[str, Feature]

    has_monitors: bool
    """Whether a container may outlive its caller with a monitor, which holds its log and its exit code."""

    makes_init_at_create: bool
    """Whether create finds the program and wires the streams; else start does."""

    ends_with_init: bool
    """Whether a system ends when its init ends; else it ends when it was asked to and is empty."""

    forgets_ended: bool
    """Whether a system that has ended, or failed to start, is forgotten, and its id is free."""

    protects_init: bool
    """Whether init, as pid 1 of a pid namespace, gets only the signals that it handles (pid_namespaces(7))."""

    ends_by_broken_pipe: bool
    """Whether a program that writes to a broken pipe is killed by a signal."""

    notifies_later: bool
    """Whether an exit is notified in a later turn of the loop than the one in which it happens."""

    knows_relations: bool
    """Whether the service knows who started whom, with which arguments, as which user."""

    closes_input: bool
    """Whether the service itself can close the input of a process."""

    counts_resources: bool
    """Whether limits, pids and out-of-memory kills can be read."""

    deletes_forgotten: bool
    """Whether delete of a system that the machine has forgotten still waits for its processes."""

    ends_with_last_handle: bool
    """Whether a system that belongs to a lease ends when its last handle is closed."""

    exit_code_mask: int
    killed: Exit
    """The end of a process that is killed from outside."""
    crashed: Exit
    """The end of a process whose system crashes."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = {feature.name: feature for feature in features}

    def require(self, name: str) -> None:
        """Check that a feature is there.

        Raises: NotSupported if it is not.
        """
        feature = self.features[name]
        if not feature.supported:
            raise NotSupported(name, feature.reason, hint=feature.hint)

    def check_pause(self, spec: Spec) -> None:
        """Check that a container can be paused.

        Raises: NotSupported if it cannot.
        """

    @abstractmethod
    def error_code(self, condition: str | None) -> int | None:
        """Return the code of the service's error for a condition; None if it has none."""

    @abstractmethod
    def death_by(self, signal: int) -> Exit:
        """Return the end of a process that does not handle this signal."""

    @abstractmethod
    def stdio_of_init(self, stdio: Stdio, *, kept: bool) -> Stdio:
        """Return the streams that init gets, of those that the caller asked for."""

    @abstractmethod
    async def complete(self) -> None:
        """Wait until a call of the service is completed."""

    @abstractmethod
    def shut_down(self, system: System, signal: int | None) -> None:
        """Ask a system to end."""

    @abstractmethod
    def can_receive(self, system: System, signal: int) -> bool:
        """Return whether a request to end has a receiver."""

    @abstractmethod
    def terminate(self, system: System) -> None:
        """Kill a system."""


class OciLike(Behaviour):
    """As Linux's runtimes: signals, a monitor with a log, and a system that ends with its init."""

    temperament = "oci"
    has_monitors = True
    makes_init_at_create = True
    ends_with_init = True
    forgets_ended = False
    protects_init = True
    ends_by_broken_pipe = True
    notifies_later = False
    knows_relations = True
    closes_input = False
    counts_resources = True
    deletes_forgotten = False
    ends_with_last_handle = False
    exit_code_mask = 0xFF
    killed = signalled(KILL)
    crashed = killed

    def __init__(self) -> None:
        super().__init__(
            [
                Feature("signals", True),
                Feature("pause", True),
                Feature("update", True),
                Feature("attach-stdin", True),
                Feature("oom-events", True),
                Feature("exec-deadline", True),
                Feature("wait-status", True),
                Feature("checkpoint", False, NO_CHECKPOINT),
            ]
        )

    def error_code(self, condition: str | None) -> int | None:
        return None

    def death_by(self, signal: int) -> Exit:
        return signalled(signal)

    def stdio_of_init(self, stdio: Stdio, *, kept: bool) -> Stdio:
        if not kept:
            return stdio
        # all output of a kept container goes to its log, whatever else was asked for
        return Stdio(stdin=DEVNULL if stdio.stdin in (DEVNULL, LOG) else PIPE, stdout=LOG, stderr=LOG)

    async def complete(self) -> None:
        await asyncio.sleep(0)

    def shut_down(self, system: System, signal: int | None) -> None:
        if system.init is not None:
            system.init.deliver(TERM if signal is None else signal)

    def can_receive(self, system: System, signal: int) -> bool:
        return system.alive and system.init is not None and system.init.receives(signal)

    def terminate(self, system: System) -> None:
        system.kill(self.killed)


class HcsLike(Behaviour):
    """As Windows' service: notifications, no signals, and a system that outlives its init."""

    temperament = "hcs"
    has_monitors = False
    makes_init_at_create = False
    ends_with_init = False
    forgets_ended = True
    protects_init = False
    ends_by_broken_pipe = False
    notifies_later = True
    knows_relations = False
    closes_input = True
    counts_resources = False
    deletes_forgotten = True
    ends_with_last_handle = True
    exit_code_mask = 0xFFFFFFFF
    killed = Exit(code=TERMINATED, cause=Cause.KILLED)
    crashed = Exit(code=None, cause=Cause.SYSTEM_GONE)

    def __init__(self) -> None:
        super().__init__(
            [
                Feature("signals", False, NO_SIGNALS, "use `stop` or `kill`"),
                Feature("pause", True, "with Hyper-V isolation"),
                Feature("update", False, NO_UPDATE, "set limits when it is created"),
                Feature("attach-stdin", False, NO_INPUT, "use `launch` with stdin=PIPE, or `exec`"),
                Feature("oom-events", False, "Windows does not report it"),
                Feature("exec-deadline", True),
                Feature("wait-status", False, "Windows forgets the exit code of a container that no program had open"),
                Feature("checkpoint", False, NO_CHECKPOINT),
            ]
        )

    def check_pause(self, spec: Spec) -> None:
        if not (spec.windows and spec.windows.isolated):
            raise NotSupported("pause", NO_PAUSE, hint="create it with Hyper-V isolation, or use `stop`")

    def error_code(self, condition: str | None) -> int | None:
        return HCS_CODES.get(condition or "")

    def death_by(self, signal: int) -> Exit:
        return Exit(code=CONTROL_C)

    def stdio_of_init(self, stdio: Stdio, *, kept: bool) -> Stdio:
        def piped(target: int) -> int:
            return PIPE if target == LOG else target

        return Stdio(stdin=stdio.stdin, stdout=piped(stdio.stdout), stderr=piped(stdio.stderr))

    async def complete(self) -> None:
        loop = asyncio.get_running_loop()
        completed: asyncio.Future[None] = loop.create_future()
        loop.call_soon(_notify, completed)  # pending: a notification completes it
        await completed

    def shut_down(self, system: System, signal: int | None) -> None:
        asyncio.get_running_loop().call_soon(system.ask_to_end)

    def can_receive(self, system: System, signal: int) -> bool:
        return system.alive

    def terminate(self, system: System) -> None:
        system.ending = True
        asyncio.get_running_loop().call_soon(system.kill, self.killed)


def _notify(completed: asyncio.Future[None]) -> None:
    if not completed.done():
        completed.set_result(None)


BEHAVIOURS: dict[str, Behaviour] = {"oci": OciLike(), "hcs": HcsLike()}
