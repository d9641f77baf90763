"""Make an image of its unpacked layers: what depends on the layers below is settled, then its record is written.

Each layer was unpacked alone. `lower_layers.py` says which of them are the same on top of the others, and which are
not: those are unpacked again, for this image, and stored by their chain id, which names a layer with all below it.
A layer whose root is opaque hides all layers below it, and overlayfs knows no opaque root: they are not mounted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import StoreError
from ..fs.files import as_store_errors
from ..store.records import VERSION
from .digests import chain_ids, hex_of
from .documents import Descriptor, ImageConfig, Manifest
from .ingest import Fetch, Ingest, quiet
from .partial_blob import WrongDigest
from .records import ImageRecord, LayerInfo, LayerRecord, Unpacked
from .store import damaged_blob

if TYPE_CHECKING:
    from .lower_layers import Fixup, LayerStack

CHAIN = "chain-"  # before the digits of a chain id: that of the lowest layer is its diff_id


def wanted_by(manifest: Manifest, config: ImageConfig, digest: str) -> dict[str, list[str]]:
    """Return what an image may come to consist of, for `Ingest.want`: before it is looked at whether it is there."""
    diff_ids = config.rootfs.diff_ids
    return {
        "blobs": [digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)],
        "layers": [*map(hex_of, diff_ids), *(CHAIN + hex_of(each) for each in chain_ids(diff_ids))],
        "images": [digest],
    }


def settle(ingest: Ingest, manifest: Descriptor, document: Manifest, config: ImageConfig, fetch: Fetch) -> ImageRecord:
    """Return the record of an image whose layers were all added, and make what else it needs.

    `fetch` gets the blob of a layer that has to be unpacked again, if it was removed to save room. The caller writes
    the record (`ImageStore.commit`). It blocks. Raises: InvalidImage; StoreError; Stopped; whatever `fetch` raises.
    """
    layers = _settled_layers(ingest, document, config, fetch)
    mounted = count_mounted([info for _, info in layers])
    fixup = _make_fixup(ingest, manifest.digest, layers[-mounted:])
    return ImageRecord(
        version=VERSION,
        digest=manifest.digest,
        media_type=manifest.media_type,
        size=manifest.size,
        config=document.config.digest,
        config_size=document.config.size,
        layers=[
            LayerRecord(
                digest=layer.digest,
                diff_id=info.diff_id,
                size=layer.size,
                media_type=layer.media_type,
                key=key,
                unpacked_size=info.unpacked.size,
            )
            for layer, (key, info) in zip(document.layers, layers, strict=True)
        ],
        mounted=mounted if mounted < len(layers) else 0,
        fixup=bool(fixup.folders) or not layers,
        hidden_links=fixup.hidden_links,
        os=config.os,
        architecture=config.architecture,
        variant=config.variant,
        os_version=config.os_version,
        created=config.created_at,
        added=datetime.now(UTC),
        labels=config.config.labels,
    )


def _settled_layers(
    ingest: Ingest, document: Manifest, config: ImageConfig, fetch: Fetch
) -> list[tuple[str, LayerInfo]]:
    """Return key and facts of each layer, the lowest first; what has to be is unpacked again."""
    from .lower_layers import LayerStack, needs_below

    diff_ids = config.rootfs.diff_ids
    found: list[tuple[str, LayerInfo]] = []
    for layer, diff_id, chain_id in zip(document.layers, diff_ids, chain_ids(diff_ids), strict=True):
        key = hex_of(diff_id)
        info = ingest.store.read_layer(key)
        if info is None:
            raise StoreError(f"cannot use layer {diff_id}: it is not in the store", hint="pull the image again")
        shown = found[-count_mounted([info for _, info in found]) :]
        with LayerStack([ingest.store.layer_path(each) for each, _ in reversed(shown)]) as below:
            if needs_below(info.unpacked, below):
                key = CHAIN + hex_of(chain_id)
                info = _unpack_again(ingest, layer, diff_id, key, below, fetch)
        found.append((key, info))
    return found


def _unpack_again(
    ingest: Ingest, layer: Descriptor, diff_id: str, key: str, below: LayerStack, fetch: Fetch
) -> LayerInfo:
    ingest.add_blob(layer, fetch, quiet)
    with ingest.alone(key):
        found = ingest.store.read_layer(key)
        if found is not None:
            return found
        try:
            unpacked = ingest.unpack_stored(layer.digest, diff_id, key, below)
        except WrongDigest:
            raise damaged_blob(ingest.store.blob_path(layer.digest)) from None
        return ingest.keep_layer(key, LayerInfo(version=VERSION, diff_id=diff_id, blob=layer.digest, unpacked=unpacked))


def count_mounted(layers: Sequence[LayerInfo]) -> int:
    """Return how many layers are seen, from the top: down to one that hides all that is below."""
    for count, info in enumerate(reversed(layers), 1):
        if info.unpacked.opaque:
            return count
    return len(layers)


def _make_fixup(ingest: Ingest, digest: str, layers: Sequence[tuple[str, LayerInfo]]) -> Fixup:
    """Make the fix-up layer of an image, if it needs one. An image without layers gets an empty one."""
    from .lower_layers import LayerStack, find_fixup, write_fixup

    store = ingest.store
    unpacked: list[Unpacked] = [info.unpacked for _, info in reversed(layers)]
    with LayerStack([store.layer_path(key) for key, _ in reversed(layers)]) as stack:
        fixup = find_fixup(stack, unpacked)
    target = store.fixup_path(digest).parent
    if not fixup.folders and layers:
        return fixup
    what = f"image {digest}"
    with ingest.alone(f"fixup-{hex_of(digest)}"), as_store_errors(f"store {what}"):
        if not target.exists():
            place = ingest.path / "fixup"
            os.mkdir(place, 0o700)
            os.mkdir(place / "fs", 0o700)
            fd = os.open(place / "fs", os.O_RDONLY)
            try:
                write_fixup(fixup.folders, fd, what)
            finally:
                os.close(fd)
            os.rename(place, target)
    return fixup
