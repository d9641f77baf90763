"""Rows about many containers at once: how fast they start, and what the number alive costs the next one."""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bare import MILLI, Bare, Bundle
from context import Bench, Sample, awaited, blocking
from measure import Aim, Row, RowMaker, Subject
from rows_processes import SLEEP

from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.machine import has_init
from longshore.spec import Spec

AT_ONCE = 16  # deletions under way; starts are all begun at once


def _alive(pid: int | None) -> bool:
    return pid is not None and os.path.exists(f"/proc/{pid}/root/usr")


class Fleet:
    """Containers that stay up, as many as are wanted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._boxes: list[Container] = []

    async def resize(self, number: int) -> float:
        """Have `number` alive. Returns the milliseconds that starting took, until the last of them was alive."""
        if len(self._boxes) > number:
            surplus, self._boxes = self._boxes[number:], self._boxes[:number]
            slots = asyncio.Semaphore(AT_ONCE)

            async def delete(box: Container) -> None:
                async with slots:
                    await box.delete(force=True)

            await asyncio.gather(*map(delete, surplus))
            return 0.0
        names = [f"fleet-{count}" for count in range(len(self._boxes), number)]
        begin = time.perf_counter()
        self._boxes += await asyncio.gather(*(self._engine.launch(name, root="host", args=SLEEP) for name in names))
        took = (time.perf_counter() - begin) * MILLI
        infos = await self._engine.list(states=("running",))
        dead = number - sum(_alive(info.pid) for info in infos if info.id.startswith("fleet-"))
        if dead:
            raise RuntimeError(f"{dead} of {number} are not alive")
        return took


def _bare_fleet(bare: Bare, number: int) -> Callable[[], float]:
    """The same by hand: as many threads as processors, each starting one container after the other."""
    bundles = [bare.bundle(Spec(args=SLEEP)) for _ in range(number)]

    def sample() -> float:
        waiting = list(bundles)
        places: list[tuple[str, Path, Bundle]] = []
        errors: list[BaseException] = []

        def work() -> None:
            while waiting:
                try:
                    id, bundle = waiting.pop()
                except IndexError:
                    return
                try:
                    place = bare.create(id, bundle)
                    bare.verb("start", id)
                except BaseException as error:
                    errors.append(error)
                    return
                places.append((id, place, bundle))

        threads = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - begin
        pids = [int((place / "pid").read_text()) for _, place, _ in places]
        count = sum(map(_alive, pids))
        for id, place, bundle in places:
            bare.remove(id, place, bundle, force=True)
        if errors:
            raise errors[0]
        if count != number:
            raise RuntimeError(f"{number - count} of {number} are not alive")
        return number / took

    return sample


async def _start_row(bench: Bench, number: int) -> AsyncIterator[Row]:
    subjects = []
    for runtime in bench.runtimes:
        fleet = Fleet(bench.engine(runtime))

        async def rate(fleet: Fleet = fleet) -> float:
            took = await fleet.resize(number)
            await fleet.resize(0)
            return number / took * MILLI

        bare = _bare_fleet(bench.bare(runtime), number)
        subjects += [
            Subject(f"bare conmon + {runtime}", blocking(bare)),
            Subject(f"API, {runtime}", rate, f"bare conmon + {runtime}"),
        ]
    yield Row(subjects, unit="/s", rounds=bench.rounds(3), warm_up=0)


@asynccontextmanager
async def alive(bench: Bench) -> AsyncIterator[Row]:
    async for row in _start_row(bench, min(bench.alive, 6) if bench.quick else bench.alive):
        yield row


@asynccontextmanager
async def alive_1000(bench: Bench) -> AsyncIterator[Row]:
    async for row in _start_row(bench, 1000):
        yield row


@asynccontextmanager
async def growth(bench: Bench) -> AsyncIterator[Row]:
    """Run-and-remove of `true`, bare and by the API, at each number alive; the fleet grows and shrinks in turns."""
    runtime = bench.preferred
    bare, engine = bench.bare(runtime), bench.engine(runtime)
    id, bundle = bare.bundle(Spec(args=["true"], init=has_init()))
    fleet = Fleet(engine)
    times = 3 if bench.quick else 9
    one = awaited(engine.run, "host", ["true"])

    def by_api(number: int) -> Sample:
        async def sample() -> float:
            await fleet.resize(number)
            return statistics.median([await one() for _ in range(times)])

        return sample

    def by_hand(number: int) -> Sample:
        async def sample() -> float:
            await fleet.resize(number)
            return statistics.median([bare.run(id, bundle) for _ in range(times)])

        return sample

    top = min(bench.alive, 4 if bench.quick else 200)
    subjects = [
        Subject(f"bare {runtime}, 1 alive", by_hand(1)),
        Subject(f"API, {runtime}, 1 alive", by_api(1), f"bare {runtime}, 1 alive"),
    ]
    for number in sorted({top // 4, top} - {1}):
        aim = Aim(factor=1.1)
        subjects += [
            Subject(f"bare {runtime}, {number} alive", by_hand(number), f"bare {runtime}, 1 alive"),
            Subject(f"API, {runtime}, {number} alive", by_api(number), f"API, {runtime}, 1 alive", aim),
        ]
    yield Row(subjects, rounds=bench.rounds(3), warm_up=0)
    await fleet.resize(0)


ROWS = [
    RowMaker("alive", "containers started as fast as possible, all alive together", alive),
    RowMaker("alive-1000", "the same with 1,000", alive_1000, on_demand=True),
    RowMaker("growth", "run of `true` while others are alive", growth),
]
