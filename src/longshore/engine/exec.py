"""Further processes of a container (execs): started, found by name, watched, recorded, published.

An exec has a directory of its own in `run`, with a record and, in the end, an exit record, as init has in the home. It
belongs to the lease of the engine that started it, and ends with that. An exec without a name given by the user is
forgotten when it has ended; one with a name keeps its exit record until the container is deleted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from ..aio.tasks import shielded
from ..compute.protocols import ComputeProcess
from ..compute.values import INIT, Stdio, now
from ..errors import ContainerNotFound, LongshoreError, ProcessExists, ProcessNotFound, StoreError
from ..exit_record import Cause, Exit
from ..fs.watching import DirectoryWatch
from ..spec import ProcessSpec, check_id
from ..store.journal import NewEvent
from ..store.records import VERSION, ExitRecord, ProcessRecord
from .exits import begin_watching, follow, record_or_retry
from .kill import kill
from .lookup import derive, open_container, with_system
from .process import Process
from .state import ContainerRef, log
from .states import CREATED, RULES, Verb, check_state, wrong_state

# starting


async def exec_(
    container: ContainerRef,
    process: ProcessSpec,
    stdio: Stdio,
    *,
    name: str | None,
    timeout: float | None,
) -> Process:
    """Start a further process, which ends with this engine. Raises InvalidState unless running, and ProcessExists.

    If cancelled, nothing of it runs.
    """
    chosen = check_id(name, "name") if name is not None else f"exec-{os.urandom(5).hex()}"
    if chosen == INIT:
        raise ProcessExists(container.id, INIT)
    async with container.engine.descriptors.starting(f"exec in container `{container.id}`"):
        return await _exec(container, process, stdio, chosen, named=name is not None, timeout=timeout)


async def _exec(
    container: ContainerRef, process: ProcessSpec, stdio: Stdio, chosen: str, *, named: bool, timeout: float | None
) -> Process:
    engine = container.engine
    info = await derive(container, container.read_current(), RULES[Verb.EXEC].operation)
    check_state(Verb.EXEC, container.id, info.state)
    lease = await engine.hold_lease()
    lease.has_execs()
    files = await _reserve_name(container, chosen, lease.id)
    place = msgspec.structs.replace(container.directory.place(lease), run=files, data=files)
    record = engine.store.new_process_record(chosen, process, lease.id, named=named)
    compute: ComputeProcess | None = None
    try:
        compute = await with_system(container, Verb.EXEC, lambda system: system.exec(process, stdio, chosen, place))
        record.token, record.pid = compute.token, compute.pid
        container.directory.write_process(record)
    except BaseException:
        await shielded(_undo(container, chosen, compute))
        raise
    made = _handle(container, chosen, process.command, compute)
    engine.processes.add(made)
    follow(engine, engine.spawn(_watch(container, made, compute), f"exec {chosen}"), made)
    if timeout is not None:
        made._seconds = timeout
        engine.spawn(_limit(made, timeout), f"time limit of {chosen}")
    return made


def _handle(
    container: ContainerRef,
    name: str,
    args: list[str],
    compute: ComputeProcess,
    kill: Callable[[Cause], Awaitable[None]] | None = None,
) -> Process:
    """Make what users hold of a process. `kill` ends it; None kills the process with its children."""
    end = kill or (lambda _: compute.kill_tree())
    return Process(container.id, name, args, compute, end, end_limit=container.engine.limits.end)


async def _reserve_name(container: ContainerRef, name: str, lease: str) -> Path:
    """Make the directory of an exec, in one step, so that of two callers one gets ProcessExists.

    The name of an exec that has ended is free.
    """
    for _ in range(2):
        try:
            return container.directory.new_process(name, lease)
        except FileExistsError:
            await publish_recorded_process(container, name)
            if container.directory.read_process_exit(name) is None:
                break
            _forget(container, name)
    raise ProcessExists(container.id, name)


async def _undo(container: ContainerRef, name: str, compute: ComputeProcess | None) -> None:
    if compute is not None:
        with suppress(LongshoreError, TimeoutError):
            async with asyncio.timeout(container.engine.limits.end):
                await compute.kill_tree()
                await compute.wait()
        await compute.close()
    with suppress(StoreError):
        _forget(container, name)


def _forget(container: ContainerRef, name: str) -> None:
    if not container.directory.remove_process(name):
        container.engine.trash_left = True


async def _limit(process: Process, seconds: float) -> None:
    done, _ = await asyncio.wait((process._ended,), timeout=seconds)
    if not done:
        try:
            await process._kill_because(Cause.TIME_LIMIT)
        except LongshoreError as error:
            log.warning("process `%s`, past its time limit, could not be killed: %s", process.name, error)


# ending


async def _watch(container: ContainerRef, process: Process, compute: ComputeProcess) -> Exit:
    exit = await compute.wait()
    killed = exit.cause in (Cause.SIGNALLED, Cause.KILLED, Cause.OOM) and exit.signal in (9, None)
    if killed and process._cause is not None:
        exit = msgspec.structs.replace(exit, cause=process._cause)

    async def record() -> Exit:
        found = await _record(container, process.name, exit)
        container.engine.processes.discard(process)  # not before: until then no other program knows how it ended
        return found

    return await record_or_retry(container, f"process `{process.name}`", record, exit)


async def record_process_exit(container: ContainerRef, name: str, exit: Exit) -> Exit:
    """Link the exit record of an exec into place unless there is one, publish it once, and return what is recorded.

    If it cannot be written (the disk is full), return `exit`: the next program that reads it tries again.
    """
    try:
        return await _record(container, name, exit)
    except (StoreError, OSError) as error:
        log.warning("the exit of process `%s` could not be recorded: %s", name, error)
        return exit


async def _record(container: ContainerRef, name: str, exit: Exit) -> Exit:
    directory = container.directory
    try:
        async with directory.locked():
            container.read_current()
            record = directory.read_process(name)
            if record is None:
                return exit
            found = directory.read_process_exit(name)
            fresh = found is None
            if found is None:
                found = ExitRecord(version=VERSION, exit=_completed(exit, record))
                directory.link_process_exit(name, found)
            if not record.exit_published:
                event = NewEvent("exit-process", found.exit.at, name, found.exit)
                container.publish(event, unless_since=None if fresh else record.journal)
                if record.named:
                    record.exit_published = True
                    directory.write_process(record)
            exit = found.exit
        if not record.named:
            _forget(container, name)
    except ContainerNotFound:
        pass  # deleted: its execs have ended with it, and no caller asks for them any more
    return exit


def _completed(exit: Exit, record: ProcessRecord) -> Exit:
    at = exit.at or now()
    started = None if exit.cause is Cause.NEVER_STARTED else min(record.started_at, at)
    return msgspec.structs.replace(exit, started_at=started, at=at, pid=exit.pid or record.pid)


async def publish_recorded_process(container: ContainerRef, name: str) -> None:
    """Publish the recorded exit of an exec, if the program that recorded it died before it published it."""
    record, found = container.directory.read_process(name), container.directory.read_process_exit(name)
    if record is not None and found is not None and not record.exit_published:
        await record_process_exit(container, name, found.exit)


async def close_processes(container: ContainerRef, lease: str) -> None:
    """Record the ends of the execs of an owner that died: they were killed. An exit that no program saw has no code.

    Raises StoreError or OSError if one cannot be recorded now.
    """
    directory = container.directory
    for name in directory.processes():
        record = directory.read_process(name)
        if (directory.process_maker(name) if record is None else record.lease) != lease:
            continue
        found = directory.read_process_exit(name)
        if record is None:
            _forget(container, name)
        elif found is None:
            await _record(container, name, Exit(code=None, cause=Cause.KILLED, at=now(), pid=record.pid))
        elif not record.exit_published:
            await _record(container, name, found.exit)


# finding


async def process(container: ContainerRef, name: str) -> Process:
    """Return a process by its name, also one that another program started. Raises ProcessNotFound."""
    check_id(name, "name")
    engine, directory = container.engine, container.directory
    record = container.read_current()
    if name == INIT:
        return await _init(container)
    for known in engine.processes:
        if (known.container_id, known.name) == (container.id, name):
            return known
    found = directory.read_process(name)
    if found is None or not found.token:
        raise ProcessNotFound(container.id, name)
    opened = await open_container(container, record)
    compute = await opened.system.open_process(found.token)
    made = _handle(container, name, found.args, compute)
    end = directory.read_process_exit(name)
    if end is not None:
        await publish_recorded_process(container, name)
        made._finish(end.exit)
        await compute.close()
    else:
        follow(engine, engine.spawn(_watch_foreign(container, name, compute), f"exec {name}"), made)
    return made


async def _init(container: ContainerRef) -> Process:
    record = container.read_current()
    opened = await open_container(container, record)
    if opened.process is not None:
        return opened.process
    compute = opened.system.init
    if compute is None or record.starting_at is None:
        raise wrong_state(Verb.FIND_INIT, container.id, CREATED)
    made = _handle(container, INIT, record.command, compute, partial(kill, container))
    end = container.directory.read_exit()
    if end is not None:
        made._finish(end.exit)
    else:
        follow(container.engine, begin_watching(opened, compute), made)
        opened.process = made
    return made


async def _watch_foreign(container: ContainerRef, name: str, compute: ComputeProcess) -> Exit:
    """Wait for the end of an exec of another program: as that program records it, or else as the kernel reports it."""
    directory, since = container.directory, container.engine.store.journal.end()
    try:
        seen = await compute.wait()
        files = directory.process_directory(name)
        with suppress(OSError, TimeoutError), DirectoryWatch(files) as watch:
            async with asyncio.timeout(container.engine.limits.other_end):
                while directory.read_process_exit(name) is None and files.exists():
                    await watch.changed()
        found = directory.read_process_exit(name)
        if found is not None:
            return found.exit
        for event in container.published(since):  # its directory is gone: it had no name of its own
            if event.type == "exit-process" and event.process == name and event.exit is not None:
                return event.exit
        return await record_process_exit(container, name, seen)
    finally:
        await compute.close()
