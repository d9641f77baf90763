"""Scenarios that nobody recorded, and the model of the original that tells what would have been seen.

The files in modelled/ were not recorded: more.py made them, by original.py. Its word counts because it comes to what
was recorded wherever something was.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from .compare import differences
from .expected import kind_of_recorded
from .runner import play
from .vectors import OWN, Operation, Vector, load_all

if os.name != "posix":
    pytest.skip("plays many at once, on the service in Python", allow_module_level=True)

from .original import record
from .scripted_double import scripted

MORE = load_all(Path(__file__).parent / "modelled")
FAMILIES = sorted({vector.tags[1] for vector in MORE})
AT_ONCE = 16


def shuffled(vectors: list[Vector]) -> list[Vector]:
    """The same under each other's names: nothing may look at them."""
    names = [vector.name for vector in vectors]
    return [
        msgspec.structs.replace(vector, name=name, about="", notes=None)
        for vector, name in zip(vectors, reversed(names), strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_was_not_recorded_is_as_the_original_would_have_done_it(family: str) -> None:
    vectors = [vector for vector in MORE if family in vector.tags]
    places = asyncio.Semaphore(AT_ONCE)

    async def problems(vector: Vector) -> list[str]:
        async with places:
            with scripted(vector) as double:
                return differences(vector, await play(vector, double))

    found = await asyncio.gather(*(problems(vector) for vector in shuffled(vectors)))
    assert {vector.name: wrong for vector, wrong in zip(vectors, found, strict=True) if wrong} == {}


def test_what_was_not_recorded_says_so() -> None:
    assert all(vector.tags[0] == "modelled" for vector in MORE)
    assert not any("modelled" in vector.tags for vector in load_all(OWN))


def is_modelled(vector: Vector) -> bool:
    """Whether the model has it: not the original's run time, nor calls from inside an event."""
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
    """Every fifth here, for the time it takes; all of them with `LONGSHORE_MODEL=all`."""
    vectors = [vector for vector in load_all(OWN) if is_modelled(vector)]
    assert len(vectors) > 240
    if os.environ.get("LONGSHORE_MODEL") != "all":
        vectors = vectors[::5]
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip((vector.name for vector in vectors), pool.map(unlike, vectors), strict=True))
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
