"""All recordings, played on the scripted vmcompute: calls, events, streams, errors and handles as the rules want."""

from __future__ import annotations

import pytest

from .compare import differences
from .runner import play
from .scripted_double import scripted
from .vectors import Vector, load_all


@pytest.mark.parametrize("vector", load_all(), ids=lambda vector: vector.name)
async def test_a_recording(vector: Vector) -> None:
    with scripted(vector) as double:
        seen = await play(vector, double)
    assert differences(vector, seen) == []
