"""What an engine does with containers whose processes its program cannot see: nothing. On the simulator."""

from __future__ import annotations

import pytest

from longshore.compute.events import Event
from longshore.errors import NotVisible
from longshore.exit_record import Cause
from longshore.machine.visibility import APART, Viewpoint
from longshore.store import state_directory

from .world import FOREVER, World

HERE = Viewpoint(boot="b1", namespaces="pid:[1] time:[1]")
OTHERS = {
    "blind": Viewpoint(boot="b1", namespaces="pid:[1] time:[1]", blind="/proc is not mounted"),
    "another pid namespace": Viewpoint(boot="b1", namespaces="pid:[2] time:[1]"),
    "another time namespace": Viewpoint(boot="b1", namespaces="pid:[1] time:[2]"),
    "a boot id that is not the kernel's": Viewpoint(boot=f"{APART}b2", namespaces="pid:[1] time:[1]"),
}


def look_from(monkeypatch: pytest.MonkeyPatch, viewpoint: Viewpoint) -> None:
    monkeypatch.setattr(state_directory, "viewpoint", lambda: viewpoint)


@pytest.mark.parametrize("where", OTHERS)
async def test_engine_elsewhere_leaves_everything_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    look_from(monkeypatch, HERE)
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    done = await engine.launch("done", args=["exit", "3"])
    await done.wait()
    await engine.launch("leased", args=FOREVER, owner="remove")
    before = [event async for event in engine.events(since=0, follow=False)]
    await world.die(engine)
    look_from(monkeypatch, OTHERS[where])
    async with world.engine() as other:
        states = {info.id: info.state for info in await other.list()}
        assert states == {"box": "hidden", "done": "stopped", "leased": "hidden"}
        assert sorted((await other.restore()).hidden) == ["box", "done", "leased"]
        box, done = await other.get("box"), await other.get("done")
        for verb in (box.stop, box.kill, box.pause, box.stats, box.wait, box.delete, done.delete):
            with pytest.raises(NotVisible):
                await verb()
        with pytest.raises(NotVisible):
            await box.delete(force=True)
        assert [event async for event in other.events(since=0, follow=False)] == before
    assert set(world.systems) == ({"box", "done", "leased"} if world.oci else {"box"})  # as the platform has left them
    look_from(monkeypatch, HERE)
    async with world.engine() as again_here:
        assert {info.id: info.state for info in await again_here.list()} == {"box": "running", "done": "stopped"}
        await (await again_here.get("box")).delete(force=True)
        await (await again_here.get("done")).delete()


async def test_blind_engine_creates_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    look_from(monkeypatch, OTHERS["blind"])
    async with world.engine() as engine:
        with pytest.raises(NotVisible, match="/proc is not mounted"):
            await engine.create("box", args=FOREVER)
        assert await engine.list() == []


async def test_container_is_recorded_as_gone_when_its_namespaces_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_from(monkeypatch, HERE)
    engine = world.engine()
    await engine.launch("box", args=FOREVER)
    await world.die(engine)
    world.faults.disconnect()
    first = Viewpoint(boot="b1", namespaces="pid:[9] time:[1]", are_gone=lambda namespaces: True)
    look_from(monkeypatch, first)
    async with world.engine() as other:
        [info] = await other.list()
        assert info.exit is not None
        assert (info.state, info.exit.code, info.exit.cause) == ("stopped", None, Cause.SYSTEM_GONE)
        told = [event.type async for event in other.events(since=0, follow=False) if isinstance(event, Event)]
        assert told == ["start-container", "exit"]
        await (await other.get("box")).delete()


def test_viewpoints_compare_boots_and_namespaces() -> None:
    assert HERE.sight("b1", HERE.namespaces)[0] == "visible"
    assert HERE.sight("b0", HERE.namespaces)[0] == "gone"  # both are the kernel's: there was a boot between
    assert HERE.sight(f"{APART}b0", HERE.namespaces)[0] == "hidden"
    assert HERE.sight("b1", "pid:[7] time:[1]")[0] == "hidden"
    assert OTHERS["blind"].sight("b0", HERE.namespaces)[0] == "hidden"
