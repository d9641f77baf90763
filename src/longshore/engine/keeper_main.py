"""What the keeper runs when all processes of a lease have ended: close the records of its containers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ..store.state_directory import Store
from .engine import close_dead_lease


def main() -> int:
    """For the keeper: close the records of a lease that has ended. Arguments: RUN:DATA and the lease."""
    state, lease = sys.argv[1:]
    run, _, data = state.partition(":")
    return 0 if asyncio.run(close_dead_lease(Store(Path(run), Path(data)), lease)) else 1


if __name__ == "__main__":
    sys.exit(main())
