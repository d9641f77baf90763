"""After somebody died: leases are ended, half-made containers undone, ends recorded and told, trash removed."""

from __future__ import annotations

import asyncio
import time

import msgspec

from ..errors import ContainerNotFound, InvalidState, LongshoreError, NotVisible, StoreError, TimeLimit
from ..exit_record import Cause
from ..store.container_dir import ContainerDir
from ..store.journal import NewEvent
from ..store.leases import EXECS, closed, dead_leases, drop, end_stopped_keepers, owned
from ..store.records import Damaged, Record
from .checkpoint_recovery import take_back
from .create import undo_half_made
from .delete import delete
from .exec import close_processes, publish_recorded_process
from .exits import publish_recorded, record_never_started
from .lifecycle import wait_for_end
from .lookup import derive, end_of_gone, open_container, state_of
from .state import EngineState, OpenContainer, log

RECOVERY_LIMIT = 5.0  # seconds that who opens the store spends on what the dead have left; the rest is for the next
MOMENT = 0.5  # seconds that each lease gets in any case
CLOSE_LIMIT = 5.0  # seconds that a container which was killed may take to be gone
AT_ONCE = 8  # containers that are closed side by side


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What `restore` found: ids of containers that run, that ended meanwhile, and half-made ones that were undone.

    `hidden` are those whose processes this program cannot see, as in another pid namespace: they are left alone.
    """

    running: list[str] = []
    ended: list[str] = []
    undone: list[str] = []
    hidden: list[str] = []


async def recover_dead_leases(
    engine: EngineState, limit: float | None = RECOVERY_LIMIT, *, again: bool = False
) -> None:
    """At the opening of the store: end the leases whose owner and keeper are dead, empty the trash.

    What is not done within `limit` seconds is left: the next who opens the store goes on with it. `again`: empty the
    trash also of what could not be removed before.
    """
    if engine.store.viewpoint.blind:
        return
    deadline = None if limit is None else time.monotonic() + limit
    await end_stopped_keepers(engine.store, engine.service)
    with dead_leases(engine.store) as leases:
        for lease in leases:
            if deadline is not None and time.monotonic() > deadline:
                log.warning(
                    "lease %s is left to the next program: its owner and its keeper have died, and the time is up",
                    lease,
                )
                continue
            log.info("ending lease %s: its owner and its keeper have died", lease)
            try:
                await _end_lease(engine, lease, deadline)
            except (LongshoreError, OSError) as error:
                log.warning("lease %s could not be ended: %s", lease, error)
    await engine.empty_trash(again=again)


async def _end_lease(engine: EngineState, lease: str, deadline: float | None) -> None:
    directory = engine.store.leases / lease
    failed: LongshoreError | None = None
    try:
        await engine.service.end_lease(lease, directory, _left(deadline))
    except LongshoreError as error:
        failed = error  # one that cannot be ended keeps nothing from the others
    if not await close_lease(engine, lease, deadline):
        failed = failed or StoreError(
            f"cannot close lease {lease}: some of its containers or execs are not closed yet", hint="try again"
        )
    if failed is not None:
        raise failed
    await engine.service.end_lease(lease, directory, _left(deadline))  # what was still busy the first time
    drop(engine.store, lease)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(MOMENT, deadline - time.monotonic())


async def close_lease(engine: EngineState, lease: str, deadline: float | None = None) -> bool:
    """Close the records of a lease whose owner died and whose processes were killed: exits, events, files.

    What is closed is taken off the lease. False if anything is left, now or after `deadline`: then the lease has to
    stay, for the next who opens the store. Two programs may be at this.
    """
    at_once = asyncio.Semaphore(AT_ONCE)
    containers = await asyncio.gather(
        *(_close(engine, lease, id, at_once, deadline) for id in owned(engine.store, lease))
    )
    execs = True
    for entry in engine.store.container_dirs():
        execs = await _close_execs(engine, lease, entry) and execs
    if execs:
        closed(engine.store, lease, EXECS)
    return execs and all(containers)


async def _close(engine: EngineState, lease: str, id: str, at_once: asyncio.Semaphore, deadline: float | None) -> bool:
    async with at_once:
        if deadline is not None and time.monotonic() > deadline:
            return False
        try:
            await _close_owned(engine, engine.store.container_dir(id), lease)
        except ContainerNotFound:
            pass
        except Damaged as error:  # it has been killed; for its records there is only the deletion by force
            log.warning("closing lease %s: container `%s`: %s", lease, id, error)
        except (LongshoreError, OSError) as error:
            log.warning("closing lease %s: container `%s`: %s", lease, id, error)
            return False
        closed(engine.store, lease, id)
        return True


async def _close_execs(engine: EngineState, lease: str, entry: ContainerDir) -> bool:
    try:
        if entry.processes():
            record = entry.read()
            await close_processes(engine, entry, record.uid, lease)
            if record.token and engine.store.sight(record)[0] == "visible":
                await state_of(engine, record)  # if its owner died while it killed an exec, this thaws it
    except (ContainerNotFound, Damaged):
        pass
    except (LongshoreError, OSError) as error:
        log.warning("closing lease %s: execs in container `%s`: %s", lease, entry.id, error)
        return False
    return True


async def _close_owned(engine: EngineState, entry: ContainerDir, lease: str) -> None:
    """Close what a lease had of one container; raises where something of that is left to do."""
    if await undo_half_made(engine, entry, lease):
        return
    await take_back(engine, entry)  # the lease knows of it while it is written to a checkpoint, or restored from one
    record = entry.read()
    if record.lease != lease:
        return

    def killed(record: Record) -> None:
        record.ending = record.ending or Cause.KILLED
        record.starter = None  # the owner is dead: nobody else can tell its end

    record = await entry.change(record.uid, killed)
    if record.owner == "remove" or not record.kept:
        await _end(engine, entry, record)
        await delete(engine, entry, record.uid, force=True)
        return
    await _end(engine, entry, record)
    record = entry.read_own(record.uid)
    if entry.read_exit() is None or not record.exit_published:
        raise StoreError(
            f"cannot close container `{entry.id}`: its exit is not recorded yet", hint="run `longshore ps --all` again"
        )

    def ours_no_more(record: Record) -> None:
        record.lease = None  # not before: who comes after a failure finds by this what is still to be closed

    await entry.change(record.uid, ours_no_more)


async def _end(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    """See that a container of a dead owner's has ended, and that its end is recorded and published."""
    if entry.read_exit() is not None:
        await publish_recorded(engine, entry, record)
    elif record.starting_at is None:
        await record_never_started(engine, entry, record)
    else:
        try:
            opened = await open_container(engine, entry, record)
        except InvalidState:
            await end_of_gone(engine, entry, record.uid)
        else:
            await _kill_and_wait(engine, entry, record, opened)


async def _kill_and_wait(engine: EngineState, entry: ContainerDir, record: Record, opened: OpenContainer) -> None:
    try:
        async with asyncio.timeout(CLOSE_LIMIT):
            await opened.system.terminate()
            await wait_for_end(engine, entry, record.uid)
    except TimeoutError:
        hint = "look for a process in state D (`ps`): it hangs in the kernel"
        raise TimeLimit(f"killed container `{entry.id}`", CLOSE_LIMIT, hint=hint) from None


async def restore(engine: EngineState) -> Restored:
    """Take up all containers again."""
    running: list[str] = []
    ended: list[str] = []
    undone: list[str] = []
    hidden: list[str] = []
    await recover_dead_leases(engine, limit=None, again=True)
    for entry in list(engine.store.container_dirs()):
        try:
            if await undo_half_made(engine, entry):
                undone.append(entry.id)
                continue
            record = entry.read()
            if engine.store.sight(record)[0] == "hidden":
                hidden.append(entry.id)
                continue
            before = entry.read_exit()
            if before is not None:
                await publish_recorded(engine, entry, record)
            elif (await derive(engine, entry, record)).state in ("running", "paused"):
                await _take_up(engine, entry, record)
                running.append(entry.id)
            elif entry.read_exit() is not None:
                ended.append(entry.id)
            for name in entry.processes():
                await publish_recorded_process(engine, entry, record.uid, name)
        except ContainerNotFound:
            continue
        except NotVisible:
            hidden.append(entry.id)
        except LongshoreError as error:
            log.warning("restoring container `%s`: %s", entry.id, error)
        await asyncio.sleep(0)
    return Restored(running=running, ended=ended, undone=undone, hidden=hidden)


async def _take_up(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    known = engine.find(entry.id, record.uid) is not None
    await open_container(engine, entry, record)
    if not known:
        async with entry.locked():
            if entry.read_own(record.uid).started_at is not None and entry.read_exit() is None:
                engine.store.journal.append(entry.id, record.uid, NewEvent("restore"))
