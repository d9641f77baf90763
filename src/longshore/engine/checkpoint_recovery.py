"""Clean up after a program that died in a checkpoint or a restore: the container runs again, or stays stopped."""

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
from .state import ContainerRef, EngineState, log

FOLDER = "checkpoints"  # in the home
MARK = "restoring"  # in the home: the uid of the life that is being made


async def undo_checkpoint(container: ContainerRef) -> None:
    """Resume a container that a checkpoint froze, and remove incomplete checkpoints. The caller has the claim."""
    record = container.read_current()
    for path in (container.directory.home / FOLDER).glob(".*"):
        with suppress(StoreError):
            remove_tree(path)
    if not record.paused and await state_of(container.engine, record) is State.PAUSED:
        with suppress(InvalidState):
            opened = await open_container(container, record)
            await opened.system.resume()

    def done(record: Record) -> None:
        record.checkpointing = False

    await container.change(done)


async def undo_half_restored(engine: EngineState, directory: ContainerDir) -> None:
    """Undo a restore whose program died before it was recorded; complete one that was. The caller has the claim."""
    try:
        uid = read_whole(directory.home / MARK).decode()
    except (OSError, UnicodeDecodeError):
        return
    service = engine.service
    if isinstance(service, Checkpointable):
        record = directory.read()
        place = directory.place(named_lease(record))
        if record.uid == uid:
            await service.keep_restored(place)
        else:
            await service.undo_restore(directory.id, place)
            log.info("undid the restore of container `%s`: the program that restored it died", directory.id)
    (directory.home / MARK).unlink(missing_ok=True)


async def take_back(engine: EngineState, directory: ContainerDir) -> None:
    """Undo both a checkpoint and a restore that were begun, for a container that no program is changing now."""
    try:
        record = directory.read()
        if not record.checkpointing and not (directory.home / MARK).exists():
            return
        claim = directory.claim("resume")
    except (InvalidState, ContainerNotFound, Damaged):
        return
    try:
        await undo_half_restored(engine, directory)
        if (record := directory.read()).checkpointing:
            await undo_checkpoint(ContainerRef(engine, directory, record.uid))
    except (LongshoreError, OSError) as error:
        log.warning("container `%s`: what was begun with it could not be undone: %s", directory.id, error)
    finally:
        claim.release()
