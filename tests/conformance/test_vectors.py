"""All recordings, played on an engine: calls, events, streams, errors and handles as the rules want.

On Linux the service is the scripted vmcompute in Python; in Windows' Python the DLL in C, by the real binding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from .compare import differences
from .runner import Double, play
from .vectors import Vector, load_all

double_for: Callable[[Vector], AbstractContextManager[Double]]
if os.name == "nt":
    from tests.hcs.wine_double import under_wine as double_for
else:
    from .scripted_double import scripted as double_for


@pytest.mark.parametrize("vector", load_all(), ids=lambda vector: vector.name)
async def test_a_recording(vector: Vector) -> None:
    with double_for(vector) as double:
        seen = await play(vector, double)
    assert differences(vector, seen) == []
