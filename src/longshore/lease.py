"""Starts the keeper's work under its earlier name, for keepers that an earlier version of longshore started."""

import sys

from .store.leases import main

if __name__ == "__main__":
    sys.exit(main())
