"""What a crowd costs the program that holds it, and where that is said."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Sequence

MILLI = 1e3


def memory() -> float:
    """This program's own memory, in MB: what is resident and nobody else's."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors() -> int:
    """How many this program has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # the one that lists them


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and most of some times."""
    return f"median {statistics.median(seconds) * MILLI:.1f} ms, most {max(seconds) * MILLI:.1f} ms"


def tell(text: str) -> None:
    """A figure, for whoever runs `scripts/crowds`."""
    print(f"\n    {text}", end="", flush=True)
