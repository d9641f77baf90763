"""A container that writes without end: its log keeps to its bound, and nobody who does not read stalls anything."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.logs.reader import LogGap, LogRecord

from .measure import MILLI, memory, tell
from .sizes import RUNTIMES, WRITING

BOUND = 1 << 20
COUNTING = ["seq", "1", "1000000000000"]
HEADS = 8192 // 2 * 48  # what the heads of the shortest lines of one read of the monitor's may add at the bound


class Counted:
    """Numbered lines as a reader meets them: between two gaps not one may be missing."""

    def __init__(self) -> None:
        self.lines = 0
        self.gaps = 0
        self.most = 0  # the last number that surely was one
        self._line = b""
        self._before: int | None = 0  # the number of the line before; None: it was lost
        self._cut = False  # that may be the rest of one whose beginning was lost

    def take(self, item: LogRecord | LogGap) -> None:
        if isinstance(item, LogGap):
            self.gaps += 1
            self._line, self._before = b"", None
            return
        self._line += item.data
        if not item.data.endswith(b"\n"):
            return
        line, self._line = self._line.strip(), b""
        self.lines += 1
        if self._before is None:  # nothing is known of it: it may even be empty
            self._before, self._cut = int(line or b"0"), True
            return
        number = int(line)
        if self._cut and number != self._before + 1:
            assert not self._before or str(number - 1).endswith(str(self._before)), (self._before, number)
        else:
            assert number == self._before + 1
        self.most, self._before, self._cut = number, number, False


async def sizes(box: Container, until: asyncio.Event) -> int:
    """The most that the files of a log had together while it was written."""
    log = Path(str((await box.inspect())["log"]))
    most = 0
    while not until.is_set():
        total = 0
        for name in os.listdir(log.parent):
            if name.startswith(log.name):
                try:
                    total += (log.parent / name).stat().st_size
                except FileNotFoundError:  # it has just been replaced
                    continue
        most = max(most, total)
        await asyncio.sleep(0.005)
    return most


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_bounded_log_loses_nothing_that_it_says_it_keeps(state: Path, runtime: str) -> None:
    async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
        quiet = await engine.launch("quiet", root="host", args=["sleep", "1000"], owner="remove")
        box = await engine.create("box", root="host", args=COUNTING, log_size=BOUND, owner="remove")
        counted = Counted()

        async def read() -> None:
            async for record in box.logs(follow=True):
                counted.take(record)

        unread = await box.attach()  # by one who never reads
        reading = asyncio.create_task(read())
        ended = asyncio.Event()
        watching = asyncio.create_task(sizes(box, ended))
        await box.start()
        await asyncio.sleep(WRITING / 4)
        early, before = counted.most, memory()
        begin = time.perf_counter()
        slowest = 0.0
        while time.perf_counter() - begin < WRITING * 3 / 4:
            once = time.perf_counter()
            assert len(await engine.list(states=["running"])) == 2
            slowest = max(slowest, time.perf_counter() - once)
            await asyncio.sleep(0.05)
        grown = memory() - before
        assert counted.most > early, "nobody has stalled it"
        process = await quiet.exec(["echo", "hi"])
        assert await process.communicate() == (b"hi\n", b"")
        await box.kill()
        await reading
        ended.set()
        most = await watching
        tell(f"{runtime}: {counted.most} lines in {WRITING:g} s, {counted.lines} of them read, {counted.gaps} gaps")
        tell(
            f"log at most {most / 1e6:.2f} MB of {BOUND / 1e6:.2f}; the caller grew by {grown:.1f} MB; ",
        )
        tell(f"a listing took at most {slowest * MILLI:.0f} ms")
        assert most <= BOUND + HEADS
        assert grown < 6, "what nobody reads stays in the log"
        assert slowest < 2

        kept = Counted()
        async with aclosing(box.logs()) as records:
            async for record in records:
                kept.take(record)
        assert kept.gaps == 1, "what the bound has cost is told once, before all that is kept"
        assert kept.most >= counted.most
        assert kept.lines > 0
        await unread.close()


async def test_an_exec_whose_output_nobody_reads_costs_its_caller_nothing(state: Path) -> None:
    async with asyncio.timeout(300), Engine(state=state, runtime="crun") as engine:
        box = await engine.launch("box", root="host", args=["sleep", "1000"], owner="remove")
        before = memory()
        processes = [await box.exec(["yes"], stdout=PIPE) for _ in range(8)]
        await asyncio.sleep(WRITING / 3)
        assert memory() - before < 8, "a pipe and a buffer for each"
        for process in processes:
            assert process.exit is None
            await process.kill()
            assert (await process.wait()).signal == 9
