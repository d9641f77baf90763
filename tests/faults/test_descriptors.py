"""A program without descriptors: a typed error at whatever step, nothing lost or left, and it goes on after."""

from __future__ import annotations

import asyncio
import os
import re
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from longshore import DEVNULL
from longshore.engine import descriptor_budget
from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound, LongshoreError

from ..descriptors import open_files

pytestmark = pytest.mark.real

SOFT = 300
MOST = 60  # descriptors that no operation needs all of


async def _run(engine: Engine) -> None:
    done = await engine.run("host", ["echo", "hi"], name="box")
    assert done.stdout == b"hi\n"


async def _launch(engine: Engine) -> None:
    await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")


async def _exec(engine: Engine) -> None:
    box = await engine.get("neighbour")
    assert (await box.run(["echo", "hi"])).stdout == b"hi\n"


@cache
def _given() -> int:
    """A stream of this program's own, which is there before descriptors become scarce."""
    return os.open(__file__, os.O_RDONLY)


async def _copy(engine: Engine) -> None:
    box = await engine.get("neighbour")
    job = await box.exec(["cat"], stdin=_given(), stdout=DEVNULL, stderr=DEVNULL)
    assert (await job.wait()).code == 0


async def _terminal(engine: Engine) -> None:
    box = await engine.get("neighbour")
    job = await box.exec(["true"], terminal=True)
    assert (await job.wait()).code == 0


OPERATIONS: dict[str, Callable[[Engine], Awaitable[None]]] = {
    "run": _run,
    "launch": _launch,
    "exec": _exec,
    "exec with a given stream": _copy,
    "exec with a terminal": _terminal,
}


@contextmanager
def only(free: int) -> Iterator[None]:
    """Leave this program so many descriptors."""
    held: list[int] = []
    try:
        while len(held) < SOFT:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for fd in held[max(0, len(held) - free) :]:
            os.close(fd)
        del held[max(0, len(held) - free) :]
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)


@pytest.fixture
def low_limit() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def mine() -> Counter[str]:
    """What is open, by kind."""
    found = Counter(re.sub(r"\d+", "N", name) for name in open_files())
    found["/dev/null"] = 0
    return found


@pytest.mark.usefixtures("low_limit")
@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_descriptors_run_out_at_any_step(
    state: Path, monkeypatch: pytest.MonkeyPatch, operation: str, runtime: str
) -> None:
    # what keeps a program from coming so far is tested elsewhere; here it does not know how many it has
    monkeypatch.setattr(descriptor_budget, "descriptors", lambda: None)
    succeeded = failed = 0
    without_hint: list[str] = []
    async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
        neighbour = await engine.launch("neighbour", root="host", args=["sleep", "infinity"], owner="remove")
        await _run(engine)  # what is opened once, and stays
        await _exec(engine)
        await _copy(engine)
        await _terminal(engine)
        async for _ in engine.events(since=0, follow=False):
            pass
        before = mine()
        for free in range(MOST):
            with only(free):
                try:
                    await OPERATIONS[operation](engine)
                    succeeded += 1
                except LongshoreError as error:
                    failed += 1
                    without_hint += [] if error.hint else [str(error)]
            assert (await neighbour.info()).state == "running"
            try:
                await (await engine.get("box")).delete(force=True)
            except ContainerNotFound:
                pass
            if succeeded > 1:
                break
        lost = mine() - before
        assert not lost
    assert failed >= 3
    assert without_hint == []
    assert succeeded >= 1
