"""`longshore doctor` on Windows: whatever is missing is told by what it is, and with the next step."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.values import Feature, Features
from longshore.hcs import probe
from longshore.hcs.dll import privileges, service_manager
from longshore.hcs.service import HcsService

from .world import script, world


async def ask(tmp_path: Path, **machine: Any) -> Features:
    async with world(tmp_path, **machine) as it:
        return await it.service.probe()


def found(features: Features, name: str) -> tuple[bool, str, str]:
    item: Feature = features.items[name]
    return item.supported, item.reason, item.hint or ""


async def test_where_all_is_well_each_part_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "windows_version", lambda: "10.0.20348")
    monkeypatch.setattr(probe, "has_hypervisor", lambda exists: True)
    monkeypatch.setattr(privileges, "enable", lambda: True)
    features = await ask(tmp_path, modern=True)
    for name in ("windows", "calls", "service", "rights", "run", "hyperv", "layers", "console-events"):
        assert features.items[name].supported, features.items[name]
    assert features.items["windows"].reason == "build 20348"
    assert features.version == "10.0.20348"


@pytest.mark.parametrize(
    "machine",
    [
        {},
        {"modern": True},
        {"missing": ("HcsCreateProcess",)},
        {"rules": script(HcsEnumerateComputeSystems=[{"hr": 0x80070005}])},
        {"rules": script(HcsEnumerateComputeSystems=[{"hr": 0x80370114}])},
        {"rules": script(HcsEnumerateComputeSystems=[{"hr": 0x80070426}])},
    ],
    ids=["an old build", "a new build", "a DLL that lacks calls", "no rights", "no feature", "stopped"],
)
async def test_every_no_has_its_next_step(tmp_path: Path, machine: dict[str, Any]) -> None:
    features = await ask(tmp_path, **machine)
    assert [name for name, item in features.items.items() if not item.supported and not item.hint] == []


async def test_every_no_has_its_next_step_also_where_there_is_no_service(tmp_path: Path) -> None:
    features = await HcsService(tmp_path).probe()
    assert [name for name, item in features.items.items() if not item.supported and not item.hint] == []


async def test_who_may_not_use_the_service_is_told_which_groups_may(tmp_path: Path) -> None:
    features = await ask(tmp_path, rules=script(HcsEnumerateComputeSystems=[{"hr": 0x80070005}]))
    assert found(features, "service")[0]
    assert found(features, "rights") == found(features, "run")
    assert "Hyper-V Administrators" in found(features, "rights")[2]


@pytest.mark.parametrize("hr", [0x80070426, 0x800706BA, 0x8037011E])
async def test_a_service_that_is_stopped_is_told_how_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hr: int
) -> None:
    monkeypatch.setattr(service_manager, "ask", lambda: "stopped")
    features = await ask(tmp_path, rules=script(HcsEnumerateComputeSystems=[{"hr": hr}]))
    assert found(features, "service") == (False, "vmcompute is stopped", probe.START)
    assert found(features, "run")[2] == probe.START


@pytest.mark.parametrize("hr", [0x80070424, 0x80370114])
async def test_a_windows_without_the_feature_is_told_how_to_enable_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hr: int
) -> None:
    monkeypatch.setattr(service_manager, "ask", lambda: "not installed")
    features = await ask(tmp_path, rules=script(HcsEnumerateComputeSystems=[{"hr": hr}]))
    assert found(features, "service") == (False, "vmcompute is not installed", probe.FEATURE)
    assert "-FeatureName Containers" in found(features, "run")[2]


async def test_where_nobody_can_ask_the_manager_the_services_own_words_count(tmp_path: Path) -> None:
    features = await ask(tmp_path, rules=script(HcsEnumerateComputeSystems=[{"hr": 0x80070426}]))
    assert found(features, "service")[1] == "unknown: this is not Windows"
    assert "Start-Service vmcompute" in found(features, "run")[2]


async def test_a_windows_without_hyper_v_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "has_hypervisor", lambda exists: False)
    features = await ask(tmp_path)
    assert found(features, "run")[0]
    supported, reason, hint = found(features, "hyperv")
    assert (supported, reason) == (False, "Hyper-V is not installed")
    assert "-FeatureName Microsoft-Hyper-V" in hint
    assert found(features, "pause") == (False, reason, hint)


async def test_a_build_that_is_too_old_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "windows_version", lambda: "10.0.10586")
    assert found(await ask(tmp_path), "windows") == (False, "build 10586", "build 14393 (Windows Server 2016) or newer")


async def test_a_call_that_a_build_has_not_is_told_and_so_is_what_works_without_it(tmp_path: Path) -> None:
    features = await ask(tmp_path, missing=("HcsSignalProcess",))
    assert found(features, "calls")[0]
    assert "but HcsSignalProcess (from build 17763 on)" in found(features, "calls")[1]
    assert not found(features, "console-events")[0]
    assert found(features, "run")[0]


async def test_a_dll_without_what_is_needed_runs_nothing(tmp_path: Path) -> None:
    features = await ask(tmp_path, missing=("HcsCreateProcess",))
    assert found(features, "calls") == (
        False,
        "vmcompute.dll lacks HcsCreateProcess",
        "use a newer build of Windows",
    )
    assert not found(features, "run")[0]


async def test_where_this_is_not_windows_nothing_is_said_to_work(tmp_path: Path) -> None:
    features = await HcsService(tmp_path).probe()
    works = {name for name, item in features.items.items() if item.supported}
    assert works <= {"windows"}
    assert found(features, "service")[0] is False


class Advapi:
    """The service manager's functions, as far as they are called."""

    def __init__(self, *, manager: int = 1, service: int = 2, state: int = 4) -> None:
        self.open = 0

        def opened(handle: int) -> Any:
            def open_(*arguments: Any) -> int:
                self.open += bool(handle)
                return handle

            return open_

        def query(handle: int, status: Any) -> int:
            ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[1] = state
            return 1

        def close(handle: int) -> None:
            self.open -= 1

        self.OpenSCManagerW, self.OpenServiceW = opened(manager), opened(service)
        self.QueryServiceStatus, self.CloseServiceHandle = query, close


@pytest.mark.parametrize(("state", "word"), [(4, "running"), (1, "stopped"), (9, "in state 9")])
def test_the_manager_is_asked_and_its_handles_are_closed(state: int, word: str) -> None:
    advapi = Advapi(state=state)
    assert service_manager.ask(lambda name, use_last_error: advapi) == word
    assert advapi.open == 0


def test_a_service_that_is_not_installed_is_told_from_one_that_may_not_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advapi = Advapi(service=0)
    for code, words in ((1060, "not installed"), (5, "unknown: access is denied")):
        monkeypatch.setattr(ctypes, "get_last_error", lambda code=code: code, raising=False)
        assert service_manager.ask(lambda name, use_last_error: advapi) == words
    assert advapi.open == 0
