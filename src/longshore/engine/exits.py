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
from ..store.container_dir import RECORD, Entry
from ..store.journal import News, Position
from ..store.leases import is_alive
from ..store.records import VERSION, Damaged, ExitRecord, Record
from .process import Process
from .state import Core, Live, log

ENDED_BY_FORCE = (Cause.SIGNALLED, Cause.KILLED, Cause.OOM, Cause.SYSTEM_GONE)
"""Causes that the service sees when it was we who killed a container."""

LOOK_AGAIN = 1.0  # seconds; the death of a program that has a lock is told to nobody
PATIENCE = 0.15  # seconds in which a program that was watching has recorded an end that we cannot know
LATE_LIMIT = 0.25  # seconds that who looks waits for an end that is just being found out, or told
OUTPUT_LIMIT = 5.0  # seconds until the last of its output must be in the log


def begin_watching(core: Core, live: Live, process: ComputeProcess) -> asyncio.Task[Exit]:
    """Have the end of a container watched for, by a task of the engine's. Once for each `Live`."""
    if live.watcher is None:
        live.watcher = core.spawn(_watch(core, live, process), f"exit of {live.entry.id}")
    return live.watcher


def follow(core: Core, task: asyncio.Task[Exit], process: Process) -> None:
    """Have what a user holds end as the task does."""
    core.followed.add(process)

    def done(task: asyncio.Task[Exit]) -> None:
        core.followed.discard(process)
        if task.cancelled():
            process._fail(EngineClosed())
        elif (error := task.exception()) is not None:
            process._fail(error)
        else:
            process._finish(task.result())

    task.add_done_callback(done)


async def _watch(core: Core, live: Live, process: ComputeProcess) -> Exit:
    seen = await process.wait()
    live.seen = True
    if not live.ours:
        known = seen.code is not None
        patience = 0.0 if known else PATIENCE
        told = await told_by_others(core, live.entry, live.uid, live.since, known=known, patience=patience)
        if told is not None:
            return told
    if seen.cause is Cause.NEVER_STARTED:
        end = SystemEnd(exit=seen)
    else:
        end = await _settle(live, seen, live.system.settle_limit(core.limits))
    if live.output is not None:
        await asyncio.wait((live.output,), timeout=OUTPUT_LIMIT)
    return await _record_seen(core, live, end)


async def _record_seen(core: Core, live: Live, end: SystemEnd) -> Exit:
    """Record an end that we saw. Where it cannot be written, what was seen is returned all the same.

    If nobody else may know it, it is then kept, and recorded as soon as that works.
    """
    entry = live.entry

    async def record() -> Exit:
        found = await _record(core, entry, live.uid, end, since=live.since, start_told=live.start_told, ours=live.ours)
        live.unrecorded = None
        return found

    try:
        return await record()
    except (StoreError, OSError) as error:
        log.warning("the exit of container `%s` could not be recorded yet: %s", entry.id, error)
        if live.ours or end.exit.code is not None:  # else who finds it later may find out more
            live.unrecorded = end
            core.record_later(f"the exit of container `{entry.id}` ({live.uid})", record)
        return end.exit


async def _settle(live: Live, seen: Exit, limit: float) -> SystemEnd:
    try:
        async with asyncio.timeout(limit + 5):  # the service has the limit; this is for one that ignores it
            return await live.system.settle(seen, limit)
    except (LongshoreError, OSError) as error:
        log.warning("container `%s` could not be settled: %s", live.entry.id, error)
        return SystemEnd(exit=seen, error=str(error) or type(error).__name__)


async def told_by_others(
    core: Core, entry: Entry, uid: str, since: Position, *, known: bool, patience: float = 0.0
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
        return told_exit(core, uid, since)
    with watch:
        while True:
            try:
                record = entry.read_own(uid)
                found = entry.read_exit()
            except ContainerNotFound:
                return told_exit(core, uid, since)
            except (StoreError, OSError):
                return None
            if found is not None:
                await tell_untold(core, entry, record)
                return found.exit
            if record.started_at is None and entry.is_claimed("start"):
                limit = core.limits.other_start
            elif (record.lease is not None or not known) and _starter_lives(core, record):
                limit = core.limits.other_end
            else:
                limit = patience
            left = begin + limit - loop.time()
            if left <= 0:
                return None
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_AGAIN)):
                    await watch.changed()


def _starter_lives(core: Core, record: Record) -> bool:
    """Whether the program that started it, another than this, is there to record its end."""
    if record.starter is None or (core.lease is not None and core.lease.id == record.starter):
        return False
    return is_alive(core.store, record.starter)


def told_exit(core: Core, uid: str, since: Position) -> Exit | None:
    """The exit as the journal has it: for containers that are deleted."""
    return next((event.exit for event in core.store.journal.about(uid, since) if event.type == "exit"), None)


async def record_exit(
    core: Core,
    entry: Entry,
    uid: str,
    end: SystemEnd,
    *,
    since: Position,
    start_told: bool = False,
    ours: bool = False,
) -> Exit:
    """Link the exit record into place, or take the one that is there; see that it is told, once. Returns it.

    Where it cannot be written (the disk is full), the exit is returned all the same: the next who looks tries again.
    """
    try:
        return await _record(core, entry, uid, end, since=since, start_told=start_told, ours=ours)
    except (StoreError, OSError) as error:
        log.warning("the exit of container `%s` could not be recorded: %s", entry.id, error)
        return end.exit


async def _record(
    core: Core, entry: Entry, uid: str, end: SystemEnd, *, since: Position, start_told: bool, ours: bool
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
            if not record.exit_told:
                _tell(core, entry, record, found, fresh=fresh, start_told=start_told or record.start_told)
                record.start_told = record.exit_told = True
                record.paused, record.change = False, None
                if record.kept or not ours:  # what runs for us is deleted next; who finds it instead looks back
                    entry.write(record)
        if fresh:
            await entry.on_disk(RECORD, entry.exit_name)
        return found.exit
    except ContainerNotFound:  # deleted under us: whoever did that has told its end
        return told_exit(core, uid, since) or end.exit


def tell_unrecorded(core: Core, entry: Entry, record: Record) -> None:
    """Journal the end of a container that is being deleted, if there was no room to record it."""
    live = core.find(entry.id, record.uid)
    if live is not None and (end := live.unrecorded) is not None:
        found = ExitRecord(version=VERSION, exit=_completed(end.exit, record), oom=end.oom)
        _tell(core, entry, record, found, fresh=False, start_told=record.start_told)


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


def _tell(core: Core, entry: Entry, record: Record, found: ExitRecord, *, fresh: bool, start_told: bool) -> None:
    """Journal the end, and the start before it, unless somebody who died meanwhile had done that."""
    journal = core.store.journal
    exit = found.exit
    if exit.cause is Cause.NEVER_STARTED and not start_told:
        if not any(event.type == "start-container" for event in journal.about(record.uid, record.journal)):
            return  # nobody has heard of its life: nor need anybody hear of its end
        start_told = True
    news = []
    if not start_told and record.starting_at is not None:
        news.append(News("start-container", record.started_at or record.starting_at))
    if found.oom:
        news.append(News("oom", exit.at))
    news.append(News("exit", exit.at, INIT, exit))
    # nothing of it can have been told before the record was linked, but for the start
    surely_new = fresh and start_told
    journal.append(entry.id, record.uid, *news, unless_since=None if surely_new else record.journal)


async def record_never_started(core: Core, entry: Entry, record: Record) -> Exit:
    """The end of a container that was made, and whose code never ran: nobody is told of a life that was none."""
    end = SystemEnd(exit=Exit(code=None, cause=Cause.NEVER_STARTED, at=now()))
    return await record_exit(core, entry, record.uid, end, since=record.journal)


async def record_gone(core: Core, entry: Entry, record: Record, exit: Exit | None = None) -> Exit:
    """The end of a container that nobody saw: nothing is left of it but its record."""
    told = None
    if record.boot == core.store.boot:
        told = await told_by_others(core, entry, record.uid, record.journal, known=False)
    if told is not None:
        return told
    end = SystemEnd(exit=exit or Exit(code=None, cause=Cause.SYSTEM_GONE, pid=record.pid))
    return await record_exit(core, entry, record.uid, end, since=record.journal)


async def tell_recorded(core: Core, entry: Entry, record: Record) -> None:
    """Journal an end that was recorded by a program which died before it told it."""
    with suppress(Damaged):
        found = entry.read_exit()
        if found is not None and not record.exit_told:
            await record_exit(core, entry, record.uid, SystemEnd(exit=found.exit), since=record.journal)


async def tell_untold(core: Core, entry: Entry, record: Record) -> None:
    """The same for who only looks, at a container whose end is recorded."""
    if not record.exit_told and core.store.sight(record)[0] != "hidden":
        await tell_shortly(core, record.uid, lambda: tell_recorded(core, entry, record))


async def tell_shortly(core: Core, uid: str, tell: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Tell what somebody else has done and not told; not waited for longer than a look may take."""
    task = core.telling.get(uid)
    if task is None:
        task = core.telling[uid] = core.spawn(tell(), "tell what was not told")
        task.add_done_callback(lambda _: core.telling.pop(uid, None))
    await asyncio.wait((task,), timeout=LATE_LIMIT)
