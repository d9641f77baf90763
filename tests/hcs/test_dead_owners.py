"""Systems whose owner died, where Windows does not end them itself: who opens the store ends them, or keeps them.

They are found by what the owner's lease noted of them, with or without a record in the store; the owner's name that a
system bears tells only whether the id is still that system's. Systems that no note and no record tells of are nobody's
to end: another store of this machine may have made them, and bears the same name.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from longshore import Engine
from longshore.compute.values import PIPE
from longshore.errors import ContainerNotFound

from .world import ALL, World, windows, world

FOREVER = ("sleep", "100")


@asynccontextmanager
async def machine(tmp_path: Path) -> AsyncIterator[tuple[World, Engine]]:
    """A machine whose build does not know TerminateOnLastHandleClosed, and an engine on it that will die."""
    async with world(tmp_path, crew=True, end_with_handles=False) as it:
        yield it, Engine(it.service, state=tmp_path / "state")


async def killed(it: World, engine: Engine) -> None:
    """The engine's program is killed: nothing of its code runs any more, its handles and locks are free."""
    it.die(it.service)
    core = engine._state
    core.closed = True
    tasks = list(core._tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    assert core.lease is not None
    core.lease._forget()


def opened(it: World) -> Engine:
    """One more program, which opens the store."""
    return Engine(it.another(), state=it.base / "state")


async def test_what_a_dead_owner_left_is_ended_and_what_it_keeps_goes_on(tmp_path: Path) -> None:
    async with machine(tmp_path) as (it, first):
        for owner in ("keep", "stop", "remove"):
            box = await first.create(f"to-{owner}", it.spec(*FOREVER), owner=owner)
            await box.start()
        await first.launch("for-its-caller", it.spec(*FOREVER), owner="remove", stdout=PIPE, stderr=PIPE)
        await killed(it, first)
        assert set(it.hcs.systems) == {"to-keep", "to-stop", "to-remove", "for-its-caller"}

        async with opened(it) as second:
            found = {info.id: info.state for info in await second.list()}
            assert set(it.hcs.systems) == {"to-keep"}
            assert found == {"to-keep": "running", "to-stop": "stopped"}
            await (await second.get("to-keep")).delete(force=True)


async def test_what_a_dead_owner_left_is_ended_though_the_store_has_no_record_of_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as (it, first):
        await first.launch("box", it.spec(*FOREVER), owner="remove")
        home = first._state.store.container_dir("box").home
        await killed(it, first)
        shutil.rmtree(home)

        async with opened(it) as second:
            assert await second.list() == []
            assert it.hcs.systems == {}


async def test_a_system_of_the_same_id_that_is_somebody_else_s_by_now_is_kept(tmp_path: Path) -> None:
    async with machine(tmp_path) as (it, first):
        await first.launch("box", it.spec(*FOREVER), owner="remove")
        home = first._state.store.container_dir("box").home
        await killed(it, first)
        shutil.rmtree(home)
        it.hcs.crew.terminate(it.hcs.systems["box"])
        await it.until(lambda: not it.hcs.systems)
        others = it.another()
        system, _ = await others.launch("box", it.spec(*FOREVER, windows=windows(owner="docker")), ALL, it.place())

        async with opened(it) as second:
            with pytest.raises(ContainerNotFound):
                await second.get("box")
            assert set(it.hcs.systems) == {"box"}
        await system.delete()
        await system.close()


async def test_a_system_that_nothing_here_tells_of_is_kept_though_it_bears_our_name(tmp_path: Path) -> None:
    async with machine(tmp_path) as (it, first):
        await first.launch("mine", it.spec(*FOREVER), owner="remove")
        others = Engine(it.another(), state=tmp_path / "another-store")
        box = await others.create("theirs", it.spec(*FOREVER))
        await box.start()
        await killed(it, first)

        async with opened(it) as second:
            await second.restore()
            assert set(it.hcs.systems) == {"theirs"}
            assert await it.another().leftovers("longshore") == ["theirs"]  # whose it is, its name does not say
        await box.delete(force=True)
        await others.close()
