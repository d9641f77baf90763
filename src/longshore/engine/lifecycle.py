"""The life of a container after it was made: start, wait, signals, stop, pause, limits.

Each function is one verb. No lock is held while anything is waited for: a claim keeps two programs from starting
or deleting one container at once, and everything else gets through meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec

from ..aio.tasks import shielded
from ..compute.protocols import ComputeProcess, ComputeSystem, Connectable
from ..compute.values import INIT, Streams, now
from ..errors import (
    ContainerNotFound,
    EngineClosed,
    InvalidState,
    LongshoreError,
    NotSupported,
    ServiceError,
    StoreError,
    TimeLimit,
)
from ..exit_record import Cause, Exit
from ..fs.watching import DirectoryWatch
from ..spec import Resources
from ..store.container_dir import RECORD, SPEC, ContainerDir
from ..store.journal import NewEvent, Position
from ..store.records import Change, Record
from .exits import begin_watching, follow, publish_missing, record_never_started
from .lookup import (
    TO_HAVE_IT_RUN,
    derive,
    end_of_gone,
    is_past,
    open_container,
    publish_change,
    read_current,
    with_system,
)
from .output import keep_output
from .process import Process
from .state import EngineState, OpenContainer, log

T = TypeVar("T")
KILL = 9


# starting


def begin(engine: EngineState, opened: OpenContainer, record: Record, compute: ComputeProcess) -> Process:
    """Take charge of an init that has just been started: its streams, its end, and what users hold of it."""
    opened.ours = True
    streams = compute.streams
    if record.kept:
        opened.output = keep_output(engine, opened.entry, streams, record.log_size)
        streams = Streams(stdin=streams.stdin)  # what it writes is in its log
    process = Process(
        opened.entry.id, INIT, record.command, compute, partial(kill, engine, opened.entry, opened.uid), streams=streams
    )
    opened.process = process
    follow(engine, begin_watching(engine, opened, compute), process)
    return process


async def start(engine: EngineState, entry: ContainerDir, uid: str) -> Process:
    """Run init. InvalidState unless it is created."""
    record = await read_current(engine, entry, uid)
    claim = entry.claim("start")
    try:
        info = await derive(engine, entry, entry.read_own(uid))
        if info.state != "created":
            raise InvalidState("start", entry.id, info.state, hint="create another container: each starts once")
        opened = await open_container(engine, entry, record)
        opened.starting = asyncio.get_running_loop().create_future()
        try:
            return await _start(engine, opened)
        finally:
            opened.starting.set_result(None)
            opened.starting = None
    finally:
        claim.release()


async def _start(engine: EngineState, opened: OpenContainer) -> Process:
    entry = opened.entry

    lease = await engine.hold_lease()  # while that is held, others know that its end is watched

    def starting(record: Record) -> None:
        record.starting_at = now()
        record.starter = lease.id

    record = await entry.change(opened.uid, starting)
    try:
        await entry.on_disk(RECORD)  # else, after a loss of power, it would be told that it never ran
        compute = await opened.system.start()
    except BaseException as error:
        ended = isinstance(error, ServiceError) and _is_being_ended(entry, opened.uid)
        await shielded(_undo_start(engine, opened, record))
        if ended:
            raise InvalidState("start", entry.id, "stopped", hint=TO_HAVE_IT_RUN["stopped"]) from error
        raise
    try:
        record = await shielded(_record_start(engine, opened, compute))
    except asyncio.CancelledError:  # it was told meanwhile: so is its end
        begin(engine, opened, entry.read_own(opened.uid), compute)
        await shielded(_kill_and_wait(engine, opened))
        raise
    except BaseException:
        await shielded(_undo_start(engine, opened, record))
        raise
    return begin(engine, opened, record, compute)


def _is_being_ended(entry: ContainerDir, uid: str) -> bool:
    """Whether somebody has killed or deleted it meanwhile: whatever the service says then, it is no fault of its."""
    try:
        return entry.read_own(uid).ending is not None
    except ContainerNotFound:
        return True
    except StoreError:
        return False


async def _kill_and_wait(engine: EngineState, opened: OpenContainer) -> None:
    await kill(engine, opened.entry, opened.uid)
    await wait_for_end(engine, opened.entry, opened.uid)


async def _record_start(engine: EngineState, opened: OpenContainer, compute: ComputeProcess) -> Record:
    entry = opened.entry
    async with entry.locked():
        record = entry.read_own(opened.uid)
        record.process, record.pid = compute.token, compute.pid
        record.started_at = record.started_at or now()
        if not record.start_published:
            # only who has recorded its end can have told its start before us
            since = record.journal if entry.read_exit() is not None else None
            engine.store.journal.append(
                entry.id, opened.uid, NewEvent("start-container", record.started_at), unless_since=since
            )
            record.start_published = True
        entry.write(record)
    opened.start_published = True
    return record


async def _undo_start(engine: EngineState, opened: OpenContainer, record: Record) -> None:
    """A start that failed: recorded before it is ended, so that nobody takes its end for that of a life."""
    await record_never_started(engine, opened.entry, record)
    with suppress(LongshoreError):
        await opened.system.terminate()
    if opened.system.init is not None:
        with suppress(LongshoreError, TimeoutError):
            async with asyncio.timeout(engine.limits.end):
                await opened.system.init.wait()


# waiting


async def wait(engine: EngineState, entry: ContainerDir, uid: str) -> Exit:
    """The end of init. InvalidState if it was not started."""
    while True:
        opened = engine.find(entry.id, uid)
        if opened is not None and opened.watcher is not None:
            return await shared(opened.watcher)
        record = await read_current(engine, entry, uid)
        found = entry.read_exit()
        if found is not None:
            await publish_missing(engine, entry, record)
            return found.exit
        if opened is not None and opened.starting is not None:
            await asyncio.shield(opened.starting)
            continue
        if record.starting_at is None:
            raise InvalidState("wait for", entry.id, "created, not started", hint="start it first")
        try:
            opened = await open_container(engine, entry, record)
        except InvalidState:
            exit = await end_of_gone(engine, entry, uid)
            if exit is not None:
                return exit
            raise
        if opened.watcher is None and opened.starting is None and entry.read_exit() is None:
            # another program is starting it, on a service that shows no init yet
            claim = await entry.wait_for_claim("wait for", engine.limits.other_start)
            claim.release()
            await derive(
                engine, entry, await read_current(engine, entry, uid)
            )  # if that has died meanwhile, it is ended


async def shared(watcher: asyncio.Task[T]) -> T:
    """What a task of the engine's ends with, for one who may stop waiting; EngineClosed if it was ended."""
    try:
        return await asyncio.shield(watcher)
    except asyncio.CancelledError:
        if watcher.cancelled():
            raise EngineClosed from None
        raise


async def wait_for_end(engine: EngineState, entry: ContainerDir, uid: str) -> Exit:
    """As `wait`, for one that was killed: not for ever, for even that may hang (in the kernel)."""
    try:
        async with asyncio.timeout(engine.limits.end):
            return await wait(engine, entry, uid)
    except TimeoutError:
        raise TimeLimit(
            f"killed container `{entry.id}`",
            engine.limits.end,
            hint="look for a process in state D (`ps`): it hangs in the kernel",
        ) from None


async def ended(engine: EngineState, entry: ContainerDir, uid: str) -> None:
    """Return when it has ended, or is gone; also if it is still to be started."""
    with suppress(ContainerNotFound, InvalidState, OSError), DirectoryWatch(entry.home) as watch:
        while True:
            record = entry.read_own(uid)
            if entry.read_exit() is not None:
                return
            if record.starting_at is not None:
                await wait(engine, entry, uid)
                return
            await watch.changed()


# verbs of a running container


async def signal(engine: EngineState, entry: ContainerDir, uid: str, number: int) -> None:
    """Deliver a signal to init. InvalidState unless it runs (not for KILL)."""
    if number == KILL:
        await kill(engine, entry, uid)
    else:
        await with_system(engine, entry, uid, "signal", lambda system: system.shutdown(number))


async def kill(engine: EngineState, entry: ContainerDir, uid: str, cause: Cause = Cause.KILLED) -> None:
    """End it at once; asked, not waited for. Already ended is fine."""
    try:
        record = await read_current(engine, entry, uid)
    except ContainerNotFound:
        if engine.find(entry.id, uid) is None:
            raise
        return  # deleted: it has ended
    if entry.read_exit() is not None:
        return
    is_past(engine, record, "kill")
    if not record.token:
        raise InvalidState("kill", entry.id, "being created", hint="wait until it is created")
    if record.starting_at is None and await _end_created(engine, entry, record):
        return
    if record.ending is None:

        def ending(record: Record) -> None:
            record.ending = record.ending or cause

        try:
            await entry.change(uid, ending)
        except StoreError as error:  # a full disk keeps nothing alive
            log.warning("why container `%s` ends could not be noted: %s", entry.id, error)
    with suppress(InvalidState):  # gone
        opened = await open_container(engine, entry, record)
        await opened.system.terminate()


async def _end_created(engine: EngineState, entry: ContainerDir, record: Record) -> bool:
    """End a container that was never started; False if somebody is starting it right now."""
    try:
        claim = entry.claim("stop")
    except InvalidState:
        return False
    try:
        record = entry.read_own(record.uid)
        if record.starting_at is not None:
            return False
        await record_never_started(engine, entry, record)
        with suppress(InvalidState):
            opened = await open_container(engine, entry, record)
            await opened.system.terminate()
    finally:
        claim.release()
    return True


async def stop(engine: EngineState, entry: ContainerDir, uid: str, grace: float, number: int | None) -> Exit:
    """Ask it to end, and kill it after `grace` seconds."""
    record = await read_current(engine, entry, uid)
    info = await derive(engine, entry, record)
    if info.state == "creating":
        raise InvalidState("stop", entry.id, "being created", hint="wait until it is created")
    if info.state == "created" and await _end_created(engine, entry, record):
        info = await derive(engine, entry, await read_current(engine, entry, uid))
    if info.exit is not None:
        return info.exit
    if info.state in ("running", "paused"):
        chosen = number if number is not None else record.stop_signal
        with suppress(InvalidState):
            opened = await open_container(engine, entry, record)
            if grace > 0 and chosen != KILL and await opened.system.can_receive(chosen):
                with suppress(ServiceError, LookupError):  # it may be gone this moment
                    await opened.system.shutdown(chosen)
                if info.state == "paused":
                    with suppress(InvalidState):
                        await resume(engine, entry, uid)
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace / 2):
                        return await wait(engine, entry, uid)
                with suppress(ServiceError, LookupError):
                    await opened.system.urge()
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace / 2):
                        return await wait(engine, entry, uid)
        await kill(engine, entry, uid)
    return await wait_for_end(engine, entry, uid)


async def pause(engine: EngineState, entry: ContainerDir, uid: str) -> None:
    """Freeze it. InvalidState unless running."""
    await _change(engine, entry, uid, "pause", "running")


async def resume(engine: EngineState, entry: ContainerDir, uid: str) -> None:
    """Let it go on. InvalidState unless paused."""
    await _change(engine, entry, uid, "resume", "paused")


async def _change(engine: EngineState, entry: ContainerDir, uid: str, type: str, state: str) -> None:
    """Pause or resume: noted before, so that who finds it done and not told tells it; told after."""
    await read_current(engine, entry, uid)
    claim = entry.claim(type)
    try:
        record = await read_current(engine, entry, uid)
        await publish_change(engine, entry, record, claimed=True)  # before it is overwritten
        info = await derive(engine, entry, record)
        if type == "resume" and info.state == "running" and await _may_be_paused(engine, entry, uid):
            state = info.state
        if info.state != state:
            hint = TO_HAVE_IT_RUN.get(info.state) if state == "running" else None
            raise InvalidState(type, entry.id, info.state, hint=hint)
        change = Change("pause" if type == "pause" else "resume", engine.store.journal.end())

        def begun(record: Record) -> None:
            record.change = change

        await entry.change(uid, begun)
        try:
            await with_system(
                engine, entry, uid, type, lambda system: system.pause() if type == "pause" else system.resume(), state
            )
        except BaseException:  # of a cancellation it may be done all the same
            with suppress(LongshoreError, OSError):
                await shielded(publish_change(engine, entry, entry.read_own(uid), claimed=True))
            raise
        try:
            await shielded(_record_change(engine, entry, uid, change))
        except BaseException:  # of a cancellation it was told all the same; else it may have been
            if type == "pause":
                await shielded(_undo_pause(engine, entry, uid, change.since))
            raise
    finally:
        claim.release()


async def _may_be_paused(engine: EngineState, entry: ContainerDir, uid: str) -> bool:
    """Return whether a pause of ours was neither completed nor taken back: then the service is asked to resume it."""
    opened = engine.find(entry.id, uid)
    return opened is not None and await opened.system.paused()


async def _undo_pause(engine: EngineState, entry: ContainerDir, uid: str, since: Position) -> None:
    """Have it run again; told only if the pause was."""
    journal = engine.store.journal
    with suppress(LongshoreError, OSError):
        await with_system(engine, entry, uid, "resume", lambda system: system.resume(), "paused")
        async with entry.locked():
            record = entry.read_own(uid)
            if not record.exit_published and any(event.type == "pause" for event in journal.about(uid, since)):
                journal.append(entry.id, uid, NewEvent("resume"))
            record.paused, record.change = False, None
            entry.write(record)


async def _record_change(engine: EngineState, entry: ContainerDir, uid: str, change: Change) -> None:
    async with entry.locked():
        record = entry.read_own(uid)
        if record.exit_published:
            return
        paused = change.type == "pause"
        if record.change is not None or record.paused != paused:  # else somebody who found it done has told it
            engine.store.journal.append(entry.id, uid, NewEvent(change.type), unless_since=change.since)
        record.paused, record.change = paused, None
        entry.write(record)


async def update(engine: EngineState, entry: ContainerDir, uid: str, change: Resources) -> None:
    """Change its limits; what is known of it from then on says so."""
    await with_system(
        engine, entry, uid, "update", lambda system: system.update(change), "created", "running", "paused"
    )
    await shielded(_note_limits(entry, uid, change))


async def _note_limits(entry: ContainerDir, uid: str, change: Resources) -> None:
    changed = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not None}
    async with entry.locked():
        entry.read_own(uid)
        spec = entry.read_spec()
        limits = msgspec.to_builtins(spec.resources) | changed
        memory, swap = limits["memory"], limits["memory_swap"]
        if None not in (memory, swap) and -1 < swap < memory:  # the older of the two was overruled
            limits["memory" if "memory_swap" in changed else "memory_swap"] = None
        entry.write_spec(msgspec.structs.replace(spec, resources=Resources(**limits)))
    await entry.on_disk(SPEC, RECORD)  # a spec that a loss of power emptied would look like that of one being made


def _connectable(system: ComputeSystem) -> Connectable:
    if not isinstance(system, Connectable):
        raise NotSupported("endpoints", "this service has no network endpoints", hint="set `network` in the spec")
    return system


async def need_endpoints(engine: EngineState, entry: ContainerDir, uid: str) -> None:
    """Refuse a change of endpoints where the platform has none (NotSupported), before anything is changed."""

    async def look(system: ComputeSystem) -> None:
        _connectable(system)

    await with_system(engine, entry, uid, "update", look)


async def change_endpoints(
    engine: EngineState, entry: ContainerDir, uid: str, add: Sequence[str], remove: Sequence[str]
) -> None:
    """Give it network endpoints, and take others away; if one fails, the others are as they were.

    NotSupported where the platform has none. Cancelled: done all the same.
    """

    async def change(system: ComputeSystem) -> None:
        connectable = _connectable(system)
        undo: list[tuple[Callable[[str], Awaitable[None]], str]] = []
        try:
            for endpoint in add:
                await connectable.connect(endpoint)
                undo.append((connectable.disconnect, endpoint))
            for endpoint in remove:
                await connectable.disconnect(endpoint)
                undo.append((connectable.connect, endpoint))
        except LongshoreError:
            for reverse, endpoint in reversed(undo):
                try:
                    await reverse(endpoint)
                except LongshoreError as error:
                    log.warning("container `%s`: undoing a change of its endpoints: %s", entry.id, error)
            raise

    await with_system(engine, entry, uid, "update", lambda system: shielded(change(system)))


async def resize(engine: EngineState, entry: ContainerDir, uid: str, rows: int, columns: int) -> None:
    """Set the size of init's terminal."""
    record = await read_current(engine, entry, uid)
    opened = await open_container(engine, entry, record)
    if opened.system.init is None:
        raise InvalidState("resize the terminal of", entry.id, "not started", hint="start it first")
    await opened.system.init.resize(rows, columns)
