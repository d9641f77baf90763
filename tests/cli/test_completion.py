"""Completion: scripts for shells, and what they ask."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from longshore.cli.verbs.completion_words import candidates

from .command import ARGV, Longshore

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the containers `web`, `web-2` and `job`, as far as completion looks."""
    for place, name in (("run", "job"), ("run", "web"), ("lib", "web"), ("lib", "web-2")):
        (tmp_path / place / "containers" / name).mkdir(parents=True)
    monkeypatch.setenv("LONGSHORE_ROOT", str(tmp_path))
    return tmp_path


def values(*words: str) -> list[str]:
    return [value for value, _ in candidates(list(words))]


def test_verbs_are_completed() -> None:
    assert values("re") == ["resume", "resize", "restore"]
    assert "run" in values("")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("verb", ["exec", "logs", "stop", "rm", "attach", "inspect", "stats", "wait", "start", "top"])
def test_names_of_containers_are_completed(verb: str) -> None:
    assert values(verb, "") == ["job", "web", "web-2"]
    assert values(verb, "w") == ["web", "web-2"]


@pytest.mark.usefixtures("store")
def test_further_names_are_completed_only_where_more_can_be_given() -> None:
    assert values("stop", "web", "j") == ["job"]
    assert values("attach", "web", "j") == []
    assert values("exec", "web", "j") == []
    assert values("exec", "web", "--", "-") == []


def test_another_store_is_asked_if_the_line_says_so(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "lib" / "containers" / "elsewhere").mkdir(parents=True)
    assert values("--root", str(other), "stop", "") == ["elsewhere"]
    assert values("stop", "--root", str(other), "") == ["elsewhere"]
    assert "web" in values("--root", str(store), "stop", "")


def test_options_and_their_values_are_completed() -> None:
    assert values("run", "--net") == ["--network", "--net"]
    assert values("run", "--network", "") == ["none", "host"]
    assert values("run", "--network=h") == ["--network=host"]
    assert values("kill", "-s", "US") == ["USR1", "USR2"]
    assert "-m" in values("run", "-")
    assert values("run", "ho") == ["host", "host:full"]
    assert values("events", "--container", "") == values("stop", "")
    assert values("explain", "") == ["run", "create"]
    assert values("explain", "run", "--read") == ["--read-only"]
    assert values("completion", "") == list(SHELLS)


def test_names_of_images_are_completed(store: Path) -> None:
    names = store / "lib" / "images" / "names"
    names.mkdir(parents=True)
    for file in ("docker.io%2Flibrary%2Fpython%3A3", "docker.io%2Fa%2Fb%3A1", "ghcr.io%2Fa%2Fb%3A1"):
        (names / f"{file}.json").touch()
    assert values("rmi", "") == ["a/b:1", "ghcr.io/a/b:1", "python:3"]
    assert values("image", "rm", "py") == ["python:3"]
    assert values("run", "gh") == ["ghcr.io/a/b:1"]
    assert values("image", "p") == ["pull", "push", "prune"]
    assert values("pull", "--policy", "n") == ["newer", "never"]


def test_lines_that_make_no_sense_complete_to_nothing() -> None:
    assert values("frobnicate", "x") == []
    assert values("run", "--nonsense", "ho") == ["host", "host:full"]


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_printed(tmp_path: Path, shell: str) -> None:
    assert "__complete" in Longshore(tmp_path).ok("completion", shell)


def program(directory: Path) -> str:
    """A directory for PATH, in which `longshore` is."""
    path = directory / "bin"
    path.mkdir()
    (path / "longshore").write_text(f'#!/bin/sh\nexec {" ".join(ARGV)} "$@"\n')
    (path / "longshore").chmod(0o755)
    return str(path)


def lines(longshore: Longshore, directory: Path, *argv: str) -> list[str]:
    env = longshore.environment | {"PATH": f"{program(directory)}:{longshore.environment['PATH']}"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=300, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_names_by_the_script(store: Path, tmp_path: Path) -> None:
    longshore = Longshore(store)
    script = longshore.ok("completion", "bash") + (
        'COMP_WORDS=(longshore stop web) COMP_CWORD=2; _longshore; echo "${COMPREPLY[@]}"\n'
        'COMP_WORDS=(longshore run --network "") COMP_CWORD=3; _longshore; echo "${COMPREPLY[@]}"\n'
    )
    assert lines(longshore, tmp_path, "bash", "-c", script) == ["web web-2", "none host"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_names_by_the_script(store: Path, tmp_path: Path) -> None:
    longshore = Longshore(store)
    script = longshore.ok("completion", "fish") + 'complete -C "longshore stop w"\n'
    assert lines(longshore, tmp_path, "fish", "--no-config", "-c", script) == ["web\tcontainer", "web-2\tcontainer"]


@pytest.mark.parametrize(("shell", "check"), [("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"])])
def test_scripts_are_legal_in_their_shell(tmp_path: Path, shell: str, check: list[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / f"script.{shell}"
    script.write_text(Longshore(tmp_path).ok("completion", shell))
    subprocess.run([*check, str(script)], check=True, timeout=300)
