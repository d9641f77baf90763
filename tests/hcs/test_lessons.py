"""Old bugs of Windows' engine that no other test here is about; as in test_engine.py, by their numbers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from longshore.errors import ContainerNotFound, InvalidState, LongshoreError
from longshore.exit_record import Cause
from longshore.hcs.dll.hresults import HcsError

from .test_engine import engine, told
from .world import world

NOT_FOUND = 0xC037010E


async def test_what_is_not_there_or_not_in_that_state_is_told_by_type(tmp_path: Path) -> None:
    """Bug 24: "invalid container" was one untyped error for all of it, marked "fixme"."""
    async with world(tmp_path) as it, engine(it) as longshore:
        with pytest.raises(ContainerNotFound):
            await longshore.get("box")
        box = await longshore.create("box", it.spec())
        with pytest.raises(InvalidState, match="created"):
            await box.exec(["cmd"])
        await box.start()
        with pytest.raises(InvalidState, match="running"):
            await box.start()
        await box.delete(force=True)
        for verb in (box.start, box.stats, box.top, box.pids, box.kill, box.pause, box.resume, box.inspect):
            with pytest.raises(ContainerNotFound) as caught:
                await verb()
            assert caught.value.container_id == "box"


async def test_what_the_service_does_not_know_any_more_has_the_services_code(tmp_path: Path) -> None:
    """Bug 24: of the service's own "not found" nobody could tell it from other failures."""
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.create("box", it.spec())
        await box.start()
        it.script(HcsGetComputeSystemProperties=[{"hr": NOT_FOUND}])
        with pytest.raises(HcsError, match="no such system") as caught:
            await box.stats()
        assert caught.value.code == NOT_FOUND
        it.script()
        await box.delete(force=True)


@pytest.mark.parametrize("force_first", [False, True])
async def test_a_probe_that_runs_again_and_again_does_not_hold_up_a_deletion(tmp_path: Path, force_first: bool) -> None:
    """Bug 34: health checks raced with the deletion of their container, and each waited for the other."""
    async with world(tmp_path, crew=True) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec("sleep", "100"))
        probes: list[tuple[int | None, Cause]] = []
        refused: list[LongshoreError] = []

        async def probe() -> None:
            while True:
                try:
                    exit = await (await box.exec(["sh", "-c", "exit 4"])).wait()
                    probes.append((exit.code, exit.cause))
                except LongshoreError as error:
                    refused.append(error)
                    return

        probing = [asyncio.create_task(probe()) for _ in range(4)]
        await it.until(lambda: len(probes) >= 4)
        async with asyncio.timeout(300):
            if not force_first:
                await box.kill()
                await box.wait()
            await box.delete(force=True)
            await asyncio.gather(*probing)
        assert {code for code, cause in probes if cause is Cause.EXITED} == {4}
        assert {cause for _, cause in probes} <= {Cause.EXITED, Cause.KILLED, Cause.SYSTEM_GONE}
        assert all(isinstance(error, (ContainerNotFound, InvalidState, HcsError)) for error in refused), refused
        assert [info.id for info in await longshore.list()] == []
        assert it.open_handles == 0


async def test_an_exec_that_hangs_in_the_service_does_not_hold_up_a_kill(tmp_path: Path) -> None:
    """Bug 34: the probe's call was under way, and the container could not be ended before it returned."""
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        it.script(HcsCreateProcess=[{"delay_ms": 4000}])
        probe = asyncio.create_task(box.exec(["cmd"]))
        await it.until(lambda: it.count("HcsCreateProcess") == 2)
        async with asyncio.timeout(300):
            await box.kill()
            await box.wait()
            assert not probe.done()
            await asyncio.wait((probe,))
            await box.delete(force=True)
        assert ("start-container", None, None) in await told(longshore)
        assert it.open_handles == 0
