"""Ids that are names of files which the kernel has in every cgroup: they are ids as any other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import longshore
from longshore.compute.values import Owner
from longshore.engine.engine import Engine
from longshore.oci.service import OciService

from ..conftest import wait_for_nothing_left

pytestmark = pytest.mark.real

NAMES = (
    "tasks cgroup.procs cgroup.controllers cgroup.freeze cgroup.kill cgroup.type cgroup.clone_children "
    "notify_on_release release_agent memory.stat memory.max cpu.stat cpuacct.usage pids.max devices.list"
    " freezer.state cpuset.cpus blkio.throttle.read_bps_device init box kept owned execs"
).split()


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_names_of_cgroup_files_are_ids_of_what_runs(state: Path, runtime: str) -> None:
    async def run() -> None:
        async with Engine(state=state, runtime=runtime) as engine:
            for name in NAMES:
                done = await engine.run("host", ["echo", name], name=name)
                assert done.text == f"{name}\n"

    asyncio.run(run())
    assert wait_for_nothing_left(state) == []


@pytest.mark.parametrize("owner", ["remove", "keep"])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_names_of_cgroup_files_are_ids_of_what_is_kept(state: Path, runtime: str, owner: Owner) -> None:
    async def run() -> None:
        async with Engine(state=state, runtime=runtime) as engine:
            for name in ("tasks", "cgroup.procs", "memory.stat", "freezer.state", "cgroup.freeze"):
                box = await engine.launch(name, root="host", args=["sleep", "1000"], memory="64m", owner=owner)
                done = await box.exec(["echo", "here"], stdout=longshore.PIPE, name=name)
                assert await done.communicate() == (b"here\n", b"")
                assert (await box.stats()).memory is not None
                await box.pause()
                assert (await box.info()).state == "paused"
                await box.resume()
                assert [each.command for each in await box.top()] == ["sleep"]
                await box.delete(force=True)

    asyncio.run(run())
    assert wait_for_nothing_left(state) == []


OWNER = """
import asyncio, sys
from longshore import Engine
async def main():
    async with Engine(state=sys.argv[1]) as engine:
        for name in sys.argv[2:]:
            await engine.launch(name, root="host", args=["sleep", "1000"], owner="remove")
        print("ready", flush=True)
        await asyncio.sleep(1000)
asyncio.run(main())
"""


def test_names_of_cgroup_files_end_with_their_owner(state: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(state), "tasks", "cgroup.procs", "pids.max"]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert wait_for_nothing_left(state) == []


def test_a_container_of_an_earlier_version_is_found_in_its_cgroup(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is on record: an earlier longshore named the group by the id alone."""

    async def run() -> None:
        async with Engine(state=state) as earlier:
            with monkeypatch.context() as patch:
                patch.setattr(
                    OciService,
                    "cgroup_path",
                    lambda self, id, lease: (
                        f"/longshore/{self.store_id}.kept.{id}"
                        if lease is None
                        else f"{self._owner_cgroup(lease)}/{id}"
                    ),
                )
                await earlier.launch("old", root="host", args=["sleep", "1000"], owner="remove")
            async with Engine(state=state) as engine:
                box = await engine.get("old")
                assert [each.command for each in await box.top()] == ["sleep"]
                pid = (await box.info()).pid
                assert pid is not None
                assert "/old/box" in Path(f"/proc/{pid}/cgroup").read_text()
                await box.delete(force=True)
                assert not os.path.exists(f"/proc/{pid}")

    asyncio.run(run())
    assert wait_for_nothing_left(state) == []
