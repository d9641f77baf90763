"""How command lines are read."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.cli.arguments.other_tools import OPTIONS
from longshore.cli.arguments.parser import Arguments, HelpWanted, UsageError, close_match, parse, parse_global
from longshore.cli.verbs import ALIASES, VERBS, load


def read(line: str | list[str]) -> Arguments:
    words = line.split() if isinstance(line, str) else line
    common, rest = parse_global(words)
    return parse(load(rest[0]), rest[1:], common)


@pytest.mark.parametrize(
    "line",
    [
        "run -d --name web host -- sh -c x",
        "run host -d --name web -- sh -c x",
        "run --name web host -d sh -c x",
        "run --name=web -d host sh -c x",
        "run --detach --name web -- host sh",
    ],
)
def test_options_may_stand_before_and_after_the_root(line: str) -> None:
    if "-- host" in line:
        with pytest.raises(UsageError, match="needs a root"):
            read(line)
        return
    args = read(line)
    assert (args.root, args.name, args.detach, args.command) == ("host", "web", True, ["sh", "-c", "x"])


def test_what_follows_the_command_is_the_commands_alone() -> None:
    args = read("run host ls -it --name x -- --rm")
    assert args.command == ["ls", "-it", "--name", "x", "--", "--rm"]
    assert (args.interactive, args.name, args.rm) == (False, None, False)


def test_a_command_after_two_dashes_may_begin_with_a_dash() -> None:
    assert read("run host -- -weird").command == ["-weird"]


def test_flags_can_be_joined_and_the_last_may_have_a_value() -> None:
    args = read("run -itm256m -eA=b -u 0 host sh")
    assert (args.interactive, args.tty, args.memory, args.env, args.user) == (True, True, "256m", ["A=b"], "0")
    assert read("run -itm=1g host sh").memory == "1g"


def test_lists_collect_and_values_of_options_may_hold_equals_signs() -> None:
    args = read("run -e A=1=2 --env B -l a=b=c -l d -v /a:/b --volume=/c:/d:ro host sh")
    assert args.env == ["A=1=2", "B"]
    assert args.label == [("a", "b=c"), ("d", "")]
    assert args.volume == ["/a:/b", "/c:/d:ro"]


@pytest.mark.parametrize(
    ("line", "init"), [("run host x", "auto"), ("run --init host x", True), ("run --no-init host x", False)]
)
def test_a_flag_can_be_negated(line: str, init: Any) -> None:
    assert read(line).init == init


def test_a_flag_can_be_given_as_true_or_false() -> None:
    assert read("run --sig-proxy=false host x").sig_proxy is False
    assert read("run host x").sig_proxy is True
    assert read("run --rm=true host x").rm is True
    with pytest.raises(UsageError, match="takes no value"):
        read("run --rm=maybe host x")


def test_options_of_every_verb_may_stand_on_either_side_of_it() -> None:
    assert read("--root /a ps").state == "/a"
    assert read("ps --root /a").state == "/a"
    assert read("--runtime runc run host x").runtime == "runc"


def test_with_layers_or_a_spec_there_is_no_root_to_give() -> None:
    args = read("run --layer /a --layer /b -- sh -c x")
    assert (args.root, args.layer, args.command) == (None, ["/a", "/b"], ["sh", "-c", "x"])
    assert read("run --layer /a sh -c x").command == ["sh", "-c", "x"]
    args = read("run --spec config.json")
    assert (args.root, args.spec, args.command) == (None, "config.json", [])
    args = read("run --spec config.json rootfs:/x -- sh")
    assert (args.root, args.command) == ("rootfs:/x", ["sh"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run", "needs a root"),
        ("exec", "needs a container"),
        ("run --naem x host", "no option `--naem`"),
        ("run -zit host x", "no option `-z`"),
        ("run host --memory", "--memory needs a value"),
        ("run -m -- x", "-m needs a value"),
        ("run --cpus many host x", "--cpus: 'many'"),
        ("run --cpus nan host x", "--cpus: 'nan'"),
        ("run --pids-limit 1.5 host x", "--pids-limit"),
        ("run --network bridge host x", "none, host"),
        ("run -e =x host x", "-e: '=x'"),
        ("run -l =x host x", "-l: '=x'"),
        ("run --timeout soon host x", "--timeout: 'soon'"),
        ("run --timeout -1 host x", "--timeout: '-1'"),
        ("stop -t x web", "-t: 'x'"),
        ("logs a b", "logs takes one container, and `b` is a second one"),
        ("logs --tail many a", "--tail"),
        ("logs --since yesterday a", "--since"),
        ("events --since soon", "--since"),
        ("ps --format xml", "table, json"),
        ("--log-level loud ps", "--log-level"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(line: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        read(line)


def test_a_misspelled_option_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        read("run --read-onyl host x")
    assert caught.value.hint == "did you mean `--read-only`?"


@pytest.mark.parametrize("line", ["ps --publish 80", "run --zzzzz host x", "stop --publish web"])
def test_what_is_spelled_like_nothing_is_not_suggested(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(line)
    assert "did you mean" not in (caught.value.hint or "")


def test_a_verb_with_letters_exchanged_is_suggested() -> None:
    assert close_match("strat", list(VERBS)) == "did you mean `start`?"


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_elsewhere_an_option_is_told_the_way_here(name: str) -> None:
    for verb in ("run", "create"):
        with pytest.raises(UsageError, match=f"no option `{name}`") as caught:
            read([verb, name, "x", "host", "true"])
        assert caught.value.hint == OPTIONS[name]
    with pytest.raises(UsageError) as caught:
        read(["ps", name])
    assert caught.value.hint != OPTIONS[name]


@pytest.mark.parametrize("verb", [*VERBS, *ALIASES])
def test_every_verb_can_be_loaded_and_asked_for_help(verb: str) -> None:
    with pytest.raises(HelpWanted) as caught:
        read([verb, "--help"])
    assert caught.value.verb.name == ALIASES.get(verb, verb)


def test_no_option_has_two_meanings_in_a_verb() -> None:
    from longshore.cli.arguments.parser import GLOBAL

    for verb in VERBS:
        names = [name for option in (*load(verb).options, *GLOBAL) for name in option.names]
        assert len(names) == len(set(names)), verb


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("1.5", 1.5), ("90s", 90), ("5m", 300), ("2h", 7200), ("0", 0)]
)
def test_lengths_of_time_have_units(text: str, seconds: float) -> None:
    assert read(f"stop -t {text} web").time == seconds
