"""Limits that are changed while a container lives: what was not named stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.container import Container
from longshore.engine import Engine
from longshore.oci import translate
from longshore.oci.cgroup import Cgroup, mode

pytestmark = [pytest.mark.real, pytest.mark.modern]
SLEEP = ["sleep", "1000"]
MIB = 1 << 20

accounts_swap = pytest.mark.skipif(
    not translate.limits_swap(translate.is_unified()), reason="this machine does not account swap"
)


async def limits(box: Container) -> tuple[str, str]:
    """Memory, and swap as the kernel of this host counts it: alone (version 2), or with memory."""
    [pid] = await box.pids()
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    unified = mode() == "v2"
    [path] = [path for _, controllers, path in lines if unified or "memory" in controllers.split(",")]
    directory = Cgroup(path).directory("memory")
    assert directory is not None
    names = ("max", "swap.max") if unified else ("limit_in_bytes", "memsw.limit_in_bytes")
    memory, swap = ((directory / f"memory.{name}").read_text().strip() for name in names)
    return memory, str(int(memory) + int(swap)) if unified and swap != "max" else swap


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
