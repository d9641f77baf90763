"""Errors are values: they can be copied, and sent from one process to another with all that they know."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

import longshore
from longshore import errors
from longshore.simulator import Simulator
from longshore.sync import Engine

KINDS = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, errors.LongshoreError) and each.__module__ == errors.__name__
]


def made(kind: Callable[..., errors.LongshoreError]) -> errors.LongshoreError:
    """One of a kind, with something for each parameter that it insists on."""
    wanted = inspect.signature(kind).parameters.values()
    given = [
        5 if each.annotation in ("float", "int") else f"<{each.name}>"
        for each in wanted
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    return kind(*given)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not errors.CommandFailed])
def test_every_error_survives_being_pickled_and_copied_with_its_facts(kind: type[errors.LongshoreError]) -> None:
    error = made(kind)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)
        assert other.hint == error.hint


def test_the_tree_in_the_documentation_is_the_one_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    above = ["Exception"]
    names = {kind.__name__ for kind in KINDS}
    for line in (errors.__doc__ or "").splitlines():
        branch = re.match(r"[│ ]*[├└]── ", line)
        if branch:
            depth = len(branch[0]) // 4
            for name, other in re.findall(r"\b([A-Z]\w+)(?: \((\w+)\))?", line):
                if name in names:
                    above[depth:] = [name]
                    drawn[name] = ", ".join(filter(None, [above[depth - 1], other]))
    assert drawn == {kind.__name__: ", ".join(base.__name__ for base in kind.__bases__) for kind in KINDS}


def hang(state: Path) -> None:
    with Engine(Simulator("oci"), state=state) as engine:
        engine.run("host", ["sleep", "60"], timeout=0.1)


def fail(state: Path) -> None:
    with Engine(Simulator("oci"), state=state) as engine:
        engine.run("host", ["false"], check=True)


def test_an_error_in_a_worker_of_a_process_pool_reaches_the_parent_whole(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(longshore.TimeLimit, match="did not end within") as late:
            pool.submit(hang, tmp_path).result(60)
        with pytest.raises(longshore.CommandFailed) as failed:
            pool.submit(fail, tmp_path).result(60)
    assert late.value.result is not None
    assert late.value.result.exit.cause is longshore.Cause.TIME_LIMIT
    assert failed.value.result.exit_code == 1
