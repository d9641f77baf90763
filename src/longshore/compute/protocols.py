"""The seam: what the engine asks of a compute service, in three small protocols.

A service makes compute systems (containers) and processes in them. The engine above knows names, records,
events and owners; a service below knows one platform. Each verb says what is true after it and what it does
not wait for. Two implementers who never meet should end up with the same behaviour; `tests/contract` holds
them to it.
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
    """One process inside a compute system."""

    @property
    def pid(self) -> int: ...

    @property
    def token(self) -> bytes:
        """What `ComputeSystem.open_process` needs to find this process again."""
        ...

    @property
    def streams(self) -> Streams: ...

    @property
    def failure(self) -> LongshoreError | None:
        """Why it never ran, where that was found out too late for `start` or `exec`: its exit says NEVER_STARTED."""
        ...

    async def wait(self) -> Exit:
        """Return once the process is gone; every caller gets the same `Exit`.

        Also ends when the service is lost, with the cause. Cancelling it only stops waiting. Does not wait for
        the end of the streams: a grandchild may hold them open.
        """
        ...

    async def signal(self, signal: int) -> None:
        """Deliver a signal. 9 (kill) always works; others are NotSupported where the platform has none.

        A process that is already gone is fine for 9: the caller got what it wanted; others raise ProcessNotFound.
        """
        ...

    async def kill_tree(self) -> None:
        """End the process and what it started, as far as the platform can tell; returns when asked, not when dead."""
        ...

    async def close_stdin(self) -> None:
        """Give the process the end of its input. Already gone is fine."""
        ...

    async def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size. InvalidState where the process has no terminal."""
        ...

    async def close(self) -> None:
        """Let go of handles and streams; the process goes on; waiters end with EngineClosed."""
        ...


class ComputeSystem(Protocol):
    """One container of a compute service."""

    @property
    def id(self) -> str: ...

    @property
    def token(self) -> bytes:
        """What `ComputeService.open` needs to find this system again; the engine stores it before it matters."""
        ...

    @property
    def init(self) -> ComputeProcess | None:
        """The process whose end is the system's, once there is one. After `open`, its streams may be None."""
        ...

    async def start(self) -> ComputeProcess:
        """Run init; its streams are open. Failed or cancelled: terminated, settled, closed; the first error."""
        ...

    async def exec(self, process: ProcessSpec, stdio: Stdio, name: str, place: Place) -> ComputeProcess:
        """Start a further process. `place` is where its files may be. Failed or cancelled: nothing of it runs."""
        ...

    async def open_process(self, token: bytes) -> ComputeProcess:
        """Find a process again. Its streams may be None; `wait` works, also for one that has ended since."""
        ...

    async def attach_stdin(self) -> asyncio.StreamWriter:
        """A further writer to init's input. NotSupported where it ends with its maker; InvalidState once stopped."""
        ...

    async def shutdown(self, signal: int | None = None) -> None:
        """Ask it to end, with the platform's way or the signal given; not waited for. Already stopped is success."""
        ...

    async def can_receive(self, signal: int) -> bool:
        """Whether init would notice this signal at all; a `stop` goes on to kill at once if not."""
        ...

    async def terminate(self) -> None:
        """End it at once, also when paused or never started; asked, not waited for. Already stopped is success."""
        ...

    def is_ending(self) -> bool:
        """Whether its end has begun, though nobody has seen it yet: what fails in it now fails for that."""
        ...

    async def urge(self) -> None:
        """Ask again, by a further word than `shutdown`'s where the platform has one; the grace is half over."""
        ...

    def settle_limit(self, limits: Limits) -> float:
        """Seconds that `settle` may take on this platform, by the engine's limits."""
        ...

    async def settle(self, init: Exit, limit: float) -> SystemEnd:
        """Once, after init ended: nothing runs in it any more, counters are read, the exit record is completed."""
        ...

    async def delete(self) -> None:
        """The platform has forgotten it: no process, cgroup, mount or handle is left. Idempotent."""
        ...

    async def pause(self) -> None:
        """Completed, not only asked for, when it returns. Cancelled: resumed."""
        ...

    async def resume(self) -> None:
        """Completed when it returns."""
        ...

    async def paused(self) -> bool:
        """Whether it is, or may be, paused now, without asking a slow service where the platform allows.

        It may be where a pause was neither completed nor taken back.
        """
        ...

    async def stats(self) -> Stats:
        """What it uses now; None where the platform cannot tell."""
        ...

    async def processes(self) -> list[ProcessInfo]:
        """What runs in it now."""
        ...

    async def update(self, change: Resources) -> None:
        """Change limits of the living system. What the platform cannot do raises NotSupported, nothing changed."""
        ...

    async def close(self) -> None:
        """Let go of handles; the system goes on; every waiter wakes."""
        ...


@runtime_checkable
class Connectable(Protocol):
    """A `ComputeSystem` whose network endpoints can be changed while it lives. Not every platform has such."""

    async def connect(self, endpoint: str) -> None:
        """Give it an endpoint, by its id."""
        ...

    async def disconnect(self, endpoint: str) -> None:
        """Take an endpoint away from it."""
        ...


@runtime_checkable
class HasKeepers(Protocol):
    """A `ComputeService` whose leases have keepers, which can be stopped (SIGSTOP) like any process."""

    async def end_stopped_keeper(self, directory: Path) -> None:
        """Kill the keeper of a lease whose owner is dead, if it is stopped: it would never come to its work.

        Returns once it is dead, or at once if it is at work.
        """
        ...


@runtime_checkable
class Checkpointable(Protocol):
    """A `ComputeService` that can write a kept container to files, and have it go on from them. Not every one can."""

    async def checkpoint(self, system: ComputeSystem, directory: Path, lock_fd: int, *, connections: bool) -> None:
        """Write the processes of a paused system, and what they wrote to their root, to an empty directory.

        It stays as it was, and paused. `lock_fd` is inherited by the helpers. Failed or cancelled: the caller removes
        the directory; no helper is at work in it any more.
        """
        ...

    async def restore(self, id: str, spec: Spec, stdio: Stdio, place: Place, directory: Path) -> ComputeSystem:
        """As `create`, but init runs, and goes on from the checkpoint. What the place had of an earlier life is
        replaced. Failed or cancelled: all undone (`undo_restore`)."""
        ...

    async def undo_restore(self, id: str, place: Place) -> None:
        """Undo what a `restore` that failed, or whose caller died, has begun: no process, and the files of the earlier
        life as they were. Idempotent."""
        ...

    async def keep_restored(self, place: Place) -> None:
        """The restored system is on record: what was kept for `undo_restore` goes. Idempotent."""
        ...


class ComputeService(Protocol):
    """The operating system's part that makes containers."""

    @property
    def name(self) -> str: ...

    async def probe(self) -> Features:
        """What works on this host, and why the rest does not; may be slow the first time on a machine."""
        ...

    def plan(self, id: str, spec: Spec, place: Place) -> Plan:
        """What `create` would do. Pure: touches nothing."""
        ...

    async def create(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> ComputeSystem:
        """It exists, and no code of the user has run. Failed or cancelled: all undone, or NotUndone."""
        ...

    async def launch(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> tuple[ComputeSystem, ComputeProcess]:
        """Create and start, as one step where the platform can. Failed or cancelled: all undone, or NotUndone."""
        ...

    async def open(self, id: str, token: bytes, place: Place) -> ComputeSystem:
        """Find a system again, after its maker is gone. SystemGone if nothing is left of it.

        SystemHidden if this program may not see its processes.
        """
        ...

    async def state(self, token: bytes) -> State:
        """Whether the system's init is alive now, and whether it is paused: as cheap as the platform allows."""
        ...

    async def abandon(self, id: str, place: Place) -> None:
        """Undo whatever a maker that died, or was told NotUndone, left of a half-made system. Idempotent."""
        ...

    def keeper(self, lease: Lease, directory: Path) -> Sequence[str] | None:
        """The command that, once its standard input ends, ends all systems of the lease; None if none is needed.

        It gets `directory`, where `lease.lock` is, and must be done only when it holds that lock alone.
        """
        ...

    async def end_lease(self, lease: Lease | str, directory: Path, limit: float | None = None) -> None:
        """End every process of a lease whose owner and keeper are dead. Idempotent.

        `limit`: seconds that a service with keepers may take. Raises LongshoreError if not all has ended.
        """
        ...

    async def leftovers(self, owner: str) -> list[str]:
        """Ids of systems that the platform has and the store may not know.

        To be looked at, not to be ended: another store of this machine may have made them, under the same owner's
        name. What a dead owner left is found by its lease and by the records.
        """
        ...

    async def version(self) -> Mapping[str, str]:
        """Names and versions of the parts that do the work."""
        ...

    async def close(self) -> None:
        """Let go of everything; the systems go on."""
        ...


class SystemHidden(Exception):
    """This program may not see the processes of the system, so it cannot tell whether they live."""


class SystemGone(Exception):
    """Raised by `open`: nothing is left of the system. `exit` is what could still be learned of its end."""

    def __init__(self, exit: Exit | None = None) -> None:
        super().__init__("the compute system is gone")
        self.exit = exit


class NotUndone(Exception):
    """Raised by `create` and `launch` in place of `error`, with which they failed: something of it is left.

    `left` says what could not be undone. It is there for `abandon`, to which the caller keeps the place.
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
