"""What the files of the image store say: records, with their version. docs/state.md is their contract.

The version is that of the state directory as a whole (`store.records.VERSION`).
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class Unpacked(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a layer was found to be; paths are bytes, relative to its root, which is the empty one."""

    size: int = 0  # bytes of data in its files
    files: int = 0  # all that was made, folders included
    implied: list[bytes] = []  # folders without an entry of their own
    whiteouts: list[bytes] = []  # folders that have whiteouts in them
    missing: list[bytes] = []  # hard links to what is not in this layer, or is not yet where they stand
    opaque: bool = False  # nothing of lower layers is seen


class LayerInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One unpacked layer: `layer.json` beside its folder."""

    version: int
    diff_id: str
    blob: str  # the digest of the blob that it was unpacked from
    unpacked: Unpacked


class LayerRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One layer as an image has it."""

    digest: str
    diff_id: str
    size: int  # bytes of its blob
    media_type: str
    key: str  # the name of its folder
    unpacked_size: int = 0


class ImageRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One image for one platform. What is here is whole on the disk: the record is written last."""

    version: int
    digest: str  # of the manifest
    media_type: str
    size: int  # bytes of the manifest
    config: str  # digest; the id that users see
    config_size: int
    layers: list[LayerRecord]  # the lowest first
    mounted: int = 0  # of these layers, the uppermost that are mounted: below an opaque root nothing is; 0 for all
    fixup: bool = False  # there is a layer on top with the attributes of implied folders
    hidden_links: list[bytes] = []  # folders that hide a symbolic link of a lower layer
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    created: datetime | None = None
    added: datetime
    labels: dict[str, str] = {}


class NameRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a name means: the digest of a manifest or an index."""

    version: int
    name: str
    digest: str
    media_type: str
    updated: datetime
    source: str = ""  # the registry or file that it came from


class ImagePin(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a container uses of the image store: a file in its directory, so it goes with the container."""

    version: int
    name: str  # as the user wrote it
    digest: str  # of the manifest
    config: str
    layers: list[str]  # keys of folders
    fixup: bool = False


class Wanted(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a program that adds images is about to use, so that no other program removes it meanwhile."""

    version: int
    blobs: list[str] = []  # digests
    layers: list[str] = []  # keys of folders
    images: list[str] = []  # digests of manifests: records, and fix-up layers
