"""Load images from an archive: an OCI layout, as a folder or a tar file, or docker's archive; compressed or not.

A file may be both kinds: then the layout counts, for it says more. Nothing is extracted: members are read where they
are in the file, and each is verified by its digest, or, in docker's archive, by the diff_id that the config has for it.
Docker's archive has no manifest: one is made, always the same for the same content.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from ...aio.tasks import in_thread, shielded
from ...errors import InvalidImage, InvalidSpec, LongshoreError
from ...fs.files import as_store_errors
from ...typed_json import decode_json
from .. import media_types
from ..compression import compression_of, decompressed
from ..digests import digest_of, digest_of_hash, is_digest, new_hash
from ..documents import LARGEST, Descriptor, ImageConfig, Index, Manifest, parse_config, parse_document
from ..ingest import Ingest
from ..locks import Stop
from ..names import ImageName
from ..records import ImageRecord
from ..registry.calls import call
from ..settle import wanted_by
from ..store import ImageStore
from .adding import add_image
from .progress import Teller, Told
from .save import CONTAINERD_NAME, REF_NAME

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

_CHUNK = 256 << 10
_LINKS = 8  # that lead from one member to another
_SUFFIX = {None: "", "gzip": "+gzip", "zstd": "+zstd"}


class _Member(msgspec.Struct, frozen=True):
    path: str  # of the file that it is in
    start: int
    size: int

    def pieces(self, at: int, stop: Stop) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            file.seek(self.start + at)
            left = self.size - at
            while left > 0:
                stop.check()
                piece = file.read(min(left, _CHUNK))
                if not piece:
                    return
                left -= len(piece)
                yield piece

    def data(self, what: str, stop: Stop) -> bytes:
        if self.size > LARGEST:
            raise InvalidImage(what, f"it has {self.size} bytes, and a document may have {LARGEST}")
        return b"".join(self.pieces(0, stop))


class _Image(msgspec.Struct):
    """One image of an archive, and the members that its blobs are."""

    manifest: Descriptor
    document: Manifest
    config: ImageConfig
    documents: dict[str, bytes]
    blobs: dict[str, _Member]
    named: Descriptor  # what its names mean
    names: list[ImageName]


async def load(
    store: ImageStore, source: str | os.PathLike[str] | BinaryIO, told: Told | None = None
) -> list[ImageRecord]:
    """Add the images of an archive with their names, and return them in its order.

    Raises: InvalidImage; InvalidSpec if there is no such file; NotSupported; StoreError.
    If cancelled: what was loaded so far stays, without names.
    """
    stop = Stop()
    teller = Teller(told, stop)
    job = Ingest(store, stop)
    try:
        images = await call(lambda: _read(job, source, stop), stop)
        records: dict[str, ImageRecord] = {}
        for image in images:

            def fetch(
                blob: Descriptor, at: int, hash_: Hash, stop: Stop, members: dict[str, _Member] = image.blobs
            ) -> Iterator[bytes]:
                return members[blob.digest].pieces(at, stop)

            await call(lambda image=image: _add_documents(job, image), stop)  # type: ignore[misc]
            records[image.manifest.digest] = await add_image(
                job, image.manifest, image.document, image.config, fetch, teller
            )
        await call(lambda: _give_names(store, images), stop)
        return list(records.values())
    except BaseException:
        if teller.error is not None:
            raise teller.error from None
        raise
    finally:
        stop.set()
        await shielded(in_thread(lambda: job.__exit__(None, None, None), or_here=True))


def _add_documents(job: Ingest, image: _Image) -> None:
    job.want(**wanted_by(image.document, image.config, image.manifest.digest))
    job.want(blobs=image.documents)
    for digest, data in image.documents.items():
        job.store.add_document(data, digest)


def _give_names(store: ImageStore, images: list[_Image]) -> None:
    for image in images:
        for name in image.names:
            store.give_name(str(name), image.named.digest, image.named.media_type)


def _read(job: Ingest, source: str | os.PathLike[str] | BinaryIO, stop: Stop) -> list[_Image]:
    """Return what an archive has, in its order."""
    job.__enter__()
    if isinstance(source, (str, os.PathLike)):
        shown = os.fspath(source)
        if os.path.isdir(shown):
            members = _members_of_folder(Path(shown))
        else:
            try:
                with open(shown, "rb") as file:
                    members = _members_of_file(job, file, shown, stop)
            except OSError as error:
                if isinstance(error, LongshoreError):
                    raise
                raise InvalidSpec("source", f"cannot read {shown}: {error.strerror or error}") from error
    else:
        shown = "the archive"
        members = _members_of_file(job, source, "", stop)
    archive = _Archive(members, f"archive `{shown}`" if shown != "the archive" else shown, stop)
    return archive.images()


def _members_of_folder(folder: Path) -> dict[str, _Member]:
    found = {}
    for path in [*folder.glob("*"), *folder.glob("blobs/*/*")]:
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = _Member(str(path), 0, path.stat().st_size)
    return found


def _members_of_file(job: Ingest, file: BinaryIO, path: str, stop: Stop) -> dict[str, _Member]:
    """Return the members of a tar file; what is compressed, or a pipe, is written to the store's disk first."""
    begin = file.read(6)
    if compression_of(begin) is not None or not path or not file.seekable():
        path = os.fspath(job.path / "archive.tar")

        def pieces() -> Iterator[bytes]:
            yield begin
            while piece := file.read(_CHUNK):
                stop.check()
                yield piece

        with as_store_errors(f"write {path}"), open(path, "xb") as spool:
            spool.writelines(decompressed(pieces(), "the archive"))
    links: dict[str, str] = {}
    found: dict[str, _Member] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                stop.check()
                name = posixpath.normpath(member.name)
                if member.isreg():
                    found[name] = _Member(path, member.offset_data, member.size)
                elif member.issym():
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                elif member.islnk():
                    links[name] = posixpath.normpath(member.linkname)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise InvalidImage("the archive", f"it is no tar file ({error})") from error
    for name in links:
        target = name
        for _ in range(_LINKS):
            target = links.get(target, target)
        if target in found:
            found.setdefault(name, found[target])
    return found


class _Archive:
    def __init__(self, members: dict[str, _Member], what: str, stop: Stop) -> None:
        self.members = members
        self.what = what
        self.stop = stop

    def images(self) -> list[_Image]:
        if "index.json" in self.members:
            return self._of_layout()
        if "manifest.json" in self.members:
            return self._of_docker()
        raise InvalidImage(
            self.what,
            "it has neither `index.json` nor `manifest.json`: it is no image",
            hint="use a file of `docker save` or `skopeo copy`: a root file system as a tar file is not an image",
        )

    def _data(self, name: str) -> bytes:
        member = self.members.get(name)
        if member is None:
            raise InvalidImage(self.what, f"it lacks `{name[:200]}`")
        return member.data(self.what, self.stop)

    def _document(self, name: str) -> Any:
        try:
            return decode_json(self._data(name), Any)
        except (ValueError, RecursionError) as error:
            raise InvalidImage(self.what, f"`{name}` is not JSON ({error})"[:300]) from None

    # OCI layouts

    def _of_layout(self) -> list[_Image]:
        index = parse_document(self._data("index.json"), self.what)
        if not isinstance(index, Index):
            raise InvalidImage(self.what, "its `index.json` is no index")
        found: dict[str, list[_Image]] = {}
        for entry in index.manifests:
            if entry.digest not in found:
                found[entry.digest] = self._below(entry, entry, {}, 0)
            name = _name_of(entry)
            if name is not None:
                for image in found[entry.digest]:
                    image.names.append(name)
        images = [image for each in found.values() for image in each]
        if not images:
            raise InvalidImage(self.what, "there is no image in it")
        return images

    def _below(self, entry: Descriptor, top: Descriptor, above: dict[str, bytes], depth: int) -> list[_Image]:
        """The images that a descriptor leads to, as far as they are in the archive."""
        if entry.media_type not in media_types.DOCUMENTS or not is_digest(entry.digest):
            return []
        place = f"blobs/{entry.digest.replace(':', '/')}"
        if place not in self.members and depth:
            return []  # of another platform, and left out
        data = self._data(place)
        document = parse_document(data, self.what)
        documents = {**above, entry.digest: data}
        if isinstance(document, Index):
            if depth > 4:
                raise InvalidImage(self.what, "its indexes are nested too deep")
            return [image for each in document.manifests for image in self._below(each, top, documents, depth + 1)]
        if document.config.media_type not in media_types.CONFIGS or entry.annotations.get("vnd.docker.reference.type"):
            return []
        config_data = self._data(f"blobs/{document.config.digest.replace(':', '/')}")
        config = parse_config(config_data, self.what, document)
        blobs = {}
        for layer in document.layers:
            member = self.members.get(f"blobs/{layer.digest.replace(':', '/')}")
            if member is None:
                if depth:
                    return []
                raise InvalidImage(self.what, f"it lacks the layer {layer.digest}")
            blobs[layer.digest] = member
        documents[document.config.digest] = config_data
        manifest = Descriptor(media_type=document.media_type, digest=entry.digest, size=len(data))
        named = manifest if top.digest == entry.digest else top
        return [_Image(manifest, document, config, documents, blobs, named, [])]

    # docker's archives

    def _of_docker(self) -> list[_Image]:
        listed = self._document("manifest.json")
        if not isinstance(listed, list) or not listed:
            raise InvalidImage(self.what, "its `manifest.json` lists no image")
        return [self._docker_image(each) for each in listed]

    def _docker_image(self, entry: Any) -> _Image:
        if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
            raise InvalidImage(self.what, "its `manifest.json` names no config")
        data = self._data(posixpath.normpath(entry["Config"]))
        config = parse_config(data, self.what)
        layers, blobs = [], {}
        for place in entry.get("Layers") or []:
            member = self.members.get(posixpath.normpath(place)) if isinstance(place, str) else None
            if member is None:
                raise InvalidImage(self.what, f"it lacks the layer `{place!s:.100}`")
            hash_ = new_hash("sha256:")
            begin = b""
            for piece in member.pieces(0, self.stop):
                begin = begin or piece[:6]
                hash_.update(piece)
            digest = digest_of_hash(hash_)
            media_type = media_types.OCI_LAYER + _SUFFIX.get(compression_of(begin), "")
            layers.append({"mediaType": media_type, "digest": digest, "size": member.size})
            blobs[digest] = member
        manifest = msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": {"mediaType": media_types.OCI_CONFIG, "digest": digest_of(data), "size": len(data)},
                "layers": layers,
            }
        )
        document = parse_document(manifest, self.what)
        assert isinstance(document, Manifest)
        config = parse_config(data, self.what, document)
        digest = digest_of(manifest)
        named = Descriptor(media_type=media_types.OCI_MANIFEST, digest=digest, size=len(manifest))
        names = [ImageName.parse(tag) for tag in entry.get("RepoTags") or []]
        return _Image(named, document, config, {digest: manifest, document.config.digest: data}, blobs, named, names)


def _name_of(entry: Descriptor) -> ImageName | None:
    """The name that a layout gives to an entry. A bare tag is none: it does not say of what."""
    for key in (CONTAINERD_NAME, REF_NAME):
        text = entry.annotations.get(key, "")
        if text and (key == CONTAINERD_NAME or "/" in text or ":" in text):
            with suppress(InvalidSpec):
                return ImageName.parse(text)
    return None
