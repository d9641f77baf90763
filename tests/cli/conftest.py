"""Fixtures of the tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .command import Longshore


def _remove_all(command: Longshore) -> None:
    ids = command("ps", "--all", "--quiet").stdout.decode().split()
    if ids:
        command("rm", "--force", *ids)


@pytest.fixture
def longshore(state: Path) -> Iterator[Longshore]:
    """The command line with the runtime that it chooses by itself."""
    command = Longshore(state)
    yield command
    _remove_all(command)


@pytest.fixture(params=["crun", "runc"])
def each_runtime(request: pytest.FixtureRequest, state: Path) -> Iterator[Longshore]:
    """The command line with each runtime."""
    command = Longshore(state, request.param)
    yield command
    _remove_all(command)
