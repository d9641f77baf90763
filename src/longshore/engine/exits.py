"""The end of a container: seen by watchers, recorded once, published once.

A container ends when its first process, init, ends. Several programs may be interested, and each may die at any moment.

*Seeing the end.* Each engine that has a started container open watches its init (`begin_watching`). The kernel reports
an exit code to the parent of a process only. So the program that started the container learns the code; the others may
learn only that init has ended. They wait until that program has recorded the exit (`wait_for_recorder`), but only while
it is alive: `Record.starter` names its lease, and the lock of the lease is free when it has died.

*Settling.* Init can leave processes behind, and the kernel can have killed some for lack of memory. The service ends
the rest and collects these facts (`ComputeSystem.settle`). Then the engine waits for the last output, so that the log
is complete.

*Recording.* The exit record is a file that is linked into place. The link succeeds for the first program and fails for
the others, which then return the record that is there. An exit record never changes. From then on every program derives
the state `stopped` from it.

*Publishing.* The program that links the exit record also appends the event `exit` to the journal, then marks the record
with `exit_published`. All this happens under the container's short lock. The order matters. If the program dies after
the link, the mark is missing. The next program that reads the container sees that and calls `publish_missing`. It looks
for the event in the journal, from the container's own position on, and appends it unless it is there. So each end is
published exactly once.

*Ends that no program saw.* After a reboot, or when all programs and helpers were killed, only the record is left. Then
the cause is `system_gone` and there is no code (`record_gone`). A container that was made but never ran has the cause
`never_started`, and no event is published, because no start was (`record_never_started`).

*Full disks.* An exit that was seen and cannot be written is returned to waiting callers anyway. The engine keeps it and
tries again (`_record_seen`), because no other program may know it.

docs/architecture.md draws the path of one exit code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from ..compute.protocols import ComputeProcess
from ..compute.values import INIT, SystemEnd, now
from ..errors import ContainerNotFound, EngineClosed, LongshoreError, StoreError
from ..exit_record import Cause, Exit
from ..fs.watching import DirectoryWatch
from ..store.container_dir import RECORD
from ..store.journal import NewEvent, Position
from ..store.leases import is_alive
from ..store.records import VERSION, Damaged, ExitRecord, Record
from .process import Process
from .state import ContainerRef, EngineState, OpenContainer, log

ENDED_BY_FORCE = (Cause.SIGNALLED, Cause.KILLED, Cause.OOM, Cause.SYSTEM_GONE)
"""Causes that a service may report when the engine has killed the container."""

LOOK_AGAIN = 1.0  # seconds between two looks; no event tells that a program which held a lock has died
PATIENCE = 0.15  # seconds in which another watching program usually has recorded an exit whose code we do not know
LATE_LIMIT = 0.25  # seconds that a read waits for an exit that is being found out or published
OUTPUT_LIMIT = 5.0  # seconds until the last of its output must be in the log


def begin_watching(opened: OpenContainer, process: ComputeProcess) -> asyncio.Task[Exit]:
    """Start the task that watches for the end of a container, once for each `OpenContainer`."""
    if opened.watcher is None:
        container = opened.container
        opened.watcher = container.engine.spawn(_watch(opened, process), f"exit of {container.id}")
    return opened.watcher


def follow(engine: EngineState, task: asyncio.Task[Exit], process: Process) -> None:
    """Give a process the result of the task that watches it."""
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


async def _watch(opened: OpenContainer, process: ComputeProcess) -> Exit:
    seen = await process.wait()
    opened.seen = True
    if not opened.ours:
        known = seen.code is not None
        patience = 0.0 if known else PATIENCE
        recorded = await wait_for_recorder(opened.container, opened.since, known=known, patience=patience)
        if recorded is not None:
            return recorded
    if seen.cause is Cause.NEVER_STARTED:
        end = SystemEnd(exit=seen)
    else:
        end = await _settle(opened, seen, opened.system.settle_limit(opened.container.engine.limits))
    if opened.output is not None:
        await asyncio.wait((opened.output,), timeout=OUTPUT_LIMIT)
    return await _record_seen(opened, end)


async def _record_seen(opened: OpenContainer, end: SystemEnd) -> Exit:
    """Record an end that this engine saw, and return the exit."""

    retry = opened.ours or end.exit.code is not None  # else a program that finds it later may find out more

    async def record() -> Exit:
        try:
            found = await _record(
                opened.container, end, since=opened.since, start_published=opened.start_published, ours=opened.ours
            )
        except (StoreError, OSError):
            opened.unrecorded = end if retry else None
            raise
        opened.unrecorded = None
        return found

    return await record_or_retry(opened.container, "", record, end.exit, retry=retry)


async def record_or_retry(
    container: ContainerRef, process: str, record: Callable[[], Awaitable[Exit]], seen: Exit, *, retry: bool = True
) -> Exit:
    """Record an exit that was seen, and return what is recorded. If it cannot be written, return what was seen.

    With `retry`, the engine keeps it then and tries again until it is recorded. `process` names an exec in messages.
    """
    try:
        return await record()
    except (StoreError, OSError) as error:
        what = process or f"container `{container.id}`"
        log.warning("the exit of %s could not be recorded yet: %s", what, error)
        if retry:
            where = f" in container `{container.id}`" if process else ""
            container.engine.record_later(f"the exit of {what}{where} ({container.uid})", record)
        return seen


async def _settle(opened: OpenContainer, seen: Exit, limit: float) -> SystemEnd:
    try:
        async with asyncio.timeout(limit + 5):  # the service has the limit; this is for one that ignores it
            return await opened.system.settle(seen, limit)
    except (LongshoreError, OSError) as error:
        log.warning("container `%s` could not be settled: %s", opened.container.id, error)
        return SystemEnd(exit=seen, error=str(error) or type(error).__name__)


async def wait_for_recorder(
    container: ContainerRef, since: Position, *, known: bool, patience: float = 0.0
) -> Exit | None:
    """Wait until a program that knows more of the end has recorded it, and return the exit; None if there is none.

    Such a program is another one that is starting the container. If the container belongs to its starter's lease, or
    if the code is not `known` here, it is the starter. Any other watching program gets `patience` seconds.
    """
    loop = asyncio.get_running_loop()
    begin = loop.time()
    try:
        watch = DirectoryWatch(container.directory.home)
    except OSError:
        return published_exit(container, since)
    with watch:
        while True:
            try:
                record = container.read_current()
                found = container.directory.read_exit()
            except ContainerNotFound:
                return published_exit(container, since)
            except (StoreError, OSError):
                return None
            if found is not None:
                await publish_missing(container, record)
                return found.exit
            if record.started_at is None and container.directory.is_claimed("start"):
                limit = container.engine.limits.other_start
            elif (record.lease is not None or not known) and _starter_lives(container.engine, record):
                limit = container.engine.limits.other_end
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


def published_exit(container: ContainerRef, since: Position) -> Exit | None:
    """Return the exit from the journal, for a container that is deleted; None if it is not there."""
    return next((event.exit for event in container.published(since) if event.type == "exit"), None)


async def record_exit(
    container: ContainerRef,
    end: SystemEnd,
    *,
    since: Position,
    start_published: bool = False,
    ours: bool = False,
) -> Exit:
    """Link the exit record into place unless there is one, publish it once, and return the exit that is recorded.

    If it cannot be written (the disk is full), return `end.exit`: the next program that reads it tries again.
    """
    try:
        return await _record(container, end, since=since, start_published=start_published, ours=ours)
    except (StoreError, OSError) as error:
        log.warning("the exit of container `%s` could not be recorded: %s", container.id, error)
        return end.exit


async def _record(
    container: ContainerRef,
    end: SystemEnd,
    *,
    since: Position,
    start_published: bool,
    ours: bool,
) -> Exit:
    directory = container.directory
    try:
        async with directory.locked():
            record = container.read_current()
            found = directory.read_exit()
            fresh = found is None
            if found is None:
                found = ExitRecord(
                    version=VERSION,
                    exit=_completed(end.exit, record),
                    oom=end.oom,
                    updates_pending=end.updates_pending,
                    error=end.error,
                )
                directory.link_exit(found)
            if not record.exit_published:
                start_published = start_published or record.start_published
                _publish(container, record, found, fresh=fresh, start_published=start_published)
                record.start_published = record.exit_published = True
                record.paused, record.change = False, None
                if record.kept or not ours:  # else it is deleted next, or a finder looks back
                    directory.write(record)
        if fresh:
            await directory.on_disk(RECORD, directory.exit_name)
        return found.exit
    except ContainerNotFound:  # deleted meanwhile: the program that did it has published the exit
        return published_exit(container, since) or end.exit


def publish_unrecorded(container: ContainerRef, record: Record) -> None:
    """Publish the exit of a container that is being deleted, if the disk had no room to record it."""
    opened = container.opened
    if opened is not None and (end := opened.unrecorded) is not None:
        found = ExitRecord(version=VERSION, exit=_completed(end.exit, record), oom=end.oom)
        _publish(container, record, found, fresh=False, start_published=record.start_published)


def _completed(exit: Exit, record: Record) -> Exit:
    """Return the exit as it is recorded: completed by the times, the pid and the cause that the engine knows."""
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


def _publish(container: ContainerRef, record: Record, found: ExitRecord, *, fresh: bool, start_published: bool) -> None:
    """Publish the exit, and the start before it, except for events that a program which died had published."""
    exit = found.exit
    if exit.cause is Cause.NEVER_STARTED and not start_published:
        if not any(event.type == "start-container" for event in container.published(record.journal)):
            return  # its start was not published, so its end is not either
        start_published = True
    events = []
    if not start_published and record.starting_at is not None:
        events.append(NewEvent("start-container", record.started_at or record.starting_at))
    if found.oom:
        events.append(NewEvent("oom", exit.at))
    events.append(NewEvent("exit", exit.at, INIT, exit))
    # only the start can have been published before the exit record was linked
    surely_new = fresh and start_published
    container.publish(*events, unless_since=None if surely_new else record.journal)


async def record_never_started(container: ContainerRef, record: Record) -> Exit:
    """Record the end of a container whose code never ran. No event is published."""
    end = SystemEnd(exit=Exit(code=None, cause=Cause.NEVER_STARTED, at=now()))
    return await record_exit(container, end, since=record.journal)


async def record_gone(container: ContainerRef, record: Record, exit: Exit | None = None) -> Exit:
    """Record the end of a container that no program saw: only its record is left."""
    if record.boot == container.engine.store.boot:
        recorded = await wait_for_recorder(container, record.journal, known=False)
        if recorded is not None:
            return recorded
    end = SystemEnd(exit=exit or Exit(code=None, cause=Cause.SYSTEM_GONE, pid=record.pid))
    return await record_exit(container, end, since=record.journal)


async def publish_recorded(container: ContainerRef, record: Record) -> None:
    """Publish a recorded exit, if the program that recorded it died before it published it."""
    with suppress(Damaged):
        found = container.directory.read_exit()
        if found is not None and not record.exit_published:
            await record_exit(container, SystemEnd(exit=found.exit), since=record.journal)


async def publish_missing(container: ContainerRef, record: Record) -> None:
    """Publish the exit event if it is missing. For read-only callers: it waits for `LATE_LIMIT` at most."""
    if not record.exit_published and container.engine.store.sight(record)[0] != "hidden":
        await publish_in_background(container, lambda: publish_recorded(container, record))


async def publish_in_background(container: ContainerRef, publish: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Publish what a program that died has done and not published, in a task. Wait for `LATE_LIMIT` at most."""
    engine, uid = container.engine, container.uid
    task = engine.publishing.get(uid)
    if task is None:
        task = engine.publishing[uid] = engine.spawn(publish(), "publish what was not published")
        task.add_done_callback(lambda _: engine.publishing.pop(uid, None))
    await asyncio.wait((task,), timeout=LATE_LIMIT)
