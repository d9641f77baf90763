"""`longshore` on Windows: the machine's own vmcompute.dll, which here is the double in System32, and real children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..hcs.wine_double import BUILT


@pytest.fixture
def longshore(tmp_path: Path) -> object:
    script = tmp_path / "script"
    script.write_text(f"crew\npath\t{str(BUILT).replace(chr(92), chr(92) * 2)}\n")
    environment = os.environ | {"VMCOMPUTE_DOUBLE": str(script), "LONGSHORE_ROOT": str(tmp_path / "root")}

    def run(*words: str, input: bytes = b"") -> tuple[int, bytes, bytes]:
        command = [sys.executable, "-m", "longshore.cli", *words]
        done = subprocess.run(command, input=input, capture_output=True, env=environment, timeout=300, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_run_prints_the_output_of_a_real_child_and_has_its_exit_code(longshore) -> None:  # type: ignore[no-untyped-def]
    layer = ("--layer", r"C:\layers\base")
    assert longshore("run", *layer, "--", "cmd", "/c", "echo hello from Windows") == (
        0,
        b"hello from Windows\r\n",
        b"",
    )
    assert longshore("run", *layer, "--", "inmate", "both") == (0, b"out\n", b"err\n")
    assert longshore("run", *layer, "--", "inmate", "exit", "7") == (7, b"", b"")
    assert longshore("run", "-i", *layer, "--", "cat", input=b"to and fro\r\n" * 1000) == (
        0,
        b"to and fro\r\n" * 1000,
        b"",
    )


def test_what_does_not_exist_is_told(longshore) -> None:  # type: ignore[no-untyped-def]
    code, out, err = longshore("run", "--layer", r"C:\layers\base", "--", "no-such-command")
    assert (code, out) == (127, b"")
    assert b"no-such-command" in err


def test_doctor_tells_what_works(longshore) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = longshore("doctor")
    assert code == 0
    assert b"by vmcompute.dll" in out
