"""Images that tests make, a registry that is a dictionary, and a pull as the engine does it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longshore.images import media_types
from longshore.images.digests import digest_of
from longshore.images.documents import Descriptor, ImageConfig, Manifest, parse_config, parse_document
from longshore.images.ingest import Ingest, add_layers
from longshore.images.locks import Stop
from longshore.images.records import ImageRecord, NameRecord
from longshore.images.settle import settle, wanted_by
from longshore.images.store import ImageStore
from longshore.store.records import VERSION
from longshore.store.state_directory import Store

from .tars import archive


@dataclass
class Layer:
    """A layer: its archive, and its blob."""

    content: bytes
    blob: bytes

    @property
    def diff_id(self) -> str:
        return digest_of(self.content)

    @property
    def key(self) -> str:
        return self.diff_id.partition(":")[2]

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=f"{media_types.OCI_LAYER}+gzip", digest=digest_of(self.blob), size=len(self.blob))


def layer(*entries: bytes, level: int = 1) -> Layer:
    content = archive(*entries)
    return Layer(content, gzip.compress(content, level, mtime=0))


@dataclass
class Image:
    """An image as a registry has it."""

    layers: list[Layer]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> bytes:
        rootfs = {"type": "layers", "diff_ids": [each.diff_id for each in self.layers]}
        document = {"os": "linux", "architecture": "amd64", "config": {"Labels": self.labels}, "rootfs": rootfs}
        return json.dumps(document).encode()

    @property
    def manifest(self) -> bytes:
        def described(data: bytes, media_type: str) -> dict[str, Any]:
            return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

        document = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": described(self.config, media_types.OCI_CONFIG),
            "layers": [described(each.blob, f"{media_types.OCI_LAYER}+gzip") for each in self.layers],
        }
        return json.dumps(document).encode()

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=media_types.OCI_MANIFEST, digest=self.digest, size=len(self.manifest))

    def parsed(self) -> tuple[Manifest, ImageConfig]:
        manifest = parse_document(self.manifest, "image")
        assert isinstance(manifest, Manifest)
        return manifest, parse_config(self.config, "image", manifest)


def index_of(*images: Image) -> bytes:
    """An index with these images, as if each were for another platform."""
    manifests = [
        {"mediaType": media_types.OCI_MANIFEST, "digest": each.digest, "size": len(each.manifest)} for each in images
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": manifests}).encode()


class Registry:
    """Blobs by digest. What was asked for is in `asked`, as (digest, offset)."""

    def __init__(self, *images: Image, piece: int = 10_000) -> None:
        self.blobs = {digest_of(each.blob): each.blob for image in images for each in image.layers}
        self.piece = piece
        self.asked: list[tuple[str, int]] = []

    def fetch(self, blob: Descriptor, offset: int, hash_: Any, stop: Stop) -> Iterator[bytes]:
        self.asked.append((blob.digest, offset))
        data = self.blobs[blob.digest]
        for at in range(offset, len(data), self.piece):
            yield data[at : at + self.piece]


def opened(state: Path) -> ImageStore:
    """The image store of a state directory."""
    store = Store.at(state)
    store.open()
    images = ImageStore(store)
    images.open()
    return images


def no_progress(digest: str, state: str, done: int, total: int) -> None:
    """Show nothing."""


async def pull(
    store: ImageStore, image: Image, registry: Any, name: str = "", progress: Any = no_progress
) -> ImageRecord:
    """Add an image to the store, and give it a name."""
    manifest, config = image.parsed()
    with Ingest(store) as ingest:
        ingest.want(**wanted_by(manifest, config, image.digest))
        store.add_document(image.manifest, image.digest)
        store.add_document(image.config, digest_of(image.config))
        layers = list(zip(manifest.layers, config.rootfs.diff_ids, strict=True))
        await add_layers(ingest, layers, registry.fetch, progress)
        record = settle(ingest, image.descriptor, manifest, config, registry.fetch)
        store.commit(record)
        if name:
            give_name(store, name, image.digest)
    return record


def pulled(store: ImageStore, image: Image, name: str = "") -> ImageRecord:
    """The same from a registry that has just this image, and without a loop."""
    return asyncio.run(pull(store, image, Registry(image), name))


def give_name(store: ImageStore, name: str, digest: str, media_type: str = media_types.OCI_MANIFEST) -> None:
    store.write_name(
        NameRecord(version=VERSION, name=name, digest=digest, media_type=media_type, updated=datetime.now(UTC))
    )


def names_in(path: Path) -> list[str]:
    """What is in a folder, in order."""
    return sorted(each.name for each in path.iterdir())
