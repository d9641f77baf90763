"""A state directory on a file system that cannot hold what containers write is named as the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.engine.engine import Engine

from ..cli.command import ARGV

pytestmark = pytest.mark.real

ON_AN_OVERLAY = """
set -e
mkdir "$T/l" "$T/u" "$T/w" "$T/m"
mount -t overlay none -o "lowerdir=$T/l,upperdir=$T/u,workdir=$T/w" "$T/m"
export LONGSHORE_ROOT="$T/m/state"
"$@" run host -- true || echo "code $?"
"$@" doctor
"""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_state_on_an_overlay_is_named_with_the_next_step(tmp_path: Path, runtime: str) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", ON_AN_OVERLAY, "sh", *ARGV],
        env={**os.environ, "T": str(tmp_path), "LONGSHORE_RUNTIME": runtime, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "code 125" in done.stdout
    assert "overlayfs cannot write on the file system that it is on" in done.stderr
    assert "LONGSHORE_ROOT" in done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.split()[1:2] == ["run"]]
    assert line.startswith("no ")
    assert str(tmp_path / "m" / "state") in line


async def test_state_with_signs_of_mount_options_in_its_path_is_probed(tmp_path: Path) -> None:
    async with Engine(state=tmp_path / "a,b 'c'") as engine:
        assert (await engine.features()).items["run"].supported
