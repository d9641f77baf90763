"""What must hold of an image store after a program was killed in it."""

from __future__ import annotations

import asyncio

from longshore.images.collect import prune
from longshore.images.digests import digest_of
from longshore.images.store import ImageStore
from longshore.store.trash import empty_trash

from .packed import names_in


def check(store: ImageStore, *, blobs: bool = True) -> None:
    """Every image that is on record is whole, and every blob and layer is what its name says.

    With `blobs` off, those of layers may have been removed to save room.
    """
    for algorithm in ("sha256", "sha512"):
        for name in names_in(store.blobs / algorithm):
            if not name.startswith("."):
                assert digest_of((store.blobs / algorithm / name).read_bytes(), algorithm) == f"{algorithm}:{name}"
    for name in names_in(store.layers):
        assert store.read_layer(name) is not None
        assert store.layer_path(name).is_dir()
    for record in store.read_records():
        assert store.blob_size(record.digest) is not None
        assert store.blob_size(record.config) is not None
        for layer in record.layers:
            assert store.read_layer(layer.key) is not None
            assert store.blob_size(layer.digest) in ((layer.size,) if blobs else (layer.size, None))
        assert store.fixup_path(record.digest).is_dir() == record.fixup
    for each in store.read_names():
        assert store.read_record(each.digest) is not None


def rest_of(store: ImageStore) -> None:
    """Removing all images leaves nothing at all, whatever died before."""
    prune(store, all=True)
    asyncio.run(empty_trash(store.state))  # as whoever opens the store does
    for folder in (
        store.blobs / "sha256",
        store.blobs / "sha512",
        store.layers,
        store.fixups,
        store.records,
        store.names,
        store.ingest,
        store.state.data_trash,
    ):
        assert names_in(folder) == [], folder
