"""What the default seccomp profile lets through, tried by real system calls of a container's process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.spec import Mount, Security

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="calls.py speaks the machine language of x86_64"),
]

CALLS = ["/usr/bin/python3", "-I", "-S", "-c", (Path(__file__).parent / "calls.py").read_text()]


def check(found: dict[str, Any], *, audit: bool) -> None:
    """The native entry: sockets of the network and of files are made, and none of AF_ALG (38) or AF_VSOCK (40)."""
    for name in ("socket", "socketpair"):
        for family, outcomes in found[name].items():
            assert set(outcomes) == {"EPERM" if family in ("38", "40") else "ok"}, (name, family)
    assert set(found["audit"]) == {"ok" if audit else "EINVAL"}
    assert found["keys"] == ["EPERM"] * 3
    assert set(found["personality"]) == {"ENOSYS"}
    assert "ok" not in found["personality-query"] or set(found["personality-query"]) == {"ok"}
    assert set(found["unshare"]) == {"ENOSYS"}
    assert (found["io_uring"], found["syslog"], found["unknown"]) == ("EPERM", "EPERM", "ENOSYS")


def check_no_other_entry(found: dict[str, Any]) -> None:
    """A root without programs of 32 bits: the kernel kills for every call by their entries."""
    assert found["old-getpid"] == "SIGSYS"
    for name in ("old-socket", "old-socketpair", "socketcall"):
        assert set(found[name].values()) == {"SIGSYS"}, name
    assert set(found["old-keys"]) == set(found["x32"]) == {"SIGSYS"}


@pytest.mark.parametrize("user", ["nobody", "root"])
async def test_no_width_of_an_argument_opens_what_is_refused(engine: Engine, user: str) -> None:
    done = await engine.run("host", CALLS, user=user, timeout=300)
    assert done.exit_code == 0, done.error_text
    found = json.loads(done.text)
    check(found, audit=user == "root")
    check_no_other_entry(found)


async def test_an_exec_in_a_kept_container_has_the_same_filter(engine: Engine) -> None:
    box: Container = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    done = await box.run(CALLS, user="root", timeout=300)
    found = json.loads(done.text)
    check(found, audit=False)
    check_no_other_entry(found)


async def test_a_capability_brings_no_keyring_and_no_family_back(engine: Engine) -> None:
    security = Security(cap_add=["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"])
    done = await engine.run("host", CALLS, user="root", security=security, timeout=300)
    found = json.loads(done.text)
    assert found["keys"] == ["EPERM"] * 3
    for name in ("socket", "socketpair"):
        assert set(found[name]["38"]) == set(found[name]["40"]) == {"EPERM"}


async def test_the_entries_of_32_bits_refuse_the_same_calls(engine: Engine, tmp_path: Path) -> None:
    """A root with the loaders of other instruction sets, whose programs the profile then allows."""
    root = tmp_path / "root"
    for name in ("proc", "dev", "sys", "tmp", "usr", "bin", "lib/x86_64-linux-gnu", "lib64", "libx32"):
        (root / name).mkdir(parents=True)
    (root / "lib/ld-linux.so.2").touch()
    (root / "libx32/ld-linux-x32.so.2").touch()
    shown = [name for name in ("usr", "bin", "lib/x86_64-linux-gnu", "lib64") if os.path.isdir(f"/{name}")]
    mounts = [Mount(source=f"/{name}", target=f"/{name}", read_only=True) for name in shown]
    done = await engine.run(f"rootfs:{root}", CALLS, mounts=mounts, timeout=300)
    assert done.exit_code == 0, done.error_text
    found = json.loads(done.text)
    check(found, audit=True)
    assert found["old-getpid"] == "ok"  # the filter has that entry
    assert found["old-socket"] == {"1": "ok", "2": "ok", "38": "EPERM", "40": "EPERM"}
    assert set(found["old-socketpair"].values()) == {"EPERM"}
    assert set(found["socketcall"].values()) == {"EPERM"}
    assert found["old-keys"] == ["EPERM"] * 3
    assert "ok" not in found["x32"]
