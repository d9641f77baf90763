"""The benchmark works; what it measures means nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]
RUN = Path(__file__).parent.parent / "bench" / "run.py"


def test_every_row_of_the_benchmark_is_measured(tmp_path: Path) -> None:
    written = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--no-peers", "--json", str(written)],
        env=os.environ | {"LONGSHORE_ROOT": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = subprocess.run([sys.executable, str(RUN), "--list"], capture_output=True, text=True, timeout=300).stdout
    wanted = [line.split()[0] for line in listed.splitlines() if "only when asked for" not in line]
    assert [row["name"] for row in json.loads(written.read_text())["rows"]] == wanted
