"""A program that has few descriptors: refused before it runs out, never in the middle of something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .measure import tell

ROOT = Path(__file__).parents[2]


def crowd(state: Path, runtime: str, limit: int, wanted: int) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crowds.limited", str(state), runtime, str(limit), str(wanted)],
        cwd=ROOT,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return json.loads(done.stdout)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_program_with_few_descriptors_is_refused_before_it_runs_out(state: Path, runtime: str) -> None:
    limit, wanted = (256, 150) if runtime == "crun" else (128, 60)
    found = crowd(state, runtime, limit, wanted)
    tell(f"{runtime}, {limit} descriptors: {found['launched']} containers kept, then refused; {found['open']} open")

    assert found["launched"] >= (limit - 80) // 2, "each container kept takes one, and one more at its end"
    assert found["errors"] == {"DescriptorLimit": wanted - found["launched"]}
    assert f"of at most {limit} files open" in found["messages"][0]
    assert "ulimit -n" in found["hints"][0]
    assert found["open"] < limit - 16

    everything = found["launched"]
    assert (found["listed"], found["measured"], found["right"]) == (everything, everything, everything)
    # what others were refused for may have been open for a moment only: a record that was on its way to the disk
    assert found["refused"] >= 1, "an exec, or a run"
    assert found["views"] < limit // 2
    assert found["left"] == 0
    assert found["again"] == "here\n"
