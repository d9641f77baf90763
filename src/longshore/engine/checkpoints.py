"""Checkpoints: a kept container is written to files, and goes on from them: later, elsewhere, as often as one likes.

A checkpoint is a directory of its container, made under another name and renamed when it is whole. The container is
frozen until then, and ended only after it: whoever dies, there is a container that runs, or a whole checkpoint. What
goes on is a next *life* of the container: the same id, files and log, with a uid and an exit record of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from .. import machine
from ..aio.tasks import in_thread, shielded, uninterrupted
from ..compute.protocols import Checkpointable, ComputeProcess, ComputeSystem
from ..compute.values import DEVNULL, LOG, PIPE, Owner, Stdio, now
from ..errors import (
    CheckpointExists,
    CheckpointNotFound,
    InvalidSpec,
    InvalidState,
    LongshoreError,
    NotSupported,
)
from ..exit_record import Cause, Exit
from ..fs.files import make_private, read_whole, store_error, sync, sync_tree, write_mark, write_new
from ..fs.trees import remove_tree
from ..logs.rotation import mark_first
from ..spec import check_id
from ..store.container_dir import ContainerDir
from ..store.journal import NewEvent
from ..store.records import VERSION, ExitRecord, Record
from . import archive
from .archive import MANIFEST, Manifest
from .checkpoint_recovery import FOLDER, MARK, undo_checkpoint, undo_half_restored
from .delete import release
from .exits import publish_recorded
from .image_root import find_again
from .images import Images
from .kill import kill
from .lookup import derive, is_past, named_lease, open_container
from .process import Process
from .reserve import check_owner, reserve
from .start import take_charge
from .state import ContainerRef, EngineState, OpenContainer, log
from .states import PAUSED, Verb, check_state, wrong_state
from .wait import wait_for_end

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint of a container; `size` is in bytes."""

    name: str
    container: str
    created_at: datetime
    size: int
    connections: bool = False


async def _able(engine: EngineState) -> Checkpointable:
    """The service, if it can make checkpoints here. NotSupported, with the reason, before anything is touched."""
    features = await engine.service.probe()
    features.need("checkpoint")
    if not isinstance(engine.service, Checkpointable):
        raise NotSupported("checkpoint", f"the {features.service} service has no checkpoints")
    return engine.service


def _check_name(name: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise InvalidSpec("name", f"{name!r} cannot be the name of a checkpoint", hint="use letters, digits, and _ . -")
    return name


def _directory(directory: ContainerDir, name: str) -> Path:
    return directory.home / FOLDER / name


def _read(directory: ContainerDir, name: str) -> Manifest:
    path = _directory(directory, _check_name(name)) / MANIFEST
    try:
        data = read_whole(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointNotFound(directory.id, name) from None
    return archive.read_manifest(data, str(path))


def _info(directory: ContainerDir, name: str, manifest: Manifest) -> CheckpointInfo:
    size = sum(path.stat().st_size for path in _directory(directory, name).rglob("*") if path.is_file())
    return CheckpointInfo(
        name=name,
        container=directory.id,
        created_at=manifest.created_at,
        size=size,
        connections=manifest.connections,
    )


# making one


async def checkpoint(container: ContainerRef, name: str, *, leave_running: bool, connections: bool) -> CheckpointInfo:
    """Write a container to a checkpoint; then end it, unless it is left running."""
    _check_name(name)
    service = await _able(container.engine)
    record = container.read_current()
    if not record.kept:
        raise InvalidState(
            "checkpoint",
            container.id,
            "without a log",
            reason="`run` made it for its caller",
            hint="make it with `create`",
        )
    directory = container.directory
    lease = await container.engine.hold_lease()
    claim = directory.claim("checkpoint")
    lease.own(container.id)  # if we die, the keeper has it resumed
    try:
        info = await derive(container, container.read_current())
        check_state(Verb.CHECKPOINT, container.id, info.state)
        busy = [each for each in directory.processes() if directory.read_process_exit(each) is None]
        if busy:
            raise InvalidState(
                "checkpoint", container.id, f"busy with `{busy[0]}`", hint="wait for the exec, or kill it"
            )
        if _directory(directory, name).exists():
            raise CheckpointExists(container.id, name)
        opened = await open_container(container, record)
        await container.change(_mark(checkpointing=True))
        try:
            frozen = info.state == PAUSED
            await _write(service, opened, name, lease.lock_fd, frozen=frozen, connections=connections)
        except BaseException:
            await shielded(undo_checkpoint(container))
            raise
        await shielded(_finish(container, leave_running=leave_running))
        return _info(directory, name, _read(directory, name))
    finally:
        lease.disown(container.id)
        claim.release()


def _mark(*, checkpointing: bool) -> Callable[[Record], None]:
    def mark(record: Record) -> None:
        record.checkpointing = checkpointing

    return mark


async def _write(
    service: Checkpointable, opened: OpenContainer, name: str, lock_fd: int, *, frozen: bool, connections: bool
) -> None:
    container, directory = opened.container, opened.container.directory
    final = _directory(directory, name)
    making = final.with_name(f".{name}.{os.urandom(4).hex()}")
    try:
        make_private(making)
    except OSError as error:
        raise store_error(f"make {making}", error) from error
    record = container.read_current()
    if not frozen:
        await opened.system.pause()
    await service.checkpoint(opened.system, making, lock_fd, connections=connections)
    manifest = Manifest(
        version=archive.VERSION,
        longshore=machine.longshore_version(),
        service=container.engine.service.name,
        container=container.id,
        name=name,
        created_at=now(),
        connections=connections,
        stdin=record.stdin,
        kernel=machine.kernel()[0],
        machine=machine.kernel()[1],
        spec=directory.read_spec(),
    )
    try:
        write_new(making / MANIFEST, msgspec.json.encode(manifest))
        await shielded(in_thread(lambda: sync_tree(making)))  # a loss of power leaves it complete, or not there
        os.rename(making, final)
        container.publish(NewEvent("checkpoint"))
        await shielded(in_thread(lambda: sync(final.parent, directory.home)))
    except OSError as error:
        raise store_error(f"write {final}", error) from error


async def _finish(container: ContainerRef, *, leave_running: bool) -> None:
    """Resume or end the container, now that the checkpoint is complete."""
    if leave_running:
        await undo_checkpoint(container)
        return
    await kill(container, Cause.CHECKPOINTED)
    await wait_for_end(container)
    await container.change(_mark(checkpointing=False))


async def checkpoints(container: ContainerRef) -> list[CheckpointInfo]:
    """Return the checkpoints of a container, oldest first."""
    container.read_current()
    found = []
    for name in container.engine.store.names(container.directory.home / FOLDER):
        if re.fullmatch(_NAME, name):
            try:
                found.append(_info(container.directory, name, _read(container.directory, name)))
            except (CheckpointNotFound, InvalidSpec, OSError) as error:
                log.warning("container `%s`: checkpoint `%s`: %s", container.id, name, error)
    return sorted(found, key=lambda info: (info.created_at, info.name))


async def delete_checkpoint(container: ContainerRef, name: str) -> None:
    """Remove a checkpoint. Raises CheckpointNotFound, and InvalidState while the container is being changed."""
    is_past(container.engine, container.read_current(), "delete a checkpoint of")
    path = _directory(container.directory, _check_name(name))
    claim = container.directory.claim("delete a checkpoint of")
    try:
        gone = path.with_name(f".{name}.{os.urandom(4).hex()}")
        try:
            os.rename(path, gone)
        except FileNotFoundError:
            raise CheckpointNotFound(container.id, name) from None
        except OSError as error:
            raise store_error(f"remove {path}", error) from error
        await shielded(in_thread(partial(remove_tree, gone)))
    finally:
        claim.release()


# starting from one


async def start_from(container: ContainerRef, name: str) -> tuple[ContainerRef, Process]:
    """Start a stopped container from a checkpoint. Returns its next life, and its init.

    Raises InvalidState unless it is stopped, and CheckpointNotFound. If cancelled or failed, it is stopped, as before.
    """
    engine, directory = container.engine, container.directory
    service = await _able(engine)
    _read(directory, name)
    container.read_current()
    lease = await engine.hold_lease()
    claim = directory.claim("start")
    lease.own(container.id)
    kept = False
    try:
        await undo_half_restored(engine, directory)
        record = container.read_current()
        info = await derive(container, record)
        check_state(Verb.RESTORE, container.id, info.state)
        if directory.read_exit() is None:  # its exit is still being found out
            raise wrong_state(Verb.RESTORE, container.id, info.state)
        await publish_recorded(container, record)
        await shielded(_end_earlier(container, record))
        next_record = _next_life(container, record)
        next_record.starter = lease.id
        ours = record.owner != "keep"
        next_record.lease = lease.id if ours else None
        system, process = await _restore(container, service, next_record, name)
        opened = OpenContainer(container.of(next_record), system, next_record.journal)
        opened.start_published = True
        engine.open_containers[container.id] = opened
        engine.owned.pop(container.uid, None)
        if ours:
            engine.owned[next_record.uid] = opened.container, record.owner
            kept = True
        return opened.container, take_charge(opened, next_record, process)
    finally:
        if not kept:
            lease.disown(container.id)
        claim.release()


async def _end_earlier(container: ContainerRef, record: Record) -> None:
    """Have the platform forget the life that has ended. Its files stay."""
    with suppress(InvalidState):  # nothing is left of it
        opened = await open_container(container, record)
        await opened.system.delete()
        await release(opened)


def _next_life(container: ContainerRef, record: Record) -> Record:
    found = container.engine.store.new_record(
        container.id,
        container.directory.read_spec(),
        record.owner,
        None,
        kept=True,
        durable=record.durable,
        stdin=record.stdin,
    )
    found.created_at = record.created_at
    found.log_inode = record.log_inode
    found.life = record.life + 1
    return found


async def _restore(
    container: ContainerRef, service: Checkpointable, record: Record, name: str
) -> tuple[ComputeSystem, ComputeProcess]:
    """Have the service restore the container for its next life, whose `record` is then completed and written."""
    directory = container.directory
    spec = directory.read_spec()
    lock = directory.making_lock()
    system: ComputeSystem | None = None
    place = directory.place(named_lease(record) and await container.engine.hold_lease(), lock.fd)
    stdio = Stdio(stdin=PIPE if record.stdin else DEVNULL, stdout=LOG, stderr=LOG)
    try:
        write_mark(directory.home / MARK, record.uid.encode())
        record.starting_at = now()
        system = await service.restore(container.id, spec, stdio, place, _directory(directory, name))
        process = system.init
        assert process is not None
        record.token, record.process, record.pid = system.token, process.token, process.pid
        record.started_at = now()
        await shielded(_commit(container, record))
    except OSError as error:
        await shielded(_undo(service, directory, system))
        raise store_error(f"restore container `{container.id}`", error) from error
    except BaseException:
        await shielded(_undo(service, directory, system))
        raise
    finally:
        lock.close()
    await shielded(_tidy(service, directory))
    return system, process


async def _commit(container: ContainerRef, record: Record) -> None:
    """Replace the record of the life that has ended by that of the next one, and publish its start."""
    if record.log_inode is None:
        record.log_inode = mark_first(container.directory.place().log)
    async with container.directory.locked():
        container.read_current()
        record.start_published = True
        container.directory.write(record)
        container.of(record).publish(NewEvent("start-container", record.started_at))


async def _undo(service: Checkpointable, directory: ContainerDir, system: ComputeSystem | None) -> None:
    try:
        if system is not None:
            with suppress(LongshoreError):
                await system.terminate()
            await system.delete()
            await system.close()
            await service.undo_restore(directory.id, directory.place())
        (directory.home / MARK).unlink(missing_ok=True)
    except (LongshoreError, OSError) as error:
        log.warning(
            "the restore of container `%s` failed, and its earlier state could not be put back: %s", directory.id, error
        )


async def _tidy(service: Checkpointable, directory: ContainerDir) -> None:
    try:
        await service.keep_restored(directory.place())
        (directory.home / MARK).unlink(missing_ok=True)
    except (LongshoreError, OSError) as error:
        log.warning("container `%s`, restored: what its earlier life wrote is still there: %s", directory.id, error)


# archives


async def export_checkpoint(container: ContainerRef, name: str, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint to one new file. Raises CheckpointNotFound. If cancelled, it completes first."""
    container.read_current()
    _read(container.directory, name)
    await uninterrupted(
        in_thread(lambda: archive.export(_directory(container.directory, name), Path(os.path.abspath(path))))
    )


async def import_checkpoint(
    engine: EngineState, images: Images, path: str | os.PathLike[str], id: str | None, owner: Owner, max_size: int
) -> tuple[ContainerRef, str]:
    """Make a stopped container of an archive. Returns it, and the name of the checkpoint to start it from.

    If cancelled or failed, nothing of it is left, and the id is free.
    """
    await _able(engine)
    source = Path(os.path.abspath(path))
    manifest = await in_thread(lambda: archive.look(source))
    id = check_id(id or manifest.container)
    name = _check_name(manifest.name)
    if manifest.service != engine.service.name:
        raise NotSupported(
            "this archive", f"the {manifest.service} service made it, and this machine has {engine.service.name}"
        )
    if manifest.machine != machine.kernel()[1]:
        raise NotSupported(
            "this archive", f"it was made on {manifest.machine}, and this machine is {machine.kernel()[1]}"
        )
    check_owner(owner)
    spec, image = await find_again(images, manifest.spec)
    async with reserve(engine, id, spec, owner, kept=True, stdin=manifest.stdin) as reserved:
        record, directory = reserved.record, reserved.container.directory
        if image is not None:
            await uninterrupted(in_thread(lambda: image.hold(directory.home)))
        directory.write(record)
        directory.write_spec(spec)
        into = _directory(directory, name)
        await uninterrupted(in_thread(lambda: archive.unpack(source, into, limit=max_size)))
        exit = Exit(code=None, cause=Cause.CHECKPOINTED, at=manifest.created_at)
        directory.link_exit(ExitRecord(version=VERSION, exit=exit))
        record.start_published = record.exit_published = True  # its events belong to another store
        record.starting_at = record.started_at = manifest.created_at
        record.token = b"imported"  # no service knows it; from here on the container exists
        directory.write(record)
        await shielded(in_thread(lambda: sync_tree(directory.home), or_here=True))
    return reserved.container, name


__all__ = [
    "CheckpointInfo",
    "checkpoint",
    "checkpoints",
    "delete_checkpoint",
    "export_checkpoint",
    "import_checkpoint",
    "start_from",
]
