"""What a checkpoint takes of a container's root: packed, or refused by a typed error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longshore.compute.values import Place
from longshore.errors import StoreError
from longshore.fs.trees import remove_tree
from longshore.oci.checkpoint import _pack as pack_scratch


def test_folders_nested_too_deeply_end_a_checkpoint_in_a_typed_error(tmp_path: Path) -> None:
    place = Place(run=tmp_path / "run", data=tmp_path / "data")
    (place.data / "scratch").mkdir(parents=True)
    deep = str(place.data / "scratch")
    for _ in range(1500):
        deep += "/d"
        os.mkdir(deep)
    (tmp_path / "images").mkdir()
    try:
        with pytest.raises(StoreError, match="nested too deeply"):
            pack_scratch(place, tmp_path / "images")
    finally:
        remove_tree(place.data)
