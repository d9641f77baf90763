"""Deleting a container: ended if need be, forgotten by the platform, out of the store, told. Once begun, completed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from ..aio.tasks import shielded
from ..compute.values import INIT, Lease, State, now
from ..errors import ContainerNotFound, InvalidState, NotVisible, StoreError
from ..exit_record import Cause, Exit
from ..store.container_dir import ContainerDir, trash_name
from ..store.journal import NewEvent
from ..store.leases import owned
from ..store.records import Damaged, Record
from .checkpoint_recovery import undo_half_restored
from .exits import publish_recorded, publish_unrecorded, record_never_started
from .lifecycle import kill, wait_for_end
from .lookup import NamedLease, end_of_gone, is_past, named_lease, open_container, state_of
from .state import EngineState, OpenContainer


async def delete(engine: EngineState, entry: ContainerDir, uid: str, *, force: bool) -> None:
    """Remove it and all that it has. InvalidState if it runs, unless `force`. Gone already is fine."""
    try:
        record = entry.read()
        entry.read_exit()
    except ContainerNotFound:
        return
    except Damaged:
        if not force:
            raise
        if engine.store.sight_at(engine.store.run) == "hidden":
            raise NotVisible(
                "delete", entry.id, engine.store.viewpoint.blind or "its state belongs to other namespaces"
            ) from None
        await shielded(_delete_damaged(engine, entry))
        return
    if uid and record.uid != uid:
        raise ContainerNotFound(entry.id)
    is_past(engine, record, "delete")
    if not force:
        await _refuse_if_alive(engine, entry, record)
    async with engine.descriptors.ending():
        await shielded(_delete(engine, entry, record, force=force))


async def _refuse_if_alive(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    if record.token and record.starting_at is not None and entry.read_exit() is None:
        state = await state_of(engine, record)
        if state is not State.STOPPED:
            raise InvalidState("delete", entry.id, str(state), hint="stop it first, or use force")


async def _delete(engine: EngineState, entry: ContainerDir, record: Record, *, force: bool) -> None:
    uid = record.uid
    if force and record.starting_at is not None and record.token and entry.read_exit() is None:
        with suppress(ContainerNotFound):
            await kill(engine, entry, uid)  # also one that is just being started: its starter then lets go of it
    try:
        claim = await entry.wait_for_claim("delete", engine.limits.end) if force else entry.claim("delete")
    except ContainerNotFound:
        await forget(engine, entry, uid)
        return
    try:
        record = entry.read_own(uid)
        if not force:
            await _refuse_if_alive(engine, entry, record)
        await undo_half_restored(engine, entry)
        await _end_for_deletion(engine, entry, record)
        await entry.remove(uid, claim, partial(_publish_delete, engine, entry, record))
    except ContainerNotFound:  # somebody else has deleted it meanwhile
        pass
    except StoreError:
        engine.trash_left = True  # a part of it may be there already
        if not entry.home.exists():  # its id is free; what is still to be told and removed is in the trash
            await forget(engine, entry, uid)
        raise
    finally:
        claim.release()
    await forget(engine, entry, uid)
    if engine.trash_left:
        await engine.empty_trash()


async def _end_for_deletion(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    """End what runs, and have the platform forget the container."""
    if not record.token:
        await engine.service.abandon(entry.id, entry.place(named_lease(record)))
        return
    try:
        opened = await open_container(engine, entry, record)
    except InvalidState:  # nothing is left of it
        await end_of_gone(engine, entry, record.uid)
        await publish_recorded(engine, entry, entry.read_own(record.uid))
        # but for what outlives a boot (layers, on Windows), and what a token that is damaged does not find
        await engine.service.abandon(entry.id, entry.place(named_lease(record)))
        return
    if entry.read_exit() is None:
        if opened.watcher is not None:
            await kill(engine, entry, record.uid)
            await wait_for_end(engine, entry, record.uid)
        else:  # it has no init: it was never started, or whoever was at it has died
            await record_never_started(engine, entry, record)
            await opened.system.terminate()
    elif opened.watcher is not None:
        await asyncio.wait((opened.watcher,), timeout=engine.limits.settle)
    else:  # whoever recorded its end may have died before publishing it
        await publish_recorded(engine, entry, record)
    await opened.system.delete()


def _publish_delete(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    """Journal it. Who finds the remains of a deletion that was not finished does the same, with a look back."""
    if record.token:
        publish_unrecorded(engine, entry, record)
        engine.store.journal.append(entry.id, record.uid, NewEvent("delete"))


async def forget(engine: EngineState, entry: ContainerDir, uid: str) -> None:
    """Hold nothing of a container that is deleted any more."""
    opened = engine.find(entry.id, uid)
    if opened is not None:
        await release(engine, opened)
    if engine.owned.pop(uid, None) is not None and engine.lease is not None:
        again = any(other.id == entry.id for other, _ in engine.owned.values())  # the id is ours a second time
        if not again:
            engine.lease.disown(entry.id)


async def release(engine: EngineState, opened: OpenContainer) -> None:
    """Stop watching a container, and let go of its handles."""
    for task in (opened.watcher, opened.output):
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,))
    await opened.system.close()
    if engine.open_containers.get(opened.entry.id) is opened:
        del engine.open_containers[opened.entry.id]


async def _delete_damaged(engine: EngineState, entry: ContainerDir) -> None:
    """Delete a container whose records cannot be read: all that can be found of it by its id."""
    claim = await entry.wait_for_claim("delete", engine.limits.end)
    record: Record | None = None
    try:
        with suppress(ContainerNotFound):
            try:
                record = entry.read()
                entry.read_exit()
            except Damaged:
                pass
            else:  # it was mended, or is another one
                claim.release()
                await _delete(engine, entry, record, force=True)
                return
            opened = engine.open_containers.get(entry.id)
            if opened is not None:
                await opened.system.terminate()
                if opened.watcher is not None:
                    await asyncio.wait((opened.watcher,), timeout=engine.limits.settle)
                await opened.system.delete()
                await release(engine, opened)
            await engine.service.abandon(entry.id, entry.place(_lease_of(engine, entry, record)))
            uid, events = _missing_events(engine, entry, record, opened)
            await entry.remove(uid or trash_name(), claim, lambda: engine.store.journal.append(entry.id, uid, *events))
            await forget(engine, entry, uid)
    finally:
        claim.release()


def _lease_of(engine: EngineState, entry: ContainerDir, record: Record | None) -> Lease | None:
    """The lease of a damaged container: without it, the service would look for its processes elsewhere."""
    if record is not None:
        return named_lease(record)
    leases = engine.store.names(engine.store.leases)
    return next((NamedLease(lease) for lease in leases if entry.id in owned(engine.store, lease)), None)


def _missing_events(
    engine: EngineState, entry: ContainerDir, record: Record | None, opened: OpenContainer | None
) -> tuple[str, list[NewEvent]]:
    """Of a damaged container that is gone: its uid, if anybody knows it, and what nobody has been told of yet."""
    journal = engine.store.journal
    told = list(journal.about(record.uid, record.journal)) if record is not None else journal.latest_of(entry.id)
    if record is None and any(event.type == "delete" for event in told):
        told = []  # that was one before it, and of this one nobody has heard
    uid = record.uid if record is not None else told[0].uid if told else ""
    began = next((event.at for event in told if event.type == "start-container"), None)
    if began is None or any(event.type == "exit" for event in told):
        return uid, [NewEvent("delete")]
    exit = Exit(code=None, cause=Cause.KILLED, at=now(), started_at=began)
    with suppress(StoreError):
        found = entry.read_exit()
        if found is not None and found.exit.at is not None and found.exit.at >= began:  # not of an earlier life
            exit = found.exit
    if opened is not None and opened.watcher is not None and opened.watcher.done() and not opened.watcher.cancelled():
        exit = opened.watcher.result() if opened.watcher.exception() is None else exit
    return uid, [NewEvent("exit", exit.at, INIT, exit), NewEvent("delete")]
