"""The shared form of seccomp profiles, decided for one container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longshore.errors import InvalidSpec
from longshore.oci import seccomp


def translated(
    profile: dict[str, Any], capabilities: list[str], machine: str = "x86_64", release: str = "6.1.0"
) -> Any:
    found = seccomp.translate(msgspec.convert(profile, seccomp.Profile), capabilities, machine, release)
    return msgspec.to_builtins(found)


def names(document: Any, action: str = "SCMP_ACT_ALLOW") -> set[str]:
    return {name for rule in document.get("syscalls", []) if rule["action"] == action for name in rule["names"]}


def profile(**rule: Any) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [{"names": ["thing"], "action": "SCMP_ACT_ALLOW", **rule}],
    }


@pytest.mark.parametrize(
    ("rule", "there"),
    [
        ({}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
        ({"includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_CHOWN"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"includes": {"arches": ["amd64"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"includes": {"minKernel": "6.1"}}, True),
    ],
)
def test_a_condition_is_decided_for_this_container(rule: dict[str, Any], there: bool) -> None:
    assert names(translated(profile(**rule), ["CAP_CHOWN"])) == ({"thing"} if there else set())


def test_architectures_are_those_of_this_processor() -> None:
    assert translated(profile(), [])["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert "architectures" not in translated(profile(), [], machine="aarch64")


def test_the_shipped_profile_keeps_mount_from_those_without_the_capability() -> None:
    shipped = json.loads(Path(seccomp.SHIPPED).read_bytes())
    without, having = translated(shipped, []), translated(shipped, ["CAP_SYS_ADMIN"])
    assert {"read", "execve", "openat"} <= names(without)
    assert "bpf" not in names(without)
    assert "bpf" in names(having)
    assert "kexec_load" not in names(having)
    assert without["defaultErrnoRet"] == 38


def test_arguments_and_errors_come_through() -> None:
    rule = {
        "names": ["socket"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 22,
        "errno": "EINVAL",
        "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
    }
    found = translated({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}, [])
    assert found["syscalls"] == [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 22,
            "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}],
        }
    ]


def test_a_profile_in_the_runtimes_own_form_is_taken_as_it_is() -> None:
    own = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
    }
    assert translated(own, []) == own


def test_unconfined_is_no_filter() -> None:
    assert seccomp.load("unconfined", []) is None


@pytest.mark.parametrize("content", [None, b"{", b'{"defaultAction": 3}', b"\xff"])
def test_a_profile_that_cannot_be_read_is_refused_by_the_name_of_the_field(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidSpec) as error:
        seccomp.load(str(path), [])
    assert error.value.field == "security.seccomp"


def test_a_changed_profile_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    first = seccomp.load(str(path), [])
    path.unlink()
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_LOG", "syscalls": []}))
    assert msgspec.json.decode(seccomp.load(str(path), [])) != msgspec.json.decode(first)
