"""The seed of a run: what is tried by chance in one run is tried again with `LONGSHORE_SEED` set to what it said."""

from __future__ import annotations

import os
import secrets

SEED = int(os.environ.setdefault("LONGSHORE_SEED", str(secrets.randbelow(1_000_000))))
"""Chosen by the process that begins the run; those that it starts find it in their environment."""
