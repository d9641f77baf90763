"""The reference that quoting is tested with, held against Windows itself: CommandLineToArgvW, and a C runtime."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings

from longshore.hcs.schema1 import command_line

from .argv import command_line_to_argv
from .test_command_line import ARGUMENTS, KNOWN, PROGRAM

if not hasattr(ctypes, "windll"):
    pytest.skip("asks Windows", allow_module_level=True)


def windows_argv(line: str) -> list[str]:
    """What shell32 makes of a command line."""
    split = ctypes.WinDLL("shell32").CommandLineToArgvW  # type: ignore[attr-defined]
    split.argtypes = [ctypes.c_wchar_p, ctypes.POINTER(ctypes.c_int)]
    split.restype = ctypes.POINTER(ctypes.c_wchar_p)
    count = ctypes.c_int()
    found = split(line, ctypes.byref(count))
    try:
        return [str(found[index]) for index in range(count.value)]
    finally:
        free: Any = ctypes.WinDLL("kernel32").LocalFree  # type: ignore[attr-defined]
        free.argtypes = [ctypes.c_void_p]
        free(found)


@pytest.mark.parametrize(("line", "args"), KNOWN)
def test_windows_takes_microsofts_examples_apart_as_the_reference_does(line: str, args: list[str]) -> None:
    assert windows_argv(line) == command_line_to_argv(line) == args


@settings(max_examples=1000, deadline=None)
@given(PROGRAM, ARGUMENTS)
def test_windows_takes_what_is_quoted_apart_into_the_same_list(program: str, rest: list[str]) -> None:
    assert windows_argv(command_line.join([program, *rest])) == [program, *rest]


NASTY = ["", " ", "a b", '"', '\\"', "a\\", "a b\\", 'a"b c\\\\"', "\t", "ü 漢 😀", "&|<>^%PATH%"]


def test_a_real_program_gets_the_arguments_that_were_meant() -> None:
    """Python itself, whose command line the C runtime takes apart."""
    program = "import json,sys; print(json.dumps(sys.argv[1:]))"
    line = command_line.join([sys.executable, "-c", program, *NASTY])
    done = subprocess.run(line, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert json.loads(done.stdout) == NASTY
