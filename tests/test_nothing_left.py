"""The last test: after all the others nothing of longshore's is left on this machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .conftest import PREFIX, STORES
from .leftovers import CGROUPS


def test_the_whole_suite_left_no_state_directory_of_a_test() -> None:
    assert list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")) == []


def test_the_whole_suite_left_no_process_of_a_test() -> None:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if PREFIX.encode() in line:
                found.append(line)
    assert found == []


def test_the_whole_suite_left_no_cgroup() -> None:
    groups = [path for base in CGROUPS.iterdir() for path in (base / "longshore").glob("*")]
    assert [path for path in groups if path.name.partition(".")[0] in STORES] == []


def test_the_whole_suite_left_no_mount() -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [line for line in lines if PREFIX in line] == []
