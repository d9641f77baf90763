"""Starts the keeper's work under its earlier name, for keepers that an earlier version of longshore started."""

import sys

from .engine.keeper_main import main

if __name__ == "__main__":
    sys.exit(main())
