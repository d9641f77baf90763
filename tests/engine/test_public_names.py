"""`import longshore`: what is public, where it comes from, and what the import itself costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import longshore
from longshore import errors

SOURCE = Path(longshore.__file__)
LIMIT_MS = 5.0


def announced() -> dict[str, str]:
    """Name to module, as type checkers see it."""
    found = {}
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            for alias in node.names:
                assert alias.asname == alias.name, "exported on purpose, in the form that type checkers know"
                found[alias.name] = node.module or ""
    return found


def test_type_checkers_see_the_names_that_there_are() -> None:
    assert announced() == {**longshore._HOME, "sync": ""}
    assert set(longshore.__all__) == announced().keys()
    assert list(longshore.__all__) == sorted(
        longshore.__all__, key=lambda name: (not name.isupper(), name.islower(), name)
    )


@pytest.mark.parametrize("name", longshore.__all__)
def test_every_name_is_what_its_module_has(name: str) -> None:
    module = announced()[name]
    if module:
        assert getattr(longshore, name) is getattr(importlib.import_module(f"longshore.{module}"), name)
    else:
        assert getattr(longshore, name) is importlib.import_module(f"longshore.{name}")


def test_every_error_is_public() -> None:
    family = {name for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, Exception)}
    assert family <= set(longshore.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'longshore' has no attribute 'Enigne'"):
        longshore.Enigne  # noqa: B018
    assert not hasattr(longshore, "__wrapped__")
    with pytest.raises(ImportError):
        from longshore import Enigne  # noqa: F401


def test_names_can_be_completed() -> None:
    assert set(longshore.__all__) <= set(dir(longshore))
    assert {"simulator", "__version__"} <= set(dir(longshore))


def test_the_version_is_that_of_the_distribution() -> None:
    assert longshore.__version__.count(".") >= 1


def in_a_fresh_interpreter(source: str) -> str:
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == ""
    return done.stdout


def test_the_import_loads_nothing_heavy() -> None:
    source = (
        "import sys; before = set(sys.modules); import longshore;"
        "print(*sorted(set(sys.modules) - before)); print(*(n for n in vars(longshore) if n in longshore.__all__))"
    )
    loaded, names = in_a_fresh_interpreter(source).splitlines()
    assert loaded.split() == ["longshore"]
    assert names == ""


def test_errors_and_specs_come_without_asyncio() -> None:
    source = (
        "import sys, longshore; longshore.LongshoreError; longshore.Spec; longshore.errors;"
        "print([name for name in ('asyncio', 'ctypes', 'click') if name in sys.modules])"
    )
    assert in_a_fresh_interpreter(source) == "[]\n"


@pytest.mark.speed
def test_the_import_takes_a_few_milliseconds() -> None:
    source = "import time; t = time.perf_counter(); import longshore; print((time.perf_counter() - t) * 1000)"
    assert min(float(in_a_fresh_interpreter(source)) for _ in range(5)) < LIMIT_MS


def test_a_star_import_brings_all_and_nothing_else() -> None:
    source = "from longshore import *; print(*sorted(n for n in dir() if not n.startswith('__')))"
    assert in_a_fresh_interpreter(source).split() == sorted(longshore.__all__)


@pytest.mark.slow
def test_a_strict_type_checker_knows_the_types_of_both_forms(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        "import longshore\n"
        "async def asynchronous() -> None:\n"
        "    async with longshore.Engine() as engine:\n"
        "        reveal_type(await engine.run('host', ['true'], memory='64m'))\n"
        "        reveal_type(await (await engine.get('web')).exec(['true']))\n"
        "def blocking(engine: longshore.sync.Engine) -> None:\n"
        "    reveal_type(longshore.run('host', ['true']).exit_code)\n"
        "    reveal_type(engine.get('web').exec(['true']).stdout)\n"
        "    reveal_type(engine.events())\n"
        "    reveal_type(longshore.PIPE)\n"
        "    engine.get(3)\n"
        "    engine.create('web', memroy='64m')\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    said = [line.partition(": ")[2] for line in done.stdout.splitlines() if str(program.name) in line]
    revealed = [line.partition('"')[2].rstrip('"') for line in said if "Revealed type" in line]
    assert [re.sub(r"[\w.]+\.", "", each) for each in revealed] == [
        "Completed",
        "Process",
        "int | None",
        "Reader | None",
        "ClosingIterator[Event | Gap]",
        "int",
    ]
    wrong = [line for line in said if line.startswith("error")]
    assert len(wrong) == 2
    assert 'has incompatible type "int"; expected "str"' in wrong[0]
    assert '"memroy"' in wrong[1]
