"""Images that run: this machine's shell and a few programs with their libraries, pushed to a registry by hand."""

from __future__ import annotations

import io
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from longshore.images import media_types
from longshore.images.digests import digest_of
from longshore.images.registry.uploads import push_blob, push_manifest

from .clients import blob_of, source
from .packed import Layer, layer
from .samples import descriptor, encoded, index
from .tars import file, folder

PROGRAMS = ("sh", "cat", "sleep")


@cache
def programs() -> Layer:
    """A layer with a shell and a few programs."""
    found = {Path("/bin", name): Path("/bin", name) for name in PROGRAMS}
    for path in list(found):
        told = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
        for word in told.split():
            if word.startswith("/"):
                found[Path(word)] = Path(word)
    folders = {parent for path in found for parent in path.parents if str(parent) != "/"}
    entries = [folder(str(path)[1:].encode()) for path in sorted(folders)]
    entries += [file(str(path)[1:].encode(), path.read_bytes(), mode=0o755) for path in sorted(found)]
    return layer(*entries)


class Made:
    """An image: layers, and how it wants to be run."""

    def __init__(self, *layers: Layer, architecture: str = "amd64", **config: Any) -> None:
        self.layers = list(layers)
        document = {
            "os": "linux",
            "architecture": architecture,
            "created": "2026-01-02T03:04:05Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
            "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
        }
        self.config = encoded(document)
        self.manifest = encoded(
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": descriptor(self.config, media_types.OCI_CONFIG),
                "layers": [descriptor(each.blob) for each in layers],
            }
        )
        self.architecture = architecture

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def id(self) -> str:
        return digest_of(self.config)

    def push(self, name: str) -> None:
        """Push it, byte for byte."""
        push(name, self.manifest, media_types.OCI_MANIFEST, [*(each.blob for each in self.layers), self.config])


def push(name: str, document: bytes, media_type: str, blobs: list[bytes]) -> None:
    """Push a document under a name, after the blobs that it needs."""
    with source(name, push=True) as opened:
        for blob in blobs:
            push_blob(opened.origin, blob_of(blob), lambda blob=blob: io.BytesIO(blob))  # type: ignore[misc]
        tag = name.rpartition(":")[2]
        push_manifest(opened.origin, document, media_type, tag, digest_of(document))


def push_index(name: str, *images: Made) -> bytes:
    """Push an index of images, one a platform; returns it."""
    for number, image in enumerate(images):
        image.push(f"{name}-{number}")
    entries = [
        descriptor(each.manifest, media_types.OCI_MANIFEST, platform={"os": "linux", "architecture": each.architecture})
        for each in images
    ]
    document = encoded(index(*entries))
    push(name, document, media_types.OCI_INDEX, [])
    return document


def shell(script: str = "echo from the image", **config: Any) -> Made:
    """An image that runs a script, and has a file of its own in an upper layer."""
    settings = {"Cmd": ["/bin/sh", "-c", script], "Env": ["WHO=image", "PATH=/bin"], "WorkingDir": "/srv", **config}
    return Made(programs(), layer(folder(b"srv"), file(b"srv/own", b"of the upper layer\n")), **settings)


def as_json(data: bytes) -> Any:
    """What a document says."""
    return json.loads(data)
