"""What a container is now, and the open system behind it: the two questions that nearly every verb begins with.

No program owns the truth about a container. It is spread over three places, and each of them may be ahead of the others
by a moment, because other programs work on the same container.

*The files* say what programs did: `record.json` (made, starting, started, paused) and the exit record. They do not say
what happened to the processes since. *The platform* says whether init is alive (`ComputeService.state`): on Linux
from /proc and the cgroup, on Windows from HCS. It does not know what was published. *This engine* holds what it has
opened: the system's handle, and a task that watches for the end (`OpenContainer`).

`derive` combines the files and the platform, in an order that needs no lock.

1. An exit record is there: the container is stopped. That never changes back within this life.
2. There is no token: the container is being created, or its creator died.
3. The platform says that init is gone. The container is stopped, but its exit record is missing. Some program is about
   to write it, or none is left that will. `late_exit` finds that out. It stops waiting after a quarter of a second, and
   the search continues in the background.
4. Init is alive. If no start is recorded, the container is created. If a start was begun and its program died before it
   recorded the result, the container is ended, because no program can know whether the start succeeded.

So a read can write: it completes what a dead program left. Each such step is safe to do twice and in two programs at
once, because exit records are linked once, and events are looked up in the journal before they are appended.

`open_container` returns the handle of a container that this engine did not make. It opens the system, and watches for
its end. If nothing is left to open, it begins to find out the end (`end_of_gone`) and raises InvalidState.

`uid` guards every step. A container may be deleted and another one made with the same id between two awaits. All
reads go through `ContainerRef.read_current`, which raises ContainerNotFound then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TypeVar

import msgspec

from ..compute.protocols import ComputeSystem, SystemGone, SystemHidden
from ..compute.values import ContainerInfo, Lease, State
from ..errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerNotFound,
    InvalidState,
    LongshoreError,
    NotVisible,
    ServiceError,
)
from ..exit_record import Cause, Exit
from ..fs.files import next_step
from ..store.container_dir import ContainerDir
from ..store.journal import NewEvent
from ..store.records import Record
from .exits import LATE_LIMIT, begin_watching, publish_in_background, publish_missing, record_gone, record_never_started
from .state import ContainerRef, EngineState, OpenContainer, log
from .states import (
    ALIVE,
    CREATED,
    CREATING,
    PAUSED,
    RULES,
    RUNNING,
    STOPPED,
    ContainerState,
    Verb,
    check_state,
    wrong_state,
)

T = TypeVar("T")

ENDING_LIMIT = 5.0  # seconds that a container which is ending may take to be gone
ENDING_PAUSE = 0.005  # seconds between two looks at it
NOTICE_LIMIT = 2.0  # seconds in which a service must report an end that its state shows


class NamedLease(msgspec.Struct, frozen=True):
    """A reference, by id, to a lease owned by another engine: enough to find its cgroup."""

    id: str
    lock_fd: int = -1


def named_lease(record: Record | None) -> Lease | None:
    """Return a reference to the lease of a container; None if it has none."""
    return NamedLease(record.lease) if record is not None and record.lease else None


# what a container is


def is_past(engine: EngineState, record: Record, operation: str = "find") -> bool:
    """Return whether all processes of a container are gone with their boot, or with their pid namespace.

    Raises NotVisible if this program cannot see them: it must not conclude that they have ended.
    """
    sight, reason = engine.store.sight(record)
    if sight == "hidden":
        raise NotVisible(operation, record.id, reason)
    return sight == "gone"


async def state_of(engine: EngineState, record: Record, operation: str = "find") -> State:
    """Return whether init is alive, as the service sees it. Raises NotVisible."""
    if is_past(engine, record, operation):
        return State.STOPPED
    try:
        return await engine.service.state(record.token)
    except SystemHidden as error:
        raise NotVisible(operation, record.id, str(error)) from None


async def derive(container: ContainerRef, record: Record, operation: str = "find") -> ContainerInfo:
    """Find out what a container is now, from its files and its init. No runtime is started.

    Raises NotVisible, which names `operation`.
    """
    found = container.directory.read_exit()
    if found is not None:
        is_past(container.engine, record, operation)
        await publish_missing(container, record)
        return info_of(record, STOPPED, found.exit)
    if not record.token:
        is_past(container.engine, record, operation)
        return info_of(record, state_of_unmade(container.engine, container.directory), None)
    seen = await state_of(container.engine, record, operation)
    if seen is State.STOPPED:
        return info_of(record, STOPPED, await late_exit(container, record))
    return await derive_alive(container, record, seen)


def state_of_unmade(engine: EngineState, directory: ContainerDir) -> ContainerState:
    """Return the state of a container without a token. One that we failed to make, and could not undo, is stopped."""
    failed = any(other.home == directory.home for other in engine.half_made)
    return STOPPED if failed and not directory.is_claimed("create") else CREATING


async def derive_alive(container: ContainerRef, record: Record, seen: State) -> ContainerInfo:
    """Find out what a container is whose init was seen alive."""
    if record.starting_at is None:
        return info_of(record, CREATED, None)
    if record.started_at is None and await _end_interrupted_start(container, record):
        return info_of(record, STOPPED, await late_exit(container, record))
    if record.change is not None:
        await publish_in_background(container, lambda: publish_change(container, record))
    return info_of(record, PAUSED if seen is State.PAUSED else RUNNING, None)


def info_of(record: Record, state: ContainerState, exit: Exit | None) -> ContainerInfo:
    """Return what a listing says of a container in this state."""
    return ContainerInfo(
        id=record.id,
        uid=record.uid,
        state=state.value,
        command=record.command,
        root=record.root,
        created_at=record.created_at,
        started_at=record.started_at,
        pid=record.pid if state in ALIVE else None,
        exit=exit,
        owner=record.owner,
        labels=record.labels,
    )


async def _end_interrupted_start(container: ContainerRef, record: Record) -> bool:
    """End a container whose starter died before it recorded whether the start succeeded: no program can know.

    Returns False if it is being started right now.
    """
    try:
        claim = container.directory.claim("stop")
    except InvalidState:
        return False
    try:

        def ending(record: Record) -> None:
            record.ending = record.ending or Cause.KILLED

        record = container.read_current()
        if record.started_at is not None or container.directory.read_exit() is not None:
            return False
        log.warning(
            "container `%s`: the program that started it died during the start; longshore ends the container",
            container.id,
        )
        record = await container.change(ending)
        with suppress(InvalidState):  # gone meanwhile
            opened = await open_container(container, record)
            if opened.watcher is None:  # there is no init, and there will be none
                await record_never_started(container, record)
            await opened.system.terminate()
        return True
    finally:
        claim.release()


async def late_exit(container: ContainerRef, record: Record) -> Exit | None:
    """Find out the exit of a container that ended while this engine did not watch it; None if that takes too long."""
    task = container.engine.spawn(_find_exit(container, record), f"late exit of {container.id}")
    done, _ = await asyncio.wait((task,), timeout=LATE_LIMIT)
    if not done:
        return None
    with suppress(ContainerNotFound):
        return task.result()
    return None


async def _find_exit(container: ContainerRef, record: Record) -> Exit | None:
    if is_past(container.engine, record):
        return await record_gone(container, record)
    if record.starting_at is None:
        if container.directory.is_claimed("start", "delete"):  # its state changes right now
            return None
        return await record_never_started(container, record)
    try:
        opened = await open_container(container, record)
    except InvalidState:
        return await end_of_gone(container)
    if opened.watcher is None:
        return None
    await asyncio.wait((opened.watcher,), timeout=NOTICE_LIMIT)
    if not opened.seen:
        # its init is gone, and the service has not reported it: the end of the whole system ends every wait
        log.warning("container `%s`: the end of its init was not reported; longshore ends the rest of it", container.id)
        with suppress(LongshoreError):
            await opened.system.terminate()
    return await asyncio.shield(opened.watcher)


# opening what other programs made


async def open_container(container: ContainerRef, record: Record) -> OpenContainer:
    """Open the system of a container, unless this engine has it open, and watch for its end if it was started.

    Raises InvalidState if nothing is left of it; its end is then found out and recorded. Raises NotVisible.
    """
    engine, uid = container.engine, container.uid
    is_past(engine, record)
    opened = container.opened
    if uid in engine.gone:
        raise _nothing_left(container, record)
    if opened is None:
        task = engine.being_opened.get(uid)
        if task is None:
            task = engine.being_opened[uid] = engine.spawn(_open(container, record), f"open {container.id}")
            task.add_done_callback(lambda _: engine.being_opened.pop(uid, None))
        opened = await asyncio.shield(task)
    if opened.watcher is None and opened.starting is None and record.starting_at is not None:
        await _watch_started(opened, record)
    return opened


async def _open(container: ContainerRef, record: Record) -> OpenContainer:
    engine = container.engine
    since = engine.store.journal.end()
    gone: Exit | None = None
    if not is_past(engine, record):
        place = container.directory.place(named_lease(record))
        try:
            system = await engine.service.open(container.id, record.token, place)
        except SystemHidden as error:
            raise NotVisible("find", record.id, str(error)) from None
        except SystemGone as error:
            gone = error.exit
        else:
            opened = OpenContainer(container, system, since)
            engine.open_containers[container.id] = opened
            with suppress(LongshoreError):
                await publish_change(container, record)
            return opened
    raise _nothing_left(container, record, gone)


def _nothing_left(container: ContainerRef, record: Record, seen: Exit | None = None) -> InvalidState:
    """Return the error for a container that cannot be opened any more, and begin to find out its end."""
    engine, uid = container.engine, container.uid
    if container.directory.read_exit() is None and uid not in engine.gone:
        # not waited for here: a program that knows more of it may take long to record it
        task = engine.spawn(record_gone(container, record, seen), f"end of {container.id}, which is gone")
        engine.gone[uid] = task
        task.add_done_callback(lambda _: engine.gone.pop(uid, None))
    return InvalidState(
        "open", container.id, "stopped", reason="it has stopped, and the service no longer has it", hint="delete it"
    )


async def end_of_gone(container: ContainerRef) -> Exit | None:
    """Wait until the end of a container that could not be opened is found out, and return it."""
    task = container.engine.gone.get(container.uid)
    if task is not None:
        return await asyncio.shield(task)
    found = container.directory.read_exit()
    return None if found is None else found.exit


async def _watch_started(opened: OpenContainer, record: Record) -> None:
    if opened.container.directory.read_exit() is not None:
        return
    process = opened.system.init
    if process is None and record.process:  # another program has started it since we opened it
        try:
            process = await opened.system.open_process(record.process)
        except ServiceError:
            if not await _has_ended(opened.container.engine, record, opened.system):
                raise
            raise _nothing_left(opened.container, record) from None
    if process is not None and opened.starting is None:
        begin_watching(opened, process)


async def publish_change(container: ContainerRef, record: Record, *, claimed: bool = False) -> None:
    """Publish a pause or resume that was done and not published: its program died, was cancelled, or failed.

    `claimed` says that the caller has the container's claim, so that no other program is changing it now.
    """
    if record.change is None:
        return
    done = await state_of(container.engine, record) is (
        State.PAUSED if record.change.type == "pause" else State.RUNNING
    )
    if not done or (not claimed and container.directory.is_claimed("pause", "resume")):
        return
    async with container.directory.locked():
        record = container.read_current()
        if record.change is not None and not record.exit_published:
            container.publish(NewEvent(record.change.type), unless_since=record.change.since)
            record.paused = record.change.type == "pause"
            record.change = None
            container.directory.write(record)


async def _has_ended(engine: EngineState, record: Record, system: ComputeSystem) -> bool:
    """Return whether a call failed because the container ended meanwhile, or is ending; then wait for its end.

    A caller that reads the state after that finds `stopped`.
    """
    deadline = asyncio.get_running_loop().time() + ENDING_LIMIT
    while True:
        if await state_of(engine, record) is State.STOPPED:
            return True
        if not system.is_ending() or asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(ENDING_PAUSE)


async def with_system(
    container: ContainerRef,
    verb: Verb,
    call: Callable[[ComputeSystem], Awaitable[T]],
    *,
    allowed: Collection[ContainerState] | None = None,
) -> T:
    """Check that the state allows the verb, then call the system. `allowed` replaces the states of the table.

    Raises InvalidState, also if the call fails because the container ends meanwhile.
    """
    record = container.read_current()
    operation = RULES[verb].operation
    info = await derive(container, record, operation)
    check_state(verb, container.id, info.state, allowed=allowed)
    opened = await open_container(container, record)
    try:
        return await call(opened.system)
    except (ServiceError, CommandNotFound, CommandNotExecutable, OSError, LookupError) as error:
        # while a container ends, its root is taken apart, with all commands in it
        if await _has_ended(container.engine, record, opened.system):
            raise wrong_state(verb, container.id, STOPPED) from error
        if isinstance(error, OSError) and not isinstance(error, LongshoreError):
            raise ServiceError(
                operation, container.id, str(error), hint=next_step(error) or "run `longshore doctor`"
            ) from error
        raise
