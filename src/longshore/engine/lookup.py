"""Finding containers: what each is now, from its files and its init; and taking up those that others made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from ..compute.protocols import ComputeSystem, SystemGone, SystemHidden
from ..compute.values import ContainerInfo, Lease, State, now
from ..errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerNotFound,
    InvalidState,
    LongshoreError,
    NotVisible,
    ServiceError,
    StoreError,
)
from ..exit_record import Cause, Exit
from ..fs.files import next_step
from ..store.container_dir import ContainerDir
from ..store.journal import NewEvent
from ..store.records import Damaged, Record
from .exits import LATE_LIMIT, begin_watching, publish_in_background, publish_missing, record_gone, record_never_started
from .state import EngineState, OpenContainer, log

T = TypeVar("T")

ENDING_LIMIT = 5.0  # seconds that who is dying may take to be dead
ENDING_PAUSE = 0.005  # seconds between two looks at it
NOTICE_LIMIT = 2.0  # seconds in which a service must tell of an end that it shows
TO_HAVE_IT_RUN = {  # the next step of who wanted a running container, by the state that it is in
    "created": "start it first",
    "paused": "resume it first",
    "stopped": "create another container: each starts once",
}


class NamedLease(msgspec.Struct, frozen=True):
    """Another program's lease, by name: enough to find its cgroup."""

    id: str
    lock_fd: int = -1


def named_lease(record: Record | None) -> Lease | None:
    """The lease of a container, for who does not own it."""
    return NamedLease(record.lease) if record is not None and record.lease else None


# what a container is


def is_past(engine: EngineState, record: Record, operation: str = "find") -> bool:
    """Whether all processes of a container are gone with their boot, or with their pid namespace.

    NotVisible if this program cannot see them: it must not conclude that they have ended.
    """
    sight, reason = engine.store.sight(record)
    if sight == "hidden":
        raise NotVisible(operation, record.id, reason)
    return sight == "gone"


async def state_of(engine: EngineState, record: Record, operation: str = "find") -> State:
    """Whether its init is alive, as the service sees it; a boot ends everything. NotVisible."""
    if is_past(engine, record, operation):
        return State.STOPPED
    try:
        return await engine.service.state(record.token)
    except SystemHidden as error:
        raise NotVisible(operation, record.id, str(error)) from None


async def look(engine: EngineState, entry: ContainerDir, record: Record) -> ContainerInfo:
    """As `derive`, for a listing: a container that cannot be seen from here is shown as `hidden`."""
    try:
        return await derive(engine, entry, record)
    except NotVisible:
        found = entry.read_exit()  # as it was recorded meanwhile, where it can be seen
        return _info(record, "hidden", None) if found is None else _info(record, "stopped", found.exit)


async def derive(engine: EngineState, entry: ContainerDir, record: Record, operation: str = "find") -> ContainerInfo:
    """What a container is now, from its files and its init: no runtime is asked. NotVisible."""
    found = entry.read_exit()
    if found is not None:
        is_past(engine, record, operation)
        await publish_missing(engine, entry, record)
        return _info(record, "stopped", found.exit)
    if not record.token:
        is_past(engine, record, operation)
        return _info(record, _state_of_unmade(engine, entry), None)
    seen = await state_of(engine, record, operation)
    if seen is State.STOPPED:
        return _info(record, "stopped", await late_exit(engine, entry, record))
    return await _alive(engine, entry, record, seen)


def _state_of_unmade(engine: EngineState, entry: ContainerDir) -> str:
    """Return the state of a container without a token: one that we failed to make, and could not undo, has stopped."""
    failed = any(other.home == entry.home for other in engine.half_made)
    return "stopped" if failed and not entry.is_claimed("create") else "creating"


async def _alive(engine: EngineState, entry: ContainerDir, record: Record, seen: State) -> ContainerInfo:
    """What a container is whose init was seen alive."""
    if record.starting_at is None:
        return _info(record, "created", None)
    if record.started_at is None and await _end_interrupted_start(engine, entry, record):
        return _info(record, "stopped", await late_exit(engine, entry, record))
    if record.change is not None:
        await publish_in_background(engine, record.uid, lambda: publish_change(engine, entry, record))
    return _info(record, str(seen), None)


def _info(record: Record, state: str, exit: Exit | None) -> ContainerInfo:
    return ContainerInfo(
        id=record.id,
        uid=record.uid,
        state=state,
        command=record.command,
        root=record.root,
        created_at=record.created_at,
        started_at=record.started_at,
        pid=record.pid if state in ("running", "paused") else None,
        exit=exit,
        owner=record.owner,
        labels=record.labels,
    )


async def _end_interrupted_start(engine: EngineState, entry: ContainerDir, record: Record) -> bool:
    """End what was started by a program that died before it could say whether that succeeded: nobody can know.

    False if it is just being started.
    """
    try:
        claim = entry.claim("stop")
    except InvalidState:
        return False
    try:

        def ending(record: Record) -> None:
            record.ending = record.ending or Cause.KILLED

        record = entry.read_own(record.uid)
        if record.started_at is not None or entry.read_exit() is not None:
            return False
        log.warning(
            "container `%s`: the program that started it died during the start; longshore ends the container", entry.id
        )
        record = await entry.change(record.uid, ending)
        with suppress(InvalidState):  # gone meanwhile
            opened = await open_container(engine, entry, record)
            if opened.watcher is None:  # there is no init, nor will there be one
                await record_never_started(engine, entry, record)
            await opened.system.terminate()
        return True
    finally:
        claim.release()


async def late_exit(engine: EngineState, entry: ContainerDir, record: Record) -> Exit | None:
    """The exit of a container that ended while nobody, or only another program, watched it; None if that takes long."""
    task = engine.spawn(_find_exit(engine, entry, record), f"late exit of {entry.id}")
    done, _ = await asyncio.wait((task,), timeout=LATE_LIMIT)
    if not done:
        return None
    with suppress(ContainerNotFound):
        return task.result()
    return None


async def _find_exit(engine: EngineState, entry: ContainerDir, record: Record) -> Exit | None:
    if is_past(engine, record):
        return await record_gone(engine, entry, record)
    if record.starting_at is None:
        if entry.is_claimed("start", "delete"):  # it is just changing
            return None
        return await record_never_started(engine, entry, record)
    try:
        opened = await open_container(engine, entry, record)
    except InvalidState:
        return await end_of_gone(engine, entry, record.uid)
    if opened.watcher is None:
        return None
    await asyncio.wait((opened.watcher,), timeout=NOTICE_LIMIT)
    if not opened.seen:
        # its init is gone, and the service has not told us: the end of the whole system ends every wait
        log.warning("container `%s`: the end of its init was not reported; longshore ends the rest of it", entry.id)
        with suppress(LongshoreError):
            await opened.system.terminate()
    return await asyncio.shield(opened.watcher)


async def listing(
    engine: EngineState, labels: Mapping[str, str] | None, states: Collection[str] | None
) -> list[ContainerInfo]:
    """All containers, oldest first."""
    found: list[ContainerInfo] = []
    late: list[tuple[ContainerDir, Record]] = []  # ends to be found out, or told: side by side, not one after the other

    def add(info: ContainerInfo) -> None:
        if states is None or info.state in states:
            found.append(info)

    for entry in engine.store.container_dirs():
        try:
            record = entry.read()
            if labels and any(record.labels.get(name) != text for name, text in labels.items()):
                continue
            exit = entry.read_exit()
            if exit is not None and not record.exit_published:
                late.append((entry, record))
            elif exit is not None:
                add(_info(record, "stopped", exit.exit))
            elif not record.token:
                add(_info(record, _state_of_unmade(engine, entry), None))
            elif engine.store.sight(record)[0] == "hidden":
                add(_info(record, "hidden", None))
            elif (seen := await state_of(engine, record)) is State.STOPPED:
                late.append((entry, record))
            else:
                add(await _alive(engine, entry, record, seen))
        except ContainerNotFound:
            continue
        except NotVisible:
            add(_info(record, "hidden", None))
        except Damaged as error:
            log.warning("%s", error)
            if not labels:
                add(damaged_info(entry))
        except StoreError as error:
            log.warning("%s", error)
    if late:
        for info in await asyncio.gather(*(look(engine, *each) for each in late), return_exceptions=True):
            if isinstance(info, ContainerInfo):
                add(info)
            elif not isinstance(info, ContainerNotFound):
                log.warning("listing: %s", info)
    return sorted(found, key=lambda info: (info.created_at, info.id))


def damaged_info(entry: ContainerDir) -> ContainerInfo:
    """What can be said of a container whose record cannot be read."""
    made = now()
    with suppress(OSError):
        made = datetime.fromtimestamp(os.stat(entry.home).st_mtime, UTC)
    return ContainerInfo(id=entry.id, uid="", state="damaged", command=[], root="", created_at=made)


async def inspection(engine: EngineState, entry: ContainerDir, uid: str) -> dict[str, Any]:
    """All that is known of a container, as plain data; of its environment only the names."""
    record = entry.read_own(uid)
    info = await look(engine, entry, record)
    document: dict[str, Any] = msgspec.to_builtins(info)
    spec = entry.read_spec()
    settings: dict[str, Any] = msgspec.to_builtins(spec)
    settings["env"] = sorted(spec.env)  # names only: values may be secrets
    settings.pop("oci", None)
    if settings.get("windows"):
        settings["windows"].pop("credentials", None)
    document["spec"] = settings
    document["lease"] = record.lease
    document["log"] = str(entry.place().log) if record.kept else None
    exit = entry.read_exit()
    document["oom"] = exit is not None and exit.oom
    document["updates_pending"] = exit is not None and exit.updates_pending
    document["error"] = None if exit is None else exit.error
    processes: dict[str, Any] = {}
    for name in entry.processes():
        found = entry.read_process(name)
        if found is not None:
            end = entry.read_process_exit(name)
            processes[name] = {
                "args": found.args,
                "pid": found.pid,
                "exit": None if end is None else msgspec.to_builtins(end.exit),
            }
    document["processes"] = processes
    return document


# taking up what others made


async def open_container(engine: EngineState, entry: ContainerDir, record: Record) -> OpenContainer:
    """The living system of a container, opened if need be, with its end watched for if it was started.

    InvalidState if nothing is left of it; its end is then recorded. NotVisible.
    """
    is_past(engine, record)
    opened = engine.find(entry.id, record.uid)
    if record.uid in engine.gone:
        raise _nothing_left(engine, entry, record)
    if opened is None:
        task = engine.being_opened.get(record.uid)
        if task is None:
            task = engine.spawn(_open(engine, entry, record), f"open {entry.id}")
            engine.being_opened[record.uid] = task
            task.add_done_callback(lambda _: engine.being_opened.pop(record.uid, None))
        opened = await asyncio.shield(task)
    if opened.watcher is None and opened.starting is None and record.starting_at is not None:
        await _watch_started(engine, opened, record)
    return opened


async def _open(engine: EngineState, entry: ContainerDir, record: Record) -> OpenContainer:
    since = engine.store.journal.end()
    gone: Exit | None = None
    if not is_past(engine, record):
        try:
            system = await engine.service.open(entry.id, record.token, entry.place(named_lease(record)))
        except SystemHidden as error:
            raise NotVisible("find", record.id, str(error)) from None
        except SystemGone as error:
            gone = error.exit
        else:
            opened = OpenContainer(record.uid, entry, system, since)
            engine.open_containers[entry.id] = opened
            with suppress(LongshoreError):
                await publish_change(engine, entry, record)
            return opened
    raise _nothing_left(engine, entry, record, gone)


def _nothing_left(engine: EngineState, entry: ContainerDir, record: Record, seen: Exit | None = None) -> InvalidState:
    """What to raise for a container that cannot be opened any more; its end is found out (`end_of_gone`)."""
    if entry.read_exit() is None and record.uid not in engine.gone:
        # not waited for here: whoever knows more of it may take its time to record it
        task = engine.spawn(record_gone(engine, entry, record, seen), f"end of {entry.id}, which is gone")
        engine.gone[record.uid] = task
        task.add_done_callback(lambda _: engine.gone.pop(record.uid, None))
    return InvalidState(
        "open", entry.id, "stopped", reason="it has stopped, and the service no longer has it", hint="delete it"
    )


async def end_of_gone(engine: EngineState, entry: ContainerDir, uid: str) -> Exit | None:
    """The end of a container that could not be opened, once it is found out."""
    task = engine.gone.get(uid)
    if task is not None:
        return await asyncio.shield(task)
    found = entry.read_exit()
    return None if found is None else found.exit


async def _watch_started(engine: EngineState, opened: OpenContainer, record: Record) -> None:
    if opened.entry.read_exit() is not None:
        return
    process = opened.system.init
    if process is None and record.process:  # another program has started it since we opened it
        try:
            process = await opened.system.open_process(record.process)
        except ServiceError:
            if not await _has_ended(engine, record, opened.system):
                raise
            raise _nothing_left(engine, opened.entry, record) from None
    if process is not None and opened.starting is None:
        begin_watching(engine, opened, process)


async def publish_change(engine: EngineState, entry: ContainerDir, record: Record, *, claimed: bool = False) -> None:
    """Tell a pause or resume that was done and not told: who did it died, or was cancelled, or could not tell it.

    `claimed`: by the caller, so that nobody is at it now.
    """
    if record.change is None:
        return
    done = await state_of(engine, record) is (State.PAUSED if record.change.type == "pause" else State.RUNNING)
    if not done or (not claimed and entry.is_claimed("pause", "resume")):  # or who does it is still at it
        return
    async with entry.locked():
        record = entry.read_own(record.uid)
        if record.change is not None and not record.exit_published:
            engine.store.journal.append(
                entry.id, record.uid, NewEvent(record.change.type), unless_since=record.change.since
            )
            record.paused = record.change.type == "pause"
            record.change = None
            entry.write(record)


async def read_current(engine: EngineState, entry: ContainerDir, uid: str) -> Record:
    """The record, if it is still that of this very container."""
    return entry.read_own(uid) if uid else entry.read()


async def _has_ended(engine: EngineState, record: Record, system: ComputeSystem) -> bool:
    """Whether what failed in a container failed because that ended meanwhile, or is ending: then its end is waited for.

    Who is told so, and looks, finds it stopped.
    """
    deadline = asyncio.get_running_loop().time() + ENDING_LIMIT
    while True:
        if await state_of(engine, record) is State.STOPPED:
            return True
        if not system.is_ending() or asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(ENDING_PAUSE)


async def with_system(
    engine: EngineState,
    entry: ContainerDir,
    uid: str,
    operation: str,
    call: Callable[[ComputeSystem], Awaitable[T]],
    *states: str,
) -> T:
    """Do something with a container that is in one of `states` (running or paused if none is given)."""
    record = await read_current(engine, entry, uid)
    info = await derive(engine, entry, record, operation)
    if info.state not in (states or ("running", "paused")):
        raise InvalidState(operation, entry.id, info.state, hint=TO_HAVE_IT_RUN.get(info.state))
    opened = await open_container(engine, entry, record)
    try:
        return await call(opened.system)
    except (ServiceError, CommandNotFound, CommandNotExecutable, OSError, LookupError) as error:
        # (of a container that is ending the root is taken apart, too, with all commands in it)
        if await _has_ended(engine, record, opened.system):
            raise InvalidState(operation, entry.id, "stopped", hint=TO_HAVE_IT_RUN["stopped"]) from error
        if isinstance(error, OSError) and not isinstance(error, LongshoreError):
            raise ServiceError(
                operation, entry.id, str(error), hint=next_step(error) or "run `longshore doctor`"
            ) from error
        raise
