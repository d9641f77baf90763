"""The last test: after all the others nothing of longshore's is left on this machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .leftovers import CGROUPS


def test_the_whole_suite_left_no_state_directory_of_a_test() -> None:
    assert list(Path(tempfile.gettempdir()).glob("longshore-test-*")) == []


def test_the_whole_suite_left_no_process_of_a_test() -> None:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if b"longshore-test-" in line:
                found.append(line)
    assert found == []


def test_the_whole_suite_left_no_cgroup_with_a_process() -> None:
    found = []
    for base in CGROUPS.iterdir():
        for path, _, names in os.walk(base / "longshore"):
            if "cgroup.procs" in names and (Path(path) / "cgroup.procs").read_text().strip():
                found.append(path)
    assert found == []


def test_the_whole_suite_left_no_empty_cgroup_either() -> None:
    """One group of longshore's stays in each hierarchy, and nothing in it but what others on this machine use now."""
    assert [path for base in CGROUPS.iterdir() for path in base.glob("longshore-probe-*")] == []


def test_the_whole_suite_left_no_mount() -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [line for line in lines if "longshore" in line] == []
