"""Fixtures for all tests: a state directory of one's own, and the proof that nothing was left in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from longshore.engine.engine import Engine

from .chance import SEED
from .leftovers import leftovers, leftovers_of_run, remove_leftovers, store_id

RUN = os.environ.setdefault("LONGSHORE_TEST_RUN", str(os.getpid()))  # all processes of a run have that of the first
PREFIX = f"longshore-test-{RUN}-"  # of this run of the tests: others may be at work on this machine
STORES: set[str] = set()  # ids of the stores that tests made, which name their cgroups
LEFT: list[str] = []  # by the whole run
KEEPER_LIMIT = 60.0  # seconds that the keeper of a dead owner may take


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin as at a terminal, wherever that is; and hypothesis with the seed of the run."""
    for name in ("SIGHUP", "SIGINT", "SIGQUIT"):  # nohup and `&` have them ignored, which programs would inherit
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # so it is still ignored here, and not by what is started here
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how to repeat the run, and what it has left."""
    terminalreporter.write_line(f"LONGSHORE_SEED={SEED}")
    for line in LEFT:
        terminalreporter.write_line(f"LEFT by the run: {line}", red=True)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over from a process of pytest-xdist that is done what it has made."""
    STORES.update(getattr(node, "workeroutput", {}).get("stores", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look at what the whole run has left: in the process that began it, once the others are done."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["stores"] = sorted(STORES)
        return
    LEFT.extend(leftovers_of_run(PREFIX, STORES))
    if LEFT and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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
    if left:
        remove_leftovers(path)
    else:
        shutil.rmtree(path, ignore_errors=True)
    assert left == []


@pytest_asyncio.fixture(params=["crun", "runc"])
async def engine(request: pytest.FixtureRequest, state: Path) -> AsyncIterator[Engine]:
    """An engine on real containers, with each runtime."""
    async with asyncio.timeout(300), Engine(state=state, runtime=request.param) as made:
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
