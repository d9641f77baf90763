"""Further processes in a container: started, found by name, watched, ended, told."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from ..aio.tasks import shielded
from ..compute.protocols import ComputeProcess
from ..compute.values import INIT, Stdio, now
from ..errors import ContainerNotFound, InvalidState, LongshoreError, ProcessExists, ProcessNotFound, StoreError
from ..exit_record import Cause, Exit
from ..fs.watching import DirectoryWatch
from ..spec import ProcessSpec, check_id
from ..store.container_dir import ContainerDir
from ..store.journal import NewEvent
from ..store.records import VERSION, ExitRecord, ProcessRecord
from .exits import begin_watching, follow
from .lifecycle import kill
from .lookup import TO_HAVE_IT_RUN, derive, open_container, read_current, with_system
from .process import Process
from .state import EngineState, log

# starting


async def exec_(
    engine: EngineState,
    entry: ContainerDir,
    uid: str,
    process: ProcessSpec,
    stdio: Stdio,
    *,
    name: str | None,
    timeout: float | None,
) -> Process:
    """Start a further process; it ends with this engine. InvalidState unless running, ProcessExists."""
    chosen = check_id(name, "name") if name is not None else f"exec-{os.urandom(5).hex()}"
    if chosen == INIT:
        raise ProcessExists(entry.id, INIT)
    async with engine.descriptors.starting(f"exec in container `{entry.id}`"):
        return await _exec(engine, entry, uid, process, stdio, chosen, named=name is not None, timeout=timeout)


async def _exec(
    engine: EngineState,
    entry: ContainerDir,
    uid: str,
    process: ProcessSpec,
    stdio: Stdio,
    chosen: str,
    *,
    named: bool,
    timeout: float | None,
) -> Process:
    record = await read_current(engine, entry, uid)
    info = await derive(engine, entry, record, "exec in")
    if info.state != "running":
        raise InvalidState("exec in", entry.id, info.state, hint=TO_HAVE_IT_RUN.get(info.state))
    lease = await engine.hold_lease()
    lease.has_execs()
    directory = await _reserve(engine, entry, uid, chosen, lease.id)
    place = msgspec.structs.replace(entry.place(lease), run=directory, data=directory)
    found = engine.store.new_process_record(chosen, process, lease.id, named=named)
    compute: ComputeProcess | None = None
    try:
        compute = await with_system(
            engine, entry, uid, "exec in", lambda system: system.exec(process, stdio, chosen, place), "running"
        )
        found.token, found.pid = compute.token, compute.pid
        entry.write_process(found)
    except BaseException:
        await shielded(_undo(engine, entry, chosen, compute))
        raise
    made = Process(
        entry.id, chosen, process.command, compute, lambda _: compute.kill_tree(), end_limit=engine.limits.end
    )
    engine.processes.add(made)
    task = engine.spawn(_watch(engine, entry, uid, made, compute), f"exec {chosen}")
    follow(engine, task, made)
    if timeout is not None:
        made._seconds = timeout
        engine.spawn(_limit(made, timeout), f"time limit of {chosen}")
    return made


async def _reserve(engine: EngineState, entry: ContainerDir, uid: str, name: str, lease: str) -> Path:
    """A name's directory, made in one step: of two callers one gets ProcessExists. An ended one's name is free."""
    for _ in range(2):
        try:
            return entry.new_process(name, lease)
        except FileExistsError:
            await publish_recorded_process(engine, entry, uid, name)
            if entry.read_process_exit(name) is None:
                break
            _forget(engine, entry, name)
    raise ProcessExists(entry.id, name)


async def _undo(engine: EngineState, entry: ContainerDir, name: str, compute: ComputeProcess | None) -> None:
    if compute is not None:
        with suppress(LongshoreError, TimeoutError):
            async with asyncio.timeout(engine.limits.end):
                await compute.kill_tree()
                await compute.wait()
        await compute.close()
    with suppress(StoreError):
        _forget(engine, entry, name)


def _forget(engine: EngineState, entry: ContainerDir, name: str) -> None:
    if not entry.remove_process(name):
        engine.trash_left = True


async def _limit(process: Process, seconds: float) -> None:
    done, _ = await asyncio.wait((process._ended,), timeout=seconds)
    if not done:
        try:
            await process._kill_because(Cause.TIME_LIMIT)
        except LongshoreError as error:
            log.warning("process `%s`, past its time limit, could not be killed: %s", process.name, error)


# ending


async def _watch(engine: EngineState, entry: ContainerDir, uid: str, process: Process, compute: ComputeProcess) -> Exit:
    exit = await compute.wait()
    killed = exit.cause in (Cause.SIGNALLED, Cause.KILLED, Cause.OOM) and exit.signal in (9, None)
    if killed and process._cause is not None:
        exit = msgspec.structs.replace(exit, cause=process._cause)

    async def record() -> Exit:
        found = await _record(engine, entry, uid, process.name, exit)
        engine.processes.discard(process)  # not before: until then nobody else knows how it ended
        return found

    try:
        return await record()
    except (StoreError, OSError) as error:
        log.warning("the exit of process `%s` could not be recorded yet: %s", process.name, error)
        engine.record_later(f"the exit of process `{process.name}` in container `{entry.id}` ({uid})", record)
        return exit


async def record_process_exit(engine: EngineState, entry: ContainerDir, uid: str, name: str, exit: Exit) -> Exit:
    """Link an exec's exit record into place, or take the one that is there; tell it, once. Returns it.

    Where it cannot be written (the disk is full), the exit is returned all the same: the next who looks tries again.
    """
    try:
        return await _record(engine, entry, uid, name, exit)
    except (StoreError, OSError) as error:
        log.warning("the exit of process `%s` could not be recorded: %s", name, error)
        return exit


async def _record(engine: EngineState, entry: ContainerDir, uid: str, name: str, exit: Exit) -> Exit:
    try:
        async with entry.locked():
            entry.read_own(uid)
            record = entry.read_process(name)
            if record is None:
                return exit
            found = entry.read_process_exit(name)
            fresh = found is None
            if found is None:
                found = ExitRecord(version=VERSION, exit=_completed(exit, record))
                entry.link_process_exit(name, found)
            if not record.exit_published:
                events = NewEvent("exit-process", found.exit.at, name, found.exit)
                engine.store.journal.append(entry.id, uid, events, unless_since=None if fresh else record.journal)
                if record.named:
                    record.exit_published = True
                    entry.write_process(record)
            exit = found.exit
        if not record.named:
            _forget(engine, entry, name)
    except ContainerNotFound:
        pass  # deleted: its execs have ended with it, and nobody asks for them any more
    return exit


def _completed(exit: Exit, record: ProcessRecord) -> Exit:
    at = exit.at or now()
    started = None if exit.cause is Cause.NEVER_STARTED else min(record.started_at, at)
    return msgspec.structs.replace(exit, started_at=started, at=at, pid=exit.pid or record.pid)


async def publish_recorded_process(engine: EngineState, entry: ContainerDir, uid: str, name: str) -> None:
    """Journal an exec's end that was recorded by a program which died before it told it."""
    record, found = entry.read_process(name), entry.read_process_exit(name)
    if record is not None and found is not None and not record.exit_published:
        await record_process_exit(engine, entry, uid, name, found.exit)


async def close_processes(engine: EngineState, entry: ContainerDir, uid: str, lease: str) -> None:
    """Record the ends of the execs of an owner that died: they were killed. An exit that no program saw has no code.

    Raises StoreError or OSError where one cannot be recorded now.
    """
    for name in entry.processes():
        record = entry.read_process(name)
        if (entry.process_maker(name) if record is None else record.lease) != lease:
            continue
        found = entry.read_process_exit(name)
        if record is None:
            _forget(engine, entry, name)
        elif found is None:
            await _record(engine, entry, uid, name, Exit(code=None, cause=Cause.KILLED, at=now(), pid=record.pid))
        elif not record.exit_published:
            await _record(engine, entry, uid, name, found.exit)


# finding


async def process(engine: EngineState, entry: ContainerDir, uid: str, name: str) -> Process:
    """A process by its name, also one that another program started."""
    check_id(name, "name")
    record = await read_current(engine, entry, uid)
    if name == INIT:
        return await _init(engine, entry, uid)
    for known in engine.processes:
        if (known.container_id, known.name) == (entry.id, name):
            return known
    found = entry.read_process(name)
    if found is None or not found.token:
        raise ProcessNotFound(entry.id, name)
    opened = await open_container(engine, entry, record)
    compute = await opened.system.open_process(found.token)
    made = Process(entry.id, name, found.args, compute, lambda _: compute.kill_tree(), end_limit=engine.limits.end)
    end = entry.read_process_exit(name)
    if end is not None:
        await publish_recorded_process(engine, entry, uid, name)
        made._finish(end.exit)
        await compute.close()
    else:
        follow(engine, engine.spawn(_watch_foreign(engine, entry, uid, name, compute), f"exec {name}"), made)
    return made


async def _init(engine: EngineState, entry: ContainerDir, uid: str) -> Process:
    record = await read_current(engine, entry, uid)
    opened = await open_container(engine, entry, record)
    if opened.process is not None:
        return opened.process
    compute = opened.system.init
    if compute is None or record.starting_at is None:
        raise InvalidState("find a process of", entry.id, "created, not started", hint="start it first")
    init = Process(
        entry.id, INIT, record.command, compute, partial(kill, engine, entry, uid), end_limit=engine.limits.end
    )
    end = entry.read_exit()
    if end is not None:
        init._finish(end.exit)
    else:
        follow(engine, begin_watching(engine, opened, compute), init)
        opened.process = init
    return init


async def _watch_foreign(
    engine: EngineState, entry: ContainerDir, uid: str, name: str, compute: ComputeProcess
) -> Exit:
    """The end of an exec that another program started: as that program tells it, or else as the kernel does."""
    since = engine.store.journal.end()
    try:
        seen = await compute.wait()
        directory = entry.process_directory(name)
        with suppress(OSError, TimeoutError), DirectoryWatch(directory) as watch:
            async with asyncio.timeout(engine.limits.other_end):
                while entry.read_process_exit(name) is None and directory.exists():
                    await watch.changed()
        found = entry.read_process_exit(name)
        if found is not None:
            return found.exit
        for event in engine.store.journal.about(uid, since):  # its directory is gone: it had no name of its own
            if event.type == "exit-process" and event.process == name and event.exit is not None:
                return event.exit
        return await record_process_exit(engine, entry, uid, name, seen)
    finally:
        await compute.close()
