"""Subscriptions to events: the journal from a cursor on, while all that runs is watched for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from ..compute.events import Event, Gap
from ..errors import LongshoreError
from ..fs.files import as_store_errors
from ..fs.watching import DirectoryWatch
from ..store.journal import JournalReader
from .lookup import listing, open_container
from .state import EngineState, log


async def subscription(
    engine: EngineState, reader: JournalReader | None, since: int | None, *, follow: bool, container: str | None
) -> AsyncGenerator[Event | Gap, None]:
    """What `Engine.events` gives. `reader`: where to begin, if that was fixed when it was asked for."""
    await engine.open()
    with as_store_errors("read the journal"):
        async with aclosing(_events(engine, reader, since, follow=follow, container=container)) as events:
            async for event in events:
                yield event


async def _events(
    engine: EngineState, reader: JournalReader | None, since: int | None, *, follow: bool, container: str | None
) -> AsyncGenerator[Event | Gap, None]:
    if reader is None:
        reader = JournalReader(engine.store.journal, since)
    if not follow:
        await listing(engine, None, None)  # ends that nobody has told are found by it
        for event in reader.read():
            if _wanted(event, container):
                yield event
        return
    watch = DirectoryWatch(engine.store.journal.directory)
    engine.subscriptions.add(watch.close)
    watching = engine.spawn(_watch_running(engine, container), "watch all, for events")
    try:
        while not engine.closed:
            for event in reader.read():
                if isinstance(event, Event) and event.type == "start-container" and _wanted(event, container):
                    await _watch_one(engine, event.container)
                if _wanted(event, container):
                    yield event
            await watch.changed()
    finally:
        engine.subscriptions.discard(watch.close)
        watch.close()
        if not watching.done():
            watching.cancel()
            await asyncio.wait((watching,))


def _wanted(event: Event | Gap, container: str | None) -> bool:
    return container is None or isinstance(event, Gap) or event.container == container


async def _watch_running(engine: EngineState, container: str | None) -> None:
    """Watch every container that runs, so that its end is told even if its starter is gone.

    Costs a few descriptors for each; where there are too many, those that are left are told when somebody looks.
    """
    try:
        for info in await listing(engine, None, ("running", "paused")):
            if container is None or info.id == container:
                await _watch_one(engine, info.id)
                await asyncio.sleep(0)  # opening them waits for nothing: others are to have their turn
    except OSError as error:
        log.warning("not every container can be watched for events: %s (raise `ulimit -n`)", error)


async def _watch_one(engine: EngineState, id: str) -> None:
    with suppress(LongshoreError), as_store_errors("watch a container"):
        entry = engine.store.container_dir(id)
        record = entry.read()
        if record.token and record.starting_at is not None and entry.read_exit() is None:
            await open_container(engine, entry, record)
