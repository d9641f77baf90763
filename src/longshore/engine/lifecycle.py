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
from ..store.container_dir import RECORD, SPEC, Entry
from ..store.journal import News, Position
from ..store.records import Change, Record
from .exits import begin_watching, follow, record_never_started, tell_untold
from .lookup import TO_HAVE_IT_RUN, adopt, current, derive, end_of_gone, is_past, tell_change, with_system
from .output import keep_output
from .process import Process
from .state import Core, Live, log

T = TypeVar("T")
KILL = 9


# starting


def begin(core: Core, live: Live, record: Record, compute: ComputeProcess) -> Process:
    """Take charge of an init that has just been started: its streams, its end, and what users hold of it."""
    live.ours = True
    streams = compute.streams
    if record.kept:
        live.output = keep_output(core, live.entry, streams, record.log_size)
        streams = Streams(stdin=streams.stdin)  # what it writes is in its log
    process = Process(
        live.entry.id, INIT, record.command, compute, partial(kill, core, live.entry, live.uid), streams=streams
    )
    live.process = process
    follow(core, begin_watching(core, live, compute), process)
    return process


async def start(core: Core, entry: Entry, uid: str) -> Process:
    """Run init. InvalidState unless it is created."""
    record = await current(core, entry, uid)
    claim = entry.claim("start")
    try:
        info = await derive(core, entry, entry.read_own(uid))
        if info.state != "created":
            raise InvalidState("start", entry.id, info.state, hint="create another one: an init runs once")
        live = await adopt(core, entry, record)
        live.starting = asyncio.get_running_loop().create_future()
        try:
            return await _start(core, live)
        finally:
            live.starting.set_result(None)
            live.starting = None
    finally:
        claim.release()


async def _start(core: Core, live: Live) -> Process:
    entry = live.entry

    lease = await core.hold_lease()  # while that is held, others know that its end is watched

    def starting(record: Record) -> None:
        record.starting_at = now()
        record.starter = lease.id

    record = await entry.change(live.uid, starting)
    try:
        await entry.on_disk(RECORD)  # else, after a loss of power, it would be told that it never ran
        compute = await live.system.start()
    except BaseException as error:
        ended = isinstance(error, ServiceError) and _is_being_ended(entry, live.uid)
        await shielded(_undo_start(core, live, record))
        if ended:
            raise InvalidState("start", entry.id, "stopped", hint=TO_HAVE_IT_RUN["stopped"]) from error
        raise
    try:
        record = await shielded(_tell_start(core, live, compute))
    except asyncio.CancelledError:  # it was told meanwhile: so is its end
        begin(core, live, entry.read_own(live.uid), compute)
        await shielded(_kill_and_wait(core, live))
        raise
    except BaseException:
        await shielded(_undo_start(core, live, record))
        raise
    return begin(core, live, record, compute)


def _is_being_ended(entry: Entry, uid: str) -> bool:
    """Whether somebody has killed or deleted it meanwhile: whatever the service says then, it is no fault of its."""
    try:
        return entry.read_own(uid).ending is not None
    except ContainerNotFound:
        return True
    except StoreError:
        return False


async def _kill_and_wait(core: Core, live: Live) -> None:
    await kill(core, live.entry, live.uid)
    await wait_for_end(core, live.entry, live.uid)


async def _tell_start(core: Core, live: Live, compute: ComputeProcess) -> Record:
    entry = live.entry
    async with entry.locked():
        record = entry.read_own(live.uid)
        record.process, record.pid = compute.token, compute.pid
        record.started_at = record.started_at or now()
        if not record.start_told:
            # only who has recorded its end can have told its start before us
            since = record.journal if entry.read_exit() is not None else None
            core.store.journal.append(
                entry.id, live.uid, News("start-container", record.started_at), unless_since=since
            )
            record.start_told = True
        entry.write(record)
    live.start_told = True
    return record


async def _undo_start(core: Core, live: Live, record: Record) -> None:
    """A start that failed: recorded before it is ended, so that nobody takes its end for that of a life."""
    await record_never_started(core, live.entry, record)
    with suppress(LongshoreError):
        await live.system.terminate()
    if live.system.init is not None:
        with suppress(LongshoreError, TimeoutError):
            async with asyncio.timeout(core.limits.end):
                await live.system.init.wait()


# waiting


async def wait(core: Core, entry: Entry, uid: str) -> Exit:
    """The end of init. InvalidState if it was not started."""
    while True:
        live = core.find(entry.id, uid)
        if live is not None and live.watcher is not None:
            return await shared(live.watcher)
        record = await current(core, entry, uid)
        found = entry.read_exit()
        if found is not None:
            await tell_untold(core, entry, record)
            return found.exit
        if live is not None and live.starting is not None:
            await asyncio.shield(live.starting)
            continue
        if record.starting_at is None:
            raise InvalidState("wait for", entry.id, "created, not started", hint="start it first")
        try:
            live = await adopt(core, entry, record)
        except InvalidState:
            exit = await end_of_gone(core, entry, uid)
            if exit is not None:
                return exit
            raise
        if live.watcher is None and live.starting is None and entry.read_exit() is None:
            # another program is starting it, on a service that shows no init yet
            claim = await entry.claim_at_last("wait for", core.limits.other_start)
            claim.release()
            await derive(core, entry, await current(core, entry, uid))  # if that has died meanwhile, it is ended


async def shared(watcher: asyncio.Task[T]) -> T:
    """What a task of the engine's ends with, for one who may stop waiting; EngineClosed if it was ended."""
    try:
        return await asyncio.shield(watcher)
    except asyncio.CancelledError:
        if watcher.cancelled():
            raise EngineClosed from None
        raise


async def wait_for_end(core: Core, entry: Entry, uid: str) -> Exit:
    """As `wait`, for one that was killed: not for ever, for even that may hang (in the kernel)."""
    try:
        async with asyncio.timeout(core.limits.end):
            return await wait(core, entry, uid)
    except TimeoutError:
        raise TimeLimit(
            f"container `{entry.id}`, which was killed,",
            core.limits.end,
            hint="look for a process in state D (`ps`): it hangs in the kernel",
        ) from None


async def ended(core: Core, entry: Entry, uid: str) -> None:
    """Return when it has ended, or is gone; also if it is still to be started."""
    with suppress(ContainerNotFound, InvalidState, OSError), DirectoryWatch(entry.home) as watch:
        while True:
            record = entry.read_own(uid)
            if entry.read_exit() is not None:
                return
            if record.starting_at is not None:
                await wait(core, entry, uid)
                return
            await watch.changed()


# verbs of a running container


async def signal(core: Core, entry: Entry, uid: str, number: int) -> None:
    """Deliver a signal to init. InvalidState unless it runs (not for KILL)."""
    if number == KILL:
        await kill(core, entry, uid)
    else:
        await with_system(core, entry, uid, "signal", lambda system: system.shutdown(number))


async def kill(core: Core, entry: Entry, uid: str, cause: Cause = Cause.KILLED) -> None:
    """End it at once; asked, not waited for. Already ended is fine."""
    try:
        record = await current(core, entry, uid)
    except ContainerNotFound:
        if core.find(entry.id, uid) is None:
            raise
        return  # deleted: it has ended
    if entry.read_exit() is not None:
        return
    is_past(core, record, "kill")
    if not record.token:
        raise InvalidState("kill", entry.id, "being created")
    if record.starting_at is None and await _end_created(core, entry, record):
        return
    if record.ending is None:

        def ending(record: Record) -> None:
            record.ending = record.ending or cause

        try:
            await entry.change(uid, ending)
        except StoreError as error:  # a full disk keeps nothing alive
            log.warning("why container `%s` ends could not be noted: %s", entry.id, error)
    with suppress(InvalidState):  # gone
        live = await adopt(core, entry, record)
        await live.system.terminate()


async def _end_created(core: Core, entry: Entry, record: Record) -> bool:
    """End a container that was never started; False if somebody is starting it right now."""
    try:
        claim = entry.claim("stop")
    except InvalidState:
        return False
    try:
        record = entry.read_own(record.uid)
        if record.starting_at is not None:
            return False
        await record_never_started(core, entry, record)
        with suppress(InvalidState):
            live = await adopt(core, entry, record)
            await live.system.terminate()
    finally:
        claim.release()
    return True


async def stop(core: Core, entry: Entry, uid: str, grace: float, number: int | None) -> Exit:
    """Ask it to end, and kill it after `grace` seconds."""
    record = await current(core, entry, uid)
    info = await derive(core, entry, record)
    if info.state == "creating":
        raise InvalidState("stop", entry.id, "being created")
    if info.state == "created" and await _end_created(core, entry, record):
        info = await derive(core, entry, await current(core, entry, uid))
    if info.exit is not None:
        return info.exit
    if info.state in ("running", "paused"):
        chosen = number if number is not None else record.stop_signal
        with suppress(InvalidState):
            live = await adopt(core, entry, record)
            if grace > 0 and chosen != KILL and await live.system.can_receive(chosen):
                with suppress(ServiceError, LookupError):  # it may be gone this moment
                    await live.system.shutdown(chosen)
                if info.state == "paused":
                    with suppress(InvalidState):
                        await resume(core, entry, uid)
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace / 2):
                        return await wait(core, entry, uid)
                with suppress(ServiceError, LookupError):
                    await live.system.urge()
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace / 2):
                        return await wait(core, entry, uid)
        await kill(core, entry, uid)
    return await wait_for_end(core, entry, uid)


async def pause(core: Core, entry: Entry, uid: str) -> None:
    """Freeze it. InvalidState unless running."""
    await _change(core, entry, uid, "pause", "running")


async def resume(core: Core, entry: Entry, uid: str) -> None:
    """Let it go on. InvalidState unless paused."""
    await _change(core, entry, uid, "resume", "paused")


async def _change(core: Core, entry: Entry, uid: str, type: str, state: str) -> None:
    """Pause or resume: noted before, so that who finds it done and not told tells it; told after."""
    await current(core, entry, uid)
    claim = entry.claim(type)
    try:
        record = await current(core, entry, uid)
        await tell_change(core, entry, record, claimed=True)  # before it is overwritten
        info = await derive(core, entry, record)
        if type == "resume" and info.state == "running" and await _may_be_paused(core, entry, uid):
            state = info.state
        if info.state != state:
            hint = TO_HAVE_IT_RUN.get(info.state) if state == "running" else None
            raise InvalidState(type, entry.id, info.state, hint=hint)
        change = Change("pause" if type == "pause" else "resume", core.store.journal.end())

        def begun(record: Record) -> None:
            record.change = change

        await entry.change(uid, begun)
        try:
            await with_system(
                core, entry, uid, type, lambda system: system.pause() if type == "pause" else system.resume(), state
            )
        except BaseException:  # of a cancellation it may be done all the same
            with suppress(LongshoreError, OSError):
                await shielded(tell_change(core, entry, entry.read_own(uid), claimed=True))
            raise
        try:
            await shielded(_tell_change(core, entry, uid, change))
        except BaseException:  # of a cancellation it was told all the same; else it may have been
            if type == "pause":
                await shielded(_undo_pause(core, entry, uid, change.since))
            raise
    finally:
        claim.release()


async def _may_be_paused(core: Core, entry: Entry, uid: str) -> bool:
    """Return whether a pause of ours was neither completed nor taken back: then the service is asked to resume it."""
    live = core.find(entry.id, uid)
    return live is not None and await live.system.paused()


async def _undo_pause(core: Core, entry: Entry, uid: str, since: Position) -> None:
    """Have it run again; told only if the pause was."""
    journal = core.store.journal
    with suppress(LongshoreError, OSError):
        await with_system(core, entry, uid, "resume", lambda system: system.resume(), "paused")
        async with entry.locked():
            record = entry.read_own(uid)
            if not record.exit_told and any(event.type == "pause" for event in journal.about(uid, since)):
                journal.append(entry.id, uid, News("resume"))
            record.paused, record.change = False, None
            entry.write(record)


async def _tell_change(core: Core, entry: Entry, uid: str, change: Change) -> None:
    async with entry.locked():
        record = entry.read_own(uid)
        if record.exit_told:
            return
        paused = change.type == "pause"
        if record.change is not None or record.paused != paused:  # else somebody who found it done has told it
            core.store.journal.append(entry.id, uid, News(change.type), unless_since=change.since)
        record.paused, record.change = paused, None
        entry.write(record)


async def update(core: Core, entry: Entry, uid: str, change: Resources) -> None:
    """Change its limits; what is known of it from then on says so."""
    await with_system(core, entry, uid, "update", lambda system: system.update(change), "created", "running", "paused")
    await shielded(_note_limits(entry, uid, change))


async def _note_limits(entry: Entry, uid: str, change: Resources) -> None:
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
        raise NotSupported("endpoints", "containers of this service have none", hint="see `network`")
    return system


async def need_endpoints(core: Core, entry: Entry, uid: str) -> None:
    """Refuse a change of endpoints where the platform has none (NotSupported), before anything is changed."""

    async def look(system: ComputeSystem) -> None:
        _connectable(system)

    await with_system(core, entry, uid, "update", look)


async def change_endpoints(core: Core, entry: Entry, uid: str, add: Sequence[str], remove: Sequence[str]) -> None:
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

    await with_system(core, entry, uid, "update", lambda system: shielded(change(system)))


async def resize(core: Core, entry: Entry, uid: str, rows: int, columns: int) -> None:
    """Set the size of init's terminal."""
    record = await current(core, entry, uid)
    live = await adopt(core, entry, record)
    if live.system.init is None:
        raise InvalidState("resize the terminal of", entry.id, "not started")
    await live.system.init.resize(rows, columns)
