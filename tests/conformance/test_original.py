"""The model of the original against every recording: a model that differs from one judges nothing between them."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from .expected import kind_of_recorded
from .vectors import OWN, Operation, Vector, load_all

if os.name != "posix":
    pytest.skip("the model plays on the service in Python", allow_module_level=True)

from .more import cases, modelled
from .original import record


def is_modelled(vector: Vector) -> bool:
    """Known differences: the collector of the original's run time, and calls from inside an event, are not modelled."""
    return not vector.reenter and not any(step.op in ("gc", "drop") for step in vector.operations)


def unlike(vector: Vector) -> list[str]:
    """Where the model comes to something else than what was recorded."""
    model = msgspec.convert({**msgspec.to_builtins(vector), **record(vector)}, Vector)
    found = [
        f"{member}: {getattr(vector, member)} is {getattr(model, member)}"
        for member in ("events", "attached", "open_at_end")
        if getattr(vector, member) != getattr(model, member)
    ]
    found += [
        f"{member}: {getattr(vector, member)} is {getattr(model, member)}"
        for member in ("streams", "stdin")
        if sorted(map(repr, getattr(vector, member))) != sorted(map(repr, getattr(model, member)))
    ]
    recorded, ours = ([_call(call) for call in each.calls] for each in (vector, model))
    if recorded != ours:
        found.append(f"calls: {recorded} are {ours}")
    for index, (theirs, mine) in enumerate(zip(vector.operations, model.operations, strict=True)):
        if _outcome(theirs) != _outcome(mine):
            found.append(f"operation {index} ({theirs.op}): {_outcome(theirs)} is {_outcome(mine)}")
    return found


def _call(call: Any) -> tuple[Any, ...]:
    handles = (call.system_handle, call.process_handle, call.process, call.callback)
    return (call.function, *handles, call.document, call.options, call.name, call.guid, call.hresult)


def _outcome(step: Operation) -> tuple[Any, ...]:
    if step.error is None:
        result = None if step.result is msgspec.UNSET or step.op in ("stats", "summary") else step.result
        return (step.hung, step.panic is not None, result)
    return (kind_of_recorded(step.error), step.error.operation, step.error.extra_info)


def test_the_model_comes_to_what_was_recorded() -> None:
    recorded = load_all(OWN)
    vectors = [vector for vector in recorded if is_modelled(vector)]
    assert len(vectors) >= 247
    assert len(recorded) - len(vectors) <= 16
    found = {vector.name: unlike(vector) for vector in vectors}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_what_is_generated_is_what_is_kept() -> None:
    """Every case of the table, made anew on this machine, however busy it is, comes to the file that is kept of it."""
    kept = {vector.name: vector for vector in load_all(OWN.parent / "modelled")}
    made = {name: modelled(name, family, members) for name, family, members in cases(whole=False)}
    assert kept.keys() == made.keys()
    changed = [name for name in made if msgspec.convert(made[name], Vector) != kept[name]]
    assert changed == []
