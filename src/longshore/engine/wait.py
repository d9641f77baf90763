"""Wait: return how a container ended, whichever program started it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

from ..errors import ContainerNotFound, EngineClosed, InvalidState, TimeLimit
from ..exit_record import Exit
from ..fs.watching import DirectoryWatch
from .exits import publish_missing
from .lookup import derive, end_of_gone, open_container
from .state import ContainerRef
from .states import CREATED, Verb, wrong_state

T = TypeVar("T")


async def wait(container: ContainerRef) -> Exit:
    """Wait for the end of init and return it. Raises InvalidState if it was not started.

    If cancelled, only the waiting stops.
    """
    directory = container.directory
    while True:
        opened = container.opened
        if opened is not None and opened.watcher is not None:
            return await _result_of(opened.watcher)
        record = container.read_current()
        found = directory.read_exit()
        if found is not None:
            await publish_missing(container, record)
            return found.exit
        if opened is not None and opened.starting is not None:
            await asyncio.shield(opened.starting)
            continue
        if record.starting_at is None:
            raise wrong_state(Verb.WAIT, container.id, CREATED)
        try:
            opened = await open_container(container, record)
        except InvalidState:
            exit = await end_of_gone(container)
            if exit is not None:
                return exit
            raise
        if opened.watcher is None and opened.starting is None and directory.read_exit() is None:
            # another program is starting it, on a service that shows no init yet
            claim = await directory.wait_for_claim("wait for", container.engine.limits.other_start)
            claim.release()
            await derive(container, container.read_current())  # ends it, if that program has died meanwhile


async def _result_of(watcher: asyncio.Task[T]) -> T:
    """Wait for a task of the engine and return its result. Raises EngineClosed if closing the engine cancelled it."""
    try:
        return await asyncio.shield(watcher)
    except asyncio.CancelledError:
        if watcher.cancelled():
            raise EngineClosed from None
        raise


async def wait_for_end(container: ContainerRef) -> Exit:
    """Wait for the end of a container that was killed. Raises TimeLimit, since a process can hang in the kernel."""
    try:
        async with asyncio.timeout(container.engine.limits.end):
            return await wait(container)
    except TimeoutError:
        raise TimeLimit(
            f"killed container `{container.id}`",
            container.engine.limits.end,
            hint="look for a process in state D (`ps`): it hangs in the kernel",
        ) from None


async def ended(container: ContainerRef) -> None:
    """Wait until the container has ended or is deleted. One that is not started yet is waited for as well."""
    with suppress(ContainerNotFound, InvalidState, OSError), DirectoryWatch(container.directory.home) as watch:
        while True:
            record = container.read_current()
            if container.directory.read_exit() is not None:
                return
            if record.starting_at is not None:
                await wait(container)
                return
            await watch.changed()
