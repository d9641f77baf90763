"""Fixtures for all tests: a state directory of one's own, and the proof that nothing was left in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from longshore.engine.engine import Engine

from .leftovers import leftovers, store_id

PREFIX = f"longshore-test-{os.getpid()}-"  # of this run of the suite: others may be at work on this machine
STORES: set[str] = set()  # ids of the stores that tests made, which name their cgroups
KEEPER_LIMIT = 15.0  # seconds that the keeper of a dead owner may take


def wait_for_nothing_left(state: Path, limit: float = KEEPER_LIMIT) -> list[str]:
    """What is left once the keepers of dead owners had their time."""
    deadline = time.monotonic() + limit
    while (left := leftovers(state)) and time.monotonic() < deadline:
        time.sleep(0.02)  # a keeper of a dead program tells nobody that it is done
    return left


@pytest.fixture(autouse=True)
def nobody_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: no test loses power, and what else the machine writes is not to make its limits run out."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory; after the test nothing of longshore's is left of what was made in it."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    yield path
    left = wait_for_nothing_left(path)
    STORES.update(filter(None, [store_id(path)]))
    if not any(line.startswith(("process", "mount")) for line in left):
        shutil.rmtree(path, ignore_errors=True)
    assert left == []


@pytest_asyncio.fixture(params=["crun", "runc"])
async def engine(request: pytest.FixtureRequest, state: Path) -> AsyncIterator[Engine]:
    """An engine on real containers, with each runtime."""
    async with asyncio.timeout(120), Engine(state=state, runtime=request.param) as made:
        yield made


crun_is_modern = pytest.mark.parametrize(
    "engine", [pytest.param("crun", marks=pytest.mark.modern), "runc"], indirect=True
)
"""For a test that takes long on the modern host: there with crun alone, which is the first choice."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """For `-m modern` only what has the mark in it is imported: all of it takes minutes on an emulated machine."""
    if config.getoption("markexpr") != "modern" or collection_path.suffix != ".py":
        return None
    text = collection_path.read_bytes()
    return None if b"mark.modern" in text or b"crun_is_modern" in text else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The look at what all tests left comes last."""
    items.sort(key=lambda item: "test_nothing_left" in item.nodeid)
