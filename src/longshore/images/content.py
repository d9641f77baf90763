"""What an image of the store consists of, for those who write it elsewhere: a push, and a save."""

from __future__ import annotations

import msgspec

from ..errors import ImageNotFound, InvalidImage
from . import media_types
from .documents import Descriptor, Index, Manifest, parse_document
from .lookup import best_for, find, images_of, manifest_descriptor, name_records, read_manifest
from .names import ImageName
from .platforms import this_platform
from .records import ImageRecord
from .store import ImageStore

_DEEPEST = 8


class Content(msgspec.Struct):
    """An image, or several as an index. `documents` are manifests and indexes: those that others name come first."""

    records: list[ImageRecord]
    documents: list[Descriptor]
    blobs: list[Descriptor]  # layers and configs

    @property
    def top(self) -> Descriptor:
        """What the name means."""
        return self.documents[-1]


def content_of(store: ImageStore, text: str, name: ImageName | None) -> Content:
    """Return what a name or an id means: an index if all images of it are here, else the one for this machine.

    Raises: ImageNotFound; InvalidSpec; InvalidImage if parts are missing.
    """
    meant = name_records(store, name) if name is not None else None
    if meant is None:
        chosen = find(store, text, name, None)
        return _of([chosen], [manifest_descriptor(chosen)], store)
    top = Descriptor(media_type=meant.media_type, digest=meant.digest, size=store.blob_size(meant.digest) or 0)
    documents, whole = _documents_below(store, top)
    records = images_of(store, meant.digest)
    if whole:
        return _of(records, documents, store)
    best = best_for(records, this_platform()) or next(iter(records), None)
    if best is None:
        raise ImageNotFound(text, reason="parts of it are missing", hint="pull it again")
    return _of([best], [manifest_descriptor(best)], store)


def _of(records: list[ImageRecord], documents: list[Descriptor], store: ImageStore) -> Content:
    blobs: dict[str, Descriptor] = {}
    for record in records:
        manifest = read_manifest(store, record)
        for blob in [*manifest.layers, manifest.config]:
            if blob.media_type not in media_types.FOREIGN_LAYERS:
                blobs[blob.digest] = blob
    return Content(records, documents, list(blobs.values()))


def _documents_below(store: ImageStore, top: Descriptor) -> tuple[list[Descriptor], bool]:
    """Return what a document leads to, the deepest first, and itself; and whether all of that is here."""
    found: dict[str, Descriptor] = {}
    whole = True

    def walk(descriptor: Descriptor, depth: int) -> None:
        nonlocal whole
        if descriptor.digest in found:
            return
        if depth > _DEEPEST:
            raise InvalidImage(f"index {top.digest}", "its indexes are nested too deep")
        if store.blob_size(descriptor.digest) is None:
            whole = False
            return
        document = read(store, descriptor)
        if isinstance(document, Index):
            for each in document.manifests:
                walk(each, depth + 1)
        elif store.read_record(descriptor.digest) is None:
            whole = False
        found[descriptor.digest] = descriptor

    walk(top, 0)
    return list(found.values()), whole


def read(store: ImageStore, descriptor: Descriptor) -> Manifest | Index:
    """Return a document of the store."""
    return parse_document(store.read_document(descriptor.digest), descriptor.digest)
