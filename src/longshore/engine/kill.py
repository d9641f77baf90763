"""Kill: end a container at once, in whatever state it is."""

from __future__ import annotations

from contextlib import suppress

from ..errors import ContainerNotFound, InvalidState, StoreError
from ..exit_record import Cause
from ..store.records import Record
from .exits import record_never_started
from .lookup import is_past, open_container
from .state import ContainerRef, log
from .states import CREATING, Verb, wrong_state

KILL = 9


async def kill(container: ContainerRef, cause: Cause = Cause.KILLED) -> None:
    """Ask the service to end the container at once, and return. A container that has ended is left as it is."""
    try:
        record = container.read_current()
    except ContainerNotFound:
        if container.opened is None:
            raise
        return  # deleted: it has ended
    if container.directory.read_exit() is not None:
        return
    is_past(container.engine, record, "kill")
    if not record.token:
        raise wrong_state(Verb.KILL, container.id, CREATING)
    if record.starting_at is None and await end_created(container, record):
        return
    if record.ending is None:

        def ending(record: Record) -> None:
            record.ending = record.ending or cause

        try:
            await container.change(ending)
        except StoreError as error:  # a full disk must not keep a container alive
            log.warning("why container `%s` ends could not be noted: %s", container.id, error)
    with suppress(InvalidState):  # gone
        opened = await open_container(container, record)
        await opened.system.terminate()


async def end_created(container: ContainerRef, record: Record) -> bool:
    """End a container that was never started. Returns False if another program is starting it right now."""
    try:
        claim = container.directory.claim("stop")
    except InvalidState:
        return False
    try:
        record = container.read_current()
        if record.starting_at is not None:
            return False
        await record_never_started(container, record)
        with suppress(InvalidState):
            opened = await open_container(container, record)
            await opened.system.terminate()
    finally:
        claim.release()
    return True
