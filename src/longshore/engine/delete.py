"""Deleting a container: ended if need be, forgotten by the platform, out of the store, told. Once begun, completed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from ..aio.tasks import shielded
from ..compute.values import INIT, Lease, State, now
from ..errors import ContainerNotFound, InvalidState, NotVisible, StoreError
from ..exit_record import Cause, Exit
from ..store.container_dir import Entry, trash_name
from ..store.journal import News
from ..store.leases import owned
from ..store.records import Damaged, Record
from .checkpoint_recovery import undo_half_restored
from .exits import record_never_started, tell_recorded, tell_unrecorded
from .lifecycle import kill, wait_for_end
from .lookup import NamedLease, adopt, end_of_gone, is_past, named_lease, state_of
from .state import Core, Live


async def delete(core: Core, entry: Entry, uid: str, *, force: bool) -> None:
    """Remove it and all that it has. InvalidState if it runs, unless `force`. Gone already is fine."""
    try:
        record = entry.read()
        entry.read_exit()
    except ContainerNotFound:
        return
    except Damaged:
        if not force:
            raise
        if core.store.sight_at(core.store.run) == "hidden":
            raise NotVisible(
                "delete", entry.id, core.store.viewpoint.blind or "its state belongs to other namespaces"
            ) from None
        await shielded(_delete_damaged(core, entry))
        return
    if uid and record.uid != uid:
        raise ContainerNotFound(entry.id)
    is_past(core, record, "delete")
    if not force:
        await _refuse_if_alive(core, entry, record)
    async with core.descriptors.ending():
        await shielded(_delete(core, entry, record, force=force))


async def _refuse_if_alive(core: Core, entry: Entry, record: Record) -> None:
    if record.token and record.starting_at is not None and entry.read_exit() is None:
        state = await state_of(core, record)
        if state is not State.STOPPED:
            raise InvalidState("delete", entry.id, str(state), hint="stop it first, or use force")


async def _delete(core: Core, entry: Entry, record: Record, *, force: bool) -> None:
    uid = record.uid
    if force and record.starting_at is not None and record.token and entry.read_exit() is None:
        with suppress(ContainerNotFound):
            await kill(core, entry, uid)  # also one that is just being started: its starter then lets go of it
    try:
        claim = await entry.claim_at_last("delete", core.limits.end) if force else entry.claim("delete")
    except ContainerNotFound:
        await forget(core, entry, uid)
        return
    try:
        record = entry.read_own(uid)
        if not force:
            await _refuse_if_alive(core, entry, record)
        await undo_half_restored(core, entry)
        await _end_for_deletion(core, entry, record)
        await entry.remove(uid, claim, partial(_tell_delete, core, entry, record))
    except ContainerNotFound:  # somebody else has deleted it meanwhile
        pass
    except StoreError:
        core.trash_left = True  # a part of it may be there already
        if not entry.home.exists():  # its id is free; what is still to be told and removed is in the trash
            await forget(core, entry, uid)
        raise
    finally:
        claim.release()
    await forget(core, entry, uid)
    if core.trash_left:
        await core.empty_trash()


async def _end_for_deletion(core: Core, entry: Entry, record: Record) -> None:
    """End what runs, and have the platform forget the container."""
    if not record.token:
        await core.service.abandon(entry.id, entry.place(named_lease(record)))
        return
    try:
        live = await adopt(core, entry, record)
    except InvalidState:  # nothing is left of it
        await end_of_gone(core, entry, record.uid)
        await tell_recorded(core, entry, entry.read_own(record.uid))
        # but for what outlives a boot (layers, on Windows), and what a token that is damaged does not find
        await core.service.abandon(entry.id, entry.place(named_lease(record)))
        return
    if entry.read_exit() is None:
        if live.watcher is not None:
            await kill(core, entry, record.uid)
            await wait_for_end(core, entry, record.uid)
        else:  # it has no init: it was never started, or whoever was at it has died
            await record_never_started(core, entry, record)
            await live.system.terminate()
    elif live.watcher is not None:
        await asyncio.wait((live.watcher,), timeout=core.limits.settle)
    else:  # whoever recorded its end may have died before telling it
        await tell_recorded(core, entry, record)
    await live.system.delete()


def _tell_delete(core: Core, entry: Entry, record: Record) -> None:
    """Journal it. Who finds the remains of a deletion that was not finished does the same, with a look back."""
    if record.token:
        tell_unrecorded(core, entry, record)
        core.store.journal.append(entry.id, record.uid, News("delete"))


async def forget(core: Core, entry: Entry, uid: str) -> None:
    """Hold nothing of a container that is deleted any more."""
    live = core.find(entry.id, uid)
    if live is not None:
        await let_go(core, live)
    if core.owned.pop(uid, None) is not None and core.lease is not None:
        again = any(other.id == entry.id for other, _ in core.owned.values())  # the id is ours a second time
        if not again:
            core.lease.disown(entry.id)


async def let_go(core: Core, live: Live) -> None:
    """Stop watching a container, and let go of its handles."""
    for task in (live.watcher, live.output):
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,))
    await live.system.close()
    if core.live.get(live.entry.id) is live:
        del core.live[live.entry.id]


async def _delete_damaged(core: Core, entry: Entry) -> None:
    """Delete a container whose records cannot be read: all that can be found of it by its id."""
    claim = await entry.claim_at_last("delete", core.limits.end)
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
                await _delete(core, entry, record, force=True)
                return
            live = core.live.get(entry.id)
            if live is not None:
                await live.system.terminate()
                if live.watcher is not None:
                    await asyncio.wait((live.watcher,), timeout=core.limits.settle)
                await live.system.delete()
                await let_go(core, live)
            await core.service.abandon(entry.id, entry.place(_lease_of(core, entry, record)))
            uid, news = _untold(core, entry, record, live)
            await entry.remove(uid or trash_name(), claim, lambda: core.store.journal.append(entry.id, uid, *news))
            await forget(core, entry, uid)
    finally:
        claim.release()


def _lease_of(core: Core, entry: Entry, record: Record | None) -> Lease | None:
    """The lease of a damaged container: without it, the service would look for its processes elsewhere."""
    if record is not None:
        return named_lease(record)
    leases = core.store.names(core.store.leases)
    return next((NamedLease(lease) for lease in leases if entry.id in owned(core.store, lease)), None)


def _untold(core: Core, entry: Entry, record: Record | None, live: Live | None) -> tuple[str, list[News]]:
    """Of a damaged container that is gone: its uid, if anybody knows it, and what nobody has been told of yet."""
    journal = core.store.journal
    told = list(journal.about(record.uid, record.journal)) if record is not None else journal.latest_of(entry.id)
    if record is None and any(event.type == "delete" for event in told):
        told = []  # that was one before it, and of this one nobody has heard
    uid = record.uid if record is not None else told[0].uid if told else ""
    began = next((event.at for event in told if event.type == "start-container"), None)
    if began is None or any(event.type == "exit" for event in told):
        return uid, [News("delete")]
    exit = Exit(code=None, cause=Cause.KILLED, at=now(), started_at=began)
    with suppress(StoreError):
        found = entry.read_exit()
        if found is not None and found.exit.at is not None and found.exit.at >= began:  # not of an earlier life
            exit = found.exit
    if live is not None and live.watcher is not None and live.watcher.done() and not live.watcher.cancelled():
        exit = live.watcher.result() if live.watcher.exception() is None else exit
    return uid, [News("exit", exit.at, INIT, exit), News("delete")]
