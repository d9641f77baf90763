"""Start: run the init of a container, record and publish that, and take charge of it.

The claim keeps two programs from starting one container at once. No lock is held while the service works, so reads get
through meanwhile. The record says `starting_at` before the service is called and `started_at` after it. If this program
dies in between, the next reader ends the container (`lookup.derive`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from ..aio.tasks import shielded
from ..compute.protocols import ComputeProcess
from ..compute.values import INIT, Streams, now
from ..errors import ContainerNotFound, LongshoreError, ServiceError, StoreError
from ..store.container_dir import RECORD
from ..store.journal import NewEvent
from ..store.records import Record
from .exits import begin_watching, follow, record_never_started
from .kill import kill
from .lookup import derive, open_container
from .output import keep_output
from .process import Process
from .state import ContainerRef, OpenContainer
from .states import STOPPED, Verb, check_state, wrong_state
from .wait import wait_for_end


def take_charge(opened: OpenContainer, record: Record, compute: ComputeProcess) -> Process:
    """Take charge of an init that this engine has just started: write its log, watch for its end, return its handle."""
    container = opened.container
    opened.ours = True
    streams = compute.streams
    if record.kept:
        opened.output = keep_output(container, streams, record.log_size)
        streams = Streams(stdin=streams.stdin)  # its output is in its log
    process = Process(container.id, INIT, record.command, compute, partial(kill, container), streams=streams)
    opened.process = process
    follow(container.engine, begin_watching(opened, compute), process)
    return process


async def start(container: ContainerRef) -> Process:
    """Run init and return it. Raises InvalidState unless the container is created.

    If cancelled or failed, what was started is ended, and the container is stopped.
    """
    record = container.read_current()
    claim = container.directory.claim("start")
    try:
        info = await derive(container, container.read_current())
        check_state(Verb.START, container.id, info.state)
        opened = await open_container(container, record)
        opened.starting = asyncio.get_running_loop().create_future()
        try:
            return await _start(opened)
        finally:
            opened.starting.set_result(None)
            opened.starting = None
    finally:
        claim.release()


async def _start(opened: OpenContainer) -> Process:
    container = opened.container
    lease = await container.engine.hold_lease()  # while it is held, other programs know that we watch for the end

    def starting(record: Record) -> None:
        record.starting_at = now()
        record.starter = lease.id

    record = await container.change(starting)
    try:
        await container.directory.on_disk(RECORD)  # else a loss of power would turn it into one that never ran
        compute = await opened.system.start()
    except BaseException as error:
        ended = isinstance(error, ServiceError) and _is_being_ended(container)
        await shielded(_undo_start(opened, record))
        if ended:
            raise wrong_state(Verb.START, container.id, STOPPED) from error
        raise
    try:
        record = await shielded(_record_start(opened, compute))
    except asyncio.CancelledError:  # the start was published meanwhile, so the end has to be as well
        take_charge(opened, container.read_current(), compute)
        await shielded(_kill_and_wait(container))
        raise
    except BaseException:
        await shielded(_undo_start(opened, record))
        raise
    return take_charge(opened, record, compute)


def _is_being_ended(container: ContainerRef) -> bool:
    """Return whether a program has killed or deleted the container meanwhile: then the service failed because of it."""
    try:
        return container.read_current().ending is not None
    except ContainerNotFound:
        return True
    except StoreError:
        return False


async def _kill_and_wait(container: ContainerRef) -> None:
    await kill(container)
    await wait_for_end(container)


async def _record_start(opened: OpenContainer, compute: ComputeProcess) -> Record:
    """Write the pid and the time to the record, and publish the start."""
    container = opened.container
    async with container.directory.locked():
        record = container.read_current()
        record.process, record.pid = compute.token, compute.pid
        record.started_at = record.started_at or now()
        if not record.start_published:
            # only a program that recorded the exit can have published the start before us
            since = record.journal if container.directory.read_exit() is not None else None
            container.publish(NewEvent("start-container", record.started_at), unless_since=since)
            record.start_published = True
        container.directory.write(record)
    opened.start_published = True
    return record


async def _undo_start(opened: OpenContainer, record: Record) -> None:
    """Undo a start that failed. It is recorded as `never_started` first, so that no watcher takes it for an exit."""
    await record_never_started(opened.container, record)
    with suppress(LongshoreError):
        await opened.system.terminate()
    if opened.system.init is not None:
        with suppress(LongshoreError, TimeoutError):
            async with asyncio.timeout(opened.container.engine.limits.end):
                await opened.system.init.wait()
