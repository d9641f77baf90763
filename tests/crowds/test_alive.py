"""As many containers at once as a busy machine has: started, listed, measured, used, ended; nobody is mixed up."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict
from contextlib import aclosing
from pathlib import Path

import pytest

from longshore.compute.events import Event
from longshore.compute.limits import Limits
from longshore.engine.container import Container
from longshore.engine.engine import Engine

from ..faults.disk import Disk, installed
from .measure import MILLI, descriptors, memory, milliseconds, tell
from .sizes import ALIVE

LISTING = 4  # calls on files for each that runs: its record, whether it has ended, its init, its freezer
PROGRAM = "trap 'exit {code}' TERM; sleep 10000 & echo {name}; wait"
USED = 20  # of them get an exec, all at once
PATIENT = Limits(create=600, start=600, verb=300, settle=300, end=600)  # hundreds wait for a few processors


def code_of(name: str) -> int:
    return int(name.partition("-")[2]) % 100 + 1


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_a_crowd_lives_and_ends_each_with_its_own_code_output_and_events(state: Path, runtime: str) -> None:
    number = ALIVE[runtime]
    names = [f"box-{count}" for count in range(number)]
    async with asyncio.timeout(900), Engine(state=state, runtime=runtime, limits=PATIENT) as engine:
        first = await launch(engine, "first-0")  # what an engine has once it was used
        await until_it_speaks(first)
        await first.delete(force=True)
        empty, closed = memory(), descriptors()

        begin = time.perf_counter()
        boxes = await asyncio.gather(*(launch(engine, name) for name in names))
        started = time.perf_counter() - begin
        tell(f"{runtime}: {number} started in {started:.1f} s, {number / started:.0f} a second")
        grown, opened = memory() - empty, descriptors() - closed
        tell(f"for each: {grown / number * MILLI:.0f} kB and {opened / number:.2f} descriptors")
        assert opened <= number + 8
        assert grown < 3 + number * 0.06

        times: list[float] = []
        processor: list[float] = []
        for _ in range(9):
            begin, used = time.perf_counter(), time.process_time()
            found = await engine.list(states=["running"])
            times.append(time.perf_counter() - begin)
            processor.append(time.process_time() - used)
            assert {info.id for info in found} == set(names)
        tell(
            f"listed: best {min(times) * MILLI:.1f} ms, {milliseconds(times)}; of a processor {milliseconds(processor)}"
        )
        with installed(Disk(Path("/"))) as disk:
            disk.break_at(sys.maxsize)  # counted, and none fails
            await engine.list(states=["running"])
        tell(f"with {len(disk.calls) / number:.2f} calls on files for each")
        assert len(disk.calls) <= number * LISTING + 8, "each is asked once"

        for box in boxes:
            await until_it_speaks(box)

        begin = time.perf_counter()
        measured = await asyncio.gather(*(box.stats() for box in boxes))
        tell(f"measured, all of them: {(time.perf_counter() - begin) * MILLI:.0f} ms")
        assert all(stats.memory and stats.pids == 2 for stats in measured)

        said = await asyncio.gather(*(say(box) for box in boxes[:: max(1, number // USED)]))
        assert [name for name, _ in said] == [name for _, name in said]

        begin = time.perf_counter()
        exits = await asyncio.gather(*(box.stop(grace=300) for box in boxes))
        tell(f"stopped, all of them: {time.perf_counter() - begin:.1f} s")
        assert [exit.code for exit in exits] == [code_of(name) for name in names]

        for box in boxes:
            lines = [record.data async for record in box.logs() if hasattr(record, "data")]
            assert lines == [f"{box.id}\n".encode()]

        begin = time.perf_counter()
        await asyncio.gather(*(box.delete() for box in boxes))
        tell(f"deleted, all of them: {time.perf_counter() - begin:.1f} s")
        assert await engine.list() == []
        assert descriptors() <= closed
        await check_events(engine, names)


async def launch(engine: Engine, name: str) -> Container:
    program = PROGRAM.format(code=code_of(name), name=name)
    return await engine.launch(name, root="host", args=["sh", "-c", program], owner="remove")


async def until_it_speaks(box: Container) -> None:
    async with aclosing(box.logs(follow=True)) as records:
        await anext(records)


async def say(box: Container) -> tuple[str, str]:
    process = await box.exec(["echo", box.id])
    out, _ = await process.communicate()
    return box.id, (out or b"").decode().strip()


async def check_events(engine: Engine, names: list[str]) -> None:
    """Each has had one life, told in its order."""
    told: dict[str, list[Event]] = defaultdict(list)
    last = 0
    async for event in engine.events(since=0, follow=False):
        assert isinstance(event, Event)
        assert event.seq > last
        last = event.seq
        if event.type in ("start-container", "exit", "delete"):
            told[event.container].append(event)
    for name in names:
        events = told[name]
        assert [event.type for event in events] == ["start-container", "exit", "delete"]
        assert events[1].exit is not None
        assert events[1].exit.code == code_of(name)
