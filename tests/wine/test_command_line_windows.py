"""The command line's own ways on Windows: what goes on for itself, its options, its console."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from longshore.cli.terminal import terminal

from ..hcs.wine_double import BUILT

LAYER = ("--layer", r"C:\layers\base")


@pytest.fixture
def longshore(tmp_path: Path) -> object:
    script = tmp_path / "script"
    script.write_text(f"crew\npath\t{str(BUILT).replace(chr(92), chr(92) * 2)}\n")
    environment = os.environ | {"VMCOMPUTE_DOUBLE": str(script), "LONGSHORE_ROOT": str(tmp_path / "root")}

    def run(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "longshore.cli", *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=300, check=False
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


def test_a_detached_container_has_its_log_and_its_code_though_its_caller_has_returned(longshore) -> None:  # type: ignore[no-untyped-def]
    assert longshore("run", "-d", "--name", "box", *LAYER, "--", "cmd", "/c", "echo one& echo two 1>&2& exit 7") == (
        0,
        "box\n",
        "",
    )
    assert longshore("wait", "box") == (0, "7\n", "")
    code, out, err = longshore("logs", "box")
    assert (code, out.split(), err.split()) == (0, ["one"], ["two"])
    assert longshore("rm", "box")[0] == 0


def test_what_cannot_be_run_detached_is_told_by_who_was_called(longshore) -> None:  # type: ignore[no-untyped-def]
    code, out, err = longshore("run", "-d", "--name", "box", *LAYER, "--", "no-such-command")
    assert (code, out) == (127, "")
    assert "no-such-command" in err
    assert longshore("ps", "-aq")[1] == ""


def test_the_options_of_windows_are_in_the_help_and_in_the_document(longshore) -> None:  # type: ignore[no-untyped-def]
    assert "--isolation" in longshore("run", "--help")[1]
    words = ("--isolation", "hyperv", "--utility-vm", r"C:\layers\base\UtilityVM", "--endpoint", "e1")
    code, out, _ = longshore("explain", "run", *LAYER, *words, "--", "cmd", "/c", "dir")
    assert code == 0
    for part in ('"HvPartition": true', '"e1"', "UtilityVM", '"CommandLine": "cmd /c dir"'):
        assert part in out


def test_doctor_tells_of_each_part(longshore) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = longshore("doctor", "--format", "json")
    assert code == 0
    items = json.loads(out)["items"]
    assert {
        name: items[name]["supported"] for name in ("windows", "calls", "service", "rights", "run")
    } == dict.fromkeys(("windows", "calls", "service", "rights", "run"), True)
    assert items["hyperv"]["supported"] is False  # Wine has none
    assert "Microsoft-Hyper-V" in items["hyperv"]["hint"]


def test_a_terminal_is_asked_for_where_there_is_one(longshore) -> None:  # type: ignore[no-untyped-def]
    code, _, err = longshore("run", "-it", *LAYER, "--", "cmd")
    assert code == 125
    assert "standard input is not a terminal" in err  # it is NUL, which calls itself one


def test_what_is_no_console_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    from longshore.errors import NotSupported

    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(NotSupported, match="not a Windows console"), terminal.raw(file.fileno()):
            raise AssertionError("it is none")
        terminal.show(file.fileno(), "grün".encode())
    assert (tmp_path / "file").read_bytes() == "grün".encode()


HERE = Path(__file__).resolve().parent


def at_terminal(typed: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Windows' Python at a terminal: its exit code, and what was on the screen. at_terminal.py says how."""
    with tempfile.TemporaryDirectory(dir="Z:\\tmp", prefix="longshore-terminal-") as place:
        file, told = Path(place) / "asked", Path(place) / "asked.told"
        file.write_text(json.dumps({"typed": typed, "arguments": arguments, "environment": environment}))
        start = Path(os.environ["SYSTEMROOT"]) / "system32" / "start.exe"
        python = unix(HERE.parents[1] / ".venv" / "bin" / "python")
        subprocess.run(
            [start, "/unix", python, unix(HERE / "at_terminal.py"), unix(file)], stdin=subprocess.DEVNULL, check=True
        )
        deadline = time.monotonic() + 80
        while not told.exists():
            assert time.monotonic() < deadline, "the terminal's program did not end"
            time.sleep(0.05)
        answer = json.loads(told.read_text())
    return answer["code"], re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", answer["screen"])


def unix(path: Path) -> str:
    """A path of drive Z: as Unix has it."""
    return str(path).removeprefix("Z:").replace("\\", "/")


def test_a_console_is_raw_within_the_block_and_as_before_after_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import sys
from longshore.cli.terminal import console

_, before = console._mode(0)
with console.raw(0):
    _, during = console._mode(0)
    console.show(1, b"ready m\\xc3")
    console.show(1, b"\\xa4rz\\r\\n")
    typed = console._read(0, [])
_, after = console._mode(0)
print(ascii(typed.decode()), before == after, during == console.raw_input_mode(before))
"""
    )
    code, screen = at_terminal("gr\u00fcn", str(program))
    assert code == 0
    assert "ready m\u00e4rz" in screen.replace("gr\u00fcn", "")  # Wine shows what is typed before it is read
    assert re.search(r"'gr\\xfcn'\s*True\s*True", screen)


def test_who_sits_at_a_console_talks_to_the_command_and_gets_the_console_back(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"crew\npath\t{str(BUILT).replace(chr(92), chr(92) * 2)}\n")
    words = (
        "run",
        "-it",
        "--timeout",
        "5",
        *LAYER,
        "--",
        "cmd",
        "/c",
        "echo",
        "ready",
        "&",
        str(BUILT / "inmate.exe"),
        "cat",
    )
    code, screen = at_terminal(
        "gr\u00fcn",
        *("-m", "longshore.cli", *words),
        VMCOMPUTE_DOUBLE=str(script),
        LONGSHORE_ROOT=str(tmp_path / "root"),
    )
    assert code == 124
    assert screen.count("gr\u00fcn") == 1  # `cat` says it; the console, being raw, does not
    assert "did not end within 5 s" in screen
