"""The binding: texts are freed, pending is told from failure, failures say what the service said."""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.errors import InvalidSpec, NotSupported
from longshore.hcs.dll import vmcompute
from longshore.hcs.dll.hresults import PENDING, STOPPED, HcsError, failed, meaning, normal, same
from longshore.hcs.service import HcsService
from tests.conformance.vectors import Service

from .exports import Client
from .scripted import Hcs
from .world import script

FAILURE = {
    "Error": -2143878911,
    "ErrorMessage": "The container operating system does not match the host operating system.",
    "ErrorEvents": [
        {"Message": "layer 4 is of build 17763", "Provider": "p", "EventId": 1, "Flags": 0, "Source": "Vmcompute"},
        {"Message": "", "Provider": "p"},
    ],
}


@pytest.fixture
def machine() -> Iterator[Hcs]:
    made = Hcs()
    yield made
    texts = [text.value for client in made.clients for text in client.texts.values()]
    made.close()
    assert made.errors == []
    assert texts == []


def client(machine: Hcs, rules: Service | None = None) -> Client:
    machine.script = rules or Service()
    return machine.client()


def test_a_text_of_the_service_is_freed_when_the_call_succeeds(machine: Hcs) -> None:
    vm = client(machine, script(HcsCreateComputeSystem=[{"hr": 0, "result": {"a": 1}}])).binding
    system, done = vm.create_compute_system("box", "{}")
    assert done
    assert vm.get_compute_system_properties(system, "") is not None
    vm.close_compute_system(system)


@pytest.mark.parametrize("hr", [0x80070005, 0xC0370101, PENDING])
def test_a_text_of_the_service_is_freed_when_the_call_fails_or_is_pending(machine: Hcs, hr: int) -> None:
    vm = client(machine, script(HcsCreateComputeSystem=[{"hr": hr, "result": FAILURE}])).binding
    if hr == PENDING:
        _, done = vm.create_compute_system("box", "{}")
        assert not done
    else:
        with pytest.raises(HcsError) as raised:
            vm.create_compute_system("box", "{}")
        assert raised.value.code == normal(hr)


def test_a_properties_document_is_freed_when_the_call_fails(machine: Hcs) -> None:
    rules = script(
        HcsCreateComputeSystem=[{"hr": 0}],
        HcsGetComputeSystemProperties=[{"hr": 0xC0370105, "result": FAILURE, "properties": {"a": 1}}],
    )
    vm = client(machine, rules).binding
    system, _ = vm.create_compute_system("box", "{}")
    with pytest.raises(HcsError):
        vm.get_compute_system_properties(system, "")
    vm.close_compute_system(system)


def test_pending_is_no_failure_where_something_will_tell_and_one_where_nothing_does(machine: Hcs) -> None:
    """HcsCreateProcess has no completion: a pending one would never end."""
    vm = client(machine, script(HcsCreateProcess=[{"hr": PENDING}])).binding
    system, done = vm.create_compute_system("box", "{}")
    assert not done
    with pytest.raises(HcsError) as raised:
        vm.create_process(system, "{}")
    assert raised.value.code == PENDING
    vm.close_compute_system(system)


def test_a_failure_says_what_the_service_said_of_it(machine: Hcs) -> None:
    """The original threw the service's own words away."""
    vm = client(machine, script(HcsCreateComputeSystem=[{"hr": 0xC0370101, "result": FAILURE}])).binding
    with pytest.raises(HcsError) as raised:
        vm.create_compute_system("box", "{}")
    error = raised.value.about("create", "box")
    assert error.name == "IMAGE_MISMATCH"
    assert error.events == ["layer 4 is of build 17763"]
    assert "cannot create container `box`" in str(error)
    assert "does not match the host" in str(error)
    assert "layer 4 is of build 17763" in str(error)
    assert "0xC0370101" in str(error)
    assert "Hyper-V isolation" in (error.hint or "")


def test_what_is_no_result_document_is_told_as_it_is(machine: Hcs) -> None:
    vm = client(machine, script(HcsCreateComputeSystem=[{"hr": 0x80004005, "result": "out of order"}])).binding
    with pytest.raises(HcsError, match="out of order"):
        vm.create_compute_system("box", "{}")


def test_an_export_that_this_build_lacks_is_not_supported(machine: Hcs) -> None:
    vm = client(machine).binding
    assert not vm.has("HcsSignalProcess")
    with pytest.raises(NotSupported, match="HcsSignalProcess"):
        vm.export("HcsSignalProcess")


def test_a_text_with_a_nul_is_refused_before_the_service_is_asked(machine: Hcs) -> None:
    vm = client(machine).binding
    with pytest.raises(InvalidSpec, match="NUL"):
        vm.create_compute_system("box\0", "{}")
    assert machine.calls == []


def test_a_guid_has_its_first_groups_little_endian(machine: Hcs) -> None:
    folder = "65bf96e5760a09edf1790cb229e2dfb2dbd0fcdc0bf7451bae099106bfbfea0c"
    known = "18955d65-d45a-557b-bf1c-49d6dfefc526"
    vm = client(machine, Service(guids={folder: known})).binding
    assert vm.name_to_guid(folder) == uuid.UUID(known)


def test_success_is_not_only_zero() -> None:
    assert not failed(0)
    assert not failed(1)
    assert failed(-1)
    assert failed(PENDING)


@pytest.mark.parametrize(
    ("hresult", "code"),
    [(0x80070005, 5), (-2147024891, 5), (0xC0070005, 5), (0xC0370110, 0xC0370110), (0x800401F3, 0x800401F3), (0, 0)],
)
def test_win32_codes_lose_their_wrapping_and_others_do_not(hresult: int, code: int) -> None:
    assert normal(hresult) == code


@pytest.mark.parametrize("code", [0xC0370110, 0x80370110, 0x8037011F, 1168])
def test_both_families_say_that_something_has_stopped(code: int) -> None:
    assert same(code, STOPPED)


@pytest.mark.parametrize("code", [0xC037010E, 5, 0x8037010E, 0])
def test_nothing_else_counts_as_stopped(code: int) -> None:
    assert not same(code, STOPPED)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (0xC0370101, "build"),
        (0xC0370102, "Microsoft-Hyper-V"),
        (0x80370102, "Microsoft-Hyper-V"),
        (0x80370114, "Containers"),
        (0x8037011B, "Administrators"),
        (5, "Administrators"),
        (1060, "Containers"),
        (1062, "Start-Service"),
        (0xC0370112, "layers"),
        (1222, "hns"),
        (161, "Volume"),
        (0x800401F3, "layers"),
        (0x10D8, "endpoints"),
    ],
)
def test_what_a_user_can_mend_has_a_next_step(code: int, word: str) -> None:
    assert word in (meaning(code).hint or "")


def test_an_unknown_code_is_shown_as_it_is() -> None:
    assert "0xDEADBEEF" in str(HcsError("x", "box", 0xDEADBEEF))


def test_where_there_is_no_windows_that_is_said_with_the_next_step() -> None:
    vmcompute.load.cache_clear()
    with pytest.raises(NotSupported, match="not Windows") as raised:
        vmcompute.load()
    assert raised.value.hint


def test_a_windows_without_the_dll_is_told_which_feature_to_enable(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_library(name: str, winmode: int) -> None:
        asked.append((name, winmode))
        raise OSError(f"Could not find module '{name}'")

    monkeypatch.setattr(ctypes, "WinDLL", load_library, raising=False)
    vmcompute.load.cache_clear()
    with pytest.raises(NotSupported, match=r"vmcompute\.dll cannot be loaded") as raised:
        vmcompute.load()
    assert "FeatureName Containers" in (raised.value.hint or "")
    assert asked == [("vmcompute.dll", 0x800)]  # from System32, and from nowhere else


async def test_doctor_says_so_too(tmp_path: Path) -> None:
    vmcompute.load.cache_clear()
    features = await HcsService(tmp_path).probe()
    assert not features.items["run"].supported
    assert "Windows" in features.items["run"].reason
    assert all(not item.supported for name, item in features.items.items() if name not in ("windows", "run"))
