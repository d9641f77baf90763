"""The end of a container: seen, settled, recorded, and told exactly once. docs/architecture.md draws the path.

Whoever first links the exit record into place has told what is to be told, or died before it did: then the next
who looks finds a record without its line in the journal, and adds it. Both happen under the container's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from ..compute.protocols import ComputeProcess
from ..compute.values import INIT, SystemEnd, now
from ..errors import ContainerNotFound, EngineClosed, LongshoreError, StoreError
from ..exit_record import Cause, Exit
from ..fs.watching import DirectoryWatch
from ..store.container_dir import RECORD, ContainerDir
from ..store.journal import NewEvent, Position
from ..store.leases import is_alive
from ..store.records import VERSION, Damaged, ExitRecord, Record
from .process import Process
from .state import EngineState, OpenContainer, log

ENDED_BY_FORCE = (Cause.SIGNALLED, Cause.KILLED, Cause.OOM, Cause.SYSTEM_GONE)
"""Causes that the service sees when it was we who killed a container."""

LOOK_AGAIN = 1.0  # seconds; the death of a program that has a lock is told to nobody
PATIENCE = 0.15  # seconds in which a program that was watching has recorded an end that we cannot know
LATE_LIMIT = 0.25  # seconds that who looks waits for an end that is just being found out, or told
OUTPUT_LIMIT = 5.0  # seconds until the last of its output must be in the log


def begin_watching(engine: EngineState, opened: OpenContainer, process: ComputeProcess) -> asyncio.Task[Exit]:
    """Have the end of a container watched for, by a task of the engine's. Once for each `OpenContainer`."""
    if opened.watcher is None:
        opened.watcher = engine.spawn(_watch(engine, opened, process), f"exit of {opened.entry.id}")
    return opened.watcher


def follow(engine: EngineState, task: asyncio.Task[Exit], process: Process) -> None:
    """Have what a user holds end as the task does."""
    engine.followed.add(process)

    def done(task: asyncio.Task[Exit]) -> None:
        engine.followed.discard(process)
        if task.cancelled():
            process._fail(EngineClosed())
        elif (error := task.exception()) is not None:
            process._fail(error)
        else:
            process._finish(task.result())

    task.add_done_callback(done)


async def _watch(engine: EngineState, opened: OpenContainer, process: ComputeProcess) -> Exit:
    seen = await process.wait()
    opened.seen = True
    if not opened.ours:
        known = seen.code is not None
        patience = 0.0 if known else PATIENCE
        told = await wait_for_recorder(engine, opened.entry, opened.uid, opened.since, known=known, patience=patience)
        if told is not None:
            return told
    if seen.cause is Cause.NEVER_STARTED:
        end = SystemEnd(exit=seen)
    else:
        end = await _settle(opened, seen, opened.system.settle_limit(engine.limits))
    if opened.output is not None:
        await asyncio.wait((opened.output,), timeout=OUTPUT_LIMIT)
    return await _record_seen(engine, opened, end)


async def _record_seen(engine: EngineState, opened: OpenContainer, end: SystemEnd) -> Exit:
    """Record an end that we saw. Where it cannot be written, what was seen is returned all the same.

    If nobody else may know it, it is then kept, and recorded as soon as that works.
    """
    entry = opened.entry

    async def record() -> Exit:
        found = await _record(
            engine, entry, opened.uid, end, since=opened.since, start_published=opened.start_published, ours=opened.ours
        )
        opened.unrecorded = None
        return found

    try:
        return await record()
    except (StoreError, OSError) as error:
        log.warning("the exit of container `%s` could not be recorded yet: %s", entry.id, error)
        if opened.ours or end.exit.code is not None:  # else who finds it later may find out more
            opened.unrecorded = end
            engine.record_later(f"the exit of container `{entry.id}` ({opened.uid})", record)
        return end.exit


async def _settle(opened: OpenContainer, seen: Exit, limit: float) -> SystemEnd:
    try:
        async with asyncio.timeout(limit + 5):  # the service has the limit; this is for one that ignores it
            return await opened.system.settle(seen, limit)
    except (LongshoreError, OSError) as error:
        log.warning("container `%s` could not be settled: %s", opened.entry.id, error)
        return SystemEnd(exit=seen, error=str(error) or type(error).__name__)


async def wait_for_recorder(
    engine: EngineState, entry: ContainerDir, uid: str, since: Position, *, known: bool, patience: float = 0.0
) -> Exit | None:
    """The exit as it was recorded by the program that knows more of it; None if no such program is alive.

    There is one while another program starts the container; where it belongs to its starter; and where the service
    does not tell us how it ended (not `known`): its starter was watching. Anybody else who was is given `patience`
    seconds to come forward.
    """
    loop = asyncio.get_running_loop()
    begin = loop.time()
    try:
        watch = DirectoryWatch(entry.home)
    except OSError:
        return published_exit(engine, uid, since)
    with watch:
        while True:
            try:
                record = entry.read_own(uid)
                found = entry.read_exit()
            except ContainerNotFound:
                return published_exit(engine, uid, since)
            except (StoreError, OSError):
                return None
            if found is not None:
                await publish_missing(engine, entry, record)
                return found.exit
            if record.started_at is None and entry.is_claimed("start"):
                limit = engine.limits.other_start
            elif (record.lease is not None or not known) and _starter_lives(engine, record):
                limit = engine.limits.other_end
            else:
                limit = patience
            left = begin + limit - loop.time()
            if left <= 0:
                return None
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_AGAIN)):
                    await watch.changed()


def _starter_lives(engine: EngineState, record: Record) -> bool:
    """Whether the program that started it, another than this, is there to record its end."""
    if record.starter is None or (engine.lease is not None and engine.lease.id == record.starter):
        return False
    return is_alive(engine.store, record.starter)


def published_exit(engine: EngineState, uid: str, since: Position) -> Exit | None:
    """The exit as the journal has it: for containers that are deleted."""
    return next((event.exit for event in engine.store.journal.about(uid, since) if event.type == "exit"), None)


async def record_exit(
    engine: EngineState,
    entry: ContainerDir,
    uid: str,
    end: SystemEnd,
    *,
    since: Position,
    start_published: bool = False,
    ours: bool = False,
) -> Exit:
    """Link the exit record into place, or take the one that is there; see that it is told, once. Returns it.

    Where it cannot be written (the disk is full), the exit is returned all the same: the next who looks tries again.
    """
    try:
        return await _record(engine, entry, uid, end, since=since, start_published=start_published, ours=ours)
    except (StoreError, OSError) as error:
        log.warning("the exit of container `%s` could not be recorded: %s", entry.id, error)
        return end.exit


async def _record(
    engine: EngineState,
    entry: ContainerDir,
    uid: str,
    end: SystemEnd,
    *,
    since: Position,
    start_published: bool,
    ours: bool,
) -> Exit:
    try:
        async with entry.locked():
            record = entry.read_own(uid)
            found = entry.read_exit()
            fresh = found is None
            if found is None:
                found = ExitRecord(
                    version=VERSION,
                    exit=_completed(end.exit, record),
                    oom=end.oom,
                    updates_pending=end.updates_pending,
                    error=end.error,
                )
                entry.link_exit(found)
            if not record.exit_published:
                _publish(
                    engine, entry, record, found, fresh=fresh, start_published=start_published or record.start_published
                )
                record.start_published = record.exit_published = True
                record.paused, record.change = False, None
                if record.kept or not ours:  # what runs for us is deleted next; who finds it instead looks back
                    entry.write(record)
        if fresh:
            await entry.on_disk(RECORD, entry.exit_name)
        return found.exit
    except ContainerNotFound:  # deleted under us: whoever did that has told its end
        return published_exit(engine, uid, since) or end.exit


def publish_unrecorded(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    """Journal the end of a container that is being deleted, if there was no room to record it."""
    opened = engine.find(entry.id, record.uid)
    if opened is not None and (end := opened.unrecorded) is not None:
        found = ExitRecord(version=VERSION, exit=_completed(end.exit, record), oom=end.oom)
        _publish(engine, entry, record, found, fresh=False, start_published=record.start_published)


def _completed(exit: Exit, record: Record) -> Exit:
    """The exit as it is recorded: with what the engine knows of it."""
    at = exit.at or now()
    if record.starting_at is None:  # killed from outside before it was started: no code of it has run
        return Exit(code=None, cause=Cause.NEVER_STARTED, at=at)
    cause = exit.cause
    if record.ending is not None and cause in ENDED_BY_FORCE and exit.signal in (9, None):
        cause = record.ending
    started = None
    if cause is not Cause.NEVER_STARTED:
        started = min(record.started_at or record.starting_at, at)
    return msgspec.structs.replace(exit, cause=cause, started_at=started, at=at, pid=exit.pid or record.pid)


def _publish(
    engine: EngineState, entry: ContainerDir, record: Record, found: ExitRecord, *, fresh: bool, start_published: bool
) -> None:
    """Journal the end, and the start before it, unless somebody who died meanwhile had done that."""
    journal = engine.store.journal
    exit = found.exit
    if exit.cause is Cause.NEVER_STARTED and not start_published:
        if not any(event.type == "start-container" for event in journal.about(record.uid, record.journal)):
            return  # nobody has heard of its life: nor need anybody hear of its end
        start_published = True
    events = []
    if not start_published and record.starting_at is not None:
        events.append(NewEvent("start-container", record.started_at or record.starting_at))
    if found.oom:
        events.append(NewEvent("oom", exit.at))
    events.append(NewEvent("exit", exit.at, INIT, exit))
    # nothing of it can have been told before the record was linked, but for the start
    surely_new = fresh and start_published
    journal.append(entry.id, record.uid, *events, unless_since=None if surely_new else record.journal)


async def record_never_started(engine: EngineState, entry: ContainerDir, record: Record) -> Exit:
    """The end of a container that was made, and whose code never ran: nobody is told of a life that was none."""
    end = SystemEnd(exit=Exit(code=None, cause=Cause.NEVER_STARTED, at=now()))
    return await record_exit(engine, entry, record.uid, end, since=record.journal)


async def record_gone(engine: EngineState, entry: ContainerDir, record: Record, exit: Exit | None = None) -> Exit:
    """The end of a container that nobody saw: nothing is left of it but its record."""
    told = None
    if record.boot == engine.store.boot:
        told = await wait_for_recorder(engine, entry, record.uid, record.journal, known=False)
    if told is not None:
        return told
    end = SystemEnd(exit=exit or Exit(code=None, cause=Cause.SYSTEM_GONE, pid=record.pid))
    return await record_exit(engine, entry, record.uid, end, since=record.journal)


async def publish_recorded(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    """Journal an end that was recorded by a program which died before it told it."""
    with suppress(Damaged):
        found = entry.read_exit()
        if found is not None and not record.exit_published:
            await record_exit(engine, entry, record.uid, SystemEnd(exit=found.exit), since=record.journal)


async def publish_missing(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    """The same for who only looks, at a container whose end is recorded."""
    if not record.exit_published and engine.store.sight(record)[0] != "hidden":
        await publish_in_background(engine, record.uid, lambda: publish_recorded(engine, entry, record))


async def publish_in_background(
    engine: EngineState, uid: str, publish: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Tell what somebody else has done and not told; not waited for longer than a look may take."""
    task = engine.publishing.get(uid)
    if task is None:
        task = engine.publishing[uid] = engine.spawn(publish(), "tell what was not told")
        task.add_done_callback(lambda _: engine.publishing.pop(uid, None))
    await asyncio.wait((task,), timeout=LATE_LIMIT)
