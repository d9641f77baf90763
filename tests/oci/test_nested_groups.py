"""Control groups that a container made below its own, at any depth and in any number, keep nobody from ending it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator

import pytest

from longshore import LogRecord
from longshore.engine.engine import Engine
from longshore.oci.cgroups.cgroup import Cgroup

from .test_documents import document

pytestmark = [pytest.mark.real, pytest.mark.modern]

DEPTH = 1500  # beyond the recursion limit of Python; with long names also beyond the longest path
MAKE = """
import os, sys, time

def make(group, depth, name):
    fd = os.open(group, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd

if __name__ == "__main__":
    base = "/sys/fs/cgroup"
    base = base if os.path.exists(base + "/cgroup.procs") else base + "/pids"
    make(base, 1500, "d" * 20)
    for number in range(300):
        os.mkdir(f"{base}/{number}")
    print("made", flush=True)
    time.sleep(600)
"""
CGROUPS = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw", "nosuid", "nodev"]}


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(f"/longshore-test-nested-{os.getpid()}")
    directory = made.directory("pids")
    assert directory is not None
    directory.mkdir()
    yield made
    assert made.remove()


@pytest.mark.parametrize("name", ["d", "d" * 20])
def test_group_with_deep_groups_below_is_killed_and_removed(group: Cgroup, name: str) -> None:
    directory = group.directory("pids")
    assert directory is not None
    names: dict[str, object] = {"__name__": "maker"}
    exec(MAKE, names)
    deepest = names["make"](directory, DEPTH, name)  # type: ignore[operator]
    with subprocess.Popen(["sleep", "600"]) as process:
        procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=deepest)
        os.write(procs, str(process.pid).encode())
        os.close(procs)
        os.close(deepest)
        assert group.pids() == [process.pid]
        assert not group.remove(0.1)
        assert group.kill()
    assert group.remove()
    assert not directory.exists()


async def test_container_with_groups_below_its_own_is_looked_at_and_deleted(engine: Engine) -> None:
    mounts = [*document()["mounts"], {"destination": "/sys", "type": "sysfs", "source": "sysfs"}, CGROUPS]
    kinds = ("pid", "mount", "ipc", "uts", "network", "cgroup")
    linux = {"namespaces": [{"type": kind} for kind in kinds]}
    capabilities = {key: ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"] for key in ("bounding", "effective", "permitted")}
    process = {"args": ["python3", "-c", MAKE], "capabilities": capabilities}
    given = document(process=process, mounts=mounts, linux=linux)
    box = await engine.launch("box", root="host", args=[], oci=given)
    async with asyncio.timeout(100):
        async for record in box.logs(follow=True):
            if isinstance(record, LogRecord) and record.data == b"made\n":
                break
        assert len(await box.pids()) == 1
        assert (await (await box.exec(["true"])).wait()).code == 0
        await box.delete(force=True)
    assert await engine.list() == []
