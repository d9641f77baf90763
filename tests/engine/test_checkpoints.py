"""Checkpoints where the service makes none: refused with its reason, before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.engine.engine import Engine
from longshore.errors import CheckpointNotFound, InvalidSpec, NotSupported
from longshore.simulator import Simulator


async def test_a_simulator_has_no_checkpoints_and_says_so(tmp_path: Path) -> None:
    async with Engine(Simulator(), state=tmp_path) as engine:
        box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
        with pytest.raises(NotSupported, match="no memory images"):
            await box.checkpoint("one")
        with pytest.raises(NotSupported, match="no memory images"):
            await box.start(checkpoint="one")
        with pytest.raises(NotSupported, match="no memory images"):
            await engine.import_checkpoint(tmp_path / "nowhere.tar")
        assert (await box.info()).state == "running"
        assert await box.checkpoints() == []
        with pytest.raises(CheckpointNotFound):
            await box.delete_checkpoint("one")
        with pytest.raises(CheckpointNotFound):
            await box.export_checkpoint("one", tmp_path / "one.tar")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 101, "line\nbreak"])
async def test_a_name_that_could_not_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    async with Engine(Simulator(), state=tmp_path) as engine:
        box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
        for call in (box.checkpoint(name), box.delete_checkpoint(name), box.export_checkpoint(name, tmp_path / "x")):
            with pytest.raises(InvalidSpec, match="name"):
                await call
