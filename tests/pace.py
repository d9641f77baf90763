"""How fast this machine is, for tests of time limits that real programs must be able to keep."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache

USUAL = 0.03  # seconds that a start of Python takes on the development machine beside other work
LONGER = (0.5, 2.0, 8.0, 32.0)  # limits for what has to have begun by then: on a slow machine one of the later ones


@cache
def slower() -> float:
    """How many times slower than the development machine, at least 1: an emulated one is ten times and more."""
    took = []
    for _ in range(3):
        begin = time.monotonic()
        subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)
        took.append(time.monotonic() - begin)
    return max(1.0, min(took) / USUAL)
