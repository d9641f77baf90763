"""Verbs on a simulated machine, where nothing is what it is on Linux: what they ask of the engine, what they say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from longshore.cli import main
from longshore.cli.running import run_verb
from longshore.engine.engine import Engine
from longshore.errors import ServiceError
from longshore.simulator import Simulator

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["oci", "hcs"])
def simulator(request: pytest.FixtureRequest) -> Simulator:
    return Simulator(request.param)


@pytest.fixture
def longshore(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Run a command line in this process; its exit code and what it wrote."""
    monkeypatch.setattr(run_verb, "make_engine", lambda args: Engine(simulator, state=tmp_path))

    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        out, err = capfdbinary.readouterr()
        assert b"Traceback" not in err, err.decode()
        return code, out.decode(), err.decode()

    return run


def test_a_listing_of_nothing_is_headings_or_an_empty_list(longshore: Run) -> None:
    assert longshore("ps")[0:2] == (0, "CONTAINER   STATE   PID   ROOT   CREATED   COMMAND\n")
    code, out, _ = longshore("ps", "-a", "--format", "json")
    assert (code, json.loads(out)) == (0, [])


def test_a_created_container_is_listed_shown_and_removed(longshore: Run) -> None:
    assert longshore("create", "--name", "web", "rootfs:/srv", "--", "sleep", "9")[0:2] == (0, "web\n")
    [info] = json.loads(longshore("ps", "-a", "--format", "json")[1])
    assert (info["id"], info["state"], info["command"][-2:]) == ("web", "created", ["sleep", "9"])
    assert json.loads(longshore("inspect", "web")[1])[0]["spec"]["root"] == "rootfs:/srv"
    assert longshore("rm", "web")[0:2] == (0, "web\n")
    assert longshore("ps", "-aq")[1] == ""


def test_a_run_whose_container_cannot_be_removed_has_the_exit_code_of_its_command(
    longshore: Run, simulator: Simulator
) -> None:
    simulator.fail_at("delete", ServiceError("delete", "web", "the moon is wrong"))
    code, out, err = longshore("run", "--name", "web", "rootfs:/srv", "--", "exit", "3")
    assert (code, out) == (3, "")
    assert "the moon is wrong" in err
    assert "run `longshore rm -f web`" in err
    assert longshore("ps", "-aq")[1] == ""  # it was tried again at the end


def test_to_kill_what_does_not_run_is_an_error_as_with_docker_and_to_stop_it_is_not(longshore: Run) -> None:
    longshore("create", "--name", "web", "rootfs:/srv", "--", "sleep", "9")
    for state in ("created", "stopped"):
        code, out, err = longshore("kill", "web")
        assert (code, out) == (125, "")
        assert f"cannot kill container `web`: it is {state}" in err
        assert "hint: run `longshore rm web` to remove it" in err
        assert longshore("stop", "web")[0:2] == (0, "web\n")


def test_values_of_the_environment_are_not_shown(longshore: Run) -> None:
    longshore("create", "--name", "web", "-e", "PASSWORD=hunter2", "rootfs:/srv", "--", "sleep", "9")
    out = longshore("inspect", "web")[1]
    assert "PASSWORD" in out
    assert "hunter2" not in out


def test_features_are_told_one_a_line(longshore: Run) -> None:
    code, out, _ = longshore("doctor")
    assert code in (0, 125)
    assert all(line.startswith(("yes ", "no ", "  ")) for line in out.splitlines())


def test_what_the_service_cannot_is_told_with_its_reason(longshore: Run, simulator: Simulator) -> None:
    features = asyncio.run(simulator.probe()).items
    longshore("create", "--name", "web", "rootfs:/srv", "--", "sleep", "9")
    code, _, err = longshore("update", "-m", "64m", "web")
    update = features.get("update")
    if update is None or update.supported:
        assert (code, err) == (0, "")
    else:
        assert code == 125
        assert update.reason in err


def test_an_error_of_the_service_is_two_lines(longshore: Run, simulator: Simulator) -> None:
    from longshore.errors import ServiceError

    error = ServiceError("create", "web", "the service said no\nand more", hint="ask again")
    simulator.fail_at("create", error)
    code, out, err = longshore("create", "--name", "web", "rootfs:/srv", "--", "sleep", "9")
    assert (code, out) == (125, "")
    assert err.splitlines()[0].startswith("longshore: ")
    assert "said no\\nand more" in err  # nothing that a service says can move the cursor
    assert len(err.splitlines()) <= 2
    assert longshore("ps", "-aq")[1] == ""


def test_what_should_not_happen_is_told_without_a_traceback(longshore: Run, simulator: Simulator) -> None:
    simulator.fail_at("create", RuntimeError("boo"))
    code, out, err = longshore("create", "--name", "web", "rootfs:/srv", "--", "sleep", "9")
    assert (code, out) == (125, "")
    assert "this should not happen: RuntimeError: boo" in err
    assert "--debug" in err
