"""Forty rounds of what scripts/crash plays by the thousand: somebody is killed, another program checks the books.

A round that finds something is told, and played again: it fails the test if it is found again. What shows once in
hundreds of rounds is for scripts/crash to find, and stands in docs/reliability.md; it is not to hold up everybody.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .rounds import play, probe_once
from .victims import Nursery

pytestmark = pytest.mark.real
ROUNDS, BATCH = 40, 5
FIRST = int(os.environ.get("LONGSHORE_SEED") or int.from_bytes(os.urandom(3), "big"))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def probed() -> Iterator[Path]:
    with probe_once() as path:
        yield path


@pytest.mark.parametrize("batch", range(ROUNDS // BATCH))
def test_whoever_is_killed_nothing_is_lost_doubled_or_left(
    nursery: Nursery, probed: Path, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(FIRST + batch * BATCH, FIRST + (batch + 1) * BATCH):
        print(f"seed {seed}: scripts/crash --rounds 1 --seed {seed}")
        try:
            play(nursery, seed, probed)
        except Exception as error:
            with capsys.disabled():
                print(f"\nround {seed} found: {error}\n" + "\n".join(getattr(error, "__notes__", [])))
            for _ in range(2):
                play(nursery, seed, probed)
