"""Every document of every recording, compared as text: what the pure translation makes of what the caller asked."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from longshore.errors import InvalidSpec, NotSupported, ServiceError
from longshore.hcs.dll.hresults import HcsError, normal
from longshore.hcs.schema1 import documents, translate

from . import asked, rules
from .vectors import Call, Operation, Vector, directory, guid_of, load_all, number

VECTORS = load_all()


def host(vector: Vector) -> translate.Host:
    """The machine that a recording was made on."""
    return translate.Host(cpus=vector.host.cpus, name_to_guid=_name_to_guid(vector), exists=asked.exists(vector))


def _name_to_guid(vector: Vector) -> Callable[[str], str]:
    failing = vector.service.functions.get("NameToGuid", [])

    def answer(name: str) -> str:
        if "NameToGuid" in vector.host.missing_functions:
            raise NotSupported("NameToGuid", "this vmcompute.dll lacks it")
        for rule in failing:
            if isinstance(rule.hr, int | str) and number(rule.hr) >= 1 << 31 and (rule.match or "") in name:
                raise HcsError("NameToGuid", None, normal(number(rule.hr)))
        return vector.service.guids.get(name) or guid_of(name)

    return answer


def calls(vector: Vector, index: int, function: str) -> list[Call]:
    container = vector.container_of(vector.operations[index])
    return [call for call in vector.calls_during(index) if call.function == function and call.system == container]


def steps(op: str) -> list[object]:
    return [
        pytest.param(vector, index, id=f"{vector.name}-{index}")
        for vector in VECTORS
        for index, step in enumerate(vector.operations)
        if step.op == op
    ]


@pytest.mark.parametrize(("vector", "index"), steps("create"))
def test_a_container_is_made_with_the_recorded_document(vector: Vector, index: int) -> None:
    step = vector.completed(vector.operations[index])
    container = vector.container_of(step)
    why = rules.refusals(step.spec or {}, step.options or [])
    if why:
        with pytest.raises((InvalidSpec, NotSupported)):
            _translate(vector, step)
        return

    recorded = calls(vector, index, "HcsCreateComputeSystem")
    if not recorded and step.error is not None and not _lacks(vector, "HcsCreateComputeSystem"):
        # the original gave up before: in looking for the utility VM, or for a layer's id
        with pytest.raises((InvalidSpec, NotSupported, ServiceError)) as raised:
            _translate(vector, step)
        if step.error.number is not None and isinstance(raised.value, ServiceError):
            assert raised.value.code == step.error.number
        return

    text = documents.encode(_translate(vector, step))
    assert json.loads(text)["Name"] == container
    if recorded:
        assert text == rules.in_modern_names(recorded[0].document or "")
    elif _lacks(vector, "HcsCreateComputeSystem") and step.error is not None:
        assert text == step.error.extra_info  # the original says there what it would have sent


def _translate(vector: Vector, step: Operation) -> documents.ContainerConfig:
    return translate.container_config(vector.container_of(step), asked.created(step), host(vector))


def _lacks(vector: Vector, function: str) -> bool:
    return function in vector.host.missing_functions


@pytest.mark.parametrize(("vector", "index"), steps("create"))
def test_the_first_process_is_started_with_the_recorded_document(vector: Vector, index: int) -> None:
    step = vector.completed(vector.operations[index])
    recorded = calls(vector, index, "HcsCreateProcess")
    process = (step.spec or {}).get("process") or {}
    if any(is_so for is_so, _ in rules.process_refusals(process)):
        with pytest.raises(InvalidSpec):
            translate.process_config(asked.created(step))
    elif recorded and not rules.refusals(step.spec or {}, step.options or []):
        compare(recorded[0], documents.encode(translate.process_config(asked.created(step))), process.get("args"))


@pytest.mark.parametrize(("vector", "index"), steps("addprocess"))
def test_a_further_process_is_started_with_the_recorded_document(vector: Vector, index: int) -> None:
    step = vector.operations[index]
    recorded = calls(vector, index, "HcsCreateProcess")
    process = step.process or {}
    made = [other for other in vector.operations[:index] if other.op == "create"]
    if not made:
        return  # of a container that there is not
    spec = asked.created(vector.completed(made[-1]))
    if any(is_so for is_so, _ in rules.process_refusals(process)):
        with pytest.raises(InvalidSpec):
            translate.process_config(asked.process_spec(process), spec)
        return
    text = documents.encode(translate.process_config(asked.process_spec(process), spec))
    for call in recorded:
        compare(call, text, process.get("args"))


def compare(call: Call, text: str, args: list[str] | None) -> None:
    """As recorded, but for the command line, which is quoted."""
    assert call.document is not None
    sent, recorded = json.loads(text), json.loads(call.document)
    if args:
        assert rules.splits_into(sent["CommandLine"], args)
        line, theirs = (json_text(each["CommandLine"]) for each in (sent, recorded))
        text = text.replace(f'"CommandLine":{line}', f'"CommandLine":{theirs}', 1)
    assert text == call.document


def json_text(value: str) -> str:
    """A string as documents have it."""
    return documents.encode_text(value)


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector.name) for vector in VECTORS])
def test_requests_about_processes_are_the_recorded_ones(vector: Vector) -> None:
    for index, step in enumerate(vector.operations):
        recorded = calls(vector, index, "HcsModifyProcess")
        if step.op == "resize" and not rules.resize_refused(step.width, step.height):
            for call in recorded:
                assert documents.encode(documents.resize(step.height, step.width)) == call.document
        if step.op == "close_stdin":
            for call in recorded:
                assert documents.encode(documents.CLOSE_STDIN) == call.document


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector.name) for vector in VECTORS])
def test_queries_are_the_recorded_ones(vector: Vector) -> None:
    ours = {documents.property_query(kind) for kind in ("Statistics", "ProcessList", "PendingUpdates")}
    for call in vector.calls:
        if call.function == "HcsGetComputeSystemProperties":
            assert call.document in ours


def test_the_directory_of_recordings_is_not_empty() -> None:
    assert VECTORS, directory()
    assert sum(len(vector.calls) for vector in VECTORS) > 0
