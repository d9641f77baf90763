"""What a container gets of the config of its image, and what of its caller."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.errors import InvalidImage, InvalidSpec
from longshore.images.config_spec import PATH, annotations_of, command_of, spec_fields
from longshore.images.documents import ImageConfig, parse_config
from longshore.spec import Spec

from .samples import config, encoded


def image(**inner: Any) -> ImageConfig:
    """The config of an image that says only this of how to run it."""
    return parse_config(encoded(config(config=inner)), "image `x`")


WHOLE = parse_config(encoded(config()), "image `x`")


def fields(found: ImageConfig, entrypoint: list[str] | None = None, **given: Any) -> dict[str, Any]:
    return spec_fields(found, given, "x", entrypoint=entrypoint)


def test_all_that_the_image_says_is_taken() -> None:
    found = fields(WHOLE)
    assert found == {
        "args": ["/entry", "serve"],
        "env": {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        "cwd": "/srv",
        "user": "app",
        "stop_signal": 3,
        "labels": {"a": "b"},
    }
    assert Spec.of(None, root="host", **found).user == "app"


def test_what_the_caller_says_wins() -> None:
    found = fields(
        WHOLE,
        args=["x", "y"],
        env={"LANG": "C", "MORE": "1"},
        cwd="/",
        user="0",
        stop_signal="KILL",
        labels={"a": "c"},
        memory="1g",
    )
    assert found == {
        "args": ["/entry", "x", "y"],
        "env": {"PATH": "/usr/bin:/bin", "LANG": "C", "MORE": "1"},
        "cwd": "/",
        "user": "0",
        "stop_signal": "KILL",
        "labels": {"a": "c"},
        "memory": "1g",
    }


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "given_entrypoint", "args", "command"),
    [
        (["e"], ["c"], None, None, ["e", "c"]),
        (["e"], ["c"], None, [], ["e", "c"]),
        (["e"], None, None, None, ["e"]),
        (None, ["c"], None, None, ["c"]),
        (["e"], ["c"], None, ["a"], ["e", "a"]),
        (None, ["c"], None, ["a"], ["a"]),
        (["e"], ["c"], ["n"], None, ["n"]),
        (["e"], ["c"], ["n"], ["a"], ["n", "a"]),
        (["e"], ["c"], [], ["a"], ["a"]),
        (None, None, None, ["a"], ["a"]),
    ],
)
def test_arguments_replace_the_cmd_and_an_entrypoint_both(
    entrypoint: list[str] | None,
    cmd: list[str] | None,
    given_entrypoint: list[str] | None,
    args: list[str] | None,
    command: list[str],
) -> None:
    found = image(Entrypoint=entrypoint, Cmd=cmd)
    assert command_of(found, args, given_entrypoint, "x").args == command


@pytest.mark.parametrize(("cmd", "entrypoint"), [(None, None), ([], None), (["c"], [])])
def test_an_image_without_a_command_needs_one(cmd: list[str] | None, entrypoint: list[str] | None) -> None:
    with pytest.raises(InvalidSpec, match="the image `x` has no command") as refused:
        fields(image(Cmd=cmd), entrypoint)
    assert refused.value.field == "args"


def test_there_always_is_a_path() -> None:
    assert fields(image(Cmd=["c"]))["env"] == {"PATH": PATH}
    assert fields(image(Cmd=["c"], Env=["PATH="]))["env"] == {"PATH": ""}


def test_the_later_of_two_variables_wins_and_wrong_ones_are_left_out() -> None:
    assert fields(image(Cmd=["c"], Env=["A=1", "A=2=3", "B", "=x", "C=\0", "PATH=/p"]))["env"] == {
        "A": "2=3",
        "PATH": "/p",
    }


@pytest.mark.parametrize(
    ("said", "taken"), [("", None), ("srv", "/srv"), ("//srv//x/", "/srv/x"), ("../..", "/"), ("/a/../..", "/")]
)
def test_a_working_directory_is_absolute(said: str, taken: str | None) -> None:
    assert fields(image(Cmd=["c"], WorkingDir=said)).get("cwd") == taken


@pytest.mark.parametrize(("said", "number"), [("SIGRTMIN+3", 37), ("9", 9), ("TERM", 15)])
def test_a_stop_signal_has_a_name_or_a_number(said: str, number: int) -> None:
    assert fields(image(Cmd=["c"], StopSignal=said))["stop_signal"] == number


def test_a_stop_signal_that_there_is_not_is_the_images_fault() -> None:
    with pytest.raises(InvalidImage, match="image `x` is not valid: its StopSignal"):
        fields(image(Cmd=["c"], StopSignal="SIGNOPE"))
    assert fields(image(Cmd=["c"], StopSignal="SIGNOPE"), stop_signal=9)["stop_signal"] == 9


def test_a_command_line_of_windows_stays_as_it_is() -> None:
    escaped = {"Cmd": ['cmd /S /C "echo hi"'], "ArgsEscaped": True}
    windows = parse_config(encoded(config(os="windows", config=escaped)), "x")
    assert command_of(windows, None, None, "x").command_line == 'cmd /S /C "echo hi"'
    assert command_of(windows, ["ipconfig"], None, "x").args == ["ipconfig"]
    assert fields(windows)["env"] == {}
    linux = parse_config(encoded(config(config=escaped)), "x")
    assert command_of(linux, None, None, "x").args == escaped["Cmd"]


def test_wrong_values_of_the_caller_are_left_for_the_spec_to_refuse() -> None:
    with pytest.raises(TypeError, match="args: a command is a list"):
        fields(WHOLE, args="a b")
    with pytest.raises(InvalidSpec, match="env"):
        fields(WHOLE, env=3)
    assert fields(WHOLE, labels=3)["labels"] == 3


def test_annotations_are_those_of_the_specification() -> None:
    found = annotations_of(WHOLE)
    assert found["org.opencontainers.image.os"] == "linux"
    assert found["org.opencontainers.image.exposedPorts"] == "53/udp,80/tcp"
    assert found["org.opencontainers.image.stopSignal"] == "SIGQUIT"
    assert found["a"] == "b"
    assert (
        annotations_of(image(Labels={"org.opencontainers.image.os": "mine"}))["org.opencontainers.image.os"] == "mine"
    )
