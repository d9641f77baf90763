"""What the tests on the double in Python leave to the end of the run."""

from __future__ import annotations

import os

from longshore.hcs.system.notifications import NOTIFICATIONS


def pytest_unconfigure() -> None:
    """Programs that died in a test undo nothing: not at the end of the program that they were played in, either."""
    if os.name != "nt":
        NOTIFICATIONS._registrations.clear()
        NOTIFICATIONS._closers.clear()
