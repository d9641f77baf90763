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
from .listing import listing
from .lookup import open_container
from .state import ContainerRef, EngineState, log
from .states import ALIVE


async def subscription(
    engine: EngineState, reader: JournalReader | None, since: int | None, *, follow: bool, container: str | None
) -> AsyncGenerator[Event | Gap, None]:
    """Yield the events for `Engine.events`. `reader` is where to begin, if that was fixed by the call."""
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
        await listing(engine, None, None)  # it publishes exits that are missing
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
    """Watch every container that runs, so that its exit is published even if its starter is gone.

    Each costs a few descriptors. If these run out, the exits of the rest are published when a program reads them.
    """
    try:
        for info in await listing(engine, None, ALIVE):
            if container is None or info.id == container:
                await _watch_one(engine, info.id)
                await asyncio.sleep(0)  # opening them waits for nothing, and other tasks need their turn
    except OSError as error:
        log.warning("not every container can be watched for events: %s (raise `ulimit -n`)", error)


async def _watch_one(engine: EngineState, id: str) -> None:
    with suppress(LongshoreError), as_store_errors("watch a container"):
        directory = engine.store.container_dir(id)
        record = directory.read()
        if record.token and record.starting_at is not None and directory.read_exit() is None:
            await open_container(ContainerRef(engine, directory, record.uid), record)
