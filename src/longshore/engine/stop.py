"""Stop: ask a container to end, and kill it when its time is up."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..errors import InvalidState, ServiceError
from ..exit_record import Exit
from .kill import KILL, end_created, kill
from .lookup import derive, open_container
from .pause import resume
from .state import ContainerRef
from .states import ALIVE, CREATED, PAUSED, Verb, check_state
from .wait import wait, wait_for_end


async def stop(container: ContainerRef, grace: float, number: int | None) -> Exit:
    """Send the stop signal (or signal `number`), kill after `grace` seconds, and return how the container ended.

    A paused container is resumed, so that it can react. If cancelled during the grace, the container runs on.
    """
    record = container.read_current()
    info = await derive(container, record)
    check_state(Verb.STOP, container.id, info.state)
    if info.state == CREATED and await end_created(container, record):
        info = await derive(container, container.read_current())
    if info.exit is not None:
        return info.exit
    if info.state in ALIVE:
        chosen = number if number is not None else record.stop_signal
        with suppress(InvalidState):
            opened = await open_container(container, record)
            if grace > 0 and chosen != KILL and await opened.system.can_receive(chosen):
                with suppress(ServiceError, LookupError):  # it may have ended this moment
                    await opened.system.shutdown(chosen)
                if info.state == PAUSED:
                    with suppress(InvalidState):
                        await resume(container)
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace / 2):
                        return await wait(container)
                with suppress(ServiceError, LookupError):
                    await opened.system.urge()
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace / 2):
                        return await wait(container)
        await kill(container)
    return await wait_for_end(container)
