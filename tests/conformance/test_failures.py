"""Whatever the service refuses, answers or never completes: every operation ends, and nothing stays open.

These scenarios were not recorded: each function of the service fails in each of some ways, in one life of a container
with a further process, a pause, a kill and an exit.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
import pytest

from longshore.errors import LongshoreError

from .compare import invariants, left_behind
from .runner import play
from .vectors import OWN, Vector, load

if os.name != "posix":
    pytest.skip("plays several at once, on the service in Python", allow_module_level=True)

from .scripted_double import scripted

PENDING = "0xC0370103"
REFUSALS = ("0x80070005", "0xC0370110", "0xC037010E", "0xC0370105")
VERBS = [f"Hcs{verb}ComputeSystem" for verb in ("Create", "Start", "Pause", "Resume", "Shutdown", "Terminate")]
FUNCTIONS = [
    "NameToGuid",
    *VERBS,
    "HcsRegisterComputeSystemCallback",
    "HcsCreateProcess",
    "HcsRegisterProcessCallback",
    "HcsTerminateProcess",
    "HcsModifyProcess",
    "HcsGetProcessProperties",
    "HcsGetComputeSystemProperties",
    "HcsUnregisterComputeSystemCallback",
    "HcsCloseComputeSystem",
    "HcsUnregisterProcessCallback",
    "HcsCloseProcess",
]
LIFE: list[dict[str, Any]] = [
    {"op": "create"},
    {"op": "addprocess", "name": "e1", "process": {"args": ["cmd"], "cwd": "", "user": {}}},
    {"op": "stats"},
    {"op": "pause"},
    {"op": "resume"},
    {"op": "resize", "name": "init", "width": 80, "height": 25},
    {"op": "signalprocess", "name": "e1", "sig": 9},
    {"op": "settle"},
    {"op": "service", "do": {"action": "process_exit", "process": 1004, "exitCode": 3}},
    {"op": "settle"},
    {"op": "sleep", "ms": 300},
    {"op": "stats"},
    {"op": "signal", "sig": 9},
]


def scenario(rules: dict[str, list[dict[str, Any]]], missing: list[str]) -> Vector:
    base = load(OWN / "pause_resume.json")  # its container is isolated by Hyper-V
    limits = {"default_ms": 300, "shutdown_ms": 300, "terminate_ms": 300, "servicing_ms": 300}
    return msgspec.convert(
        {
            "schema": 1,
            "name": "",
            "host": {**msgspec.to_builtins(base.host), "missingFunctions": missing, "timeouts": limits},
            "service": {"functions": rules},
            "create": msgspec.to_builtins(base.create),
            "operations": LIFE,
            "timeline": [entry for index in range(len(LIFE)) for entry in ({"op": index}, {"return": index})],
        },
        Vector,
    )


def ways(function: str) -> list[tuple[str, Vector]]:
    """The ways in which a function fails."""
    found = [("missing", scenario({}, [function]))]
    for code in REFUSALS:
        found.append((code, scenario({function: [{"hr": code}]}, [])))
        found.append((f"{code} once", scenario({function: [{"hr": code, "times": 1}]}, [])))
    if function in VERBS:
        for told in ([], ["SystemExited"], ["ServiceDisconnect"]):
            notify = [{"type": type} for type in told]
            found.append((f"pending, then {told}", scenario({function: [{"hr": PENDING, "notify": notify}]}, [])))
    return found


async def problems(vector: Vector) -> list[str]:
    with scripted(vector) as double:
        seen = await play(vector, double)
    found = list(invariants(seen))
    for index, outcome in seen.outcomes.items():
        what = f"operation {index} ({vector.operations[index].op})"
        if outcome.hung:
            found.append(f"{what} did not come back")
        if outcome.error is not None and not isinstance(outcome.error, LongshoreError):
            found.append(f"{what}: {outcome.error!r}")
    return found + [f"{handle} is open" for handle in left_behind(vector, seen)]


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_a_function_that_fails_in_any_way_hangs_nobody_and_leaves_nothing(function: str) -> None:
    cases = ways(function)
    found = await asyncio.gather(*(problems(vector) for _, vector in cases))
    assert {name: wrong for (name, _), wrong in zip(cases, found, strict=True) if wrong} == {}
