"""Making a container: the id is reserved, files and system are made, and undone again if anything goes wrong."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from ..aio.tasks import in_thread, shielded, uninterrupted
from ..compute.protocols import ComputeProcess, ComputeSystem, NotUndone
from ..compute.values import DEVNULL, LOG, Owner, Stdio, now
from ..errors import ContainerNotFound, InvalidSpec, InvalidState, LongshoreError, NotVisible
from ..fs.files import LockFile, open_file
from ..logs.rotation import mark_first
from ..spec import Spec, check_id
from ..store.container_dir import RECORD, SPEC, ContainerDir, trash_name
from ..store.journal import NewEvent
from ..store.leases import OwnerLease
from ..store.records import Damaged, Record
from .arguments import check_streams
from .delete import delete
from .image_root import PIN, ImageRoot
from .lifecycle import begin
from .lookup import NamedLease, named_lease
from .process import Process
from .state import EngineState, OpenContainer, log


class _Making:
    """A container that is being made, and what there is of it so far."""

    def __init__(
        self, engine: EngineState, lease: OwnerLease, entry: ContainerDir, claim: LockFile, record: Record
    ) -> None:
        self.engine = engine
        self.lease = lease
        self.entry = entry
        self.claim = claim
        self.record = record
        self.lock: LockFile | None = None
        self.system: ComputeSystem | None = None
        self.process: ComputeProcess | None = None
        self.left: LongshoreError | None = None

    async def undo(self) -> None:
        """Nothing of it is left, and its id is free.

        If the service fails to discard it, it stays half-made, and our lease's: it is tried again when the engine is
        closed, or by whoever closes the lease if we die.
        """
        entry, record = self.entry, self.record
        try:
            if self.left is not None:
                raise self.left
            if self.system is not None:
                await discard(self.system)
            self._release_lock()  # the removal is not to wait for it
            await entry.remove(record.uid, self.claim, self._publish_delete)
        except (LongshoreError, OSError) as error:
            self.engine.trash_left = True  # it may be there already
            log.warning("container `%s` failed, and could not be removed: %s", entry.id, error)
            self.engine.half_made.append(entry)
        else:
            self.lease.disown(entry.id)
        finally:
            self.release()

    def _publish_delete(self) -> None:
        journal = self.engine.store.journal
        if any(True for _ in journal.about(self.record.uid, self.record.journal)):  # somebody has heard of it
            journal.append(self.entry.id, self.record.uid, NewEvent("delete"))

    def _release_lock(self) -> None:
        if self.lock is not None:
            self.lock.close()

    def release(self) -> None:
        self._release_lock()
        self.claim.release()


async def make(
    engine: EngineState,
    id: str,
    spec: Spec,
    owner: Owner,
    stdio: Stdio,
    *,
    launch: bool,
    image: ImageRoot | None = None,
) -> tuple[ContainerDir, str, Process | None]:
    """Make a container, and start it with `launch`: its entry, its uid and its init. `image` is what its root is.

    Until it is made it belongs to this engine's lease, whatever its owner setting: if we die, it is undone.
    """
    check_id(id)
    if owner not in ("keep", "stop", "remove"):
        raise InvalidSpec("owner", f"{owner!r} is not known", hint="use keep, stop or remove")
    check_streams(stdio, log=True)
    if engine.store.viewpoint.blind:
        raise NotVisible("create", id, engine.store.viewpoint.blind)
    async with engine.descriptors.starting(f"create container `{id}`"):
        entry, uid, init = await _reserve_and_make(engine, id, spec, owner, stdio, image, launch=launch)
    try:  # not within `starting`: a deletion waits for what is promised there
        await entry.on_disk(SPEC, RECORD, *([PIN] if image is not None else []))
    except asyncio.CancelledError:  # it was told meanwhile: so are its end and its deletion
        try:
            await shielded(delete(engine, entry, uid, force=True))
        except (LongshoreError, OSError) as error:
            log.warning("the creation of container `%s` was cancelled, and it could not be removed: %s", id, error)
        raise
    return entry, uid, init


async def _reserve_and_make(
    engine: EngineState, id: str, spec: Spec, owner: Owner, stdio: Stdio, image: ImageRoot | None, *, launch: bool
) -> tuple[ContainerDir, str, Process | None]:
    kept = stdio.stdout == LOG
    durable = kept and owner != "remove"
    ours = owner != "keep" or not kept
    lease = await engine.hold_lease()
    await clear_half_made(engine, id)
    lease.own(id)  # before it exists: what is ours and is not there is no harm
    try:
        entry, claim = engine.store.reserve(id, durable=durable)
    except BaseException:
        lease.disown(id)
        raise
    stdin = stdio.stdin != DEVNULL
    record = engine.store.new_record(
        id, spec, owner, lease.id if ours else None, kept=kept, durable=durable, stdin=stdin
    )
    making = _Making(engine, lease, entry, claim, record)
    try:
        if image is not None:  # from here on nobody removes it
            await uninterrupted(in_thread(lambda: image.hold(entry.home)))
        await _make(making, spec, stdio, ours=ours, launch=launch)
    except BaseException as error:
        making.left = error.left if isinstance(error, NotUndone) else None
        await shielded(making.undo())
        if isinstance(error, NotUndone):
            raise error.error from error.error.__cause__
        raise
    making.release()
    assert making.system is not None
    opened = OpenContainer(record.uid, entry, making.system, record.journal)
    engine.open_containers[id] = opened
    if ours:
        engine.owned[record.uid] = entry, owner if kept else "remove"
    else:
        lease.disown(id)
    init: Process | None = None
    if making.process is not None:
        opened.start_published = True
        init = begin(engine, opened, record, making.process)
    return entry, record.uid, init


async def _make(making: _Making, spec: Spec, stdio: Stdio, *, ours: bool, launch: bool) -> None:
    engine, entry, record = making.engine, making.entry, making.record
    service = engine.service
    if record.kept:  # what runs for its caller is not shown before it runs
        entry.write(record)
        entry.write_spec(spec)
    if launch:
        record.starter = making.lease.id
    making.lock = entry.making_lock()
    place = entry.place(making.lease if ours else None, making.lock.fd)
    if launch and not record.kept:
        record.starting_at = now()
        making.system, making.process = await service.launch(entry.id, spec, stdio, place)
    else:
        making.system = await service.create(entry.id, spec, stdio, place)
        if record.kept:
            with suppress(OSError):  # where no monitor writes the log, we do, and begin it here
                os.close(open_file(place.log, os.O_WRONLY | os.O_CREAT))
            record.log_inode = mark_first(place.log)
        if launch:
            record.starting_at = now()  # not written yet: until it has a token on record, it is half-made
            making.process = await making.system.start()
    record.token = making.system.token
    process = making.process
    if process is not None:
        record.process, record.pid, record.started_at = process.token, process.pid, now()
    async with entry.locked():  # so that nobody tells of its end between these two
        entry.write(record)
        if not record.kept:
            entry.write_spec(spec)
        if process is not None:
            # not marked in the record: we know it, and who tells its end in our stead looks back
            engine.store.journal.append(entry.id, record.uid, NewEvent("start-container", record.started_at))


async def discard(system: ComputeSystem) -> None:
    """End a system that nobody is to have."""
    try:
        with suppress(LongshoreError, OSError):  # the rest is for `delete` to say
            await system.terminate()
        await system.delete()
    finally:
        await system.close()


# what a maker that died has left


async def clear_half_made(engine: EngineState, id: str) -> None:
    """If a maker that died left this id half-made, undo it, so that the id is free."""
    with suppress(ContainerNotFound, Damaged):
        await undo_half_made(engine, engine.store.container_dir(id))


async def undo_half_made(engine: EngineState, entry: ContainerDir, lease: str | None = None) -> bool:
    """Undo a container that has no token and no living maker. True if it was one. `lease`: whose it may have been.

    Damaged if it has lost its record; but what such a lease had, and would not have kept, is deleted.
    """
    try:
        if _is_made(entry):
            return False
    except Damaged:
        if lease is None or entry.durable:
            raise
        await delete(engine, entry, "", force=True)
        return True
    try:
        claim = entry.claim("create")
    except (InvalidState, ContainerNotFound):
        return False  # it is being made, or undone, right now
    try:
        if _is_made(entry):
            return False
        record: Record | None = None
        with suppress(ContainerNotFound):
            record = entry.read()
        if _is_hidden(engine, record):
            return False  # its helpers may be at work, and could neither be seen nor ended from here
        owner = named_lease(record) or (NamedLease(lease) if lease is not None else None)
        await engine.service.abandon(entry.id, entry.place(owner))
        await entry.remove(record.uid if record is not None else trash_name(), claim, lambda: None)
    finally:
        claim.release()
    log.info("undid container `%s`: the program that created it died", entry.id)
    return True


def _is_hidden(engine: EngineState, record: Record | None) -> bool:
    if record is None:
        return engine.store.sight_at(engine.store.run) == "hidden"
    return engine.store.sight(record)[0] == "hidden"


def _is_made(entry: ContainerDir) -> bool:
    try:
        return bool(entry.read().token)
    except ContainerNotFound:
        return False
