"""Placeholders of standard streams that this program does not have."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows gives no descriptor to a container")

QUICKER = """
import os
from longshore.fs import standard_descriptors as standard

os.close(0)
look = standard._is_closed
def taken_after_the_look(fd):
    closed = look(fd)
    if fd == 2:
        assert os.open("/", os.O_RDONLY) == 0  # as another thread does
    return closed
standard._is_closed = taken_after_the_look
held = standard.Placeholders()
held.hold()
held.release()
assert os.path.samestat(os.fstat(0), os.stat("/")), "another thread's descriptor was closed"
"""


def test_a_number_that_another_thread_takes_is_left_alone() -> None:
    subprocess.run([sys.executable, "-c", QUICKER], check=True, timeout=300)
