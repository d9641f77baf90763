"""What a test needs of the system that it runs on: `@needs("fork")`. Where that is missing, pytest says so by name.

A test says what it needs, not where it runs: so a system that has it runs the test.
"""

from __future__ import annotations

import os
import signal
import sys

import pytest

HAS = {
    "fork": hasattr(os, "fork"),
    "signals": hasattr(signal, "SIGALRM"),  # that interrupt what is under way in a program
    "checkpoints": sys.platform == "linux",  # by CRIU; Windows' containers have none
    "counted renames": sys.platform == "linux",
    "systemd": os.path.isdir("/run/systemd/system"),  # sd_booted(3)
    "a mark on a file": os.name == "posix",  # Windows' file numbers are never given again; Wine's are those below it
}
"""By name, whether this system has it."""


def needs(*what: str) -> pytest.MarkDecorator:
    """Skip, and say why, where the system lacks one of these."""
    missing = [each for each in what if not HAS[each]]
    return pytest.mark.skipif(bool(missing), reason=f"this system has no {', '.join(missing)}")
