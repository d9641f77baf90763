"""A disk that is full, a state directory that cannot be written, no more processes: on real containers.

Each in a program of its own, in a mount namespace or cgroup of its own. test_disk.py has every step of every operation;
here the other programs (runtime, monitor) meet the same.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

HINTS = {"disk": "make room on the disk", "read-only": "writable file system", "processes": "limit of processes|doctor"}


@pytest.mark.parametrize("what", HINTS)
def test_what_runs_out_is_told_and_all_else_goes_on(state: Path, what: str) -> None:
    command = ["unshare", "-m", "--propagation", "private", sys.executable, "-m", "tests.faults.shortage"]
    done = subprocess.run(
        [*command, str(state), what], capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2]
    )
    lines = [line.partition(": ") for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-2000:]
    tried = [(name, said) for name, _, said in lines if name in ("run", "launch", "exec", "kill")]
    failed = [said for _, said in tried if said != "done"]
    assert failed, tried
    for said in failed:
        assert re.match(r"(StoreError|ServiceError|InvalidState): ", said), said
        assert re.search(HINTS[what], said.rpartition(" | ")[2]), said
    if what != "read-only":
        assert ("launch", "done") in tried, "with room it works"
        assert {said for name, said in tried if name == "kill"} == {"done"}, "a full disk keeps nothing alive"
    assert {said.split()[0] for name, _, said in lines if name == "looking"} == {"running"}
    assert lines[-2:] == [("after", ": ", "running done"), ("left", ": ", "[]")]
