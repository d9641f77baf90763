"""The image store: what its files mean, and that each is whole or not there."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from longshore.errors import ImageNotFound, InvalidImage, StoreError
from longshore.images.digests import digest_of
from longshore.images.records import ImagePin
from longshore.images.store import ImageStore
from longshore.store.records import VERSION

from .packed import Image, give_name, layer, names_in, opened, pulled
from .tars import file, folder, opaque, seen, whiteout


@pytest.fixture
def store(state: Path) -> ImageStore:
    return opened(state)


BASE = layer(folder(b"./"), folder(b"etc"), file(b"etc/base", b"1"))
TOP = layer(folder(b"./"), file(b"etc/top", b"2"), file(b"bin/tool", b"3", mode=0o4755))


def test_nobody_else_can_look_into_the_store(store: ImageStore) -> None:
    pulled(store, Image([BASE, TOP]))
    for directory, folders, names in os.walk(store.path):
        if "fs" in folders:
            folders.remove("fs")
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        for name in names:
            assert stat.S_IMODE(os.stat(f"{directory}/{name}").st_mode) == 0o600


def test_a_pulled_image_is_seen_as_it_was_made(store: ImageStore, tmp_path: Path) -> None:
    record = pulled(store, Image([BASE, TOP]), "docker.io/library/x:1")
    found = seen([Path(path) for path in store.mount_paths(record)], tmp_path / "point")
    assert sorted(found) == [".", "bin", "bin/tool", "etc", "etc/base", "etc/top"]
    assert found["bin/tool"]["mode"] == "0o4755"
    assert record.fixup  # `etc` is implied in the upper layer


def test_the_record_says_what_a_listing_needs(store: ImageStore) -> None:
    image = Image([BASE, TOP], labels={"a": "b"})
    pulled(store, image)
    [record] = store.read_records()
    assert record == store.read_record(image.digest)
    assert (record.os, record.architecture, record.labels) == ("linux", "amd64", {"a": "b"})
    assert [(each.digest, each.size, each.unpacked_size) for each in record.layers] == [
        (digest_of(BASE.blob), len(BASE.blob), 1),
        (digest_of(TOP.blob), len(TOP.blob), 2),
    ]


def test_layers_are_shared_by_what_they_hold(store: ImageStore) -> None:
    again = layer(folder(b"./"), folder(b"etc"), file(b"etc/base", b"1"), level=9)
    assert (again.diff_id, again.blob != BASE.blob) == (BASE.diff_id, True)
    pulled(store, Image([BASE]))
    pulled(store, Image([again]))
    assert names_in(store.layers) == [BASE.key]
    assert len(names_in(store.blobs / "sha256")) == 5  # two layers and manifests, and a config


def test_the_same_layer_may_be_in_an_image_twice(store: ImageStore, tmp_path: Path) -> None:
    record = pulled(store, Image([BASE, TOP, BASE]))
    assert max(seen([Path(each) for each in store.mount_paths(record)], tmp_path / "point")) == "etc/top"


def test_what_is_below_an_opaque_root_is_not_mounted(store: ImageStore, tmp_path: Path) -> None:
    record = pulled(store, Image([BASE, layer(opaque(b""), file(b"only", b"x")), TOP]))
    assert record.mounted == 2
    found = seen([Path(each) for each in store.mount_paths(record)], tmp_path / "point")
    assert sorted(found) == [".", "bin", "bin/tool", "etc", "etc/top", "only"]


def test_an_image_without_layers_has_an_empty_root(store: ImageStore, tmp_path: Path) -> None:
    record = pulled(store, Image([]))
    [path] = store.mount_paths(record)
    assert sorted(seen([Path(path)], tmp_path / "point")) == ["."]


def test_a_layer_that_needs_those_below_is_stored_for_this_image(store: ImageStore) -> None:
    odd = layer(folder(b"./"), whiteout(b"never/was"))
    first = pulled(store, Image([odd]))
    second = pulled(store, Image([BASE, odd]))
    third = pulled(store, Image([layer(folder(b"./"), file(b"never/was")), odd]))
    assert first.layers[0].key.startswith("chain-")
    assert second.layers[1].key.startswith("chain-")
    assert third.layers[1].key == odd.key
    assert not (store.layer_path(first.layers[0].key) / "never" / "was").exists()


def test_a_document_is_kept_only_under_its_own_digest(store: ImageStore) -> None:
    with pytest.raises(InvalidImage, match="another digest"):
        store.add_document(b"{}", digest_of(b"other"))
    store.add_document(b"{}", digest_of(b"{}"))
    assert store.read_document(digest_of(b"{}")) == b"{}"


def test_a_document_that_the_disk_changed_is_not_believed(store: ImageStore) -> None:
    store.add_document(b"{}", digest_of(b"{}"))
    store.blob_path(digest_of(b"{}")).write_bytes(b"[]")
    with pytest.raises(StoreError, match="the disk has changed it"):
        store.read_document(digest_of(b"{}"))


def test_a_blob_that_is_not_there_is_told(store: ImageStore) -> None:
    assert store.blob_size(digest_of(b"x")) is None
    with pytest.raises(ImageNotFound, match="the store does not have this part"):
        store.open_blob(digest_of(b"x"))


# names

NAMES = [
    "docker.io/library/python:3.12-slim",
    "localhost:5000/a/b:Tag",
    "localhost:5000/a/b:tag",
    f"ghcr.io/a/b@{digest_of(b'')}",
    "x.io/" + "long/" * 60 + "name:1",
    "x.io/" + "long/" * 60 + "name:2",
]


def test_names_are_told_apart_whatever_they_are(store: ImageStore) -> None:
    for number, name in enumerate(NAMES):
        give_name(store, name, digest_of(str(number).encode()))
    assert [each.name for each in store.read_names()] == sorted(NAMES)
    for number, name in enumerate(NAMES):
        found = store.read_name(name)
        assert found is not None
        assert found.digest == digest_of(str(number).encode())
    files = names_in(store.names)
    assert len({each.lower() for each in files}) == len(NAMES)  # Windows does not tell `a` from `A`
    assert max(map(len, files)) < 255
    assert not any(set(each) & set('<>:"/\\|?*') for each in files)


def test_a_name_finds_exactly_itself(store: ImageStore) -> None:
    give_name(store, "mcr.io/base/python:3.9", digest_of(b"x"))
    assert store.read_name("docker.io/library/python:3.9") is None
    assert store.read_name("mcr.io/base/python:3") is None


def test_a_name_can_move_on_and_be_taken_away(store: ImageStore) -> None:
    give_name(store, "a:1", digest_of(b"x"))
    give_name(store, "a:1", digest_of(b"y"))
    assert [each.digest for each in store.read_names()] == [digest_of(b"y")]
    assert store.remove_name("a:1")
    assert not store.remove_name("a:1")
    assert store.read_names() == []


# records of others


def test_a_record_of_a_later_version_is_refused(store: ImageStore) -> None:
    image = Image([BASE])
    pulled(store, image, "a:1")
    path = store.record_path(image.digest)
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(StoreError, match="it has format version 2"):
        store.read_record(image.digest)
    with pytest.raises(StoreError, match="it has format version 2"):
        list(store.read_records())


@pytest.mark.parametrize("content", [b"", b"\0" * 50])
def test_what_a_loss_of_power_left_empty_counts_as_not_there(store: ImageStore, content: bytes) -> None:
    image = Image([BASE])
    pulled(store, image, "a:1")
    store.record_path(image.digest).write_bytes(content)
    store.name_path("a:1").write_bytes(content)
    assert (store.read_record(image.digest), store.read_names()) == (None, [])
    pulled(store, image, "a:1")
    assert len(store.read_names()) == 1


def test_damaged_records_do_not_hide_the_others(store: ImageStore) -> None:
    pulled(store, Image([BASE]), "a:1")
    (store.records / "damaged.json").write_bytes(b"{")
    (store.names / "damaged.json").write_bytes(b"{")
    assert len(list(store.read_records())) == len(store.read_names()) == 1


def test_a_container_says_what_it_uses(store: ImageStore, tmp_path: Path) -> None:
    pin = ImagePin(version=VERSION, name="a:1", digest=digest_of(b"m"), config=digest_of(b"c"), layers=["1", "2"])
    assert store.read_pin(tmp_path) is None
    with store.using():
        store.write_pin(tmp_path, pin, durable=True)
    assert store.read_pin(tmp_path) == pin
    assert store.mount_paths(pin) == [os.fspath(store.layer_path("2")), os.fspath(store.layer_path("1"))]


def test_a_thousand_images_are_listed(store: ImageStore) -> None:
    image = Image([BASE])
    record = pulled(store, image)
    data = store.record_path(image.digest).read_bytes()
    for number in range(1000):
        digest = digest_of(str(number).encode())
        store.record_path(digest).write_bytes(data.replace(record.digest.encode(), digest.encode()))
        give_name(store, f"x.io/a/b:{number}", digest)
    assert (len(list(store.read_records())), len(store.read_names())) == (1001, 1000)
    assert datetime.now(UTC) > record.added
