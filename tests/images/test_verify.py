"""Damage on the disk is found, told, and made good where that can be done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from longshore.images.digests import digest_of
from longshore.images.store import ImageStore
from longshore.images.verify import verify

from .crashes import check
from .packed import Image, layer, names_in, opened, pulled
from .tars import file, folder, opaque, pax, symlink, whiteout
from .test_collect import container

LAYER = layer(
    folder(b"./"),
    folder(b"d", 0o750),
    pax({b"SCHILY.xattr.user.note": b"x"}),
    file(b"d/f", b"data", mtime=5),
    symlink(b"d/s", b"f"),
    folder(b"o"),
    opaque(b"o"),
)
BASE = layer(folder(b"./"), folder(b"o"), file(b"o/gone"))


@pytest.fixture
def store(state: Path) -> ImageStore:
    made = opened(state)
    pulled(made, Image([BASE, LAYER]), "a:1")
    return made


def fill(path: Path) -> None:
    path.write_bytes(b"DATA")
    os.utime(path, (5, 5))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "data": lambda top: fill(top / "d" / "f"),
    "time": lambda top: os.utime(top / "d" / "f", (6, 6)),
    "mode": lambda top: (top / "d").chmod(0o777),
    "owner": lambda top: os.chown(top / "d", 5, 5),
    "attribute": lambda top: os.removexattr(top / "d" / "f", "user.note"),
    "opaque": lambda top: os.removexattr(top / "o", "trusted.overlay.opaque"),
    "missing": lambda top: (top / "d" / "f").unlink(),
    "more": lambda top: (top / "d" / "new").touch(),
    "empty": lambda top: os.truncate(top / "d" / "f", 0),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_layer_is_made_again_from_its_blob(store: ImageStore, damage: str) -> None:
    DAMAGE[damage](store.layer_path(LAYER.key))
    [problem] = verify(store, repair=False)
    assert (problem.what, problem.repaired) == (f"layer {LAYER.key}", False)
    [problem] = verify(store)
    assert problem.repaired
    assert list(verify(store)) == []
    check(store)
    assert names_in(store.ingest) == names_in(store.state.data_trash) == []


def test_a_layer_is_not_taken_from_under_a_container(store: ImageStore) -> None:
    (store.layer_path(LAYER.key) / "d" / "f").unlink()
    [record] = store.read_records()
    home = container(store, "web", record)
    before = os.stat(store.layer_path(LAYER.key)).st_ino
    [problem] = verify(store)
    assert (problem.repaired, "web" in problem.hint) == (False, True)
    assert os.stat(store.layer_path(LAYER.key)).st_ino == before
    (home / "image.json").unlink()
    home.rmdir()
    assert [each.repaired for each in verify(store)] == [True]


def test_a_damaged_blob_is_removed_and_told(store: ImageStore) -> None:
    path = store.blob_path(digest_of(LAYER.blob))
    path.write_bytes(b"x" + LAYER.blob[1:])
    [problem] = verify(store, repair=False)
    assert (problem.what, path.exists()) == (f"blob {digest_of(LAYER.blob)}", True)
    list(verify(store))
    assert not path.exists()
    assert list(verify(store)) == []  # the layer can still be run


def test_what_an_image_lacks_is_told(store: ImageStore) -> None:
    image = Image([BASE, LAYER])
    store.blob_path(image.digest).unlink()
    os.rename(store.layers / BASE.key, store.layers / "x")
    problems = {each.what for each in verify(store)}
    assert problems == {f"image {image.digest}"}
    os.rename(store.layers / "x", store.layers / BASE.key)


def test_a_layer_that_belongs_to_one_image_is_checked_on_top_of_the_others(store: ImageStore) -> None:
    odd = Image([BASE, layer(folder(b"./"), whiteout(b"never/x"), file(b"f", b"1"))])
    record = pulled(store, odd)
    assert list(verify(store)) == []
    (store.layer_path(record.layers[1].key) / "f").write_bytes(b"2")
    assert [each.repaired for each in verify(store)] == [True]
    assert list(verify(store)) == []
