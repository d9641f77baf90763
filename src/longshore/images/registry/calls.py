"""Work at a registry, awaited by asyncio: it runs in a thread of its own, and ends when its awaiter is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ...aio.tasks import in_thread
from ..locks import Stop
from .interrupts import Interrupt

T = TypeVar("T")

ENDING = 15.0
"""Seconds that a cancelled call may take to end; only the look-up of an address can take as long."""


async def call(work: Callable[[], T], interrupt: Interrupt | Stop, name: str = "longshore-registry") -> T:
    """Run blocking work in a thread, and return its result. `interrupt` is the one that its connections obey.

    If cancelled: the work is interrupted, and has ended when the cancellation is raised. A look-up of an address cannot
    be ended: its thread is left to itself after `ENDING` seconds, and does nothing more then.
    """
    running = asyncio.ensure_future(in_thread(work, name))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        interrupt.set()
        # a second cancellation ends the waiting, too
        await asyncio.wait([running], timeout=ENDING)
        if running.done() and not running.cancelled():
            running.exception()  # mark it as retrieved
        raise
