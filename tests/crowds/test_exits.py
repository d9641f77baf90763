"""One exit after the other: the caller does not grow, and no code is another's."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from longshore.engine.container import Container
from longshore.engine.engine import Engine

from .measure import descriptors, memory, tell
from .sizes import EXITS

AT_ONCE = 4
GROWTH = 2.0  # MB in all; a leak of one small object for each exit of 10,000 is more
COLLECTED = 400  # exits until caches are full and the allocator has what it takes


async def test_a_caller_does_not_grow_with_the_number_of_exits(state: Path) -> None:
    """Of every ten exits five are of an exec, four of a run, one of a kept container from its start to its deletion."""
    async with asyncio.timeout(3000), Engine(state=state, runtime="crun") as engine:
        base = await engine.launch("base", root="host", args=["sleep", "10000"], owner="remove")
        before: tuple[float, int] | None = None
        begin = time.perf_counter()
        for first in range(0, EXITS, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, EXITS))
            codes = await asyncio.gather(*(one(engine, base, number) for number in numbers))
            assert codes == [number % 256 for number in numbers]
            if before is None and first >= COLLECTED:
                before = memory(), descriptors()
        assert before is not None
        grown = memory() - before[0]
        tell(f"{EXITS} exits, {AT_ONCE} at a time: {EXITS / (time.perf_counter() - begin):.0f} a second")
        tell(f"memory {before[0]:.1f} MB, grown by {grown:.2f} MB; descriptors {before[1]}, then {descriptors()}")
        assert grown < GROWTH
        assert descriptors() <= before[1]
        await base.delete(force=True)
        assert await engine.list() == []


async def one(engine: Engine, base: Container, number: int) -> int | None:
    command = ["sh", "-c", f"exit {number % 256}"]
    if number % 10 < 5:
        return (await (await base.exec(command)).wait()).code
    if number % 10 < 9:
        return (await engine.run("host", command)).exit_code
    box = await engine.launch(f"box-{number}", root="host", args=command)
    code = (await box.wait()).code
    await box.delete()
    return code
