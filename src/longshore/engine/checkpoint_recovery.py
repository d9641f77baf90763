"""What somebody who died has left of a checkpoint or a restore: the container goes on, or is stopped as it was."""

from __future__ import annotations

from contextlib import suppress

from ..compute.protocols import Checkpointable
from ..compute.values import State
from ..errors import ContainerNotFound, InvalidState, LongshoreError, StoreError
from ..fs.files import read_whole
from ..fs.trees import remove_tree
from ..store.container_dir import ContainerDir
from ..store.records import Damaged, Record
from .lookup import named_lease, open_container, state_of
from .state import EngineState, log

FOLDER = "checkpoints"  # in the home
MARK = "restoring"  # in the home: the uid of the life that is being made


async def undo_checkpoint(engine: EngineState, entry: ContainerDir, uid: str) -> None:
    """Let a container go on that is frozen for a checkpoint, and remove what is not whole. The caller has the claim."""
    record = entry.read_own(uid)
    for path in (entry.home / FOLDER).glob(".*"):
        with suppress(StoreError):
            remove_tree(path)
    if not record.paused and await state_of(engine, record) is State.PAUSED:
        with suppress(InvalidState):
            opened = await open_container(engine, entry, record)
            await opened.system.resume()

    def done(record: Record) -> None:
        record.checkpointing = False

    await entry.change(uid, done)


async def undo_half_restored(engine: EngineState, entry: ContainerDir) -> None:
    """Undo a restore whose maker died before it was on record; tidy up after one that was. The caller has the claim."""
    try:
        uid = read_whole(entry.home / MARK).decode()
    except (OSError, UnicodeDecodeError):
        return
    service = engine.service
    if isinstance(service, Checkpointable):
        record = entry.read()
        place = entry.place(named_lease(record))
        if record.uid == uid:
            await service.keep_restored(place)
        else:
            await service.undo_restore(entry.id, place)
            log.info("undid the restore of container `%s`: the program that restored it died", entry.id)
    (entry.home / MARK).unlink(missing_ok=True)


async def take_back(engine: EngineState, entry: ContainerDir) -> None:
    """Both, for a container that nobody is at any more."""
    try:
        record = entry.read()
        if not record.checkpointing and not (entry.home / MARK).exists():
            return
        claim = entry.claim("resume")
    except (InvalidState, ContainerNotFound, Damaged):
        return
    try:
        await undo_half_restored(engine, entry)
        if entry.read().checkpointing:
            await undo_checkpoint(engine, entry, entry.read().uid)
    except (LongshoreError, OSError) as error:
        log.warning("container `%s`: what was begun with it could not be undone: %s", entry.id, error)
    finally:
        claim.release()
