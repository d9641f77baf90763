"""Half-made containers: what a creator that died has left, and what could not be undone."""

from __future__ import annotations

from contextlib import suppress

from ..errors import ContainerNotFound, InvalidState
from ..store.container_dir import ContainerDir, trash_name
from ..store.records import Damaged, Record
from .delete import delete
from .lookup import NamedLease, named_lease
from .state import ContainerRef, EngineState, log


async def clear_half_made(engine: EngineState, id: str) -> None:
    """Undo the container with this id if its creator died, so that the id is free."""
    with suppress(ContainerNotFound, Damaged):
        await undo_half_made(engine, engine.store.container_dir(id))


async def undo_half_made(engine: EngineState, directory: ContainerDir, lease: str | None = None) -> bool:
    """Undo a container that has no token and no living creator. Returns whether it was one.

    `lease` is the lease that it may have belonged to. Raises Damaged if the container has lost its record. But one that
    belonged to `lease`, and would not have outlived it, is deleted then.
    """
    try:
        if _is_made(directory):
            return False
    except Damaged:
        if lease is None or directory.durable:
            raise
        await delete(ContainerRef(engine, directory, ""), force=True)
        return True
    try:
        claim = directory.claim("create")
    except (InvalidState, ContainerNotFound):
        return False  # it is being made, or undone, right now
    try:
        if _is_made(directory):
            return False
        record: Record | None = None
        with suppress(ContainerNotFound):
            record = directory.read()
        if _is_hidden(engine, record):
            return False  # its helpers may still run, and could neither be seen nor ended from here
        owner = named_lease(record) or (NamedLease(lease) if lease is not None else None)
        await engine.service.abandon(directory.id, directory.place(owner))
        await directory.remove(record.uid if record is not None else trash_name(), claim, lambda: None)
    finally:
        claim.release()
    log.info("undid container `%s`: the program that created it died", directory.id)
    return True


def _is_hidden(engine: EngineState, record: Record | None) -> bool:
    if record is None:
        return engine.store.sight_at(engine.store.run) == "hidden"
    return engine.store.sight(record)[0] == "hidden"


def _is_made(directory: ContainerDir) -> bool:
    try:
        return bool(directory.read().token)
    except ContainerNotFound:
        return False
