"""Limits that are changed while a container lives: what was not named stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.oci.cgroups.cgroup import Cgroup
from longshore.oci.cgroups.hierarchies import mode
from longshore.oci.config import translate

pytestmark = [pytest.mark.real, pytest.mark.modern]
SLEEP = ["sleep", "1000"]
MIB = 1 << 20

accounts_swap = pytest.mark.skipif(
    not translate.limits_swap(translate.is_unified()), reason="this machine does not account swap"
)


async def kernel(box: Container, controller: str, *names: str) -> list[str]:
    """What is in files of the container's cgroup."""
    [pid] = await box.pids()
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    [path] = [path for _, controllers, path in lines if mode() == "v2" or controller in controllers.split(",")]
    directory = Cgroup(path).directory(controller)
    assert directory is not None
    return [(directory / f"{controller}.{name}").read_text().strip() for name in names]


async def limits(box: Container) -> tuple[str, str]:
    """Memory, and swap as the kernel of this host counts it: alone (version 2), or with memory."""
    unified = mode() == "v2"
    names = ("max", "swap.max") if unified else ("limit_in_bytes", "memsw.limit_in_bytes")
    memory, swap = await kernel(box, "memory", *names)
    return memory, str(int(memory) + int(swap)) if unified and swap != "max" else swap


async def processors(box: Container) -> tuple[int, str, str, str]:
    """Weight, as version 2 counts it, quota and period, and the processors that it may use."""
    [cpus] = await kernel(box, "cpuset", "cpus")
    if mode() == "v2":
        weight, limit = await kernel(box, "cpu", "weight", "max")
        quota, period = limit.split()
        return int(weight), quota, period, cpus
    shares, quota, period = await kernel(box, "cpu", "shares", "cfs_quota_us", "cfs_period_us")
    return round(int(shares) * 100 / 1024), quota, period, cpus


async def test_the_kernel_has_the_limits_that_were_asked_for(engine: Engine) -> None:
    box = await engine.launch(
        "box",
        root="host",
        args=SLEEP,
        owner="remove",
        memory="64m",
        memory_reservation="32m",
        cpus=0.5,
        cpu_weight=250,
        cpuset="0",
        pids=50,
    )
    assert await processors(box) == (250, "50000", "100000", "0")
    reservation = "low" if mode() == "v2" else "soft_limit_in_bytes"
    assert await kernel(box, "memory", reservation) == [str(32 * MIB)]
    assert await kernel(box, "pids", "max") == ["50"]

    await box.update(cpus=0.25)
    assert await processors(box) == (250, "25000", "100000", "0")
    await box.update(cpu_weight=50, memory_reservation="48m")
    assert await processors(box) == (50, "25000", "100000", "0")
    assert await kernel(box, "memory", reservation) == [str(48 * MIB)]
    await box.update(pids=-1)
    assert (await box.stats()).pids_limit is None


@accounts_swap
async def test_another_limit_of_memory_leaves_memory_and_swap_together_as_they_were(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP, owner="remove", memory="64m", memory_swap="128m")
    assert await limits(box) == (str(64 * MIB), str(128 * MIB))
    await box.update(memory="96m")
    assert await limits(box) == (str(96 * MIB), str(128 * MIB))
    assert (await box.inspect())["spec"]["resources"]["memory_swap"] == 128 * MIB
    await box.update(memory="256m")  # beyond both: there is no swap any more
    assert await limits(box) == (str(256 * MIB), str(256 * MIB))


@accounts_swap
async def test_a_container_without_swap_has_none_after_its_memory_was_changed(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP, owner="remove", memory="128m")
    await box.update(memory="64m")
    assert await limits(box) == (str(64 * MIB), str(64 * MIB))


@accounts_swap
async def test_swap_without_a_limit_stays_so(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP, owner="remove", memory="64m", memory_swap=-1)
    _, before = await limits(box)
    await box.update(memory="96m")
    assert await limits(box) == (str(96 * MIB), before)
