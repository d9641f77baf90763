"""Pulls that end amid a layer: cancelled, or killed with their program; the next one goes on from there."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from longshore.engine.engine import Engine

from .faulty import FaultyRegistry, Handler, faulty_registry
from .packed import Layer
from .runnable import Made
from .tars import archive, file

CONTENT = archive(file(b"x", random.Random(1).randbytes(3_000_000)))
LARGE = Layer(CONTENT, CONTENT)  # not compressed: half of the blob is half of the layer
HALF = len(CONTENT) // 2


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    """A registry with one image, `app`. The first time it sends half of its layer, and then nothing."""
    made = Made(LARGE)
    with faulty_registry() as server:
        server.add_blob(made.config)
        server.add_blob(LARGE.blob)
        server.add_manifest(made.manifest, "latest")

        def half(handler: Handler) -> None:
            handler.begin(200, Content_Length=str(len(LARGE.blob)))
            handler.wfile.write(LARGE.blob[:HALF])
            handler.hang()

        server.on("GET", LARGE.descriptor.digest, half, times=1)
        yield server


@pytest_asyncio.fixture
async def engine(state: Path) -> AsyncIterator[Engine]:
    async with Engine(state=state, runtime="crun") as made:
        yield made


def received(state: Path) -> int:
    """How much of the layer has come so far."""
    path = state / "lib/images/ingest" / LARGE.descriptor.digest.partition(":")[2]
    return path.stat().st_size if path.exists() else 0


async def check_goes_on(engine: Engine, faulty: FaultyRegistry, state: Path) -> None:
    """The next pull asks for the other half only, and nothing of the first one is left."""
    assert await engine.images.list() == []
    assert (await engine.images.pull(f"{faulty.host}/app")).digest == Made(LARGE).digest
    [_, again] = faulty.requests("GET", LARGE.descriptor.digest)
    assert again.headers["range"] == f"bytes={HALF}-"
    assert await engine.images.verify() == []
    await engine.images.prune()
    assert [*(state / "lib/images/ingest").iterdir()] == []


async def test_a_pull_that_is_cancelled_has_ended_and_the_next_one_goes_on(
    engine: Engine, faulty: FaultyRegistry, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pulling = asyncio.create_task(engine.images.pull(f"{faulty.host}/app"))
    while received(state) < HALF:
        await asyncio.sleep(0.005)  # nobody tells what a thread has written
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert caplog.records == []
    await check_goes_on(engine, faulty, state)


async def test_a_pull_that_is_killed_leaves_nothing_wrong_and_the_next_one_goes_on(
    engine: Engine, faulty: FaultyRegistry, state: Path
) -> None:
    program = "import sys, longshore.sync as l\nl.Engine(state=sys.argv[1]).images.pull(sys.argv[2])"
    with subprocess.Popen([sys.executable, "-c", program, str(state), f"{faulty.host}/app"]) as victim:
        deadline = time.monotonic() + 60
        while received(state) < HALF and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        victim.send_signal(signal.SIGKILL)
    await check_goes_on(engine, faulty, state)
