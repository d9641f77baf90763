"""Any file of the state directory is cut short, filled with noise or replaced: the rest goes on, and it can be deleted.

What is spoiled may be lost: a record that cannot be read is damaged, an event that cannot be read is a gap. But a typed
error is all that comes of it, no other container is disturbed, and what is spoiled can be deleted by force.

The seeds are fixed, so that a case that failed can be played again: `scripts/fuzz store --seed N --cases 1`. The same
script runs as many as are asked for.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

import pytest

from longshore.simulator import Machine

from ..engine.world import PROGRAMS, World
from .stores import KINDS, files, one_case, populate

CASES = int(os.environ.get("LONGSHORE_CASES", "100"))
GROUPS = 10


async def test_the_store_that_is_spoiled_has_every_kind_of_file(tmp_path: Path) -> None:
    world = World(Machine("oci", programs=PROGRAMS), tmp_path)
    await populate(world)
    found = [str(path) for path in files(tmp_path)]
    await world.close()
    missing = [kind for kind, pattern in KINDS.items() if not any(fnmatch(path, pattern) for path in found)]
    unknown = [path for path in found if not any(fnmatch(path, pattern) for pattern in KINDS.values())]
    assert (missing, unknown) == ([], [])


@pytest.mark.parametrize("group", range(GROUPS))
async def test_whatever_is_in_a_file_the_rest_goes_on(tmp_path: Path, group: int) -> None:
    for seed in range(group * 1_000_000, group * 1_000_000 + CASES // GROUPS):
        what, wrong = await one_case(tmp_path / str(seed), seed)
        assert not wrong, (what, wrong)
