"""Pause and resume: freeze all processes of a container, and let them run again.

A change is noted in the record before it is made (`Record.change`), and published after it. If this program dies in
between, the next reader compares the note with what the service says, and publishes the change if it was made
(`lookup.publish_change`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from ..aio.tasks import shielded
from ..errors import LongshoreError
from ..store.journal import NewEvent, Position
from ..store.records import Change, Record
from .lookup import derive, publish_change, with_system
from .state import ContainerRef
from .states import RULES, RUNNING, Verb, check_state


async def pause(container: ContainerRef) -> None:
    """Freeze the container. Raises InvalidState unless it is running. If cancelled, it is resumed."""
    await _change(container, Verb.PAUSE, "pause")


async def resume(container: ContainerRef) -> None:
    """Let the container run again. Raises InvalidState unless it is paused.

    If cancelled, the container may already have resumed; the event is then published.
    """
    await _change(container, Verb.RESUME, "resume")


async def _change(container: ContainerRef, verb: Verb, type: Literal["pause", "resume"]) -> None:
    container.read_current()
    claim = container.directory.claim(type)
    try:
        record = container.read_current()
        await publish_change(container, record, claimed=True)  # before it is overwritten
        info = await derive(container, record)
        allowed = RULES[verb].allowed
        if type == "resume" and info.state == RUNNING and await _may_be_paused(container):
            allowed = frozenset((RUNNING,))
        check_state(verb, container.id, info.state, allowed=allowed)
        change = Change(type, container.engine.store.journal.end())

        def begun(record: Record) -> None:
            record.change = change

        await container.change(begun)
        try:
            await with_system(
                container, verb, lambda system: system.pause() if type == "pause" else system.resume(), allowed=allowed
            )
        except BaseException:  # after a cancellation the change may have been made
            with suppress(LongshoreError, OSError):
                await shielded(publish_change(container, container.read_current(), claimed=True))
            raise
        try:
            await shielded(_record_change(container, change))
        except BaseException:  # after a cancellation it is published; after an error it may be
            if type == "pause":
                await shielded(_undo_pause(container, change.since))
            raise
    finally:
        claim.release()


async def _may_be_paused(container: ContainerRef) -> bool:
    """Return whether a pause of ours was neither completed nor undone: then the service is asked to resume it."""
    opened = container.opened
    return opened is not None and await opened.system.paused()


async def _undo_pause(container: ContainerRef, since: Position) -> None:
    """Resume the container. The event is published only if the pause was."""
    with suppress(LongshoreError, OSError):
        await with_system(container, Verb.RESUME, lambda system: system.resume())
        async with container.directory.locked():
            record = container.read_current()
            if not record.exit_published and any(event.type == "pause" for event in container.published(since)):
                container.publish(NewEvent("resume"))
            record.paused, record.change = False, None
            container.directory.write(record)


async def _record_change(container: ContainerRef, change: Change) -> None:
    async with container.directory.locked():
        record = container.read_current()
        if record.exit_published:
            return
        paused = change.type == "pause"
        if record.change is not None or record.paused != paused:  # else a reader has found it done and published it
            container.publish(NewEvent(change.type), unless_since=change.since)
        record.paused, record.change = paused, None
        container.directory.write(record)
