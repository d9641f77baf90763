"""The documents of images: index, manifest, config; read from bytes of unknown origin.

An *index* lists manifests, mostly one a platform. A *manifest* names a config and layers by digest. A *config* says
how to run the image, and has the digests of the unpacked layers (`diff_ids`). The bytes are what counts: a document is
kept and pushed as it was received, so nothing here writes one anew, and fields that are unknown here are not lost.

What a document is, is decided once, by its shape; its `mediaType` and the registry's Content-Type have to agree. One
that could be read as an index by one program and as a manifest by another is refused (CVE-2021-41190).

The programs that write them are in Go, where null and an absent field are the same, so they are here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import msgspec

from ..errors import InvalidImage, NotSupported
from ..typed_json import convert, decode_json
from . import media_types
from .digests import is_digest, matches
from .platforms import Platform

LARGEST = 4 << 20
"""Bytes that a manifest, an index or a config may have, as registries bound them."""

DEEPEST = 64
_LARGEST_BLOB = (1 << 63) - 1

T = TypeVar("T")


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a document says of another: its digest, its length in bytes, and what it is."""

    media_type: str
    digest: str
    size: int
    urls: list[str] = []
    annotations: dict[str, str] = {}
    data: str | None = None
    platform: Platform | None = None
    artifact_type: str = ""

    def embedded(self) -> bytes | None:
        """Return the content if the descriptor carries it, in `data`, and it is what the digest says."""
        if not self.data or len(self.data) > 2 * LARGEST:
            return None
        import base64

        try:
            found = base64.b64decode(self.data, validate=True)
        except ValueError:
            return None
        return found if len(found) == self.size and matches(found, self.digest) else None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One image: its config, and its layers from the lowest up."""

    config: Descriptor
    layers: list[Descriptor]
    media_type: str = media_types.OCI_MANIFEST
    annotations: dict[str, str] = {}
    artifact_type: str = ""
    subject: Descriptor | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Manifests, or further indexes, to choose from."""

    manifests: list[Descriptor]
    media_type: str = media_types.OCI_INDEX
    annotations: dict[str, str] = {}
    artifact_type: str = ""
    subject: Descriptor | None = None


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """How the image wants to be run: the member `config` of its config."""

    user: str = ""
    env: list[str] = []
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    exposed_ports: dict[str, Any] = {}
    volumes: dict[str, Any] = {}
    args_escaped: bool = False
    healthcheck: dict[str, Any] = {}
    shell: list[str] = []
    on_build: list[str] = []


class History(msgspec.Struct, frozen=True, kw_only=True):
    """One step in the making of the image; `empty_layer` if it made no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    """The digests of the layers when unpacked, from the lowest up."""

    type: str
    diff_ids: list[str] = []


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The config of an image. Its digest is the id that users see."""

    rootfs: RootFs
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] = msgspec.field(default=[], name="os.features")
    created: str = ""
    author: str = ""
    config: ContainerConfig = ContainerConfig()
    history: list[History] = []

    @property
    def platform(self) -> Platform:
        """The platform that the image is for."""
        return Platform(
            os=self.os,
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        )

    @property
    def created_at(self) -> datetime | None:
        """When the image was made, as it says; None if it does not, or not in a form that can be read."""
        try:
            found = convert(self.created, datetime)
        except msgspec.ValidationError:
            return None
        return found if found.tzinfo is not None else None


def parse_document(data: bytes, what: str, content_type: str | None = None) -> Manifest | Index:
    """Return the manifest or index that these bytes are. `what` names it in errors, `content_type` is the registry's.

    Raises: InvalidImage for a document that is damaged or ambiguous; NotSupported for one that is not an image, such as
    a Helm chart or a signature, and for docker's schema 1.
    """
    content = _decode(data, what)
    told = media_types.of_content_type(content_type)
    media_type = content.get("mediaType", "")
    if told in media_types.SCHEMA_1 or content.get("schemaVersion") == 1:
        raise NotSupported(
            what,
            "it has docker's schema 1, which registries no longer use",
            hint="push it again with docker 1.10 or later",
        )
    if content.get("schemaVersion") != 2:
        raise InvalidImage(what, "its schemaVersion is not 2")
    if not isinstance(media_type, str):
        raise InvalidImage(what, "its mediaType is not text")
    is_index = _is_index(content, what)
    for name in filter(None, (told, media_type)):
        _check_kind(name, is_index, what)
    if told and media_type and told != media_type:
        raise InvalidImage(what, f"the registry says {told:.80}, and the document says {media_type:.80}")
    if told and not media_type:
        content["mediaType"] = told
    if is_index:
        index = _convert(content, Index, what)
        for number, each in enumerate(index.manifests):
            _check_descriptor(each, f"manifests[{number}]", what)
        return index
    manifest = _convert(content, Manifest, what)
    _check_descriptor(manifest.config, "config", what)
    for number, each in enumerate(manifest.layers):
        _check_descriptor(each, f"layers[{number}]", what)
    return manifest


def check_image(manifest: Manifest, what: str) -> None:
    """Check that a manifest is an image's, by the kinds of its config and layers.

    Raises: NotSupported for an artifact of another kind, and for encrypted layers.
    """
    if manifest.config.media_type not in media_types.CONFIGS:
        kind = manifest.artifact_type or manifest.config.media_type
        raise NotSupported(what, f"it is an artifact, not an image: {kind:.80}")
    for layer in manifest.layers:
        if layer.media_type.endswith("+encrypted"):
            raise NotSupported(what, "its layers are encrypted", hint="decrypt the image, for example with skopeo")
        if layer.media_type not in media_types.LAYERS:
            raise NotSupported(what, f"it is an artifact, not an image: it has a layer of {layer.media_type:.80}")
    if manifest.config.size > LARGEST:
        raise InvalidImage(what, f"its config has {manifest.config.size} bytes, and may have {LARGEST}")


def parse_config(data: bytes, what: str, manifest: Manifest | None = None) -> ImageConfig:
    """Return the config that these bytes are; with `manifest`, it has to have a diff_id for each layer.

    Raises: InvalidImage; NotSupported if it is no image's.
    """
    if manifest is not None:
        check_image(manifest, what)
    content = _decode(data, what)
    if not isinstance(content.get("rootfs"), dict):
        raise InvalidImage(what, "its config has no `rootfs`")
    config = _convert(content, ImageConfig, what)
    if config.rootfs.type != "layers":
        raise NotSupported(what, f"its rootfs.type is {config.rootfs.type[:40]!r}, not 'layers'")
    for number, diff_id in enumerate(config.rootfs.diff_ids):
        if not is_digest(diff_id):
            raise InvalidImage(what, f"rootfs.diff_ids[{number}] is not a digest: {diff_id[:80]!r}")
    if manifest is not None and len(manifest.layers) != len(config.rootfs.diff_ids):
        counts = f"{len(manifest.layers)} layers, and {len(config.rootfs.diff_ids)} diff_ids"
        raise InvalidImage(what, f"it has {counts}")
    return config


def _decode(data: bytes, what: str) -> dict[str, Any]:
    """The members of a JSON object, at every depth without those that are null."""
    if len(data) > LARGEST:
        raise InvalidImage(what, f"it has {len(data)} bytes, and a document may have {LARGEST}")
    try:
        content = decode_json(data, dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidImage(what, f"it is not a JSON object: {error}"[:300]) from None
    except RecursionError:
        raise InvalidImage(what, f"it is nested deeper than {DEEPEST} levels") from None
    found: dict[str, Any] = _without_nulls(content, what, 0)
    return found


_SETS = ("ExposedPorts", "Volumes")
"""Members whose names are all that counts: a null there is an empty object."""


def _without_nulls(value: Any, what: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise InvalidImage(what, f"it is nested deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        return {
            name: {key: {} for key in each}
            if name in _SETS and isinstance(each, dict)
            else _without_nulls(each, what, depth + 1)
            for name, each in value.items()
            if each is not None
        }
    if isinstance(value, list):
        return [_without_nulls(each, what, depth + 1) for each in value]
    return value


def _is_index(content: dict[str, Any], what: str) -> bool:
    listed = "manifests" in content
    layered = [name for name in ("config", "layers", "fsLayers", "history") if name in content]
    if listed and layered:
        raise InvalidImage(what, f"it has both `manifests` and `{layered[0]}`, so it is ambiguous")
    if not listed and not layered:
        raise NotSupported(what, "it is neither a manifest nor an index of images")
    return listed


def _check_kind(media_type: str, is_index: bool, what: str) -> None:
    if media_type not in media_types.DOCUMENTS:
        raise NotSupported(what, f"it is an artifact, not an image: {media_type:.80}")
    if (media_type in media_types.INDEXES) != is_index:
        shape = "an index" if is_index else "a manifest"
        raise InvalidImage(what, f"its media type is {media_type}, but its content is {shape}")


def _check_descriptor(descriptor: Descriptor, where: str, what: str) -> None:
    if not is_digest(descriptor.digest):
        raise InvalidImage(what, f"{where}.digest is not a digest of sha256 or sha512: {descriptor.digest[:80]!r}")
    if not 0 <= descriptor.size <= _LARGEST_BLOB:
        raise InvalidImage(what, f"{where}.size is out of range: {descriptor.size}")


def _convert(content: dict[str, Any], kind: type[T], what: str) -> T:
    try:
        return convert(content, kind)
    except msgspec.ValidationError as error:
        raise InvalidImage(what, str(error)[:300]) from None
