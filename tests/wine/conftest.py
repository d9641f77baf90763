"""What is tried in Windows' Python only, with the DLL in C beneath the real binding (scripts/test-wine)."""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import inspect
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from longshore.spec import Spec, WindowsOptions

LIMIT = 300.0
HERE = Path(__file__).parent

collect_ignore_glob = [] if os.name == "nt" else ["test_*.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every asynchronous test of this directory ends within LIMIT seconds, but for the long ones."""
    for item in items:
        if isinstance(item, pytest.Function) and HERE in item.path.parents and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj, LIMIT * (5 if item.get_closest_marker("slow") else 1))


def _bounded(test: Any, limit: float) -> Any:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        told = threading.Timer(limit - 5, _tell_what_hangs, [asyncio.get_running_loop(), sys.stderr])
        told.daemon = True
        told.start()
        try:
            async with asyncio.timeout(limit):
                await test(*args, **kwargs)
        finally:
            told.cancel()

    return bounded


def _tell_what_hangs(loop: Any, file: Any) -> None:
    """What all threads and the loop are at, told by a thread of its own: before the limit wakes a loop that sleeps."""
    print("ready:", list(loop._ready), "self-pipe:", loop._self_reading_future, file=file)
    print("awaited of Windows:", [each[1] for each in list(loop._proactor._cache.values())], file=file)
    faulthandler.dump_traceback(file=file, all_threads=True)
    for task in asyncio.all_tasks(loop):
        task.print_stack(file=file)


LAYERS = WindowsOptions(layer_paths=[r"C:\layers\base"], layer_folder=r"C:\layers\box")
"""Of a container that the double makes: only names."""


def spec(*args: str, **fields: Any) -> Spec:
    """A container that the double makes."""
    return Spec.of(args=list(args), windows=LAYERS, **fields)


MadeMachine = Callable[..., Any]


@pytest.fixture
def machine() -> Iterator[MadeMachine]:
    """Makes the machine of a test from script lines; afterwards nothing was misused, and all was given back."""
    from tests.hcs.wine_double import Machine

    made: list[Machine] = []

    def make(*lines: str, **more: Any) -> Machine:
        made.append(Machine("".join(f"{line}\n" for line in lines), **more))
        return made[0]

    yield make
    errors, texts, left = made[0].errors, made[0].texts_out, made[0].open_handles()
    made[0].close()
    assert errors == []
    assert texts == 0
    assert left == {"systems": [], "processes": [], "callbacks": []}


@pytest_asyncio.fixture
async def service(tmp_path: Path) -> AsyncIterator[Callable[[Any], Any]]:
    """Makes an HcsService on a machine; it is closed before the machine is looked at."""
    from longshore.hcs.service import HcsService
    from longshore.hcs.streams.pipes import WindowsPipes

    made: list[HcsService] = []

    def make(machine: Any, **more: Any) -> HcsService:
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        usual: dict[str, Any] = {"exists": lambda path: True, "cpus": 4}
        made.append(HcsService(run, vmcompute=machine.client().binding, pipes=WindowsPipes(), **(usual | more)))
        return made[-1]

    yield make
    for each in made:
        await each.close()
