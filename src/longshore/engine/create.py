"""Create: make the files and the system of a container; launch: start it as well."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial

from ..aio.tasks import in_thread, shielded, uninterrupted
from ..compute.protocols import ComputeProcess, ComputeSystem
from ..compute.values import DEVNULL, LOG, Owner, Stdio, now
from ..errors import LongshoreError, NotVisible
from ..fs.files import open_file
from ..logs.rotation import mark_first
from ..spec import Spec, check_id
from ..store.container_dir import RECORD, SPEC
from ..store.journal import NewEvent
from .arguments import check_streams
from .delete import delete
from .image_root import PIN, ImageRoot
from .process import Process
from .reserve import Reservation, check_owner, reserve
from .start import take_charge
from .state import ContainerRef, EngineState, OpenContainer, log


async def create(
    engine: EngineState,
    id: str,
    spec: Spec,
    owner: Owner,
    stdio: Stdio,
    *,
    launch: bool,
    image: ImageRoot | None = None,
) -> tuple[ContainerRef, Process | None]:
    """Make a container, and start it with `launch`. Returns it, and its init if it was started.

    `image` is the image that its root is made of, if it is one.

    If cancelled or failed, nothing of it is left, and the id is free.
    """
    check_id(id)
    check_owner(owner)
    check_streams(stdio, log=True)
    if engine.store.viewpoint.blind:
        raise NotVisible("create", id, engine.store.viewpoint.blind)
    async with engine.descriptors.starting(f"create container `{id}`"):
        container, init = await _create(engine, id, spec, owner, stdio, image, launch=launch)
    try:  # not within `starting`: a deletion waits for the descriptors promised there
        await container.directory.on_disk(SPEC, RECORD, *([PIN] if image is not None else []))
    except asyncio.CancelledError:  # its start is published, so its end and deletion have to be as well
        try:
            await shielded(delete(container, force=True))
        except (LongshoreError, OSError) as error:
            log.warning("the creation of container `%s` was cancelled, and it could not be removed: %s", id, error)
        raise
    return container, init


async def _create(
    engine: EngineState, id: str, spec: Spec, owner: Owner, stdio: Stdio, image: ImageRoot | None, *, launch: bool
) -> tuple[ContainerRef, Process | None]:
    kept, stdin = stdio.stdout == LOG, stdio.stdin != DEVNULL
    async with reserve(engine, id, spec, owner, kept=kept, stdin=stdin) as reserved:
        if image is not None:  # from here on it cannot be removed
            await uninterrupted(in_thread(lambda: image.hold(reserved.container.directory.home)))
        system, process = await _make(reserved, spec, stdio, launch=launch)
        opened = OpenContainer(reserved.container, system, reserved.record.journal)
        opened.start_published = process is not None
    engine.open_containers[id] = opened
    return opened.container, take_charge(opened, reserved.record, process) if process is not None else None


async def _make(
    reserved: Reservation, spec: Spec, stdio: Stdio, *, launch: bool
) -> tuple[ComputeSystem, ComputeProcess | None]:
    """Write the files, have the service make the system, and write what is needed to open it."""
    container, record = reserved.container, reserved.record
    directory, service = container.directory, container.engine.service
    process: ComputeProcess | None = None
    if record.kept:  # a container that runs for its caller is not shown before it runs
        directory.write(record)
        directory.write_spec(spec)
    if launch:
        record.starter = reserved.lease.id
    lock = reserved.making_lock()
    place = directory.place(reserved.lease if record.lease is not None else None, lock.fd)
    if launch and not record.kept:
        record.starting_at = now()
        system, process = await service.launch(container.id, spec, stdio, place)
        reserved.on_failure(partial(_discard, system))
    else:
        system = await service.create(container.id, spec, stdio, place)
        reserved.on_failure(partial(_discard, system))
        if record.kept:
            with suppress(OSError):  # where no monitor writes the log, we do, and begin it here
                os.close(open_file(place.log, os.O_WRONLY | os.O_CREAT))
            record.log_inode = mark_first(place.log)
        if launch:
            record.starting_at = now()  # not written yet: until its token is written, it is half-made
            process = await system.start()
    record.token = system.token
    if process is not None:
        record.process, record.pid, record.started_at = process.token, process.pid, now()
    async with directory.locked():  # so that no program publishes its exit between these two
        directory.write(record)
        if not record.kept:
            directory.write_spec(spec)
        if process is not None:
            # not marked in the record: we know it, and a program that publishes the exit instead looks back
            container.publish(NewEvent("start-container", record.started_at))
    return system, process


async def _discard(system: ComputeSystem) -> None:
    """End and delete a system that is not to be used."""
    try:
        with suppress(LongshoreError, OSError):  # `delete` reports what is left
            await system.terminate()
        await system.delete()
    finally:
        await system.close()
