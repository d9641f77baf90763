"""Add images to the store: fetch, verify and unpack their layers, each in one thread and one pass.

What is read from the registry goes through a row of iterators, each of which asks the one before it for more:

    fetch -> sha256 -> file of the blob -> decompress -> sha256 (diff_id) -> read tar -> files of the layer

Nothing is held in memory but the piece that is under way, and nothing has its name before both hashes are right.

An `Ingest` is one program's work of adding images. It has a folder in the store, with a lock, in which layers are
unpacked; and a list of what it wants, which the collector leaves alone. When its program dies, the folder is left over.
Partial blobs are beside it, named by digest, so that whoever wants the blob next goes on with it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ..aio.tasks import in_thread, shielded
from ..errors import InvalidImage, LongshoreError, StoreError
from ..fs.files import LockFile, as_store_errors, open_file, store_error, try_lock, write_new
from ..fs.trees import remove_though_open
from ..store.records import VERSION
from .compression import decompressed
from .digests import digest_of_hash, hex_of, new_hash
from .documents import Descriptor
from .locks import Stop, Stopped, digest_lock, gc_lock
from .partial_blob import Progress, Truncated, WrongDigest, received, stored, write_all
from .records import LayerInfo, Unpacked, Wanted
from .space import FreeSpace, no_space
from .store import ImageStore

if TYPE_CHECKING:
    from hashlib import _Hash as Hash  # a name that exists for type checkers only

    from .lower_layers import LayerStack

T = TypeVar("T")

Fetch = Callable[[Descriptor, int, "Hash", Stop], Iterable[bytes]]
"""Gives the bytes of a blob from an offset on, and is given a hash of those before it; `Stop` ends its waiting."""

JOB = "job-"
_ENCODER = msgspec.json.Encoder()


class Ingest:
    """The adding of images by one program. A context manager; every method blocks."""

    def __init__(self, store: ImageStore, stop: Stop | None = None) -> None:
        self.store = store
        self.stop = stop or Stop()
        self.path = store.ingest / f"{JOB}{os.urandom(8).hex()}"
        self._wanted = Wanted(version=VERSION)
        self._held: LockFile | None = None

    def __enter__(self) -> Ingest:
        with as_store_errors(f"make {self.path}"), gc_lock(self.store.gc_lock_path, shared=True):
            os.mkdir(self.path, 0o700)
            self._held = LockFile.opened(self.path / "lock")
            try_lock(self._held.fd)  # before the collector can see it without a lock
            self._write_wanted()
        return self

    def __exit__(self, *_: object) -> None:
        self._discard(self.path)
        if self._held is not None:
            self._held.release()

    def want(self, *, blobs: Iterable[str] = (), layers: Iterable[str] = (), images: Iterable[str] = ()) -> None:
        """Keep these from being removed until the ingest ends, whether they are in the store yet or not.

        Blobs by digest, layers by key, images by the digest of the manifest: an image has no name at first.
        """
        wanted = self._wanted
        with gc_lock(self.store.gc_lock_path, shared=True):
            self._wanted = Wanted(
                version=VERSION,
                blobs=[*dict.fromkeys([*wanted.blobs, *blobs])],
                layers=[*dict.fromkeys([*wanted.layers, *layers])],
                images=[*dict.fromkeys([*wanted.images, *images])],
            )
            self._write_wanted()

    def _write_wanted(self) -> None:
        with as_store_errors(f"write {self.path}"):
            write_new(self.path / "wanted.json", _ENCODER.encode(self._wanted))

    # one blob, one layer

    def add_blob(self, blob: Descriptor, fetch: Fetch, progress: Progress) -> None:
        """Fetch a blob into the store, unless it is there. Raises: as `add_layer`."""
        self.want(blobs=[blob.digest])
        with self._alone(blob.digest, progress, blob.size):
            if self.store.blob_size(blob.digest) is not None:
                progress("there", blob.size, blob.size)
                return
            self._receive(blob, fetch, progress, _read_all)
            self._keep_blob(blob.digest)
        progress("done", blob.size, blob.size)

    def add_layer(self, layer: Descriptor, diff_id: str, fetch: Fetch, progress: Progress) -> LayerInfo:
        """Have a layer unpacked in the store, and its blob too, if they are not there.

        If another program is at it, this waits for it, and then finds it done. A blob that was removed to save room
        is not fetched again for a layer that was made of it.

        Raises: InvalidImage for what is not what its digests say, or is no layer; StoreError if the disk is full or
        fails; Stopped; whatever `fetch` raises. What was received of the blob stays, for the next attempt.
        """
        key = hex_of(diff_id)
        size = layer.size
        self.want(blobs=[layer.digest], layers=[key])
        with self._alone(layer.digest, progress, size), self._alone(f"layer-{key}", progress, size):
            found = self.store.read_layer(key)
            has_blob = self.store.blob_size(layer.digest) is not None
            if found is not None and (has_blob or found.blob == layer.digest):
                progress("there", size, size)
                return found
            unpacked: Unpacked | None = None
            if has_blob:
                progress("unpacking", size, size)
                try:
                    unpacked = self.unpack_stored(layer.digest, diff_id, key)
                except WrongDigest:  # the disk has changed it: it is fetched again
                    self._discard(self.store.blob_path(layer.digest))
                    has_blob = False
            if not has_blob:
                if found is None:
                    unpacked = self._receive(layer, fetch, progress, lambda pieces: self._unpack(pieces, diff_id, key))
                else:
                    self._receive(layer, fetch, progress, _read_all)
                self._keep_blob(layer.digest)
            if unpacked is not None:
                found = self.keep_layer(
                    key, LayerInfo(version=VERSION, diff_id=diff_id, blob=layer.digest, unpacked=unpacked)
                )
        assert found is not None
        progress("done", size, size)
        return found

    def add_stream(self, pieces: Iterable[bytes], what: str) -> tuple[str, int, LayerInfo]:
        """Add a layer whose digests are not known before: what is imported, or made here.

        Returns the digest and the size of its blob, and what was unpacked. Raises: as `add_layer`.
        """
        number = os.urandom(4).hex()
        path = self.path / f"blob-{number}"
        hash_, size = new_hash("sha256:"), 0

        def kept(fd: int) -> Iterator[bytes]:
            nonlocal size
            for piece in pieces:
                self.stop.check()
                hash_.update(piece)
                size += len(piece)
                write_all(fd, piece)
                yield piece

        with _disk_errors(what):
            fd = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                unpacked, diff_id = self._unpack_into(self.path / number, kept(fd), what)
            finally:
                os.close(fd)
        digest, key = digest_of_hash(hash_), hex_of(diff_id)
        self.want(blobs=[digest], layers=[key])
        with self._alone(digest, quiet, size), self._alone(f"layer-{key}", quiet, size), _disk_errors(what):
            if self.store.blob_size(digest) is None:
                os.rename(path, self.store.blob_path(digest))
            found = self.store.read_layer(key)
            if found is None:
                os.rename(self.path / number, self.path / key)
                found = self.keep_layer(
                    key, LayerInfo(version=VERSION, diff_id=diff_id, blob=digest, unpacked=unpacked)
                )
        return digest, size, found

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Be the only one who unpacks this layer."""
        with self._alone(f"layer-{key}", quiet, 0):
            yield

    @contextmanager
    def _alone(self, name: str, progress: Progress, size: int) -> Iterator[None]:
        path = self.store.lock_path(name)
        with digest_lock(path, self.stop, lambda: progress("waiting", 0, size)):
            yield

    def _receive(self, blob: Descriptor, fetch: Fetch, progress: Progress, read: Callable[[Iterator[bytes]], T]) -> T:
        """Return what `read` makes of a blob while it is received into `ingest`; in two attempts if need be.

        An error of `read` counts only if the blob is what it should be: else that is the error.
        """
        path = self.store.ingest / hex_of(blob.digest)
        what = f"blob {blob.digest}"
        folder = os.open(self.store.ingest, os.O_RDONLY)
        try:
            space = FreeSpace(folder, what)
            while True:
                pieces = received(
                    path, blob, lambda at, hash_: fetch(blob, at, hash_, self.stop), space.take, self.stop, progress
                )
                try:
                    with _disk_errors(what):
                        return _read_verified(pieces, read)
                except Truncated:
                    raise
                except InvalidImage as error:
                    self._discard(path)
                    if not (isinstance(error, WrongDigest) and error.resumed):
                        raise
                except Exception:
                    self.stop.check()  # then the error is only how the reader was woken
                    raise
                finally:
                    pieces.close()
        finally:
            os.close(folder)

    def _keep_blob(self, digest: str) -> None:
        """Give a blob that was received, and so verified, its name."""
        with as_store_errors(f"store blob {digest}"):
            os.rename(self.store.ingest / hex_of(digest), self.store.blob_path(digest))

    # unpacking

    def unpack_stored(self, digest: str, diff_id: str, key: str, below: LayerStack | None = None) -> Unpacked:
        """Unpack a layer from its blob in the store, to be kept as `key`.

        Raises: WrongDigest if the disk has changed the blob; as `add_layer`.
        """
        fd = self.store.open_blob(digest)
        try:
            with _disk_errors(f"layer {diff_id}"):
                return _read_verified(
                    stored(fd, digest, self.stop), lambda pieces: self._unpack(pieces, diff_id, key, below)
                )
        finally:
            os.close(fd)

    def _unpack(self, pieces: Iterator[bytes], diff_id: str, key: str, below: LayerStack | None = None) -> Unpacked:
        unpacked, found = self._unpack_into(self.path / key, pieces, f"layer {diff_id}", diff_id, below)
        if found != diff_id:
            self._discard(self.path / key)
            raise InvalidImage(f"layer {diff_id}", f"its content has the digest {found}")
        return unpacked

    def _unpack_into(
        self,
        place: Path,
        pieces: Iterable[bytes],
        what: str,
        algorithm: str = "sha256:",
        below: LayerStack | None = None,
    ) -> tuple[Unpacked, str]:
        from .unpack import unpack

        self._discard(place)  # of an earlier attempt
        top = place / "fs"
        os.mkdir(place, 0o700)
        os.mkdir(top, 0o700)
        hash_ = new_hash(algorithm)
        fd = os.open(top, os.O_RDONLY)
        try:
            unpacked = unpack(_hashed(decompressed(pieces, what), hash_, self.stop), fd, what, below)
        except BaseException:
            self._discard(place)  # at once: the disk may be full
            raise
        finally:
            os.close(fd)
        return unpacked, digest_of_hash(hash_)

    def keep_layer(self, key: str, info: LayerInfo) -> LayerInfo:
        """Give a layer that was unpacked and verified its name. The caller has its lock."""
        with as_store_errors(f"store layer {info.diff_id}"):
            write_new(self.path / key / "layer.json", _ENCODER.encode(info))
            os.rename(self.path / key, self.store.layers / key)
        return info

    def _discard(self, path: Path) -> None:
        """Remove what is at a path, if anything is. What cannot be removed stays in the trash."""
        with suppress(StoreError):
            remove_though_open(path, self.store.state.data_trash)


def _read_verified(pieces: Iterator[bytes], read: Callable[[Iterator[bytes]], T]) -> T:
    """Return what `read` makes of the pieces; if it refuses them, it is told first if they are the wrong ones."""
    try:
        return read(pieces)
    except InvalidImage:
        _read_all(pieces)
        raise


def _read_all(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass


def _hashed(pieces: Iterator[bytes], hash_: Hash, stop: Stop) -> Iterator[bytes]:
    for piece in pieces:
        stop.check()
        hash_.update(piece)
        yield piece


def quiet(state: str, done: int, total: int) -> None:
    """Report nothing."""


@contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    """Raise StoreError for an error of the disk. The code that uses a network reports its errors."""
    try:
        yield
    except (LongshoreError, ConnectionError, TimeoutError):
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(what) from error
        raise store_error(f"store {what}", error) from error


async def add_layers(
    ingest: Ingest,
    layers: Sequence[tuple[Descriptor, str]],
    fetch: Fetch,
    progress: Callable[[str, str, int, int], None],
    at_once: int = 3,
) -> list[LayerInfo]:
    """Add the layers of an image, as (descriptor, diff_id), some at once, each in a thread. Returns them in order.

    `progress` is called in those threads: with the digest, and what `Progress` is told. At the first error the other
    threads are stopped, and waited for. If cancelled: the same.
    """
    turn = asyncio.Semaphore(at_once)

    async def add(layer: Descriptor, diff_id: str) -> LayerInfo:
        async with turn:
            ingest.stop.check()
            tell = partial(progress, layer.digest)
            return await in_thread(partial(ingest.add_layer, layer, diff_id, fetch, tell), "longshore-layer")

    each = {(layer.digest, diff_id): layer for layer, diff_id in layers}  # an image may have the same layer twice
    tasks = {key: asyncio.ensure_future(add(layer, key[1])) for key, layer in each.items()}
    try:
        if tasks:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
    finally:
        if any(not task.done() or task.cancelled() or task.exception() for task in tasks.values()):
            ingest.stop.set()
        try:
            if tasks:
                await shielded(asyncio.wait(tasks.values()))
        finally:
            for task in tasks.values():
                if task.done() and not task.cancelled():
                    task.exception()  # it is known: who was cancelled does not ask
    errors = [error for task in tasks.values() if (error := task.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
    return [tasks[layer.digest, diff_id].result() for layer, diff_id in layers]
