"""What a verb loads before it does anything: it decides how quick the command line is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHOW = "import sys; from longshore.cli import main; code = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"

HEAVY = {"argparse", "click", "email", "hashlib", "http", "importlib.metadata", "multiprocessing", "random", "rich"}
HEAVY |= {"secrets", "shutil", "ssl", "tempfile", "unittest", "longshore.hcs", "longshore.simulator", "longshore.sync"}


def loaded(state: Path, *words: str) -> set[str]:
    argv = [sys.executable, "-c", SHOW, "--root", str(state), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["help"], ["completion", "bash"], ["__complete", "stop", ""]]
)
def test_what_needs_no_engine_loads_none(state: Path, words: list[str]) -> None:
    found = loaded(state, *words)
    assert not found & (HEAVY | {"asyncio", "msgspec", "logging", "longshore.engine.engine"})


@pytest.mark.parametrize("words", [["ps"], ["exec", "missing", "true"], ["inspect", "missing"], ["logs", "missing"]])
def test_a_verb_loads_nothing_that_is_slow_and_of_no_use_to_it(state: Path, words: list[str]) -> None:
    found = loaded(state, *words)
    assert "longshore.engine.engine" in found
    assert not found & HEAVY
    verbs = {name for name in found if name.startswith("longshore.cli.")}
    assert f"longshore.cli.verbs.{words[0]}" in verbs
    assert not verbs & {
        "longshore.cli.verbs.help",
        "longshore.cli.verbs.completion_words",
        "longshore.cli.verbs.explain",
        "longshore.cli.verbs.stats",
    }
