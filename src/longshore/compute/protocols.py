"""The seam between the engine and a platform: a service makes systems (containers), and systems have processes.

The engine above knows names, records, events and owners. A service below knows one platform. Each verb says what is
true when it returns, what it does not wait for, and what is left if it fails or is cancelled. `tests/contract` is one
test suite that every service passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..errors import LongshoreError
from ..exit_record import Exit
from .values import Features, Lease, Place, Plan, ProcessInfo, State, Stats, Stdio, Streams, SystemEnd

if TYPE_CHECKING:
    from ..spec import ProcessSpec, Resources, Spec
    from .limits import Limits


class ComputeProcess(Protocol):
    """One process in a compute system."""

    @property
    def pid(self) -> int: ...

    @property
    def token(self) -> bytes:
        """Bytes by which `ComputeSystem.open_process` finds this process again."""

    @property
    def streams(self) -> Streams: ...

    @property
    def failure(self) -> LongshoreError | None:
        """Why it never ran, if that became known only after `start` or `exec` had returned; else None."""

    async def wait(self) -> Exit:
        """Return the exit when the process has ended. Every caller gets the same one.

        If the service is lost, the exit has that cause. Does not wait for the end of the streams: a grandchild may
        hold them open. If cancelled, only the waiting ends.
        """

    async def signal(self, signal: int) -> None:
        """Deliver a signal. Does not wait for its effect.

        9 (kill) works on every platform and succeeds if the process has ended. Other signals raise ProcessNotFound
        then, and NotSupported where the platform has no signals.
        """

    async def kill_tree(self) -> None:
        """Kill the process and its descendants, as far as the platform finds them. Does not wait for their end."""

    async def close_stdin(self) -> None:
        """Close its standard input. Succeeds if the process has ended."""

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal. Raises InvalidState if it has no terminal."""

    async def close(self) -> None:
        """Release handles and streams; the process continues. Callers that wait get EngineClosed."""


class ComputeSystem(Protocol):
    """One container of a compute service."""

    @property
    def id(self) -> str: ...

    @property
    def token(self) -> bytes:
        """Bytes by which `ComputeService.open` finds this system again. The engine stores them before `start`."""

    @property
    def init(self) -> ComputeProcess | None:
        """The first process, whose end ends the system; None before `start`. After `open` it may have no streams."""

    async def start(self) -> ComputeProcess:
        """Run init: its command executes, its streams are open. If it fails or is cancelled, the system is ended."""

    async def exec(self, process: ProcessSpec, stdio: Stdio, name: str, place: Place) -> ComputeProcess:
        """Start another process, with its files in `place`. If it fails or is cancelled, nothing of it runs."""

    async def open_process(self, token: bytes) -> ComputeProcess:
        """Find a process again, also one that has ended since: `wait` works, and it may have no streams."""

    async def attach_stdin(self) -> asyncio.StreamWriter:
        """Return another writer to init's input.

        Raises InvalidState once it is stopped, NotSupported if its input ends with the program that started it.
        """

    async def shutdown(self, signal: int | None = None) -> None:
        """Ask it to end, by `signal` or the platform's own way. Does not wait for the end. Succeeds if stopped."""

    async def can_receive(self, signal: int) -> bool:
        """Return whether init has a handler for this signal. If not, `stop` kills it without a grace."""

    async def terminate(self) -> None:
        """Kill it, also if paused or never started. Does not wait for the end. Succeeds if stopped."""

    def is_ending(self) -> bool:
        """Return whether its end has begun, reported or not: a call that fails now may fail for that reason."""

    async def urge(self) -> None:
        """Ask again when half of the grace is over, by a stronger request than `shutdown` if the platform has one."""

    def settle_limit(self, limits: Limits) -> float:
        """Return how many seconds `settle` may take on this platform."""

    async def settle(self, init: Exit, limit: float) -> SystemEnd:
        """End what still runs, read the counters, and return the completed exit. Called once, after init ended."""

    async def delete(self) -> None:
        """Remove it from the platform: no process, cgroup, mount or handle is left. Idempotent."""

    async def pause(self) -> None:
        """Freeze its processes; they are frozen when this returns. If cancelled, it is resumed."""

    async def resume(self) -> None:
        """Let its processes continue; they do when this returns."""

    async def paused(self) -> bool:
        """Return whether it is paused, or may be: a pause that failed may have had an effect. Asks no slow service."""

    async def stats(self) -> Stats:
        """Return what it uses now. Values that the platform does not know are None."""

    async def processes(self) -> list[ProcessInfo]:
        """Return the processes that run in it now."""

    async def update(self, change: Resources) -> None:
        """Change its limits while it lives. Raises NotSupported, and changes nothing, if the platform cannot."""

    async def close(self) -> None:
        """Release handles; the system continues. Callers that wait get EngineClosed."""


@runtime_checkable
class Connectable(Protocol):
    """A `ComputeSystem` whose network endpoints can change while it lives (Windows)."""

    async def connect(self, endpoint: str) -> None:
        """Add an endpoint, by its id."""

    async def disconnect(self, endpoint: str) -> None:
        """Remove an endpoint, by its id."""


@runtime_checkable
class HasKeepers(Protocol):
    """A `ComputeService` whose leases have keepers (Linux). A keeper can be suspended by SIGSTOP, as any process."""

    async def end_stopped_keeper(self, directory: Path) -> None:
        """Kill the keeper of a lease whose owner has died, if it is suspended: it would never do its work.

        Returns when it is dead, or immediately if it is not suspended.
        """


@runtime_checkable
class Checkpointable(Protocol):
    """A `ComputeService` that can write a kept container to files, and continue it from them (Linux, with CRIU)."""

    async def checkpoint(self, system: ComputeSystem, directory: Path, lock_fd: int, *, connections: bool) -> None:
        """Write the processes of a paused system, and its changes to the root, to an empty directory. It stays paused.

        The helpers inherit `lock_fd`. If it fails or is cancelled, no helper works in the directory any more, and the
        caller removes it.
        """

    async def restore(self, id: str, spec: Spec, stdio: Stdio, place: Place, directory: Path) -> ComputeSystem:
        """Create a system whose init continues from the checkpoint. Replaces the files of the earlier life in `place`.

        If it fails or is cancelled, everything is undone (`undo_restore`).
        """

    async def undo_restore(self, id: str, place: Place) -> None:
        """Undo a `restore` that failed or whose caller died: no process is left, the earlier files are back."""

    async def keep_restored(self, place: Place) -> None:
        """Remove what `undo_restore` would need, once the restored system is recorded. Idempotent."""


class ComputeService(Protocol):
    """A platform that makes containers: crun or runc with conmon, Windows' Host Compute Service, the simulator."""

    @property
    def name(self) -> str: ...

    async def probe(self) -> Features:
        """Return what works on this host, and the reason for the rest. May take seconds the first time."""

    def plan(self, id: str, spec: Spec, place: Place) -> Plan:
        """Return what `create` would do. Changes nothing."""

    async def create(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> ComputeSystem:
        """Make a system; no user code has run. If it fails or is cancelled, all is undone, or NotUndone raised."""

    async def launch(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> tuple[ComputeSystem, ComputeProcess]:
        """Create and start, in one step if the platform can. If it fails or is cancelled, as `create`."""

    async def open(self, id: str, token: bytes, place: Place) -> ComputeSystem:
        """Find a system again, also after the program that made it has ended.

        Raises SystemGone if nothing is left of it, SystemHidden if this program may not see its processes.
        """

    async def state(self, token: bytes) -> State:
        """Return whether init is alive and whether it is paused, as cheaply as the platform allows."""

    async def abandon(self, id: str, place: Place) -> None:
        """Undo what a `create` left that died, or raised NotUndone. Idempotent."""

    def keeper(self, lease: Lease, directory: Path) -> Sequence[str] | None:
        """Return the command of the keeper: when its standard input ends, it ends every system of the lease.

        It is given `directory`, and must not end before it holds `lease.lock` there exclusively. None: none is needed.
        """

    async def end_lease(self, lease: Lease | str, directory: Path, limit: float | None = None) -> None:
        """End every process of a lease whose owner and keeper have died. Idempotent.

        Raises LongshoreError if some remain after `limit` seconds.
        """

    async def leftovers(self, owner: str) -> list[str]:
        """Return the ids of systems that the platform has and the store may not know.

        For display only: another store on this machine may own them. Leases and records say what a dead owner left.
        """

    async def version(self) -> Mapping[str, str]:
        """Return the names and versions of the programs that do the work."""

    async def close(self) -> None:
        """Release everything; the systems continue."""


class SystemHidden(Exception):
    """Raised by `open` and `state`: this program may not see the processes of the system."""


class SystemGone(Exception):
    """Raised by `open`: nothing is left of the system. `exit` is what is still known of its end."""

    def __init__(self, exit: Exit | None = None) -> None:
        super().__init__("the compute system is gone")
        self.exit = exit


class NotUndone(Exception):
    """Raised by `create` and `launch`: they failed with `error`, and undoing failed with `left`.

    The caller keeps the place, so that `abandon` can undo the rest later.
    """

    def __init__(self, error: BaseException, left: LongshoreError) -> None:
        super().__init__(f"{error}; {left}")
        self.error = error
        self.left = left


__all__ = [
    "Checkpointable",
    "ComputeProcess",
    "ComputeService",
    "ComputeSystem",
    "Connectable",
    "HasKeepers",
    "NotUndone",
    "SystemGone",
    "SystemHidden",
]
