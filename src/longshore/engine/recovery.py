"""Clean up after dead programs: end their leases, undo half-made containers, record exits, empty the trash."""

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
from .delete import delete
from .exec import close_processes, publish_recorded_process
from .exits import publish_recorded, record_never_started
from .half_made import undo_half_made
from .lookup import derive, end_of_gone, open_container, state_of
from .state import ContainerRef, EngineState, OpenContainer, log
from .states import ALIVE
from .wait import wait_for_end

RECOVERY_LIMIT = 5.0  # seconds that opening the store may spend on this; the next program does the rest
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
    """End the leases whose owner and keeper are dead, and empty the trash. Called when the store is opened.

    What is not done within `limit` seconds is left to the next program that opens the store. `again` tries to remove
    from the trash also what could not be removed before.
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

    What is closed is taken off the lease. Returns False if anything is left, now or after `deadline`: then the lease
    stays, for the next program that opens the store. Two programs may do this at once.
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


async def _close_execs(engine: EngineState, lease: str, directory: ContainerDir) -> bool:
    try:
        if directory.processes():
            record = directory.read()
            await close_processes(ContainerRef(engine, directory, record.uid), lease)
            if record.token and engine.store.sight(record)[0] == "visible":
                await state_of(engine, record)  # if its owner died while it killed an exec, this thaws it
    except (ContainerNotFound, Damaged):
        pass
    except (LongshoreError, OSError) as error:
        log.warning("closing lease %s: execs in container `%s`: %s", lease, directory.id, error)
        return False
    return True


async def _close_owned(engine: EngineState, directory: ContainerDir, lease: str) -> None:
    """Close what a lease had of one container. Raises if a part of that is left to do."""
    if await undo_half_made(engine, directory, lease):
        return
    await take_back(engine, directory)  # a container in a checkpoint or restore belongs to the lease as well
    record = directory.read()
    if record.lease != lease:
        return
    container = ContainerRef(engine, directory, record.uid)

    def killed(record: Record) -> None:
        record.ending = record.ending or Cause.KILLED
        record.starter = None  # the owner is dead: no other program can publish its end

    record = await container.change(killed)
    await _end(container, record)
    if record.owner == "remove" or not record.kept:
        await delete(container, force=True)
        return
    record = container.read_current()
    if directory.read_exit() is None or not record.exit_published:
        raise StoreError(
            f"cannot close container `{container.id}`: its exit is not recorded yet",
            hint="run `longshore ps --all` again",
        )

    def without_lease(record: Record) -> None:
        record.lease = None  # not before: after a failure, the next program finds by it what is still to be closed

    await container.change(without_lease)


async def _end(container: ContainerRef, record: Record) -> None:
    """End a container of a dead owner, and record and publish its end."""
    if container.directory.read_exit() is not None:
        await publish_recorded(container, record)
    elif record.starting_at is None:
        await record_never_started(container, record)
    else:
        try:
            opened = await open_container(container, record)
        except InvalidState:
            await end_of_gone(container)
        else:
            await _kill_and_wait(container, record, opened)


async def _kill_and_wait(container: ContainerRef, record: Record, opened: OpenContainer) -> None:
    try:
        async with asyncio.timeout(CLOSE_LIMIT):
            await opened.system.terminate()
            await wait_for_end(container)
    except TimeoutError:
        hint = "look for a process in state D (`ps`): it hangs in the kernel"
        raise TimeLimit(f"killed container `{container.id}`", CLOSE_LIMIT, hint=hint) from None


async def restore(engine: EngineState) -> Restored:
    """Watch all containers that run, record how others ended, and undo half-made ones."""
    running: list[str] = []
    ended: list[str] = []
    undone: list[str] = []
    hidden: list[str] = []
    await recover_dead_leases(engine, limit=None, again=True)
    for directory in list(engine.store.container_dirs()):
        try:
            if await undo_half_made(engine, directory):
                undone.append(directory.id)
                continue
            record = directory.read()
            if engine.store.sight(record)[0] == "hidden":
                hidden.append(directory.id)
                continue
            container = ContainerRef(engine, directory, record.uid)
            if directory.read_exit() is not None:
                await publish_recorded(container, record)
            elif (await derive(container, record)).state in ALIVE:
                await _watch_again(container, record)
                running.append(directory.id)
            elif directory.read_exit() is not None:
                ended.append(directory.id)
            for name in directory.processes():
                await publish_recorded_process(container, name)
        except ContainerNotFound:
            continue
        except NotVisible:
            hidden.append(directory.id)
        except LongshoreError as error:
            log.warning("restoring container `%s`: %s", directory.id, error)
        await asyncio.sleep(0)
    return Restored(running=running, ended=ended, undone=undone, hidden=hidden)


async def _watch_again(container: ContainerRef, record: Record) -> None:
    known = container.opened is not None
    await open_container(container, record)
    if not known:
        async with container.directory.locked():
            if container.read_current().started_at is not None and container.directory.read_exit() is None:
                container.publish(NewEvent("restore"))
