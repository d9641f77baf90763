"""That the loop is woken, every time: what all tests under Wine rest on (scripts/wine)."""

from __future__ import annotations

import asyncio


async def test_no_wake_of_the_loop_is_lost() -> None:
    async with asyncio.timeout(60):
        for _ in range(10_000):
            await asyncio.to_thread(int)
