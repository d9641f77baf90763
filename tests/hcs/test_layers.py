"""The layer functions, and the scratch layer that a container gets where no prepared volume is given."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from longshore import Engine
from longshore.compute.protocols import NotUndone, SystemGone
from longshore.errors import CommandNotExecutable, InvalidSpec, ServiceError
from longshore.hcs.dll.hresults import HcsError
from longshore.hcs.system.layers import LayerFunctions, mount
from longshore.spec import HyperV, Layers, Spec, WindowsOptions

from .scripted import Hcs
from .test_engine import engine
from .world import ALL, World, script, world

PARENTS = [r"C:\layers\app", r"C:\layers\base"]
DENIED, NOT_READY, SHARING = 0x80070005, 0x80070015, 0x80070020
FAILED, OTHER_BUILD = 0x80004005, 0xC0370101
LIFE = ["CreateSandboxLayer", "ActivateLayer", "PrepareLayer", "GetLayerMountPath"]
END = ["UnprepareLayer", "DeactivateLayer", "DestroyLayer"]


def layered(*, hyperv: bool = False, scratch: str | None = None, **options: Any) -> Spec:
    isolation: dict[str, Any] = {"hyperv": HyperV()} if hyperv else {}
    chosen = WindowsOptions(**isolation, **options) if isolation or options else None
    return Spec.of(args=["cmd"], layers=Layers(parents=PARENTS, scratch=scratch), windows=chosen)


def of_layers(it: World) -> list[str]:
    """The layer functions that were called, without those that only look."""
    return [name for name in it.functions if name.endswith(("Layer", "Path", "Size"))]


async def test_a_scratch_layer_is_made_and_mounted_and_goes_with_its_container(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.service.launch("box", layered(), ALL, it.place())
        (document,) = map(json.loads, it.documents("HcsCreateComputeSystem"))
        (path,) = it.hcs.layers
        assert it.hcs.layers[path] == {"made", "active", "prepared"}
        assert document["LayerFolderPath"] == path
        assert document["VolumePath"].startswith("\\\\?\\Volume{")
        assert document["VolumePath"].endswith("}")
        assert [layer["Path"] for layer in document["Layers"]] == PARENTS
        made = next(call for call in it.hcs.calls if call["function"] == "CreateSandboxLayer")
        assert made["parents"] == PARENTS
        assert [name for name in of_layers(it) if name in LIFE][:3] == LIFE[:3]
        it.exit(init.pid, 0)
        await system.settle(await init.wait(), 10)
        assert it.hcs.layers
        await system.delete()
        assert of_layers(it)[-3:] == END
        assert it.hcs.layers == {}
        await system.close()


async def test_a_utility_vm_mounts_its_layers_itself(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, _ = await it.service.launch("box", layered(hyperv=True), ALL, it.place())
        (document,) = map(json.loads, it.documents("HcsCreateComputeSystem"))
        assert "VolumePath" not in document
        assert document["LayerFolderPath"] in it.hcs.layers
        assert "ActivateLayer" not in it.functions
        await system.delete()
        assert it.hcs.layers == {}
        await system.close()


async def test_a_scratch_layer_of_the_caller_s_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        mine = r"C:\layers\mine"
        it.hcs.layers[mine] = {"made"}
        system, _ = await it.service.launch("box", layered(scratch=mine), ALL, it.place())
        assert it.hcs.layers[mine] == {"made", "active", "prepared"}
        await system.delete()
        assert it.hcs.layers[mine] == {"made"}
        await system.close()


async def test_its_size_can_be_chosen(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, _ = await it.service.launch("box", layered(storage_size=40 << 30), ALL, it.place())
        assert f"size {40 << 30}" in next(iter(it.hcs.layers.values()))
        await system.delete()
        await system.close()


async def test_a_size_for_a_layer_that_is_there_already_is_refused_and_the_layer_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        mine = r"C:\layers\mine"
        it.hcs.layers[mine] = {"made"}
        with pytest.raises(InvalidSpec, match=r"windows\.storage_size: is the size of a scratch") as told:
            await it.service.create("box", layered(scratch=mine, storage_size=40 << 30), ALL, it.place())
        assert told.value.hint == "leave it out, or name another folder"
        assert it.hcs.layers == {mine: {"made"}}
        assert list(it.place().data.iterdir()) == []


async def test_where_a_volume_is_given_no_layer_is_touched(tmp_path: Path) -> None:
    volume = r"\\?\Volume{66d1ef4c-7a00-11e6-8948-00155ddbef9d}"
    async with world(tmp_path) as it:
        spec = Spec.of(args=["cmd"], root=f"rootfs:{volume}", layers=Layers(parents=PARENTS, scratch=r"C:\layers\x"))
        system, _ = await it.service.launch("box", spec, ALL, it.place())
        (document,) = map(json.loads, it.documents("HcsCreateComputeSystem"))
        assert document["VolumePath"] == volume
        assert of_layers(it) == []
        await system.delete()
        await system.close()


@pytest.mark.parametrize("step", ["CreateSandboxLayer", "ExpandSandboxSize", "ActivateLayer", "PrepareLayer"])
async def test_what_fails_while_a_layer_is_made_leaves_none(tmp_path: Path, step: str) -> None:
    async with world(tmp_path, script(**{step: [{"hr": DENIED}]})) as it:
        with pytest.raises(HcsError, match=f"scratch layer .*{step}"):
            await it.service.launch("box", layered(storage_size=1 << 30), ALL, it.place())
        assert it.hcs.layers == {}
        assert it.count("HcsCreateComputeSystem") == 0
        assert list(it.place().data.iterdir()) == []


@pytest.mark.parametrize(
    "step", ["HcsCreateComputeSystem", "HcsRegisterComputeSystemCallback", "HcsStartComputeSystem", "HcsCreateProcess"]
)
async def test_what_fails_after_a_layer_was_made_leaves_none(tmp_path: Path, step: str) -> None:
    async with world(tmp_path, script(**{step: [{"hr": DENIED}]})) as it:
        with pytest.raises((ServiceError, CommandNotExecutable)):
            await it.service.launch("box", layered(), ALL, it.place())
        assert it.hcs.layers == {}
        assert it.open_handles == 0


async def test_a_create_that_is_cancelled_leaves_no_layer(tmp_path: Path) -> None:
    async with world(tmp_path, script(CreateSandboxLayer=[{"delay_ms": 100}])) as it:
        making = asyncio.create_task(it.service.launch("box", layered(), ALL, it.place()))
        await it.until(lambda: it.count("CreateSandboxLayer"))
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert it.hcs.layers == {}
        assert it.open_handles == 0


@pytest.mark.parametrize("code", [0x80070002, 0x80070003, 0xC0370112])
@pytest.mark.parametrize("step", ["CreateSandboxLayer", "ActivateLayer", "PrepareLayer"])
async def test_a_missing_layer_is_told_with_the_next_step(tmp_path: Path, step: str, code: int) -> None:
    async with world(tmp_path, script(**{step: [{"hr": code}]})) as it:
        with pytest.raises(HcsError, match=f"make the scratch layer of container `box`: {step} for") as told:
            await it.service.create("box", layered(), ALL, it.place())
        assert told.value.hint is not None
        assert "folder" in told.value.hint
        assert "nearest one first" in told.value.hint


async def test_a_flaky_mount_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    """Windows of 2019 says "not ready" for some milliseconds after a layer was activated."""
    async with world(tmp_path, script(PrepareLayer=[{"hr": NOT_READY, "times": 2}])) as it:
        system, _ = await it.service.launch("box", layered(), ALL, it.place())
        assert it.count("PrepareLayer") == 3
        assert it.count("ActivateLayer") == 3
        assert it.count("DeactivateLayer") == 2
        await system.delete()
        await system.close()
    async with world(tmp_path, script(PrepareLayer=[{"hr": NOT_READY}])) as it:
        with pytest.raises(HcsError, match="NOT_READY"):
            await it.service.launch("box", layered(), ALL, it.place())
        assert it.count("PrepareLayer") == 5
        assert it.hcs.layers == {}


async def test_layers_are_prepared_one_at_a_time(tmp_path: Path) -> None:
    """Two at once fail in Windows; the double sees them."""
    async with world(tmp_path) as it:
        made = await asyncio.gather(
            *(it.service.create(f"box-{n}", layered(), ALL, it.place(f"box-{n}")) for n in range(12))
        )
        assert it.hcs.errors == []
        for system in made:
            await system.delete()
            await system.close()
        assert it.hcs.layers == {}


async def test_a_layer_that_is_still_in_use_is_removed_a_little_later(tmp_path: Path) -> None:
    async with world(tmp_path, script(DestroyLayer=[{"hr": SHARING, "times": 2}])) as it:
        system, _ = await it.service.launch("box", layered(), ALL, it.place())
        await system.delete()
        assert it.hcs.layers == {}
        await system.close()


@pytest.mark.parametrize("step", ["ExpandSandboxSize", "PrepareLayer", "GetLayerMountPath", "HcsCreateComputeSystem"])
async def test_a_layer_that_is_in_use_for_a_moment_after_a_failure_is_removed_all_the_same(
    tmp_path: Path, step: str
) -> None:
    rules = script(**{step: [{"hr": FAILED}]}, DestroyLayer=[{"hr": SHARING, "times": 2}])
    async with world(tmp_path, rules) as it:
        with pytest.raises(HcsError, match="E_FAIL"):
            await it.service.launch("box", layered(storage_size=1 << 30), ALL, it.place())
        assert it.hcs.layers == {}
        assert list(it.place().data.iterdir()) == []


@pytest.mark.parametrize("step", ["PrepareLayer", "HcsCreateComputeSystem"])
async def test_what_failed_and_cannot_be_undone_is_told_with_its_first_error_and_can_be_undone_later(
    tmp_path: Path, step: str
) -> None:
    async with world(tmp_path, script(**{step: [{"hr": DENIED}]}, DestroyLayer=[{"hr": FAILED}])) as it:
        with pytest.raises(NotUndone) as told:
            await it.service.create("box", layered(), ALL, it.place())
        assert isinstance(told.value.error, HcsError)
        assert told.value.error.name == "ACCESS_DENIED"
        assert "remove the scratch layer of container `box`: DestroyLayer for" in str(told.value.left)
        assert it.hcs.layers
        it.script()
        await it.service.abandon("box", it.place())
        assert it.hcs.layers == {}
        assert list(it.place().data.iterdir()) == []


@pytest.mark.parametrize("kept", [True, False])
async def test_an_engine_raises_what_failed_first_and_removes_the_layer_as_soon_as_it_can(
    tmp_path: Path, kept: bool
) -> None:
    rules = script(HcsCreateComputeSystem=[{"hr": OTHER_BUILD}], DestroyLayer=[{"hr": FAILED}])
    async with world(tmp_path, rules) as it, engine(it) as longshore:
        with pytest.raises(HcsError, match="create container `box`: its layers are of another Windows build"):
            if kept:
                await longshore.create("box", layered())
            else:
                await longshore.launch("box", layered())
        assert it.hcs.layers
        it.script()
        assert (await longshore.restore()).undone == ["box"]
        assert it.hcs.layers == {}
        assert await longshore.list() == []


async def test_a_layer_that_could_not_be_removed_after_a_failure_does_not_keep_its_id(tmp_path: Path) -> None:
    rules = script(PrepareLayer=[{"hr": DENIED, "times": 1}], DestroyLayer=[{"hr": FAILED, "times": 1}])
    async with world(tmp_path, rules) as it, engine(it) as longshore:
        with pytest.raises(HcsError, match="ACCESS_DENIED"):
            await longshore.create("box", layered())
        box = await longshore.create("box", layered())
        assert len(it.hcs.layers) == 1
        await box.delete()
        assert it.hcs.layers == {}


async def test_a_layer_that_could_not_be_removed_after_a_failure_goes_at_last_with_its_engine(tmp_path: Path) -> None:
    async with world(tmp_path, script(PrepareLayer=[{"hr": DENIED}], DestroyLayer=[{"hr": FAILED}])) as it:
        async with engine(it) as longshore:
            with pytest.raises(HcsError, match="ACCESS_DENIED"):
                await longshore.create("box", layered())
            assert it.hcs.layers
            it.script()
        assert it.hcs.layers == {}


async def test_the_layer_of_a_container_that_is_gone_is_still_taken_away(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        system, _ = await it.service.launch("box", layered_sleep(), ALL, it.place())
        it.die(it.service)
        it.hcs.crew.terminate(it.hcs.systems["box"])
        await it.until(lambda: not it.hcs.systems)
        assert it.hcs.layers
        found = await it.another().open("box", system.token, it.place())
        assert found.over
        await found.delete()
        assert it.hcs.layers == {}
        await found.close()


def layered_sleep() -> Spec:
    return Spec.of(args=["sleep", "100"], layers=Layers(parents=PARENTS))


async def test_the_layer_of_a_half_made_container_is_taken_away(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        await it.service.create("box", layered_sleep(), ALL, it.place())
        it.die(it.service)
        second = it.another()
        await second.abandon("box", it.place())
        assert it.hcs.layers == {}
        assert it.hcs.systems == {}
        await second.abandon("box", it.place())


async def test_the_layer_of_a_container_of_an_earlier_boot_is_taken_away(tmp_path: Path) -> None:
    async with world(tmp_path, crew=True) as it:
        async with Engine(it.service, state=tmp_path / "state") as engine:
            await engine.create("box", layered_sleep())
            entry = engine._state.store.container_dir("box")
            record = entry.read()
            record.boot = "an earlier one"
            entry.write(record)
        it.hcs.crew.terminate(it.hcs.systems["box"])
        await it.until(lambda: not it.hcs.systems)
        async with Engine(it.another(), state=tmp_path / "state") as engine:
            await (await engine.get("box")).delete()
        assert it.hcs.layers == {}


async def test_an_unknown_token_is_still_gone_without_a_layer(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        with pytest.raises(SystemGone):
            await it.service.open("box", b'{"id":"box"}', it.place())


def test_each_function_does_what_it_is_called_for() -> None:
    machine = Hcs()
    client = machine.client()
    functions = LayerFunctions(client.binding)
    path = r"C:\layers\scratch"
    assert not functions.exists(path)
    functions.create(path, PARENTS)
    assert functions.exists(path)
    functions.expand(path, 1 << 30)
    volume = mount(functions, path, PARENTS)
    assert volume == functions.mount_path(path)
    assert volume.endswith("}\\")
    functions.unprepare(path)
    functions.deactivate(path)
    functions.destroy(path)
    assert not functions.exists(path)
    with pytest.raises(HcsError, match="ActivateLayer for"):
        functions.activate(path)
    functions.process_base_layer(r"C:\layers\base")
    functions.process_utility_vm(r"C:\layers\base\UtilityVM")
    functions.grant_access("vm", r"C:\layers\scratch\sandbox.vhdx")
    assert [call["function"] for call in machine.calls][-3:] == [
        "ProcessBaseImage",
        "ProcessUtilityImage",
        "GrantVmAccess",
    ]
    machine.close()
    assert machine.errors == []
