"""Many containers, one after the other and at once: nothing is lost, and nothing grows."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from longshore import Engine, LogRecord
from longshore.compute.values import Place, Stdio
from longshore.hcs.service import HcsService

from ..hcs.wine_double import BUILT
from . import measure
from .conftest import spec

CREW = ("crew", f"path\t{str(BUILT).replace(chr(92), chr(92) * 2)}")
SCRIPTED = (
    "forget calls",
    "rule\tHcsCreateProcess",
    "stdout\tout",
    "stderr\terr",
    "exit\t3\t1\t0",
    "rule\tHcsShutdownComputeSystem",
    f"hr\t{0xC0370103}",
    "notify\t1\t0\t1",
)
AT_ONCE = 20
ROUND = 1000 if os.environ.get("LONGSHORE_WHOLE") else 200
"""Containers in each of ten rounds: the whole ten thousand take some minutes (`scripts/test-wine --whole`)."""


class Cycles:
    """Containers that are made, run to their end and are deleted: on the service itself, without the store."""

    def __init__(self, service: HcsService, base: Path, args: list[str], expected: tuple[int, bytes]) -> None:
        self._service = service
        self._base = base
        self._spec = spec(*args)
        self._expected = expected

    async def many(self, count: int) -> None:
        """So many, AT_ONCE at a time."""
        await asyncio.gather(*[self._some(number, count // AT_ONCE) for number in range(AT_ONCE)])
        gc.collect()

    async def _some(self, number: int, count: int) -> None:
        for _ in range(count):
            place = self._base / f"place-{number}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            system, process = await self._service.launch(
                f"box-{number}", self._spec, Stdio(), Place(run=place, data=place)
            )
            assert process.streams.stdout is not None
            out = await process.streams.stdout.read()
            exit = await process.wait()
            assert (exit.code, out) == self._expected
            await system.settle(exit, 30)
            await system.delete()
            await process.close()
            await system.close()


async def grows(cycles: Cycles, rounds: int, count: int) -> tuple[int, int]:
    """By how many handles and bytes more this process has after `rounds` of `count` containers than after one."""
    await cycles.many(count)
    handles, memory, threads = measure.handles(), measure.memory(), threading.active_count()
    lowest = None
    for _ in range(rounds - 1):
        await cycles.many(count)
        now = measure.memory()
        lowest = now if lowest is None else min(lowest, now)
    assert lowest is not None
    more_threads = threading.active_count() - threads  # that wait for calls; each has a few handles of its own
    return measure.handles() - handles - 5 * max(more_threads, 0), lowest - memory


@pytest.mark.slow
async def test_thousands_of_containers_leave_no_handles_and_no_memory(
    machine: Any, service: Any, tmp_path: Path
) -> None:
    cycles = Cycles(service(machine(*SCRIPTED)), tmp_path, ["x"], (3, b"out"))
    handles, memory = await grows(cycles, rounds=10, count=ROUND)
    assert handles < 20
    assert memory < 16 << 20


@pytest.mark.slow
async def test_three_hundred_real_children_leave_no_handles_and_no_memory(
    machine: Any, service: Any, tmp_path: Path
) -> None:
    cycles = Cycles(service(machine(*CREW, "forget calls")), tmp_path, ["echo", "hi"], (0, b"hi\n"))
    handles, memory = await grows(cycles, rounds=3, count=100)
    assert handles < 20
    assert memory < 16 << 20


async def test_two_hundred_systems_at_once_each_with_its_own_end(machine: Any, service: Any, tmp_path: Path) -> None:
    made = service(machine(*CREW, "forget calls"))
    async with Engine(made, state=tmp_path / "state") as engine:

        async def life(number: int) -> tuple[int | None, bytes]:
            box = await engine.launch(f"box-{number}", spec("inmate", "trap", str(number % 100)))
            async for record in box.logs(follow=True):
                assert isinstance(record, LogRecord)
                said = record.data
                break
            started.append(number)
            if len(started) == 200:
                all_run.set()
            await all_run.wait()
            exit = await box.stop(grace=60)
            return exit.code, said

        started: list[int] = []
        all_run = asyncio.Event()
        ends = await asyncio.gather(*[life(number) for number in range(200)])
        assert ends == [(number % 100, b"ready\n") for number in range(200)]
        assert len(await engine.list()) == 200
        await asyncio.gather(*[box.delete() for box in [await engine.get(f"box-{number}") for number in range(200)]])
