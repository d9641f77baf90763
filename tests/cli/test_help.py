"""Help teaches by example, and is there for every verb."""

from __future__ import annotations

import re
import shlex
from typing import get_args

import pytest

from longshore.cli.arguments.parser import HelpWanted, parse, parse_global
from longshore.cli.verbs import ALIASES, OF_IMAGES, VERBS, load, take_name
from longshore.cli.verbs.help import GROUPS, overview, verb_help
from longshore.compute.events import EventType

from .command import ARGV, Longshore

SHELL_WORDS = re.compile(r"\s\d?[|<>]|[$;&]")


ALL = [*VERBS, *(f"image {word}" for word in OF_IMAGES)]


def examples() -> list[tuple[str, str]]:
    return [(verb, command) for verb in ALL for command, _ in load(verb).examples]


@pytest.mark.parametrize("verb", ALL)
def test_help_of_every_verb_shows_usage_and_an_example(verb: str) -> None:
    text = verb_help(load(verb))
    assert text.startswith(f"Usage: longshore {verb}") or f"`{verb}`" in text.partition("Examples:")[0]
    assert "Examples:\n" in text
    assert text.count("\n  $ ") >= 1
    assert all(len(line) <= 110 for line in text.splitlines())


@pytest.mark.parametrize(("verb", "command"), examples())
def test_examples_are_command_lines_that_can_be_read(verb: str, command: str) -> None:
    simple = SHELL_WORDS.split(command)[0]
    words = shlex.split(simple) if simple.count("'") % 2 == 0 and simple.count('"') % 2 == 0 else []
    if not words or words[0] != "longshore":
        return
    common, rest = parse_global(words[1:])
    try:
        name, after = take_name(rest)
        parse(load(name), after, common)
    except HelpWanted:
        assert verb == "help"


def test_the_overview_lists_every_verb_once() -> None:
    assert sorted(name for _, names in GROUPS for name in names) == sorted(VERBS)
    text = overview()
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", text, re.MULTILINE), verb


def test_help_goes_to_standard_output_and_succeeds(tmp_path: object) -> None:
    longshore = Longshore(tmp_path)  # type: ignore[arg-type]
    for words in (["--help"], ["-h"], ["help"], [], ["run", "--help"], ["help", "run"], ["run", "host", "-h"]):
        done = longshore(*words)
        assert (done.returncode, done.stderr) == (0, b""), words
        assert done.stdout.startswith(b"Usage: longshore")
    assert ARGV


def test_help_after_the_command_belongs_to_the_command() -> None:
    common, rest = parse_global(["run", "host", "--", "ls", "--help"])
    assert parse(load("run"), rest[1:], common).command == ["ls", "--help"]


def test_other_names_of_verbs_are_listed() -> None:
    for alias, verb in ALIASES.items():
        assert re.search(rf"^Other names of verbs: .*\b{alias}\b", overview(), re.MULTILINE)
        assert f"`{alias}`" in verb_help(load(verb))


def test_help_tells_what_is_written_to_whose_and_where() -> None:
    assert "LONGSHORE_ROOT, else /run/longshore and /var/lib/longshore" in " ".join(overview().split())
    run = " ".join(verb_help(load("run")).split())
    for words in (
        "used in place, as root unless -u is given",
        "`host`, `host:full`, --layer and images are copy-on-write",
        "On `host` the command is nobody unless -u is given, also for what -v shows",
        "and stays if SIGKILL ends this program",
        "at the limit the log starts again, and `logs` reports the lost output as a gap",
    ):
        assert words in run
    assert "No container is made." in verb_help(load("explain"))


def test_help_of_events_names_every_type_of_event() -> None:
    words = set(re.findall(r"[a-z-]+", verb_help(load("events"))))
    assert set(get_args(EventType)) <= words
