"""The contract's fixture: a station for every service at hand; and a bound on every test, since all must end."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from .services import STATIONS, Station

LIMIT = 300.0
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this directory ends within LIMIT seconds: a contract that hangs is broken."""
    for item in items:
        if isinstance(item, pytest.Function) and HERE in item.path.parents and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj)


def _bounded(test: Any) -> Any:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(LIMIT):
            await test(*args, **kwargs)

    return bounded


def _parameters() -> list[Any]:
    marks = {name: () if name.startswith(("simulator", "hcs")) else (pytest.mark.real,) for name in STATIONS}
    return [pytest.param(name, marks=marks[name]) for name in STATIONS]


@pytest_asyncio.fixture(params=_parameters())
async def station(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Station]:
    """One service, with nothing in it; after the test there must be nothing in it again."""
    made = STATIONS[request.param](tmp_path)
    made.another()
    yield made
    left = await made.close()
    assert left == [], f"systems were left behind: {left}"
