"""After somebody died: leases are ended, half-made containers undone, ends recorded and told, trash removed."""

from __future__ import annotations

import asyncio

import msgspec

from .compute import Cause
from .core import Core, log
from .deleting import delete
from .endings import record_never_started, tell_recorded
from .entry import Entry
from .errors import ContainerNotFound, InvalidState, LongshoreError, NotVisible
from .events import News
from .execs import close_processes, tell_recorded_process
from .finding import adopt, derive, end_of_gone, state_of
from .half_restored import take_back
from .lease import dead_leases, end_stopped_keepers, owned
from .lifecycle import wait_for_end
from .making import undo_half_made
from .records import Record
from .trash import empty_trash
from .trees import remove_though_open


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What `restore` found: ids of containers that run, that ended meanwhile, and half-made ones that were undone.

    `hidden` are those whose processes this program cannot see, as in another pid namespace: they are left alone.
    """

    running: list[str] = []
    ended: list[str] = []
    undone: list[str] = []
    hidden: list[str] = []


async def bury(core: Core) -> None:
    """At the opening of the store: end the leases whose owner and keeper are dead, empty the trash."""
    if core.store.viewpoint.blind:
        return
    await end_stopped_keepers(core.store, core.service)
    with dead_leases(core.store) as leases:
        for lease in leases:
            log.info("ending lease %s, whose owner and keeper are dead", lease)
            try:
                await core.service.end_lease(lease, core.store.leases / lease)
                await close_lease(core, lease)
                await core.service.end_lease(lease, core.store.leases / lease)  # what was still busy the first time
                remove_though_open(core.store.leases / lease, core.store.run_trash)
            except LongshoreError as error:
                log.warning("lease %s could not be ended: %s", lease, error)
    await empty_trash(core)


async def close_lease(core: Core, lease: str) -> None:
    """Close the records of a lease whose owner died and whose processes were killed: exits, events, files."""
    for id in owned(core.store, lease):
        try:
            await _close_owned(core, core.store.entry(id), lease)
        except ContainerNotFound:
            continue
        except LongshoreError as error:
            log.warning("closing lease %s: container `%s`: %s", lease, id, error)
    for entry in core.store.entries():
        try:
            names = entry.processes()
            if names:
                record = entry.read()
                await close_processes(core, entry, record.uid, lease)
                if record.token and core.store.sight(record)[0] == "visible":
                    await state_of(core, record)  # if its owner died while it killed an exec, this thaws it
        except ContainerNotFound:
            continue
        except LongshoreError as error:
            log.warning("closing lease %s: execs in container `%s`: %s", lease, entry.id, error)


async def _close_owned(core: Core, entry: Entry, lease: str) -> None:
    if await undo_half_made(core, entry, lease):
        return
    await take_back(core, entry)  # the lease knows of it while it is written to a checkpoint, or restored from one
    record = entry.read()
    if record.lease != lease:
        return

    def killed(record: Record) -> None:
        record.ending = record.ending or Cause.KILLED
        record.lease = record.starter = None  # the owner is dead: nobody else can tell its end

    record = await entry.change(record.uid, killed)
    if record.owner == "remove" or not record.kept:
        await delete(core, entry, record.uid, force=True)
    elif entry.read_exit() is not None:
        await tell_recorded(core, entry, record)
    elif record.starting_at is None:
        await record_never_started(core, entry, record)
    else:
        try:
            live = await adopt(core, entry, record)
        except InvalidState:
            await end_of_gone(core, entry, record.uid)
        else:
            await live.system.terminate()
            await wait_for_end(core, entry, record.uid)


async def restore(core: Core) -> Restored:
    """Take up all containers again."""
    running: list[str] = []
    ended: list[str] = []
    undone: list[str] = []
    hidden: list[str] = []
    await bury(core)
    for entry in list(core.store.entries()):
        try:
            if await undo_half_made(core, entry):
                undone.append(entry.id)
                continue
            record = entry.read()
            if core.store.sight(record)[0] == "hidden":
                hidden.append(entry.id)
                continue
            before = entry.read_exit()
            if before is not None:
                await tell_recorded(core, entry, record)
            elif (await derive(core, entry, record)).state in ("running", "paused"):
                await _take_up(core, entry, record)
                running.append(entry.id)
            elif entry.read_exit() is not None:
                ended.append(entry.id)
            for name in entry.processes():
                await tell_recorded_process(core, entry, record.uid, name)
        except ContainerNotFound:
            continue
        except NotVisible:
            hidden.append(entry.id)
        except LongshoreError as error:
            log.warning("restoring container `%s`: %s", entry.id, error)
        await asyncio.sleep(0)
    return Restored(running=running, ended=ended, undone=undone, hidden=hidden)


async def _take_up(core: Core, entry: Entry, record: Record) -> None:
    known = core.find(entry.id, record.uid) is not None
    await adopt(core, entry, record)
    if not known:
        async with entry.locked():
            if entry.read_own(record.uid).started_at is not None and entry.read_exit() is None:
                core.store.journal.append(entry.id, record.uid, News("restore"))
