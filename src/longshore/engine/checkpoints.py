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
    ContainerNotFound,
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
from ..store.records import VERSION, Damaged, ExitRecord, Record
from . import archive
from .archive import MANIFEST, Manifest
from .checkpoint_recovery import FOLDER, MARK, undo_checkpoint, undo_half_restored
from .create import clear_half_made
from .delete import release
from .exits import publish_recorded
from .image_root import find_again
from .images import Images
from .lifecycle import begin, kill, wait_for_end
from .lookup import derive, is_past, named_lease, open_container, read_current
from .process import Process
from .state import EngineState, OpenContainer, log

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


def _directory(entry: ContainerDir, name: str) -> Path:
    return entry.home / FOLDER / name


def _read(entry: ContainerDir, name: str) -> Manifest:
    path = _directory(entry, _check_name(name)) / MANIFEST
    try:
        data = read_whole(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointNotFound(entry.id, name) from None
    return archive.read_manifest(data, str(path))


def _info(entry: ContainerDir, name: str, manifest: Manifest) -> CheckpointInfo:
    size = sum(path.stat().st_size for path in _directory(entry, name).rglob("*") if path.is_file())
    return CheckpointInfo(
        name=name,
        container=entry.id,
        created_at=manifest.created_at,
        size=size,
        connections=manifest.connections,
    )


# making one


async def checkpoint(
    engine: EngineState, entry: ContainerDir, uid: str, name: str, *, leave_running: bool, connections: bool
) -> CheckpointInfo:
    """Write a container to a checkpoint; then end it, unless it is left running."""
    _check_name(name)
    service = await _able(engine)
    record = await read_current(engine, entry, uid)
    if not record.kept:
        raise InvalidState(
            "checkpoint", entry.id, "without a log", reason="`run` made it for its caller", hint="make it with `create`"
        )
    lease = await engine.hold_lease()
    claim = entry.claim("checkpoint")
    lease.own(entry.id)  # if we die, the keeper lets it go on
    try:
        info = await derive(engine, entry, entry.read_own(uid))
        if info.state not in ("running", "paused"):
            raise InvalidState("checkpoint", entry.id, info.state, hint="start it first")
        busy = [each for each in entry.processes() if entry.read_process_exit(each) is None]
        if busy:
            raise InvalidState("checkpoint", entry.id, f"busy with `{busy[0]}`", hint="wait for the exec, or kill it")
        if _directory(entry, name).exists():
            raise CheckpointExists(entry.id, name)
        opened = await open_container(engine, entry, record)
        await entry.change(uid, _mark(checkpointing=True))
        try:
            frozen = info.state == "paused"
            await _write(engine, service, opened, name, lease.lock_fd, frozen=frozen, connections=connections)
        except BaseException:
            await shielded(undo_checkpoint(engine, entry, uid))
            raise
        await shielded(_finish(engine, entry, uid, leave_running=leave_running))
        return _info(entry, name, _read(entry, name))
    finally:
        lease.disown(entry.id)
        claim.release()


def _mark(*, checkpointing: bool) -> Callable[[Record], None]:
    def mark(record: Record) -> None:
        record.checkpointing = checkpointing

    return mark


async def _write(
    engine: EngineState,
    service: Checkpointable,
    opened: OpenContainer,
    name: str,
    lock_fd: int,
    *,
    frozen: bool,
    connections: bool,
) -> None:
    entry = opened.entry
    final = _directory(entry, name)
    making = final.with_name(f".{name}.{os.urandom(4).hex()}")
    try:
        make_private(making)
    except OSError as error:
        raise store_error(f"make {making}", error) from error
    record = entry.read_own(opened.uid)
    if not frozen:
        await opened.system.pause()
    await service.checkpoint(opened.system, making, lock_fd, connections=connections)
    manifest = Manifest(
        version=archive.VERSION,
        longshore=machine.longshore_version(),
        service=engine.service.name,
        container=entry.id,
        name=name,
        created_at=now(),
        connections=connections,
        stdin=record.stdin,
        kernel=machine.kernel()[0],
        machine=machine.kernel()[1],
        spec=entry.read_spec(),
    )
    try:
        write_new(making / MANIFEST, msgspec.json.encode(manifest))
        await shielded(in_thread(lambda: sync_tree(making)))  # a loss of power leaves it whole, or not there
        os.rename(making, final)
        engine.store.journal.append(entry.id, opened.uid, NewEvent("checkpoint"))
        await shielded(in_thread(lambda: sync(final.parent, entry.home)))
    except OSError as error:
        raise store_error(f"write {final}", error) from error


async def _finish(engine: EngineState, entry: ContainerDir, uid: str, *, leave_running: bool) -> None:
    """The checkpoint is whole: the container goes on, or ends."""
    if leave_running:
        await undo_checkpoint(engine, entry, uid)
        return
    await kill(engine, entry, uid, Cause.CHECKPOINTED)
    await wait_for_end(engine, entry, uid)
    await entry.change(uid, _mark(checkpointing=False))


async def checkpoints(engine: EngineState, entry: ContainerDir, uid: str) -> list[CheckpointInfo]:
    """Those there are, oldest first."""
    await read_current(engine, entry, uid)
    found = []
    for name in engine.store.names(entry.home / FOLDER):
        if re.fullmatch(_NAME, name):
            try:
                found.append(_info(entry, name, _read(entry, name)))
            except (CheckpointNotFound, InvalidSpec, OSError) as error:
                log.warning("container `%s`: checkpoint `%s`: %s", entry.id, name, error)
    return sorted(found, key=lambda info: (info.created_at, info.name))


async def delete_checkpoint(engine: EngineState, entry: ContainerDir, uid: str, name: str) -> None:
    """Remove one. CheckpointNotFound; InvalidState while the container is being changed."""
    is_past(engine, await read_current(engine, entry, uid), "delete a checkpoint of")
    path = _directory(entry, _check_name(name))
    claim = entry.claim("delete a checkpoint of")
    try:
        gone = path.with_name(f".{name}.{os.urandom(4).hex()}")
        try:
            os.rename(path, gone)
        except FileNotFoundError:
            raise CheckpointNotFound(entry.id, name) from None
        except OSError as error:
            raise store_error(f"remove {path}", error) from error
        await shielded(in_thread(partial(remove_tree, gone)))
    finally:
        claim.release()


# going on from one


async def start_from(engine: EngineState, entry: ContainerDir, uid: str, name: str) -> tuple[str, Process]:
    """Have a stopped container go on from a checkpoint: the uid of its next life, and its init."""
    service = await _able(engine)
    _read(entry, name)
    await read_current(engine, entry, uid)
    lease = await engine.hold_lease()
    claim = entry.claim("start")
    lease.own(entry.id)
    kept = False
    try:
        await undo_half_restored(engine, entry)
        record = entry.read_own(uid)
        info = await derive(engine, entry, record)
        if info.state != "stopped" or entry.read_exit() is None:
            raise InvalidState("restore", entry.id, info.state, hint="stop it first, or import an exported checkpoint")
        await publish_recorded(engine, entry, record)
        await shielded(_end_earlier(engine, entry, record))
        next_record = _next_life(engine, entry, record)
        next_record.starter = lease.id
        ours = record.owner != "keep"
        next_record.lease = lease.id if ours else None
        system, process = await _restore(engine, service, entry, record, next_record, name)
        opened = OpenContainer(next_record.uid, entry, system, next_record.journal)
        opened.start_published = True
        engine.open_containers[entry.id] = opened
        engine.owned.pop(uid, None)
        if ours:
            engine.owned[next_record.uid] = entry, record.owner
            kept = True
        return next_record.uid, begin(engine, opened, next_record, process)
    finally:
        if not kept:
            lease.disown(entry.id)
        claim.release()


async def _end_earlier(engine: EngineState, entry: ContainerDir, record: Record) -> None:
    """Have the platform forget the life that has ended; its files stay."""
    with suppress(InvalidState):  # nothing is left of it
        opened = await open_container(engine, entry, record)
        await opened.system.delete()
        await release(engine, opened)


def _next_life(engine: EngineState, entry: ContainerDir, record: Record) -> Record:
    found = engine.store.new_record(
        entry.id,
        entry.read_spec(),
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
    engine: EngineState, service: Checkpointable, entry: ContainerDir, before: Record, record: Record, name: str
) -> tuple[ComputeSystem, ComputeProcess]:
    spec = entry.read_spec()
    lock = entry.making_lock()
    system: ComputeSystem | None = None
    place = entry.place(named_lease(record) and await engine.hold_lease(), lock.fd)
    stdio = Stdio(stdin=PIPE if record.stdin else DEVNULL, stdout=LOG, stderr=LOG)
    try:
        write_mark(entry.home / MARK, record.uid.encode())
        record.starting_at = now()
        system = await service.restore(entry.id, spec, stdio, place, _directory(entry, name))
        process = system.init
        assert process is not None
        record.token, record.process, record.pid = system.token, process.token, process.pid
        record.started_at = now()
        await shielded(_commit(engine, entry, before, record))
    except OSError as error:
        await shielded(_undo(service, entry, system))
        raise store_error(f"restore container `{entry.id}`", error) from error
    except BaseException:
        await shielded(_undo(service, entry, system))
        raise
    finally:
        lock.close()
    await shielded(_tidy(service, entry))
    return system, process


async def _commit(engine: EngineState, entry: ContainerDir, before: Record, record: Record) -> None:
    if record.log_inode is None:
        record.log_inode = mark_first(entry.place().log)
    async with entry.locked():
        entry.read_own(before.uid)
        record.start_published = True
        entry.write(record)
        engine.store.journal.append(entry.id, record.uid, NewEvent("start-container", record.started_at))


async def _undo(service: Checkpointable, entry: ContainerDir, system: ComputeSystem | None) -> None:
    try:
        if system is not None:
            with suppress(LongshoreError):
                await system.terminate()
            await system.delete()
            await system.close()
            await service.undo_restore(entry.id, entry.place())
        (entry.home / MARK).unlink(missing_ok=True)
    except (LongshoreError, OSError) as error:
        log.warning(
            "the restore of container `%s` failed, and its earlier state could not be put back: %s", entry.id, error
        )


async def _tidy(service: Checkpointable, entry: ContainerDir) -> None:
    try:
        await service.keep_restored(entry.place())
        (entry.home / MARK).unlink(missing_ok=True)
    except (LongshoreError, OSError) as error:
        log.warning("container `%s`, restored: what its earlier life wrote is still there: %s", entry.id, error)


# archives


async def export_checkpoint(
    engine: EngineState, entry: ContainerDir, uid: str, name: str, path: str | os.PathLike[str]
) -> None:
    """Write a checkpoint to one file."""
    await read_current(engine, entry, uid)
    _read(entry, name)
    await uninterrupted(in_thread(lambda: archive.export(_directory(entry, name), Path(os.path.abspath(path)))))


async def import_checkpoint(
    engine: EngineState, images: Images, path: str | os.PathLike[str], id: str | None, owner: Owner, max_size: int
) -> tuple[ContainerDir, str, str]:
    """Make a stopped container of an archive: its entry and uid, and the name of the checkpoint to start it from."""
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
    if owner not in ("keep", "stop", "remove"):
        raise InvalidSpec("owner", f"{owner!r} is not known", hint="use keep, stop or remove")
    spec, image = await find_again(images, manifest.spec)
    lease = await engine.hold_lease()
    await clear_half_made(engine, id)
    lease.own(id)
    durable = owner != "remove"
    try:
        entry, claim = engine.store.reserve(id, durable=durable)
    except BaseException:
        lease.disown(id)
        raise
    ours = lease.id if owner != "keep" else None
    record = engine.store.new_record(id, spec, owner, ours, kept=True, durable=durable, stdin=manifest.stdin)
    try:
        if image is not None:
            await uninterrupted(in_thread(lambda: image.hold(entry.home)))
        entry.write(record)
        entry.write_spec(spec)
        into = _directory(entry, name)
        await uninterrupted(in_thread(lambda: archive.unpack(source, into, limit=max_size)))
        exit = Exit(code=None, cause=Cause.CHECKPOINTED, at=manifest.created_at)
        entry.link_exit(ExitRecord(version=VERSION, exit=exit))
        record.start_published = record.exit_published = True  # what it did was told elsewhere
        record.starting_at = record.started_at = manifest.created_at
        record.token = b"imported"  # no service knows it; from here on it exists
        entry.write(record)
        await shielded(in_thread(lambda: sync_tree(entry.home), or_here=True))
    except BaseException:
        with suppress(LongshoreError, Damaged, ContainerNotFound):
            await shielded(entry.remove(record.uid, claim, lambda: None))
        lease.disown(id)
        claim.release()
        raise
    claim.release()
    if ours is None:
        lease.disown(id)
    else:
        engine.owned[record.uid] = entry, owner
    return entry, record.uid, name


__all__ = [
    "CheckpointInfo",
    "checkpoint",
    "checkpoints",
    "delete_checkpoint",
    "export_checkpoint",
    "import_checkpoint",
    "start_from",
]
