"""How many: a part of the crowd in every run of the tests, all of it by `scripts/crowds`."""

from __future__ import annotations

import os

WHOLE = os.environ.get("LONGSHORE_CROWDS") == "whole"

ALIVE = {"crun": 1000, "runc": 200} if WHOLE else {"crun": 200, "runc": 50}
RUNTIMES = ["crun", "runc"] if WHOLE else ["crun"]  # where the runtime matters least
EXITS = 10_000 if WHOLE else 1_000
PROGRAMS = 50 if WHOLE else 10
ROUNDS = 10 if WHOLE else 4  # of what each of the programs does
WRITING = 20.0 if WHOLE else 3.0  # seconds that a container writes without end
DISTURBED = 300 if WHOLE else 50  # ticks of a quiet neighbour that are measured
