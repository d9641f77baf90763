"""Rows that need no runtime: the engine's own share, on the simulator; and Windows' parts, as far as they run here."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bare import MILLI
from context import Bench
from measure import Aim, Row, RowMaker, Subject

from longshore.compute.values import PIPE, Place, Stdio
from longshore.engine.engine import Engine
from longshore.hcs.system.notifications import OF_PROCESSES, Notifications, Type, Watch
from longshore.logs.format import LogRecord
from longshore.simulator import Process, Simulator, Temperament
from longshore.spec import ProcessSpec, Spec

TEMPERAMENTS: tuple[Temperament, ...] = ("oci", "hcs")
MEMORY = "/dev/shm"  # as /run is on most machines
HERE = Path(__file__).resolve().parent
THREADS = 8  # of the compute service's, that call back
LINES = 20


async def _median_of(times: int, once: Callable[[int], Awaitable[object]]) -> float:
    """Milliseconds of one of many."""
    samples = []
    for number in range(times):
        begin = time.perf_counter()
        await once(number)
        samples.append((time.perf_counter() - begin) * MILLI)
    return sorted(samples)[times // 2]


@asynccontextmanager
async def share(bench: Bench) -> AsyncIterator[Row]:
    """create, start and wait of `true`; what the simulator itself takes for them is the baseline."""
    times = 20 if bench.quick else 200
    base = Path(tempfile.mkdtemp(prefix="longshore-bench-", dir=MEMORY if os.path.isdir(MEMORY) else None))
    subjects = []
    try:
        for kind in TEMPERAMENTS:
            simulator = Simulator(kind)
            place = Place(run=base, data=base)

            async def alone(simulator: Simulator = simulator, place: Place = place) -> float:
                async def once(number: int) -> None:
                    system = await simulator.create(f"box-{number}", Spec.of(args=["true"]), Stdio(stderr=PIPE), place)
                    init = await system.start()
                    await system.settle(await init.wait(), 1)
                    asyncio.get_running_loop().call_soon(simulator.machine.remove, system.system)

                return await _median_of(times, once)

            async def by_engine(kind: Temperament = kind, where: Path = base) -> float:
                with tempfile.TemporaryDirectory(dir=where) as state:
                    async with Engine(Simulator(kind), state=state) as engine:

                        async def once(number: int) -> None:
                            box = await engine.create(f"box-{number}", root="host", args=["true"])
                            await box.start()
                            await box.wait()

                        return await _median_of(times, once)

            async def on_disk(kind: Temperament = kind) -> float:
                return await by_engine(kind, bench.work)

            baseline = f"simulator alone, {kind}"
            subjects += [
                Subject(baseline, alone),
                Subject(f"engine, {kind}", by_engine, baseline, Aim(plus=1.0)),
                Subject(f"engine, {kind}, state on disk", on_disk, baseline),
            ]
        yield Row(subjects, rounds=bench.rounds(9))
    finally:
        shutil.rmtree(base)


async def _lines(process: Process) -> int:
    for number in range(LINES):
        await process.stdout.write(b"%s: line %d\n" % (process.args[1].encode(), number))
    return 7


@asynccontextmanager
async def at_once(bench: Bench) -> AsyncIterator[Row]:
    """Systems that are launched all at once; each writes, and nothing of it may be missing."""
    count = 50 if bench.quick else 1000

    def crowd(kind: Temperament) -> Subject:
        async def sample() -> float:
            with tempfile.TemporaryDirectory(dir=bench.work) as state:
                async with Engine(Simulator(kind, programs={"lines": _lines}), state=state) as engine:
                    begin = time.perf_counter()
                    names = [f"box-{number}" for number in range(count)]
                    await asyncio.gather(*[_life(engine, name) for name in names])
                    return count / (time.perf_counter() - begin)

        return Subject(f"engine, {kind}", sample)

    yield Row([crowd(kind) for kind in TEMPERAMENTS], unit="/s", rounds=bench.rounds(3), warm_up=0)


async def _life(engine: Engine, name: str) -> None:
    box = await engine.create(name, root="host", args=["lines", name])
    await box.start()
    exit = await box.wait()
    output = b"".join([record.data async for record in box.logs() if isinstance(record, LogRecord)])
    if exit.code != 7 or output != b"".join(b"%s: line %d\n" % (name.encode(), number) for number in range(LINES)):
        raise RuntimeError(f"{name}: {exit.code}, {len(output)} bytes of output")
    await box.delete()


@asynccontextmanager
async def notifications(bench: Bench) -> AsyncIterator[Row]:
    """What the service's threads tell until who waits for it has woken; none may be lost."""
    count = 1_000 if bench.quick else 40_000

    async def callbacks() -> float:
        """By the callback that the DLL is given, from THREADS threads; a watch, and who waits for it, for each."""
        told = Notifications()
        loop = asyncio.get_running_loop()
        watches = [Watch(loop, OF_PROCESSES) for _ in range(count)]
        numbers = [told.add(watch) for watch in watches]

        def postman(mine: list[int]) -> None:
            for number in mine:
                told.callback(Type.PROCESS_EXITED, number, 0, None)

        threads = [threading.Thread(target=postman, args=(numbers[first::THREADS],)) for first in range(THREADS)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        await asyncio.gather(*[watch.ended for watch in watches])
        took = time.perf_counter() - begin
        for thread in threads:
            thread.join()
        return count / took

    async def ends() -> float:
        """Of processes of the simulator: each has a program that runs to its end, and somebody who waits."""
        simulator = Simulator("hcs", programs={"wait": _wait})
        place = Place(run=bench.work, data=bench.work)
        system = await simulator.create("box", Spec.of(args=["sleep", "600"]), Stdio(), place)
        await system.start()
        process = ProcessSpec(args=["wait"])
        made = [await system.exec(process, Stdio(stdin=PIPE), f"exec-{number}", place) for number in range(count // 10)]
        begin = time.perf_counter()
        for each in made:
            each.process.stdin.feed_eof()
        await asyncio.gather(*[each.wait() for each in made])
        took = time.perf_counter() - begin
        await system.terminate()
        await simulator.close()
        return len(made) / took

    aim = Aim(at_least=10_000)
    subjects = [
        Subject("callbacks of 8 threads", callbacks, aim=aim),
        Subject("ends of simulated processes", ends, aim=aim),
    ]
    yield Row(subjects, unit="/s", rounds=bench.rounds(9))


async def _wait(process: Process) -> int:
    await process.stdin.read()
    return 0


@asynccontextmanager
async def windows_stdout(bench: Bench) -> AsyncIterator[Row]:
    """windows_stdout.py in Windows' Python under Wine; it measures in turns itself."""
    rounds, megabytes = (1, 4) if bench.quick else (15, 100)
    double = HERE.parent / ".wine-env" / "double"
    script = bench.work / "vmcompute-script"
    windows = str(double).replace("/", r"\\")
    script.write_text(f"crew\npath\tZ:{windows}\nforget calls\n")
    wine = [str(HERE.parent / "scripts" / "test-wine"), "--python", _drive(HERE / "windows_stdout.py")]
    done = await asyncio.to_thread(
        subprocess.run,
        [*wine, str(rounds), str(megabytes), _drive(double / "inmate.exe")],
        env=os.environ | {"VMCOMPUTE_DOUBLE": _drive(script)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"scripts/test-wine: {done.stdout}{done.stderr}")
    rates = json.loads(done.stdout.splitlines()[-1])

    def told(name: str) -> Callable[[], Awaitable[float]]:
        left = iter(rates[name])

        async def sample() -> float:
            return float(next(left))

        return sample

    subjects = [
        Subject("Proactor's reader alone", told("bare")),
        Subject("API", told("API"), "Proactor's reader alone", Aim(factor=1.25)),
    ]
    yield Row(subjects, unit="MB/s", rounds=rounds, warm_up=0)


def _drive(path: Path) -> str:
    """A path of this machine as Wine knows it."""
    return "Z:" + str(path).replace("/", "\\")


ROWS = [
    RowMaker("engine-share", "create, start and exit of `true` on the simulator", share),
    RowMaker("simulated-1000", "1,000 simulated containers at once, with output", at_once),
    RowMaker("notifications", "notifications that the loop takes", notifications),
    RowMaker(
        "windows-stdout",
        "100 MiB from a container's stdout to its caller, Windows' Python under Wine",
        windows_stdout,
        True,
    ),
]
