"""Blocking work at a registry from asyncio: its result, its errors, and its end when it is cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from longshore.images.registry.calls import call
from longshore.images.registry.interrupts import Interrupt

from .clients import blob_of, source
from .faulty import Handler, faulty_registry


async def test_the_result_and_the_error_are_the_works() -> None:
    assert await call(lambda: 42, Interrupt()) == 42

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await call(fail, Interrupt())


async def test_a_cancelled_call_has_ended_before_the_cancellation_arrives() -> None:
    interrupt = Interrupt()
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    ended = threading.Event()

    def hang(handler: Handler) -> None:
        loop.call_soon_threadsafe(arrived.set)
        handler.hang()

    with faulty_registry() as registry:
        registry.on("GET", "blobs", hang)

        def work() -> bytes:
            try:
                with source(f"{registry.host}/a", interrupt=interrupt) as opened:
                    return opened.blob(blob_of(b"content"))
            finally:
                ended.set()

        task = asyncio.ensure_future(call(work, interrupt))
        await asyncio.wait_for(arrived.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
