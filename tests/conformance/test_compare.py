"""The comparison itself: it is content with what was recorded, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from longshore.errors import (
    ContainerExists,
    ContainerNotFound,
    InvalidSpec,
    InvalidState,
    LongshoreError,
    NotSupported,
    ProcessNotFound,
    ServiceError,
    TimeLimit,
)

from . import expected, rules
from .compare import changes_the_course, differences, owed, splits
from .observed import Observed, Outcome, Reentered
from .vectors import OWN, Vector, load_all

VECTORS = load_all(OWN)
PLAIN = [vector for vector in VECTORS if not changes_the_course(vector)]
ERRORS: dict[str, Callable[[], BaseException]] = {
    expected.REFUSED: lambda: InvalidSpec("x", "is wrong"),
    expected.EXISTS: lambda: ContainerExists("x"),
    expected.NOT_SUPPORTED: lambda: NotSupported("x", "no"),
    expected.NO_CONTAINER: lambda: ContainerNotFound("x"),
    expected.NO_PROCESS: lambda: ProcessNotFound("x", "y"),
    expected.TIME_LIMIT: lambda: TimeLimit("x", 1),
    expected.DISCONNECTED: lambda: ServiceError("x", "y", "z", code=0x8037011E),
    expected.UNEXPECTED_EXIT: lambda: ServiceError("x", "y", "z", code=0xC0370106),
    expected.BAD_ANSWER: lambda: ServiceError("x", "y", "z"),
    expected.SERVICING: lambda: ServiceError("x", "y", "z"),
    expected.OF_CALLER: lambda: RuntimeError("x"),
    expected.STREAM_CLOSED: lambda: RuntimeError("x"),
    expected.WRONG_STATE: lambda: InvalidState("x", "y", "running"),
}


def error_of(kind: str) -> BaseException | None:
    if kind == expected.OK or kind == expected.ANY:
        return None
    if kind.startswith("code "):
        return ServiceError("x", "y", "z", code=int(kind[5:], 16))
    return ERRORS[kind]()


def as_recorded(vector: Vector) -> Observed:
    """What a runner would see if all went as it did with the original, but for the outcomes that rules change."""
    seen = Observed(
        calls=list(vector.calls),
        events=list(vector.events),
        attached=list(vector.attached),
        streams=list(vector.streams),
        stdin=list(vector.stdin),
        open=vector.open_at_end,
        order=[entry for entry in vector.timeline if {"op", "return", "call", "event", "attach"} & entry.keys()],
        reentries=[Reentered(entry.state, entry.op, Outcome()) for entry in vector.reentries],
    )
    for index, wanted in expected.outcomes(vector).items():
        result = vector.operations[index].result
        seen.outcomes[index] = Outcome(
            result=None if result is msgspec.UNSET else result, error=error_of(min(wanted.kinds))
        )
    return seen


def unchanged() -> list[Vector]:
    """Recordings of which no rule changes anything but a command line or the outcome of an operation."""
    return [
        vector
        for vector in PLAIN
        if not any(
            rules.is_refused(vector, i) or rules.lacks_isolation(vector, i) or rules.is_wrong_state(vector, i)
            for i in range(len(vector.operations))
        )
        and not any(step.op in rules.UNLOCKED for step in vector.operations)
        and vector.open_at_end == without_owed(vector)
    ]


def without_owed(vector: Vector) -> Any:
    gone = owed(vector)
    still = vector.open_at_end
    return msgspec.structs.replace(
        still,
        systems=[handle for handle in still.systems if handle not in gone],
        processes=[handle for handle in still.processes if handle not in gone],
        callbacks=[handle for handle in still.callbacks if handle not in gone],
    )


def quoted(vector: Vector) -> bool:
    """Whether a command line of it is one that longshore would write, too."""
    return all(splits(vector, call) for call in vector.calls if call.function == "HcsCreateProcess")


UNCHANGED = [vector for vector in unchanged() if quoted(vector)]


def test_most_recordings_are_compared_one_by_one() -> None:
    assert len(UNCHANGED) > 0.6 * len(VECTORS)


@pytest.mark.parametrize("vector", UNCHANGED, ids=lambda vector: vector.name)
def test_what_was_recorded_is_as_recorded(vector: Vector) -> None:
    assert differences(vector, as_recorded(vector)) == []


@pytest.mark.parametrize("vector", UNCHANGED, ids=lambda vector: vector.name)
def test_a_call_too_few_or_too_many_or_another_is_seen(vector: Vector) -> None:
    if not vector.calls:
        return
    for count in {0, len(vector.calls) - 1}:
        seen = as_recorded(vector)
        del seen.calls[count]
        assert differences(vector, seen)
        seen = as_recorded(vector)
        seen.calls.insert(count, seen.calls[count])
        assert differences(vector, seen)
        seen = as_recorded(vector)
        seen.calls[count] = msgspec.structs.replace(seen.calls[count], function="HcsSaveComputeSystem")
        assert differences(vector, seen)


@pytest.mark.parametrize("vector", UNCHANGED, ids=lambda vector: vector.name)
def test_an_event_too_few_or_with_another_code_is_seen(vector: Vector) -> None:
    for index, event in enumerate(vector.events):
        seen = as_recorded(vector)
        del seen.events[index]
        assert differences(vector, seen)
        seen = as_recorded(vector)
        seen.events[index] = msgspec.structs.replace(event, exit_code=event.exit_code ^ 0xFF)
        assert differences(vector, seen)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_an_operation_that_does_not_come_back_is_seen(vector: Vector) -> None:
    for index in expected.outcomes(vector):
        seen = as_recorded(vector)
        seen.outcomes[index] = Outcome(hung=True)
        assert differences(vector, seen)


@pytest.mark.parametrize("vector", UNCHANGED, ids=lambda vector: vector.name)
def test_another_outcome_is_seen(vector: Vector) -> None:
    for index in expected.outcomes(vector):
        seen = as_recorded(vector)
        seen.outcomes[index] = Outcome(error=LongshoreError("something else"))
        assert differences(vector, seen)


def test_a_handle_left_open_is_seen() -> None:
    vector = next(vector for vector in UNCHANGED if not vector.open_at_end.systems and vector.calls)
    seen = as_recorded(vector)
    seen.open = msgspec.structs.replace(seen.open, systems=["s1"])
    assert differences(vector, seen)


def test_every_rule_has_its_reason() -> None:
    assert len({rule.name for rule in rules.RULES}) == len(rules.RULES)
    for rule in rules.RULES:
        assert rule.rule
        assert rule.reason


def test_no_rule_looks_at_names() -> None:
    """What is done is decided by what a recording contains."""
    from pathlib import Path

    for module in ("rules", "expected", "compare", "asked"):
        source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
        assert "vector.name" not in source
        assert "vector.about" not in source
