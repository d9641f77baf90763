"""What removing images removes, and what it must never remove."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore.errors import StoreError
from longshore.images import media_types
from longshore.images.collect import pins, prune, remove
from longshore.images.digests import digest_of
from longshore.images.documents import Descriptor
from longshore.images.ingest import Ingest
from longshore.images.locks import Stop, gc_lock
from longshore.images.records import ImagePin, ImageRecord
from longshore.images.store import ImageStore
from longshore.store.records import VERSION

from .crashes import check, rest_of
from .packed import Image, Registry, give_name, index_of, layer, names_in, opened, pull, pulled
from .tars import file, folder, whiteout

BASE = layer(folder(b"./"), folder(b"d"), file(b"d/base", b"1"))
FIRST = Image([BASE, layer(file(b"d/first", b"22"))])
SECOND = Image([BASE, layer(file(b"d/second", b"333"))])


@pytest.fixture
def store(state: Path) -> Iterator[ImageStore]:
    made = opened(state)
    yield made
    check(made)
    for path in (made.state.kept, made.state.containers):
        for each in path.iterdir():
            (each / "image.json").unlink(missing_ok=True)
            each.rmdir()
    rest_of(made)


def container(store: ImageStore, id: str, record: ImageRecord, *, kept: bool = True) -> Path:
    """A container's directory that says that it uses this image."""
    home = (store.state.kept if kept else store.state.containers) / id
    home.mkdir()
    keys = [each.key for each in record.layers]
    pin = ImagePin(
        version=VERSION, name="x", digest=record.digest, config=record.config, layers=keys, fixup=record.fixup
    )
    with store.using():
        store.write_pin(home, pin, durable=False)
    return home


def is_whole(store: ImageStore, image: Image) -> bool:
    record = store.read_record(image.digest)
    return record is not None and all(Path(path).is_dir() for path in store.mount_paths(record))


def test_removing_the_last_name_removes_the_image_and_not_what_others_share(store: ImageStore) -> None:
    pulled(store, FIRST, "a:1")
    pulled(store, SECOND, "b:1")
    removed = remove(store, ["a:1"])
    assert (removed.names, removed.images, removed.layers) == (["a:1"], [FIRST.digest], 1)
    assert removed.size > 2
    assert (is_whole(store, FIRST), is_whole(store, SECOND)) == (False, True)
    assert names_in(store.layers) == sorted(each.key for each in SECOND.layers)


def test_an_image_with_another_name_stays(store: ImageStore) -> None:
    pulled(store, FIRST, "a:1")
    give_name(store, "a:2", FIRST.digest)
    removed = remove(store, ["a:1"])
    assert (removed.names, removed.images, is_whole(store, FIRST)) == (["a:1"], [], True)
    assert remove(store, [], [FIRST.digest]).names == ["a:2"]
    assert not is_whole(store, FIRST)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("by", ["name", "digest", "prune"])
def test_an_image_that_a_container_uses_loses_its_names_only(store: ImageStore, kept: bool, by: str) -> None:
    record = pulled(store, FIRST, "a:1")
    home = container(store, "web", record, kept=kept)
    if by == "prune":
        assert prune(store, all=True).images == []
        assert len(store.read_names()) == 1
    else:
        removed = remove(store, ["a:1"]) if by == "name" else remove(store, [], [FIRST.digest])
        assert (removed.names, removed.images, removed.used) == (["a:1"], [], {FIRST.digest: ["web"]})
    prune(store)
    assert is_whole(store, FIRST)
    (home / "image.json").unlink()
    remove(store, ["a:1"])
    prune(store)
    assert not is_whole(store, FIRST)


def test_the_layers_of_a_container_outlive_the_record_of_its_image(store: ImageStore) -> None:
    record = pulled(store, FIRST)
    container(store, "web", record)
    store.record_path(FIRST.digest).unlink()
    prune(store, all=True)
    assert all(Path(path).is_dir() for path in store.mount_paths(record))


def test_prune_removes_what_has_no_name_and_keeps_the_rest(store: ImageStore) -> None:
    pulled(store, FIRST)
    pulled(store, SECOND, "b:1")
    assert prune(store).images == [FIRST.digest]
    assert is_whole(store, SECOND)
    assert prune(store, all=True, matching=lambda record: False).images == []
    assert prune(store, all=True).images == [SECOND.digest]
    assert store.read_names() == []


def test_a_name_for_an_index_keeps_every_platform(store: ImageStore) -> None:
    index = index_of(FIRST, SECOND)
    pulled(store, FIRST)
    pulled(store, SECOND)
    store.add_document(index, digest_of(index))
    give_name(store, "a:1", digest_of(index), media_types.OCI_INDEX)
    assert prune(store).images == []
    assert store.read_document(digest_of(index)) == index
    assert sorted(remove(store, ["a:1"]).images) == sorted([FIRST.digest, SECOND.digest])
    assert store.blob_size(digest_of(index)) is None


def test_blobs_of_layers_can_go_and_the_image_runs_on(store: ImageStore) -> None:
    pulled(store, FIRST, "a:1")
    prune(store, blobs=True)
    assert is_whole(store, FIRST)
    assert [store.blob_size(digest_of(each.blob)) for each in FIRST.layers] == [None, None]
    registry = Registry(FIRST)
    asyncio.run(pull(store, FIRST, registry, "a:1"))
    assert registry.asked == []  # nothing of it is needed
    odd = Image([*FIRST.layers, layer(whiteout(b"never/x"))])
    asyncio.run(pull(store, odd, Registry(odd), "odd:1"))
    assert is_whole(store, odd)
    remove(store, ["a:1", "odd:1"])  # the rest is for `check`, which wants blobs


def test_what_a_dead_program_left_goes(store: ImageStore) -> None:
    dead = store.ingest / "job-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "half").mkdir()
    (store.ingest / "job-just-made").mkdir()
    (store.ingest / digest_of(b"x")[7:]).write_bytes(b"part")
    (store.records / ".x.json.0011").write_bytes(b"")
    (store.records / "damaged.json").write_bytes(b"{")
    pulled(store, FIRST, "a:1")
    remove(store, ["nothing"])
    assert names_in(store.ingest) == [digest_of(b"x")[7:]]  # the next pull would go on with it
    prune(store)
    assert names_in(store.ingest) == []
    assert names_in(store.records) == [store.record_path(FIRST.digest).name]
    assert is_whole(store, FIRST)


def test_a_pull_under_way_loses_nothing(store: ImageStore) -> None:
    """Pruned at every piece: what is there, what comes, and what is not on record yet."""
    pulled(store, SECOND)  # its base is about to be used again

    class Pruned(Registry):
        def fetch(self, blob: Descriptor, offset: int, hash_: Any, stop: Stop) -> Iterator[bytes]:
            for piece in super().fetch(blob, offset, hash_, stop):
                prune(store, all=True)
                yield piece
                prune(store, all=True)

    registry = Pruned(FIRST, piece=50)
    asyncio.run(pull(store, FIRST, registry, "a:1"))
    assert is_whole(store, FIRST)
    assert [digest for digest, _ in registry.asked] == [digest_of(FIRST.layers[1].blob)]


def test_an_image_that_has_no_name_yet_is_left_to_who_adds_it(store: ImageStore) -> None:
    with Ingest(store) as ingest:
        ingest.want(images=[FIRST.digest])
        pulled(store, FIRST)
        assert prune(store, all=True).images == []
        give_name(store, "a:1", FIRST.digest)
    assert is_whole(store, FIRST)


def test_who_is_about_to_use_an_image_holds_off_its_removal(store: ImageStore) -> None:
    record = pulled(store, FIRST, "a:1")
    with store.using():
        pruning = threading.Thread(target=lambda: prune(store, all=True))
        pruning.start()
        home = store.state.kept / "web"
        home.mkdir()
        keys = [each.key for each in record.layers]
        store.write_pin(
            home,
            ImagePin(version=VERSION, name="a:1", digest=record.digest, config=record.config, layers=keys),
            durable=False,
        )
    pruning.join()
    assert is_whole(store, FIRST)
    with store.using():
        assert [each.container for each in pins(store)] == ["web"]


def test_a_lock_that_is_not_given_back_is_told(store: ImageStore) -> None:
    with (
        store.using(),
        pytest.raises(StoreError, match="another program has held it"),
        gc_lock(store.gc_lock_path, shared=False, limit=0.05),
    ):
        pass


def test_nothing_is_removed_while_a_container_cannot_be_read(store: ImageStore) -> None:
    pulled(store, FIRST, "a:1")
    home = store.state.kept / "web"
    home.mkdir()
    (home / "image.json").write_bytes(b'{"version": 99}')
    with pytest.raises(StoreError, match="it has format version 99"):
        prune(store, all=True)
    (home / "image.json").write_bytes(b"{")
    with pytest.raises(StoreError, match="it is damaged"):
        remove(store, ["a:1"])
    assert is_whole(store, FIRST)


def test_nothing_is_removed_by_a_version_that_cannot_read_a_record(store: ImageStore) -> None:
    pulled(store, FIRST, "a:1")
    path = store.record_path(FIRST.digest)
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"version":1', b'"version":99'))
    with pytest.raises(StoreError, match="it has format version 99"):
        prune(store)
    path.write_bytes(before)
    assert is_whole(store, FIRST)


def test_an_ingest_wants_more_as_it_goes(store: ImageStore) -> None:
    with Ingest(store) as ingest:
        store.add_document(b"[]", digest_of(b"[]"))
        ingest.want(blobs=[digest_of(b"[]")])
        ingest.want(layers=["x"])
        prune(store)
        assert store.blob_size(digest_of(b"[]")) == 2
    prune(store)
    assert store.blob_size(digest_of(b"[]")) is None
    assert os.listdir(store.ingest) == []
