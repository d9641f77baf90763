"""Reserve an id: take what a new container needs before it exists, and give it back if the container is not made.

`create` and `import_checkpoint` make containers, and both can fail or be cancelled at any step. So each thing that is
acquired gets its undo on the next line (`Reservation.on_failure`). If the block of `reserve` fails, the undos run,
newest first, shielded from cancellation. If one of them fails, the rest is left: the container stays half-made and
belongs to this engine's lease. It is undone when the engine is closed, or by the program that closes the lease.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from ..aio.tasks import shielded
from ..compute.protocols import NotUndone
from ..compute.values import Owner
from ..errors import InvalidSpec, LongshoreError
from ..fs.files import LockFile
from ..spec import Spec
from ..store.journal import NewEvent
from ..store.leases import OwnerLease
from ..store.records import Record
from .half_made import clear_half_made
from .state import ContainerRef, EngineState, log


def check_owner(owner: Owner) -> None:
    """Raise InvalidSpec unless the owner setting is a known one."""
    if owner not in ("keep", "stop", "remove"):
        raise InvalidSpec("owner", f"{owner!r} is not known", hint="use keep, stop or remove")


class Reservation:
    """An id that this engine has taken, with the directory, the claim and the lease entry that belong to it."""

    def __init__(self, container: ContainerRef, record: Record, lease: OwnerLease, claim: LockFile) -> None:
        self.container = container
        self.record = record
        self.lease = lease
        self.claim = claim
        self.lock: LockFile | None = None
        self._undo: list[Callable[[], Awaitable[None]]] = []

    def making_lock(self) -> LockFile:
        """Open the lock that helpers inherit which make the container. It is closed at the end of `reserve`."""
        self.lock = self.container.directory.making_lock()
        self.on_failure(self._close_lock)  # the removal must not wait for it
        return self.lock

    def on_failure(self, undo: Callable[[], Awaitable[None]]) -> None:
        """Have `undo` called if the container is not made after all; undos run newest first."""
        self._undo.append(undo)

    async def undo(self) -> None:
        """Undo all, so that nothing of the container is left and its id is free."""
        container = self.container
        try:
            while self._undo:
                await self._undo[-1]()
                self._undo.pop()
        except (LongshoreError, OSError) as error:
            container.engine.trash_left = True  # it may be there already
            log.warning("container `%s` failed, and could not be removed: %s", container.id, error)
            container.engine.half_made.append(container.directory)

    def release(self) -> None:
        """Release the claim and the lock."""
        if self.lock is not None:
            self.lock.close()
        self.claim.release()

    async def _close_lock(self) -> None:
        if self.lock is not None:
            self.lock.close()

    async def _disown(self) -> None:
        self.lease.disown(self.container.id)

    async def _remove(self) -> None:
        await self.container.directory.remove(self.record.uid, self.claim, self._publish_delete)

    def _publish_delete(self) -> None:
        if any(True for _ in self.container.published(self.record.journal)):  # else nothing was published of it
            self.container.publish(NewEvent("delete"))


@asynccontextmanager
async def reserve(
    engine: EngineState, id: str, spec: Spec, owner: Owner, *, kept: bool, stdin: bool
) -> AsyncIterator[Reservation]:
    """Take an id for a new container; give it back if the block fails. Raises ContainerExists.

    Within the block the container belongs to this engine's lease, whatever its owner setting: if we die, it is undone.
    """
    durable = kept and owner != "remove"
    ours = owner != "keep" or not kept
    lease = await engine.hold_lease()
    await clear_half_made(engine, id)
    lease.own(id)  # before it exists: an entry without a container does no harm
    try:
        directory, claim = engine.store.reserve(id, durable=durable)
    except BaseException:
        lease.disown(id)
        raise
    record = engine.store.new_record(
        id, spec, owner, lease.id if ours else None, kept=kept, durable=durable, stdin=stdin
    )
    made = Reservation(ContainerRef(engine, directory, record.uid), record, lease, claim)
    made.on_failure(made._disown)
    made.on_failure(made._remove)
    try:
        yield made
    except BaseException as error:
        if isinstance(error, NotUndone):
            made.on_failure(partial(_fail, error.left))
        await shielded(made.undo())
        if isinstance(error, NotUndone):
            raise error.error from error.error.__cause__
        raise
    else:
        if ours:
            engine.owned[record.uid] = made.container, owner if kept else "remove"
        else:
            lease.disown(id)
    finally:
        made.release()


async def _fail(error: BaseException) -> None:
    """Raise what kept the service from undoing its own part: then nothing else is undone either."""
    raise error
