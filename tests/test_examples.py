"""The examples work as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
EXAMPLES = Path(__file__).parent.parent / "examples"


def run(state: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=os.environ | {"LONGSHORE_ROOT": str(state)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_sandbox_tells_what_became_of_the_code(state: Path) -> None:
    done = run(state, "sandbox.py", "print(6 * 7)")
    assert done.stdout.startswith("42\n"), done.stderr
    assert run(state, "sandbox.py", "raise SystemExit(9)").returncode == 9
    late = run(state, "sandbox.py", "print('so far', flush=True)\nwhile True: pass")
    assert (late.returncode, "so far" in late.stderr) == (124, True)
    assert run(state, "sandbox.py").stderr == "usage: sandbox.py CODE\n"


def test_the_ci_runner_reports_each_job(state: Path) -> None:
    done = run(state, "ci_runner.py")
    assert "lint: passed" in done.stdout, done.stderr
    assert "ended with 3" in done.stdout
    assert "hang: `sleep 60`" in done.stdout
    assert "test | two" in done.stdout


def test_the_notebook_needs_no_loop(state: Path) -> None:
    done = run(state, "notebook.py")
    assert done.stdout.splitlines()[1:4] == ["0", "1", "4"], done.stderr


def test_a_program_is_tested_against_failures_on_a_simulated_machine(state: Path) -> None:
    done = run(state, "faults.py")
    assert done.stdout.splitlines()[4:] == [
        "hcs: two failures, then 7 after 3 tries",
        "hcs: the second step fails, then 7 after 2 tries",
        "hcs: told late, then twice: 7 7",
        "hcs: a lost service: code None, cause system_gone",
    ], done.stderr
