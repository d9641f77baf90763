"""Delete: end a container if need be, have the platform forget it, and remove its files.

Deletion renames the container directory into the trash, publishes `delete`, then removes the files. From the rename on,
the id is free. An interrupted deletion is completed by the next program that opens the store (`store.trash`). Once it
has begun, it completes, also if the caller is cancelled.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from ..aio.tasks import shielded
from ..compute.values import INIT, Lease, State, now
from ..errors import ContainerNotFound, InvalidState, NotVisible, StoreError
from ..exit_record import Cause, Exit
from ..store.container_dir import trash_name
from ..store.journal import NewEvent
from ..store.leases import owned
from ..store.records import Damaged, Record
from .checkpoint_recovery import undo_half_restored
from .exits import publish_recorded, publish_unrecorded, record_never_started
from .kill import kill
from .lookup import NamedLease, end_of_gone, is_past, named_lease, open_container, state_of
from .state import ContainerRef, OpenContainer
from .states import Verb, wrong_state
from .wait import wait_for_end


async def delete(container: ContainerRef, *, force: bool) -> None:
    """Remove a container and all that it has; one that is deleted already is fine.

    Raises InvalidState if it runs, unless `force`: then it is killed first. If cancelled, it completes.
    """
    engine = container.engine
    try:
        record = container.directory.read()
        container.directory.read_exit()
    except ContainerNotFound:
        return
    except Damaged:
        if not force:
            raise
        if engine.store.sight_at(engine.store.run) == "hidden":
            reason = engine.store.viewpoint.blind or "its state belongs to other namespaces"
            raise NotVisible("delete", container.id, reason) from None
        await shielded(_delete_damaged(container))
        return
    if container.uid and record.uid != container.uid:
        raise ContainerNotFound(container.id)
    container = container.of(record)
    is_past(engine, record, "delete")
    if not force:
        await _refuse_if_alive(container, record)
    async with engine.descriptors.ending():
        await shielded(_delete(container, record, force=force))


async def _refuse_if_alive(container: ContainerRef, record: Record) -> None:
    if record.token and record.starting_at is not None and container.directory.read_exit() is None:
        state = await state_of(container.engine, record)
        if state is not State.STOPPED:
            raise wrong_state(Verb.DELETE, container.id, state)


async def _delete(container: ContainerRef, record: Record, *, force: bool) -> None:
    engine, directory = container.engine, container.directory
    if force and record.starting_at is not None and record.token and directory.read_exit() is None:
        with suppress(ContainerNotFound):
            await kill(container)  # also while it is being started: its starter then releases the claim
    try:
        claim = await directory.wait_for_claim("delete", engine.limits.end) if force else directory.claim("delete")
    except ContainerNotFound:
        await forget(container)
        return
    try:
        record = container.read_current()
        if not force:
            await _refuse_if_alive(container, record)
        await undo_half_restored(engine, directory)
        await _end_for_deletion(container, record)
        await directory.remove(container.uid, claim, partial(_publish_delete, container, record))
    except ContainerNotFound:  # another program has deleted it meanwhile
        pass
    except StoreError:
        engine.trash_left = True  # a part of it may be there already
        if not directory.home.exists():  # its id is free; the trash is published and emptied later
            await forget(container)
        raise
    finally:
        claim.release()
    await forget(container)
    if engine.trash_left:
        await engine.empty_trash()


async def _end_for_deletion(container: ContainerRef, record: Record) -> None:
    """End what runs, and have the platform forget the container."""
    engine, directory = container.engine, container.directory
    if not record.token:
        await engine.service.abandon(container.id, directory.place(named_lease(record)))
        return
    try:
        opened = await open_container(container, record)
    except InvalidState:  # nothing is left of it
        await end_of_gone(container)
        await publish_recorded(container, container.read_current())
        # but for what outlives a boot (layers, on Windows), and what a damaged token does not find
        await engine.service.abandon(container.id, directory.place(named_lease(record)))
        return
    if directory.read_exit() is None:
        if opened.watcher is not None:
            await kill(container)
            await wait_for_end(container)
        else:  # it has no init: it was never started, or its starter has died
            await record_never_started(container, record)
            await opened.system.terminate()
    elif opened.watcher is not None:
        await asyncio.wait((opened.watcher,), timeout=engine.limits.settle)
    else:  # the program that recorded its end may have died before it published it
        await publish_recorded(container, record)
    await opened.system.delete()


def _publish_delete(container: ContainerRef, record: Record) -> None:
    """Publish the deletion. A program that completes an interrupted one does the same, unless it is published."""
    if record.token:
        publish_unrecorded(container, record)
        container.publish(NewEvent("delete"))


async def forget(container: ContainerRef) -> None:
    """Release all that this engine holds of a container that is deleted."""
    engine = container.engine
    opened = container.opened
    if opened is not None:
        await release(opened)
    if engine.owned.pop(container.uid, None) is not None and engine.lease is not None:
        again = any(other.id == container.id for other, _ in engine.owned.values())  # the id is ours a second time
        if not again:
            engine.lease.disown(container.id)


async def release(opened: OpenContainer) -> None:
    """Stop watching a container, and close its handles."""
    open_containers = opened.container.engine.open_containers
    for task in (opened.watcher, opened.output):
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,))
    await opened.system.close()
    if open_containers.get(opened.container.id) is opened:
        del open_containers[opened.container.id]


async def _delete_damaged(container: ContainerRef) -> None:
    """Delete a container whose records cannot be read, with all that can be found of it by its id."""
    engine, directory = container.engine, container.directory
    claim = await directory.wait_for_claim("delete", engine.limits.end)
    record: Record | None = None
    try:
        with suppress(ContainerNotFound):
            try:
                record = directory.read()
                directory.read_exit()
            except Damaged:
                pass
            else:  # it was repaired, or is another one
                claim.release()
                await _delete(container.of(record), record, force=True)
                return
            opened = engine.open_containers.get(container.id)
            if opened is not None:
                await opened.system.terminate()
                if opened.watcher is not None:
                    await asyncio.wait((opened.watcher,), timeout=engine.limits.settle)
                await opened.system.delete()
                await release(opened)
            await engine.service.abandon(container.id, directory.place(_lease_of(container, record)))
            found, events = _missing_events(container, record, opened)
            await directory.remove(found.uid or trash_name(), claim, lambda: found.publish(*events))
            await forget(found)
    finally:
        claim.release()


def _lease_of(container: ContainerRef, record: Record | None) -> Lease | None:
    """Return the lease of a damaged container: without it, the service would look for its processes elsewhere."""
    if record is not None:
        return named_lease(record)
    store = container.engine.store
    leases = store.names(store.leases)
    return next((NamedLease(lease) for lease in leases if container.id in owned(store, lease)), None)


def _missing_events(
    container: ContainerRef, record: Record | None, opened: OpenContainer | None
) -> tuple[ContainerRef, list[NewEvent]]:
    """Return a damaged container that is gone, with its uid if that is known, and the events that are not published."""
    journal = container.engine.store.journal
    published = (
        list(journal.about(record.uid, record.journal)) if record is not None else journal.latest_of(container.id)
    )
    if record is None and any(event.type == "delete" for event in published):
        published = []  # they are of an earlier container, and of this one nothing was published
    uid = record.uid if record is not None else published[0].uid if published else ""
    container = ContainerRef(container.engine, container.directory, uid)
    began = next((event.at for event in published if event.type == "start-container"), None)
    if began is None or any(event.type == "exit" for event in published):
        return container, [NewEvent("delete")]
    exit = Exit(code=None, cause=Cause.KILLED, at=now(), started_at=began)
    with suppress(StoreError):
        found = container.directory.read_exit()
        if found is not None and found.exit.at is not None and found.exit.at >= began:  # not of an earlier life
            exit = found.exit
    if opened is not None and opened.watcher is not None and opened.watcher.done() and not opened.watcher.cancelled():
        exit = opened.watcher.result() if opened.watcher.exception() is None else exit
    return container, [NewEvent("exit", exit.at, INIT, exit), NewEvent("delete")]
