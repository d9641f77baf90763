"""What is shown of texts that strangers wrote."""

from __future__ import annotations

import pytest

from longshore.cli.terminal.output import command_text, escaped, size_text, table
from longshore.cli.terminal.terminal import KeyWatch, parse_keys


@pytest.mark.parametrize(
    "text",
    ["\x1b[2J", "\x1b]0;title\x07", "a\nb", "a\rb", "\x9b31m", "\u202egnp.exe", "\u2066x", "\0", "\udc80", "\x7f"],
)
def test_nothing_that_a_terminal_obeys_gets_through(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    assert shown.isascii() or "\\" in shown


def test_ordinary_text_stays_as_it_is() -> None:
    assert escaped("naïve — 日本語 🚢") == "naïve — 日本語 🚢"


def test_a_cell_cannot_break_its_table() -> None:
    text = table(["A", "B"], [["x\ny", "1"], ["\x1b[31mz", "22"]], right=[1])
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text


def test_a_command_is_shown_as_it_would_be_typed() -> None:
    assert command_text(["sh", "-c", "echo a b"]) == "sh -c 'echo a b'"
    assert "\x1b" not in command_text(["echo", "\x1b[2J"])
    assert len(command_text(["x" * 100], 20)) == 20


@pytest.mark.parametrize(("number", "text"), [(None, "-"), (0, "0B"), (999, "999B"), (1024, "1.0K"), (5 << 30, "5.0G")])
def test_sizes_are_for_people(number: int | None, text: str) -> None:
    assert size_text(number) == text


def test_detach_keys_are_found_also_when_they_come_one_by_one() -> None:
    watch = KeyWatch(parse_keys("ctrl-p,ctrl-q"))
    assert watch.feed(b"ls\x10") == (b"ls", False)
    assert watch.feed(b"\x11") == (b"", True)


def test_the_beginning_of_detach_keys_alone_is_passed_on_with_the_next_key() -> None:
    watch = KeyWatch(parse_keys("ctrl-p,ctrl-q"))
    assert watch.feed(b"\x10") == (b"", False)
    assert watch.feed(b"x") == (b"\x10x", False)
    assert watch.feed(b"\x10") == (b"", False)
    assert watch.feed(b"\x10") == (b"\x10", False)
    assert watch.feed(b"\x11rest") == (b"", True)


def test_detach_keys_can_be_chosen_or_switched_off() -> None:
    assert parse_keys("ctrl-a,d") == b"\x01d"
    assert parse_keys("ctrl-],ctrl-@") == b"\x1d\x00"
    assert KeyWatch(parse_keys("")).feed(b"\x10\x11") == (b"\x10\x11", False)
