"""Those who take more than their share, inside their limits: their neighbours and the engine hardly notice."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest

from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.exit_record import Cause
from longshore.spec import Spec

from .measure import MILLI, milliseconds, tell
from .sizes import DISTURBED, RUNTIMES

QUIET = """
import sys, time
for line in sys.stdin:
    begin = time.monotonic()
    time.sleep(0.01)
    sum(range(20000))
    print(time.monotonic() - begin, flush=True)
"""
FORK_BOMB = "bomb() { bomb | bomb & }; bomb; while :; do bomb; sleep 0.01; done 2> /dev/null"
MEMORY_HOG = "while :; do (x=x; while :; do x=$x$x; done) 2> /dev/null; done"
FILE_HOG = "while :; do (i=0; while [ $i -lt 2000 ]; do : > /tmp/f$i; i=$((i + 1)); done; rm -f /tmp/f*); done"
HOGS = {
    "fork bomb": Spec.of(root="host", args=["bash", "-c", FORK_BOMB], pids=64, cpus=0.5, memory="64m"),
    "memory hog": Spec.of(root="host", args=["bash", "-c", MEMORY_HOG], pids=64, cpus=0.5, memory="32m"),
    "processor hog": Spec.of(root="host", args=["sh", "-c", "while :; do :; done & while :; do :; done"], cpus=0.5),
    "file hog": Spec.of(root="host", args=["sh", "-c", FILE_HOG], cpus=0.5, memory="64m"),
}


async def ticks(box: Container, number: int) -> list[float]:
    """How long a small piece of work takes a container that does nothing else."""
    process = await box.exec(["python3", "-c", QUIET], stdin=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    found = []
    for _ in range(number):
        process.stdin.write(b"\n")
        found.append(float(await process.stdout.readline()))
    process.stdin.close()
    assert (await process.wait()).code == 0
    return found


async def runs(engine: Engine, number: int) -> list[float]:
    """How long it takes the engine to run something else meanwhile."""
    found = []
    for _ in range(number):
        begin = time.perf_counter()
        assert (await engine.run("host", ["true"])).exit_code == 0
        found.append(time.perf_counter() - begin)
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_who_takes_more_than_his_share_disturbs_neither_neighbours_nor_engine(state: Path, runtime: str) -> None:
    async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
        quiet = await engine.launch("quiet", root="host", args=["sleep", "10000"], owner="remove")
        alone, run_alone = await ticks(quiet, DISTURBED), await runs(engine, 10)
        tell(f"{runtime}, alone: a tick {milliseconds(alone)}; a run {milliseconds(run_alone)}")
        for name, spec in HOGS.items():
            hog = await engine.launch("hog", spec, owner="remove")
            disturbed, run_disturbed = await ticks(quiet, DISTURBED), await runs(engine, 10)
            tell(f"{runtime}, with a {name}: a tick {milliseconds(disturbed)}; a run {milliseconds(run_disturbed)}")
            # half a processor is the hog's: wide bounds, for others work on this machine, too
            assert statistics.median(disturbed) < 3 * statistics.median(alone) + 0.02
            assert statistics.median(run_disturbed) < 4 * statistics.median(run_alone) + 0.1
            stats = await hog.stats()
            assert stats.pids_limit is None or (stats.pids or 0) <= stats.pids_limit
            assert stats.memory_limit is None or (stats.memory or 0) <= stats.memory_limit
            assert name != "fork bomb" or (stats.pids or 0) > 10, "it is one"
            assert name != "memory hog" or (stats.oom_kills or 0) > 0, "it is one"
            begin = time.perf_counter()
            await hog.kill()
            exit = await hog.wait()
            tell(f"{runtime}, a {name} is gone after {(time.perf_counter() - begin) * MILLI:.0f} ms ({exit.cause})")
            assert exit.cause in (Cause.KILLED, Cause.OOM)
            await hog.delete()
        assert [info.id for info in await engine.list(states=["running"])] == ["quiet"]
