"""Codes that no table has: each leaves as an HcsError, with the service's own words, from every function.

In Windows' Python the meaning of such a code is asked of Windows, by the real binding.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.errors import LongshoreError, ServiceError
from longshore.hcs.dll.hresults import HcsError, normal
from longshore.hcs.dll.vmcompute import Vmcompute
from longshore.hcs.system.layers import LayerFunctions

from .compare import invariants, left_behind
from .runner import Double, play
from .vectors import OWN, Vector, load

double_for: Callable[[Vector], AbstractContextManager[Double]]
if os.name == "nt":
    from tests.hcs.wine_double import under_wine as double_for
else:
    from .scripted_double import scripted as double_for

CODES = ("0x80004001", "0x803B0001", "0x80010108", "0xC03A0002", "0x80041002", "0xC0370199", "0xFFFFFFFF", "0x80000000")
WORDS = "the service's own words"
TOLD = {"Error": -1, "ErrorMessage": WORDS}
LIFE: list[dict[str, Any]] = [
    {"op": "create"},
    {"op": "addprocess", "name": "e1", "process": {"args": ["cmd"], "cwd": "", "user": {}}},
    {"op": "stats"},
    {"op": "summary"},
    {"op": "pause"},
    {"op": "resume"},
    {"op": "close_stdin", "name": "init"},
    {"op": "resize", "name": "init", "width": 80, "height": 25},
    {"op": "signalprocess", "name": "e1", "sig": 9},
    {"op": "settle"},
    {"op": "serverversion"},
    {"op": "signal", "sig": 15},
    {"op": "signal", "sig": 9},
    {"op": "settle"},
    {"op": "stats"},
]
SHOWN_BY = {  # function -> the operation that fails with its code
    "NameToGuid": 0,
    "HcsCreateComputeSystem": 0,
    "HcsRegisterComputeSystemCallback": 0,
    "HcsStartComputeSystem": 0,
    "HcsCreateProcess": 0,
    "HcsRegisterProcessCallback": 0,
    "HcsGetComputeSystemProperties": 2,
    "HcsPauseComputeSystem": 4,
    "HcsResumeComputeSystem": 5,
    "HcsModifyProcess": 6,
    "HcsTerminateProcess": 8,
    "HcsShutdownComputeSystem": 11,
    "HcsTerminateComputeSystem": None,  # after the shutdown there is nothing to end
    "HcsGetProcessProperties": None,
    "HcsUnregisterComputeSystemCallback": None,
    "HcsUnregisterProcessCallback": None,
    "HcsCloseComputeSystem": None,
    "HcsCloseProcess": None,
}
SILENT = ("NameToGuid", "HcsRegisterComputeSystemCallback", "HcsRegisterProcessCallback")  # make no result text


def scenario(function: str, code: str, *, times: int | None) -> Vector:
    base = load(OWN / "pause_resume.json")  # its container is isolated by Hyper-V
    limits = {"default_ms": 2000, "shutdown_ms": 2000, "terminate_ms": 2000, "servicing_ms": 2000}
    rule = {"hr": code, "result": TOLD, **({} if times is None else {"times": times})}
    return msgspec.convert(
        {
            "schema": 1,
            "name": "",
            "host": {**msgspec.to_builtins(base.host), "timeouts": limits},
            "service": {"functions": {function: [rule]}},
            "create": msgspec.to_builtins(base.create),
            "operations": LIFE,
            "timeline": [entry for index in range(len(LIFE)) for entry in ({"op": index}, {"return": index})],
        },
        Vector,
    )


async def problems(function: str, code: str, *, times: int | None) -> list[str]:
    vector = scenario(function, code, times=times)
    with double_for(vector) as double:
        seen = await play(vector, double)
    found = list(invariants(seen))
    for index, outcome in seen.outcomes.items():
        if outcome.hung or not isinstance(outcome.error, LongshoreError | None):
            found.append(f"operation {index}: {outcome}")
    shown = SHOWN_BY[function]
    if shown is not None:
        error = seen.outcomes[shown].error
        if not isinstance(error, HcsError) or error.code != int(code, 16):
            found.append(f"operation {shown}: {error!r}")
        elif function not in SILENT and WORDS not in str(error):
            found.append(f"operation {shown} has not {WORDS}: {error}")
    if times is not None:
        found += [f"{handle} is open" for handle in left_behind(vector, seen)]
    return found


@pytest.mark.parametrize("function", SHOWN_BY)
async def test_unknown_code_of_a_function_leaves_as_hcs_error(function: str) -> None:
    cases: list[tuple[str, int | None]] = [(code, 1) for code in CODES] + [(CODES[0], None)]
    if os.name == "nt":  # there is one double at a time
        found = [await problems(function, code, times=times) for code, times in cases[::4]]
    else:
        found = list(await asyncio.gather(*(problems(function, code, times=times) for code, times in cases)))
    assert [each for each in found if each] == []


@given(st.integers(min_value=0, max_value=(1 << 32) - 1))
def test_any_code_makes_an_error_that_shows_it(code: int) -> None:
    error = HcsError("doing", "box", normal(code))
    assert error.code == normal(code)
    assert (f"0x{normal(code):08X}" if normal(code) > 0xFFFF else str(normal(code))) in str(error)
    assert str(error.about("other", "box"))


@pytest.mark.parametrize("code", CODES)
def test_unknown_code_of_a_layer_function_leaves_as_hcs_error(code: str) -> None:
    def calls(vmcompute: Vmcompute) -> dict[str, Callable[[], object]]:
        layers, path = LayerFunctions(vmcompute), r"C:\layers\x"
        return {
            "CreateSandboxLayer": lambda: layers.create(path, []),
            "ExpandSandboxSize": lambda: layers.expand(path, 1),
            "ActivateLayer": lambda: layers.activate(path),
            "DeactivateLayer": lambda: layers.deactivate(path),
            "PrepareLayer": lambda: layers.prepare(path, []),
            "UnprepareLayer": lambda: layers.unprepare(path),
            "DestroyLayer": lambda: layers.destroy(path),
            "LayerExists": lambda: layers.exists(path),
            "GetLayerMountPath": lambda: layers.mount_path(path),
            "ProcessBaseImage": lambda: layers.process_base_layer(path),
            "ProcessUtilityImage": lambda: layers.process_utility_vm(path),
            "GrantVmAccess": lambda: layers.grant_access("vm", path),
            "NameToGuid": lambda: vmcompute.name_to_guid("x"),
            "HcsEnumerateComputeSystems": lambda: vmcompute.enumerate_compute_systems("{}"),
            "HcsOpenComputeSystem": lambda: vmcompute.open_compute_system("x"),
        }

    names = list(calls(Vmcompute(object(), lambda address: None)))
    base = scenario("NameToGuid", code, times=None)
    rule = base.service.functions["NameToGuid"]
    service = msgspec.structs.replace(base.service, functions=dict.fromkeys(names, rule))
    with double_for(msgspec.structs.replace(base, service=service)) as double:
        for name, call in calls(double.binding).items():
            with pytest.raises(ServiceError) as raised:
                call()
            assert (name, raised.value.code) == (name, int(code, 16))
