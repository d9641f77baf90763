"""Fixtures of the engine's tests: every test runs on both temperaments of the simulator, and is bounded."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from longshore.engine.engine import Engine
from longshore.simulator import Machine

from ..descriptors import open_files
from .world import PROGRAMS, World, leftovers

LIMIT = 300.0
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every asynchronous test of this directory ends within LIMIT seconds: an engine that hangs is broken."""
    for item in items:
        if isinstance(item, pytest.Function) and HERE in item.path.parents and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj)


def _bounded(test: Any) -> Any:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(LIMIT):
            await test(*args, **kwargs)

    return bounded


@pytest_asyncio.fixture(params=["oci", "hcs"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A machine and a state directory; after the test nothing is left that no container accounts for."""
    before = set(open_files())
    made = World(Machine(request.param, programs=PROGRAMS), tmp_path / "state")
    yield made
    async with asyncio.timeout(LIMIT):
        await made.close()
    assert leftovers(made) == []
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    ours = [task for task in tasks if "Process._run" not in str(task.get_coro())]  # programs of what was kept
    assert ours == [] or made.deaths, ours  # what the dead were at never ends
    new = {name for name in set(open_files()) - before if "longshore" in name or str(tmp_path) in name}
    monitors = {str(system.place.log) for system in made.systems.values()}  # the simulated ones are in this process
    assert new - monitors == set()


@pytest_asyncio.fixture
async def engine(world: World) -> AsyncIterator[Engine]:
    """The engine of the first program."""
    async with world.engine() as made:
        yield made


@pytest_asyncio.fixture
async def other(world: World) -> AsyncIterator[Engine]:
    """The engine of another program."""
    async with world.engine() as made:
        yield made


@pytest.fixture
def threads_take_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the disk takes one turn of the loop, where each turn is tried: else, however many it takes."""

    async def at_once(function: Callable[[], Any], *_: object, **__: object) -> Any:
        await asyncio.sleep(0)
        return function()

    monkeypatch.setattr("longshore.store.container_dir.in_thread", at_once)
