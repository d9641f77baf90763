"""Making a container fails, and so does undoing it: the first error is told, and nothing is forgotten.

What is left of layers is in test_layers.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.compute.limits import HcsLimits
from longshore.compute.protocols import NotUndone
from longshore.errors import TimeLimit
from longshore.hcs.dll.hresults import HcsError
from longshore.spec import Layers

from .test_engine import engine
from .world import ALL, script, world

FAILED, DENIED, PENDING = 0x80004005, 0x80070005, 0xC0370103
IMPATIENT = HcsLimits(default=0.2, terminate=0.2, late_exit=0.1)
NEVER_MADE = {"HcsCreateComputeSystem": [{"hr": PENDING, "notify": []}]}


async def test_a_system_that_cannot_be_terminated_after_its_making_failed_is_left_for_abandon(tmp_path: Path) -> None:
    rules = script(**NEVER_MADE, HcsTerminateComputeSystem=[{"hr": FAILED}])
    async with world(tmp_path, rules, limits=IMPATIENT) as it:
        with pytest.raises(NotUndone) as told:
            await it.service.create("box", it.spec(), ALL, it.place())
        assert isinstance(told.value.error, TimeLimit)
        assert isinstance(told.value.left, HcsError)
        assert list(it.hcs.systems) == ["box"]
        assert it.open_handles == 0
        it.script()
        await it.service.abandon("box", it.place())
        assert it.hcs.systems == {}


async def test_one_that_does_not_end_when_it_is_terminated_is_left_for_abandon(tmp_path: Path) -> None:
    rules = script(**NEVER_MADE, HcsTerminateComputeSystem=[{"hr": PENDING, "notify": []}])
    async with world(tmp_path, rules, limits=IMPATIENT) as it:
        with pytest.raises(NotUndone) as told:
            await it.service.create("box", it.spec(), ALL, it.place())
        assert isinstance(told.value.left, TimeLimit)
        it.script()
        await it.service.abandon("box", it.place())
        assert it.hcs.systems == {}


@pytest.mark.parametrize("kept", [True, False])
async def test_an_engine_ends_later_what_it_could_not_end_after_its_making_failed(tmp_path: Path, kept: bool) -> None:
    rules = script(**NEVER_MADE, HcsTerminateComputeSystem=[{"hr": FAILED}])
    async with world(tmp_path, rules, limits=IMPATIENT) as it, engine(it) as longshore:
        with pytest.raises(TimeLimit, match="create container `box`"):
            if kept:
                await longshore.create("box", it.spec())
            else:
                await longshore.launch("box", it.spec())
        assert list(it.hcs.systems) == ["box"]
        it.script()
        assert (await longshore.restore()).undone == ["box"]
        assert it.hcs.systems == {}
        await (await longshore.create("box", it.spec())).delete()


async def test_a_launch_tells_why_it_failed_and_not_what_failed_then(tmp_path: Path) -> None:
    rules = script(HcsStartComputeSystem=[{"hr": DENIED}], DestroyLayer=[{"hr": FAILED}])
    async with world(tmp_path, rules) as it, engine(it) as longshore:
        with pytest.raises(HcsError, match=r"start container `.*`: access is denied"):
            await longshore.run("", ["cmd"], layers=Layers(parents=[r"C:\layers\base"]))
        assert it.hcs.layers
        it.script()
        assert len((await longshore.restore()).undone) == 1
        assert it.hcs.layers == {}
