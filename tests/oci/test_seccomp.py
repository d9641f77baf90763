"""The shared form of seccomp profiles, decided for one container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longshore.errors import InvalidSpec
from longshore.oci.config import seccomp
from longshore.oci.config.translate import USUAL_CAPABILITIES

from .other_engines import DOCKER, PODMAN


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


def default(capabilities: list[str], base: dict[str, Any] | None = None, machine: str = "x86_64") -> Any:
    """The default profile, as a runtime gets it; `base` is the shared one that it is made from."""
    shared = json.loads(Path(seccomp.SHIPPED).read_bytes()) if base is None else base
    found = seccomp.translate(msgspec.convert(shared, seccomp.Profile), capabilities, machine, "6.12")
    seccomp.confine(found, capabilities, machine)
    return msgspec.to_builtins(found)


def podmans() -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [{"names": sorted(PODMAN), "action": "SCMP_ACT_ALLOW"}],
    }


@pytest.mark.parametrize("capabilities", [[], list(USUAL_CAPABILITIES)], ids=["none", "usual"])
@pytest.mark.parametrize("base", [None, podmans()], ids=["shipped", "podman"])
def test_the_default_allows_no_call_that_docker_or_podman_refuses(
    capabilities: list[str], base: dict[str, Any] | None
) -> None:
    usual = {"chroot"} if capabilities else set()  # both have it with CAP_SYS_CHROOT
    allowed = names(default(capabilities, base))
    assert allowed - DOCKER - usual == {"unshare"}  # for what is no namespace
    assert allowed - PODMAN - usual == set()
    assert len(allowed) > 300


@pytest.mark.parametrize(
    ("capability", "calls"),
    [
        ("CAP_SYS_ADMIN", {"mount", "unshare", "setns", "bpf", "clone3", "syslog", "quotactl"}),
        ("CAP_SYS_BOOT", {"reboot"}),
        ("CAP_SYS_NICE", {"mbind", "set_mempolicy", "get_mempolicy"}),
        ("CAP_SYS_PTRACE", {"kcmp", "pidfd_getfd", "process_madvise"}),
        ("CAP_SYSLOG", {"syslog"}),
    ],
)
def test_a_capability_brings_back_the_calls_that_need_it(capability: str, calls: set[str]) -> None:
    assert calls <= names(default([capability]))
    assert not (calls - {"unshare"}) & names(default([]))


@pytest.mark.parametrize("capabilities", [[], ["CAP_SYS_ADMIN"], list(seccomp.REFUSED["bpf"])])
def test_no_capability_brings_keyrings_back(capabilities: list[str]) -> None:
    found = default(capabilities)
    assert not {"add_key", "keyctl", "request_key", "socketcall", "io_uring_setup"} & names(found)
    assert {"add_key", "keyctl", "request_key"} <= names(found, "SCMP_ACT_ERRNO")


def decided(rules: list[dict[str, Any]], *args: int) -> list[str]:
    """The actions of the rules that match a call with these arguments, as the kernel compares them: in 64 bits."""

    def meets(test: dict[str, Any]) -> bool:
        value, number = args[test["index"]], test["value"]
        assert test["op"] == "SCMP_CMP_MASKED_EQ", "another comparison looks at bits that the kernel does not"
        return bool(value & number == test.get("valueTwo", 0))

    return [rule["action"] for rule in rules if all(meets(test) for test in rule.get("args", []))]


@pytest.mark.parametrize("name", ["socket", "socketpair"])
@pytest.mark.parametrize("upper", [0, 1 << 32, 1 << 63, 0xFFFFFFFF << 32])
@pytest.mark.parametrize("capabilities", [[], ["CAP_AUDIT_WRITE"]], ids=["none", "audit"])
def test_a_family_is_judged_by_the_bits_that_the_kernel_reads(name: str, upper: int, capabilities: list[str]) -> None:
    rules = [rule for rule in default(capabilities)["syscalls"] if rule["names"] == [name]]
    for family in range(64):
        found = decided(rules, upper | family, 1, upper)
        assert found == (["SCMP_ACT_ERRNO"] if family in seccomp.NO_FAMILIES else ["SCMP_ACT_ALLOW"]), family
    assert decided(rules, upper | 64, 1, 0) == []


@pytest.mark.parametrize("upper", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_the_audit_of_the_kernel_is_judged_by_the_bits_that_it_reads(upper: int) -> None:
    rules = [rule for rule in default([])["syscalls"] if rule["names"] == ["socket"]]
    for protocol in range(32):
        found = decided(rules, upper | seccomp.AF_NETLINK, 3, upper | protocol)
        assert found == (["SCMP_ACT_ERRNO"] if protocol == seccomp.NETLINK_AUDIT else ["SCMP_ACT_ALLOW"]), protocol


@pytest.mark.parametrize(("number", "error"), [(38, 1), (1, 38), (None, 38)])
def test_socketcall_is_refused_otherwise_than_by_default(number: int | None, error: int) -> None:
    """A runtime leaves out a rule that does what is done by default, and libseccomp then allows it with socket(2)."""
    base = {**podmans(), "defaultErrnoRet": number}
    rules = default([], base)["syscalls"]
    (at,) = [index for index, rule in enumerate(rules) if "socketcall" in rule["names"]]
    assert (rules[at]["names"], rules[at]["errnoRet"]) == (["socketcall"], error)
    assert all(index > at for index, rule in enumerate(rules) if rule["names"][0] in seccomp.SOCKET_CALLS)
