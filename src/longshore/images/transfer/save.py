"""Write images to one tar file that is an OCI layout and docker's archive at once, as docker itself does since 25.

Every blob is in it as it was received, so what is loaded elsewhere has the same digests. The same images give the same
bytes: there is no time in it, and the order is that of the names.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ...errors import ImageNotFound, StoreError
from ...fs.files import as_store_errors
from .. import media_types
from ..content import Content, content_of
from ..documents import Descriptor
from ..ingest import Ingest
from ..locks import Stop
from ..lookup import best_for, read_manifest
from ..names import ImageName
from ..platforms import this_platform
from ..store import ImageStore

CONTAINERD_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"

Named = tuple[str, ImageName | None]
"""What a user wrote, and what that is as a name."""


def save(store: ImageStore, names: Sequence[Named], target: str | os.PathLike[str] | BinaryIO, stop: Stop) -> None:
    """Write these images to a file, which has its name when it is whole. It blocks.

    Raises: ImageNotFound; InvalidSpec; StoreError; Stopped.
    """
    with Ingest(store, stop) as job:
        contents = [(name, content_of(store, text, name)) for text, name in names]
        for _, content in contents:
            job.want(blobs=[each.digest for each in [*content.blobs, *content.documents]])
            _check_there(store, content)
        if not isinstance(target, (str, os.PathLike)):
            _write(store, contents, target, stop)
            return
        path = Path(target)
        partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        with as_store_errors(f"write {path}"):
            try:
                with open(partial, "xb") as file:
                    _write(store, contents, file, stop)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)


def _check_there(store: ImageStore, content: Content) -> None:
    for blob in content.blobs:
        if store.blob_size(blob.digest) is None:
            reason = "its compressed layers were removed to save room"
            raise ImageNotFound(blob.digest, reason=reason, hint="pull the image again with policy='always'")


def _write(store: ImageStore, contents: Sequence[tuple[ImageName | None, Content]], file: BinaryIO, stop: Stop) -> None:
    index: list[dict[str, Any]] = []
    legacy: dict[str, dict[str, Any]] = {}
    written: set[str] = set()
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
        for name, content in contents:
            for blob in [*content.blobs, *content.documents]:
                if blob.digest not in written:
                    written.add(blob.digest)
                    _add_blob(tar, store, blob, stop)
            index.append(_entry(name, content.top))
            record = best_for(content.records, this_platform()) or content.records[0]
            manifest = read_manifest(store, record)
            found = legacy.setdefault(
                record.config,
                {
                    "Config": _place(record.config),
                    "RepoTags": [],
                    "Layers": [_place(layer.digest) for layer in manifest.layers],
                },
            )
            if name is not None and name.tag:
                found["RepoTags"].append(name.familiar.partition("@")[0])
        for where, document in (
            ("index.json", {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": index}),
            ("manifest.json", [{**each, "RepoTags": each["RepoTags"] or None} for each in legacy.values()]),
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ):
            _add(tar, where, msgspec.json.encode(document))


def _entry(name: ImageName | None, top: Descriptor) -> dict[str, Any]:
    entry: dict[str, Any] = {"mediaType": top.media_type, "digest": top.digest, "size": top.size}
    if name is not None:
        entry["annotations"] = {CONTAINERD_NAME: str(name), **({REF_NAME: name.tag} if name.tag else {})}
    return entry


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _header(where: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(where)
    header.size, header.mode = size, 0o644
    return header


def _add(tar: tarfile.TarFile, where: str, data: bytes) -> None:
    tar.addfile(_header(where, len(data)), io.BytesIO(data))


class _Checked(io.RawIOBase):
    """A file that stops being read when the work is no longer wanted."""

    def __init__(self, file: BinaryIO, stop: Stop) -> None:
        self._file = file
        self._stop = stop

    def read(self, size: int = -1) -> bytes:
        self._stop.check()
        return self._file.read(size)


def _add_blob(tar: tarfile.TarFile, store: ImageStore, blob: Descriptor, stop: Stop) -> None:
    with os.fdopen(store.open_blob(blob.digest), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != blob.size:
            raise StoreError(f"cannot save blob {blob.digest}: it has {size} bytes, and its image says {blob.size}")
        tar.addfile(_header(_place(blob.digest), size), _Checked(file, stop))
