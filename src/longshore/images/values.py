"""Values that `engine.images` returns."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

PullPolicy = Literal["missing", "always", "newer", "never"]
"""When a registry is asked: if the image is not here; in any case; in any case, but one that cannot be reached is no
error if the image is here; never."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image on this machine, for one platform.

    `id` is the digest of its config, `digest` that of its manifest. `names` are those that lead to it; an image
    without any is untagged. `size` counts the bytes of its unpacked layers, `unique_size` those in layers that no
    other image here has. `config` is what it says of how to be run: Env, Cmd, Entrypoint and so on. `layers` are the
    digests of its unpacked layers, the lowest first. `hidden_links` are folders of it that hide a symbolic link of a
    lower layer, which is mostly a mistake of who made the image.
    """

    id: str
    digest: str
    names: list[str]
    size: int
    unique_size: int
    created: datetime | None
    platform: str
    labels: dict[str, str]
    config: dict[str, Any]
    layers: list[str]
    hidden_links: list[str] = []


class PullProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one layer is: `layer` is the digest of its blob, `done` and `total` count bytes of that.

    `waiting` is for another program that is at this layer; `there` was here before.
    """

    layer: str
    state: Literal["waiting", "downloading", "unpacking", "uploading", "done", "there"]
    done: int
    total: int


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One step in the making of an image. `size` counts the bytes of its layer, which is empty where it made none."""

    created: datetime | None
    created_by: str
    author: str
    comment: str
    layer: str
    size: int


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What a pruning removed: names, digests of images, and how many bytes that freed."""

    names: list[str]
    images: list[str]
    bytes: int


class Problem(msgspec.Struct, frozen=True):
    """Something in the store of images that is not what it should be. `repaired` if it is again."""

    what: str
    problem: str
    repaired: bool = False
    hint: str = ""
