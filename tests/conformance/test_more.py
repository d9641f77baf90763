"""Scenarios that nobody recorded, and the model of the original that tells what would have been seen.

The files in modelled/ were not recorded: more.py made them, by original.py. Its word counts because it comes to what
was recorded wherever something was.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from .compare import differences
from .runner import play
from .vectors import OWN, Vector, load_all

if os.name != "posix":
    pytest.skip("plays many at once, on the service in Python", allow_module_level=True)

from .scripted_double import scripted

MORE = load_all(Path(__file__).parent / "modelled")
FAMILIES = sorted({vector.tags[1] for vector in MORE})
AT_ONCE = 16


def shuffled(vectors: list[Vector]) -> list[Vector]:
    """The same under each other's names: nothing may look at them."""
    names = [vector.name for vector in vectors]
    return [
        msgspec.structs.replace(vector, name=name, about="", notes=None)
        for vector, name in zip(vectors, reversed(names), strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_was_not_recorded_is_as_the_original_would_have_done_it(family: str) -> None:
    vectors = [vector for vector in MORE if family in vector.tags]
    places = asyncio.Semaphore(AT_ONCE)

    async def problems(vector: Vector) -> list[str]:
        async with places:
            with scripted(vector) as double:
                return differences(vector, await play(vector, double))

    found = await asyncio.gather(*(problems(vector) for vector in shuffled(vectors)))
    assert {vector.name: wrong for vector, wrong in zip(vectors, found, strict=True) if wrong} == {}


def test_what_was_not_recorded_says_so() -> None:
    assert all(vector.tags[0] == "modelled" for vector in MORE)
    assert not any("modelled" in vector.tags for vector in load_all(OWN))
