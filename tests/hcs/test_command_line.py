"""Quoting for Windows: a list becomes one string that programs take apart into the same list."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore.errors import InvalidSpec
from longshore.hcs.schema1 import command_line

from .argv import command_line_to_argv

NASTY = st.text(alphabet='ab\\" \t\n&^%ü😀', max_size=12)
ANY = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
ARGUMENTS = st.lists(NASTY | ANY, max_size=6)
PROGRAM = st.text(alphabet=st.characters(exclude_characters='\0"', exclude_categories=["Cs"]), max_size=20)

# from Microsoft's "Parsing C command-line arguments" and "CommandLineToArgvW"
KNOWN = [
    (r'x "a b c" d e', ["x", "a b c", "d", "e"]),
    (r'x "ab\"c" "\\" d', ["x", 'ab"c', "\\", "d"]),
    (r'x a\\\b d"e f"g h', ["x", r"a\\\b", "de fg", "h"]),
    (r"x a\\\"b c d", ["x", 'a\\"b', "c", "d"]),
    (r'x a\\\\"b c" d e', ["x", r"a\\b c", "d", "e"]),
    (r'x a"b"" c d', ["x", 'ab"', "c", "d"]),
    (r'"C:\Program Files\x.exe" /c', [r"C:\Program Files\x.exe", "/c"]),
    (r'"C:\dir\" b', ["C:\\dir\\", "b"]),  # nothing is escaped in the first
]


@pytest.mark.parametrize(("line", "args"), KNOWN)
def test_the_reference_takes_microsofts_examples_apart(line: str, args: list[str]) -> None:
    assert command_line_to_argv(line) == args


@settings(max_examples=1000)
@given(PROGRAM, ARGUMENTS)
def test_what_is_quoted_is_taken_apart_into_the_same_list(program: str, rest: list[str]) -> None:
    """Bug 14: arguments were joined by blanks."""
    assert command_line_to_argv(command_line.join([program, *rest])) == [program, *rest]


@settings(max_examples=500)
@given(st.lists(st.text(alphabet='ab\\" \t', max_size=10), max_size=6))
def test_arguments_are_quoted_as_python_quotes_them(rest: list[str]) -> None:
    assert command_line.join(["program", *rest]) == subprocess.list2cmdline(["program", *rest])


def test_what_needs_no_quotes_has_none() -> None:
    assert command_line.join(["cmd", "/c", "dir", "C:\\a\\", "--x=1"]) == r"cmd /c dir C:\a" + "\\ --x=1"


def test_an_argument_of_nothing_stays_one() -> None:
    assert command_line.join(["cmd", ""]) == 'cmd ""'


def test_a_program_with_blanks_is_quoted_and_not_escaped() -> None:
    assert command_line.join(["C:\\my dir\\", "x"]) == '"C:\\my dir\\" x'


def test_a_program_with_a_quote_in_its_name_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"args\[0\].*double quote") as raised:
        command_line.join(['a"b'])
    assert raised.value.field == "args[0]"


def test_a_command_longer_than_windows_takes_is_refused() -> None:
    assert command_line.check("x" * command_line.LONGEST, "args")
    with pytest.raises(InvalidSpec, match="32767 characters"):
        command_line.check("x" * command_line.LONGEST + "x", "args")
    with pytest.raises(InvalidSpec):
        command_line.check("😀" * (command_line.LONGEST // 2 + 1), "args")  # two units of UTF-16 each
