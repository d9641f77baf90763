"""Find an image of the store by what a user wrote: a name, a digest, an id or the beginning of one.

A name is looked up in its whole form and means exactly that: nothing is guessed. Only text that is no name here can be
an id. A name may mean an index: then it means the image in it for the platform that is asked for, or this machine's.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from ..errors import ImageNotFound, InvalidImage, InvalidSpec, LongshoreError, NotSupported, PlatformNotFound
from ..typed_json import convert
from .digests import id_prefix, is_digest
from .documents import Descriptor, ImageConfig, Index, Manifest, parse_config, parse_document
from .names import ImageName
from .platforms import Platform, rank, this_platform
from .records import ImageRecord, NameRecord
from .selection import MOST
from .store import ImageStore
from .values import HistoryEntry, Image


def images_of(store: ImageStore, digest: str) -> list[ImageRecord]:
    """Return the images that a digest leads to: itself, or those in an index, in their order, that are here."""
    found: dict[str, ImageRecord] = {}
    waiting, seen = [digest], {digest}
    for each in waiting:  # grows while it is walked
        record = store.read_record(each)
        if record is not None:
            found[each] = record
            continue
        with suppress(ImageNotFound, InvalidImage, NotSupported):
            if len(seen) < MOST * MOST and store.blob_size(each) is not None:
                document = parse_document(store.read_document(each), each)
                if isinstance(document, Index):
                    children = [child.digest for child in document.manifests if child.digest not in seen]
                    waiting += children
                    seen.update(children)
    return list(found.values())


def platform_of(record: ImageRecord) -> Platform:
    """Return the platform that an image is for."""
    return Platform(
        os=record.os, architecture=record.architecture, variant=record.variant, os_version=record.os_version
    )


def best_for(records: Iterable[ImageRecord], wanted: Platform) -> ImageRecord | None:
    """Return the best of these images for a platform; one that names none suits any, if nothing else does."""
    listed = list(records)
    ranked = [(place, number) for number, place in enumerate(_places(listed, wanted)) if place >= 0]
    return listed[min(ranked)[1]] if ranked else None


def _places(records: Iterable[ImageRecord], wanted: Platform) -> list[int]:
    places = []
    for record in records:
        place = rank(platform_of(record), wanted)
        if place is None:
            place = -1 if record.os and record.architecture else 1000
        places.append(place)
    return places


def name_records(store: ImageStore, name: ImageName) -> NameRecord | None:
    """Return what a name means here. A digest is content: it is found under whatever name it came."""
    if name.digest is None:
        return store.read_name(str(name))
    pinned = store.read_name(str(name.with_digest(name.digest)))
    if pinned is not None:
        return pinned
    for each in store.read_names():
        if each.digest == name.digest:
            return each
    return None


def find_named(store: ImageStore, name: ImageName, wanted: Platform) -> ImageRecord | None:
    """Return the image of a name for a platform, if it is here."""
    meant = name_records(store, name)
    if meant is not None:
        return best_for(images_of(store, meant.digest), wanted)
    return best_for(images_of(store, name.digest), wanted) if name.digest else None


def find(store: ImageStore, text: str, name: ImageName | None, wanted: Platform | None) -> ImageRecord:
    """Return the image that a user means: `name` is what the text is as a name, if it is one.

    Without `wanted` it is the image for this machine, or else whichever is here. Raises: ImageNotFound;
    PlatformNotFound; InvalidSpec if the text is neither a name nor an id.
    """
    found: list[ImageRecord] = []
    if name is not None:
        meant = name_records(store, name)
        digest = meant.digest if meant is not None else name.digest
        found = images_of(store, digest) if digest else []
    if not found:
        found = _by_id(store, text)
    if not found:
        if name is None and id_prefix(text) is None and not is_digest(text):
            raise InvalidSpec("image", f"{text[:200]!r} is neither a name nor an id of an image")
        raise ImageNotFound(text, hint="run `longshore images` to list the images, or `longshore pull` to fetch one")
    best = best_for(found, wanted or this_platform())
    if best is None and wanted is None:
        best = found[0]
    if best is None:
        raise PlatformNotFound(text, str(wanted), [str(platform_of(record)) for record in found])
    return best


def _by_id(store: ImageStore, text: str) -> list[ImageRecord]:
    digits = id_prefix(text)
    if digits is None:
        if not is_digest(text):
            return []
        return images_of(store, text) or [each for each in store.read_records() if each.config == text]
    whole = f"sha256:{digits}"
    if len(digits) == 64 and (found := images_of(store, whole)):
        return found
    matching = [each for each in store.read_records() if each.config.startswith(whole) or each.digest.startswith(whole)]
    ids = sorted({each.config for each in matching})
    if len(ids) > 1:
        raise InvalidSpec("image", f"{len(ids)} ids begin with {digits!r}: {', '.join(ids[:3])}", hint="write more")
    return matching


def names_by_image(store: ImageStore) -> dict[str, list[str]]:
    """Return the names of each image, by the digest of its manifest, as users write them."""
    found: dict[str, list[str]] = {}
    for each in store.read_names():
        for record in images_of(store, each.digest):
            found.setdefault(record.digest, []).append(familiar(each.name))
    return found


def familiar(name: str) -> str:
    """Return a name of the store as docker shows it."""
    return ImageName.parse(name).familiar


def read_config(store: ImageStore, record: ImageRecord) -> ImageConfig:
    """Return the config of an image. Raises: StoreError; ImageNotFound; InvalidImage."""
    return parse_config(store.read_document(record.config), f"image {record.digest}")


def read_manifest(store: ImageStore, record: ImageRecord) -> Manifest:
    """Return the manifest of an image. Raises: StoreError; ImageNotFound; InvalidImage."""
    document = parse_document(store.read_document(record.digest), f"image {record.digest}")
    if not isinstance(document, Manifest):
        raise InvalidImage(f"image {record.digest}", "it is an index")
    return document


def manifest_descriptor(record: ImageRecord) -> Descriptor:
    """Return what names the manifest of an image."""
    return Descriptor(media_type=record.media_type, digest=record.digest, size=record.size)


def describe(store: ImageStore, records: Iterable[ImageRecord], among: Iterable[ImageRecord]) -> list[Image]:
    """Return what users are told of these images; `among` are all that are here. One that is damaged is left out."""
    users: dict[str, int] = {}
    for record in among:
        for key in {layer.key for layer in record.layers}:
            users[key] = users.get(key, 0) + 1
    names = names_by_image(store)
    found = []
    for record in records:
        sizes = {layer.key: layer.unpacked_size for layer in record.layers}
        try:
            config = _raw_config(store, record)
        except LongshoreError:
            config = {}  # `verify` tells of it
        found.append(
            Image(
                id=record.config,
                digest=record.digest,
                names=names.get(record.digest, []),
                size=sum(sizes.values()),
                unique_size=sum(size for key, size in sizes.items() if users.get(key, 0) <= 1),
                created=record.created,
                platform=str(platform_of(record)),
                labels=record.labels,
                config=config,
                layers=[layer.diff_id for layer in record.layers],
                hidden_links=[path.decode("utf-8", "backslashreplace") for path in record.hidden_links],
            )
        )
    return found


def _raw_config(store: ImageStore, record: ImageRecord) -> dict[str, Any]:
    document = msgspec.json.decode(store.read_document(record.config))
    config = document.get("config") if isinstance(document, dict) else None
    return config if isinstance(config, dict) else {}


def history(store: ImageStore, record: ImageRecord) -> list[HistoryEntry]:
    """Return the steps in the making of an image, the first one first, as far as it tells them."""
    config = read_config(store, record)
    layers = iter(record.layers)
    found = []
    for step in config.history:
        layer = None if step.empty_layer else next(layers, None)
        found.append(
            HistoryEntry(
                created=_time(step.created),
                created_by=step.created_by,
                author=step.author,
                comment=step.comment,
                layer=layer.diff_id if layer else "",
                size=layer.unpacked_size if layer else 0,
            )
        )
    return found


def _time(text: str) -> datetime | None:
    try:
        return convert(text, datetime)
    except msgspec.ValidationError:
        return None
