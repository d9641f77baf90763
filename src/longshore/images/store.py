"""The image store: compressed blobs by digest, unpacked layers, one record per image, one file per name.

It is a folder of the state directory (docs/state.md has its files). There is no index of it all: whatever a program was
doing when it died, the rest of the store means the same as before. Three rules carry that:

- A blob or a layer gets its name when it was verified, by a rename. What is under way is in `ingest`, in a folder that
  its maker holds a lock on; without the lock, it is left over.
- The record of an image is written last, after the disk has confirmed all that it names (syncfs). Without a record,
  nothing of an image is in use.
- What is removed is renamed to the trash while `gc.lock` is held, by a program that has seen all names, containers and
  running ingests (`collect.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from ..errors import ImageNotFound, InvalidImage, StoreError
from ..fs.files import (
    as_store_errors,
    make_private,
    open_file,
    read_whole,
    store_error,
    sync,
    sync_file_system,
    write_new,
)
from ..store.records import VERSION, Damaged, decode
from ..store.state_directory import Store
from .digests import hex_of, is_digest, matches
from .documents import LARGEST
from .locks import gc_lock
from .records import ImagePin, ImageRecord, LayerInfo, NameRecord

_GONE = (FileNotFoundError, NotADirectoryError)
_ENCODER = msgspec.json.Encoder()
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
_LONGEST_NAME = 200  # of a file; the rest is for a suffix while it is written
PIN = "image.json"  # in a container's directory

T = TypeVar("T")


class ImageStore:
    """The images of a state directory. Every method blocks; each that reads or writes may raise StoreError."""

    def __init__(self, state: Store) -> None:
        self.state = state
        self.path = state.data / "images"
        self.blobs = self.path / "blobs"
        self.layers = self.path / "layers"
        self.fixups = self.path / "fixups"
        self.records = self.path / "records"
        self.names = self.path / "names"
        self.ingest = self.path / "ingest"
        self.run = state.run / "images"
        self.locks = self.run / "locks"

    def open(self) -> None:
        """Make the folders if need be; no other user may look into them, for layers have setuid programs in them."""
        for path in (
            self.path,
            self.blobs / "sha256",
            self.blobs / "sha512",
            self.layers,
            self.fixups,
            self.records,
            self.names,
            self.ingest,
            self.locks,
        ):
            with as_store_errors(f"make {path}"):
                make_private(path)

    @property
    def gc_lock_path(self) -> str:
        return f"{self.run}/gc.lock"

    def lock_path(self, name: str) -> str:
        """The lock for fetching or unpacking what has this digest or key."""
        return f"{self.locks}/{name.replace(':', '-')}"

    # blobs

    def blob_path(self, digest: str) -> Path:
        """Where the blob of a digest is, if it is there. The digest was checked before (`check_digest`)."""
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        algorithm, _, encoded = digest.partition(":")
        return self.blobs / algorithm / encoded

    def blob_size(self, digest: str) -> int | None:
        """Return how many bytes a blob has; None if it is not there."""
        path = self.blob_path(digest)
        try:
            return os.stat(path).st_size
        except _GONE:
            return None
        except OSError as error:
            raise store_error(f"look at {path}", error) from error

    def open_blob(self, digest: str) -> int:
        """Return a descriptor of a blob. All that is in `blobs` was verified when it was put there.

        Raises: ImageNotFound if it is not there.
        """
        path = self.blob_path(digest)
        try:
            return open_file(path, os.O_RDONLY)
        except _GONE:
            raise _no_blob(digest) from None
        except OSError as error:
            raise store_error(f"read {path}", error) from error

    def read_document(self, digest: str) -> bytes:
        """Return a manifest, index or config, verified once more.

        Raises: ImageNotFound if it is not there; StoreError if the disk has changed it.
        """
        fd = self.open_blob(digest)
        try:
            with as_store_errors(f"read {self.blob_path(digest)}"), open(fd, "rb", closefd=False) as file:
                data = file.read(LARGEST + 1)
        finally:
            os.close(fd)
        if not matches(data, digest):
            raise damaged_blob(self.blob_path(digest))
        return data

    def add_document(self, data: bytes, digest: str) -> None:
        """Keep a manifest, index or config. Raises: InvalidImage if the digest is not its own."""
        if not matches(data, digest):
            raise InvalidImage(f"document {digest}", "its content has another digest")
        path = self.blob_path(digest)
        with self.using(), as_store_errors(f"write {path}"):
            if not os.path.exists(path):
                write_new(path, data)

    # layers

    def layer_path(self, key: str) -> Path:
        """The folder of an unpacked layer, or what would be it."""
        return self.layers / key / "fs"

    def read_layer(self, key: str) -> LayerInfo | None:
        """Return what is known of an unpacked layer; None if it is not there."""
        return self._read(self.layers / key / "layer.json", LayerInfo, "remove its folder, and pull the image again")

    def fixup_path(self, digest: str) -> Path:
        """The fix-up layer of an image, by the digest of its manifest."""
        return self.fixups / hex_of(digest) / "fs"

    def mount_paths(self, record: ImageRecord | ImagePin) -> list[str]:
        """Return the folders to mount for an image, nearest first, as `Layers(parents=...)` takes them."""
        keys = [layer.key for layer in record.layers] if isinstance(record, ImageRecord) else record.layers
        if isinstance(record, ImageRecord) and record.mounted:
            keys = keys[-record.mounted :]
        # overlayfs takes no folder twice; where a layer is in an image twice, the upper one hides the lower one
        paths = [os.fspath(self.layer_path(key)) for key in dict.fromkeys(reversed(keys))]
        return [os.fspath(self.fixup_path(record.digest)), *paths] if record.fixup else paths

    # records

    def record_path(self, digest: str) -> Path:
        """The record of the image whose manifest has this digest."""
        return self.records / f"{hex_of(digest)}.json"

    def read_record(self, digest: str) -> ImageRecord | None:
        """Return the record of an image, by the digest of its manifest; None if there is none."""
        return self._read(self.record_path(digest), ImageRecord, "pull the image again")

    def read_records(self) -> Iterator[ImageRecord]:
        """Yield the record of every image. Damaged ones are left out: `verify` tells them."""
        for name in Store.names(self.records):
            if name.endswith(".json") and not name.startswith("."):
                with suppress(Damaged):
                    record = self._read(self.records / name, ImageRecord, "pull the image again")
                    if record is not None:
                        yield record

    def commit(self, record: ImageRecord) -> None:
        """Add an image: wait until the disk has all of it, then write its record, and wait for that.

        Raises: StoreError if the disk failed: the image is not there then.
        """
        with as_store_errors(f"write {self.path} to the disk"):
            sync_file_system(self.path)
        path = self.record_path(record.digest)
        with self.using(), as_store_errors(f"write {path}"):
            write_new(path, _ENCODER.encode(record))
        sync(path, self.records)

    # names

    def name_path(self, name: str) -> Path:
        """The file of a name: as it is, with what may mean something to a file system escaped."""
        escaped = "".join(chr(each) if each in _PLAIN else f"%{each:02X}" for each in name.encode())
        if len(escaped) > _LONGEST_NAME or escaped.startswith("."):
            import hashlib

            escaped = f"{escaped[:100].replace('.', '%2E', 1)}~{hashlib.sha256(name.encode()).hexdigest()}"
        return self.names / f"{escaped}.json"

    def read_name(self, name: str) -> NameRecord | None:
        """Return what a name means: exactly this one, as `ImageName` writes it; None if it means nothing here."""
        found = self._read(self.name_path(name), NameRecord, "tag or pull the image again")
        return found if found is not None and found.name == name else None

    def read_names(self) -> list[NameRecord]:
        """Return all names, in order. Damaged ones are left out: a name can be given again."""
        found = []
        for file in Store.names(self.names):
            if file.endswith(".json") and not file.startswith("."):
                with suppress(Damaged):
                    name = self._read(self.names / file, NameRecord, "tag or pull the image again")
                    if name is not None:
                        found.append(name)
        return sorted(found, key=lambda each: each.name)

    def give_name(self, name: str, digest: str, media_type: str, *, source: str = "") -> None:
        """Have a name mean a manifest or an index of the store from now on. `source` is where that came from."""
        self.write_name(
            NameRecord(
                version=VERSION,
                name=name,
                digest=digest,
                media_type=media_type,
                updated=datetime.now(UTC),
                source=source,
            )
        )

    def write_name(self, name: NameRecord) -> None:
        """Have a name mean this from now on."""
        path = self.name_path(name.name)
        with self.using(), as_store_errors(f"write {path}"):
            write_new(path, _ENCODER.encode(name))
        sync(path, self.names)

    def remove_name(self, name: str) -> bool:
        """Take a name away; what it meant stays. False if it meant nothing."""
        path = self.name_path(name)
        with as_store_errors(f"remove {path}"):
            try:
                os.unlink(path)
            except _GONE:
                return False
        sync(self.names)
        return True

    # pins

    def write_pin(self, home: Path, pin: ImagePin, *, durable: bool) -> None:
        """Write into a container's directory what it uses. Whoever calls this has `gc.lock`, shared (`using`)."""
        path = home / PIN
        with as_store_errors(f"write {path}"):
            write_new(path, _ENCODER.encode(pin))
        if durable:
            sync(path, home)

    def read_pin(self, home: Path) -> ImagePin | None:
        """Return what a container uses; None if it has no image."""
        return self._read(home / PIN, ImagePin, "delete the container with `longshore rm --force`")

    def using(self) -> AbstractContextManager[None]:
        """Hold off removals, from when an image is looked up until its user is on record: a context manager."""
        return gc_lock(self.gc_lock_path, shared=True)

    def _read(self, path: Path, kind: type[T], hint: str) -> T | None:
        try:
            data = read_whole(path)
        except _GONE:
            return None
        except OSError as error:
            raise store_error(f"read {path}", error) from error
        if not data.strip(b"\0"):
            return None  # a loss of power came before it was on the disk
        found: T = decode(data, kind, path, hint=hint)
        return found


def _no_blob(digest: str) -> ImageNotFound:
    return ImageNotFound(digest, reason="the store does not have this part", hint="pull the image again")


def damaged_blob(path: Path) -> StoreError:
    """Return the error for a blob that is no longer what it was when it was stored."""
    return StoreError(
        f"cannot use {path}: the disk has changed it since it was written",
        hint="pull the image again, and run `longshore image verify` to find other damage",
    )
