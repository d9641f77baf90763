"""Remove images, and what nothing needs any more.

What is in use is found out each time, from what is there: names, containers (each has a file that pins the image it was
made of), and the lists of running ingests. Nothing is counted, so nothing can be counted wrong. All of it is looked at
under `gc.lock`, exclusive, so no program can begin to use an image meanwhile. Under it nothing is deleted, but renamed
to the trash, which takes a system call for each thing. The order of renaming is names, records, layers, blobs: a
program that dies in between leaves content without a record, which the next removal takes, never the reverse.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from ..errors import ImageNotFound, InvalidImage, NotSupported, StoreError
from ..fs.files import as_store_errors, is_held, read_whole, sync
from ..fs.trees import remove_tree
from ..store.records import Damaged, decode
from ..store.state_directory import Store
from .digests import hex_of
from .documents import Index, parse_document
from .ingest import JOB
from .locks import gc_lock
from .records import ImagePin, ImageRecord, NameRecord, Wanted
from .store import ImageStore

_DEEPEST = 8  # indexes in one another


class Removed(msgspec.Struct, kw_only=True):
    """What a removal did. What containers use stays: `used` has their ids by the digest of the image."""

    names: list[str] = []
    images: list[str] = []  # digests of manifests
    layers: int = 0
    blobs: int = 0
    size: int = 0  # bytes of blobs and of files in layers
    used: dict[str, list[str]] = {}


class Pinned(msgspec.Struct, frozen=True):
    """A container, and what it uses of the image store."""

    container: str
    pin: ImagePin


def pins(store: ImageStore) -> Iterator[Pinned]:
    """Yield what each container uses. The caller has `gc.lock`.

    Raises: StoreError for a container whose file cannot be read: what it uses cannot be known then.
    """
    for entry in store.state.container_dirs():
        pin = store.read_pin(entry.home)
        if pin is not None:
            yield Pinned(entry.id, pin)


def remove(store: ImageStore, names: Iterable[str], digests: Iterable[str] = ()) -> Removed:
    """Take these names away, and all names of these images; and remove what then has neither a name nor a user.

    An image that a container uses loses its names only, and is listed in `used`. It blocks. Raises: StoreError.
    """
    wanted, doomed = set(names), set(digests)
    with gc_lock(store.gc_lock_path, shared=False):
        seen = _Seen(store)
        dropped = [
            name
            for name in seen.names
            if name.name in wanted or not doomed.isdisjoint({name.digest, *seen.reach(name)})
        ]
        candidates = doomed.union(*(seen.reach(name) for name in dropped))
        sweep = _Sweep(store, seen)
        sweep.drop(dropped, candidates)
        sweep.collect()
    sweep.empty()
    return sweep.removed


def prune(
    store: ImageStore,
    *,
    all: bool = False,
    blobs: bool = False,
    matching: Callable[[ImageRecord], bool] = lambda record: True,
) -> Removed:
    """Remove images without a name that no container uses; with `all`, also those with one. `matching` may spare some.

    With them goes what no image needs: layers, blobs, and what programs left that died while they added images. With
    `blobs`, the compressed layers of all images go, too: pushing them then needs a registry that has them. It blocks.
    Raises: StoreError.
    """
    with gc_lock(store.gc_lock_path, shared=False):
        seen = _Seen(store)
        candidates = {digest for digest, record in seen.records.items() if matching(record)}
        dropped = [
            name
            for name in seen.names
            if all and seen.reach(name) <= candidates and not seen.reach(name) & {*seen.used}
        ]
        sweep = _Sweep(store, seen)
        sweep.drop(dropped, candidates)
        sweep.collect(blobs=blobs, partial=True)
    sweep.empty()
    return sweep.removed


class _Seen:
    """What the store has, and who uses it, while `gc.lock` is held."""

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self.names = store.read_names()
        self.records = {record.digest: record for record in store.read_records()}
        self.pinned = list(pins(store))
        self.used: dict[str, list[str]] = {}
        for each in self.pinned:
            self.used.setdefault(each.pin.digest, []).append(each.container)
        self.jobs: list[Wanted] = []  # of running ingests
        self.dead_jobs: list[str] = []
        for name in Store.names(store.ingest):
            if name.startswith(JOB):
                wanted = _wanted(store.ingest / name)
                if wanted is None:
                    self.dead_jobs.append(name)
                else:
                    self.jobs.append(wanted)
        self._reached: dict[str, tuple[set[str], set[str]]] = {}

    def reach(self, name: NameRecord) -> set[str]:
        """Return the images, by the digests of their manifests, that a name leads to: several below an index."""
        return self._reach(name.digest, 0)[0]

    def documents(self, name: NameRecord) -> set[str]:
        """Return the indexes that a name leads to, and what it means itself."""
        return {name.digest, *self._reach(name.digest, 0)[1]}

    def _reach(self, digest: str, depth: int) -> tuple[set[str], set[str]]:
        known = self._reached.get(digest)
        if known is None:
            images, indexes = set(), set()
            if digest in self.records:
                images.add(digest)
            elif depth < _DEEPEST:
                for child in self._children(digest):
                    indexes.add(digest)
                    below = self._reach(child, depth + 1)
                    images |= below[0]
                    indexes |= below[1]
            known = self._reached[digest] = (images, indexes)
        return known

    def _children(self, digest: str) -> list[str]:
        with suppress(ImageNotFound, StoreError, InvalidImage, NotSupported):
            if self.store.blob_size(digest) is not None:
                document = parse_document(self.store.read_document(digest), digest)
                if isinstance(document, Index):
                    return [each.digest for each in document.manifests]
        return []


class _Sweep:
    """One removal. `drop` and `collect` rename to the trash, with `gc.lock` held; `empty` removes, without it."""

    def __init__(self, store: ImageStore, seen: _Seen) -> None:
        self.store = store
        self.seen = seen
        self.removed = Removed()
        self._trash = store.state.data_trash / os.urandom(8).hex()
        self._moved = 0

    def drop(self, names: list[NameRecord], candidates: set[str]) -> None:
        """Remove names, and those of the images that have no other name and no user."""
        seen = self.seen
        gone = {name.name for name in names}
        seen.names = [name for name in seen.names if name.name not in gone]
        named = set().union(*(seen.reach(name) for name in seen.names))
        for name in names:
            self._move(self.store.name_path(name.name))
            self.removed.names.append(name.name)
        for digest in sorted(candidates - named):
            if digest in seen.used:
                self.removed.used[digest] = sorted(seen.used[digest])
            elif digest in seen.records and not any(digest in job.images for job in seen.jobs):
                self._move(self.store.record_path(digest))
                del seen.records[digest]
                self.removed.images.append(digest)
        if self._moved:
            sync(self.store.names, self.store.records)  # before what they name

    def collect(self, *, blobs: bool = False, partial: bool = False) -> None:
        """Remove what no image, container or running ingest needs; `partial`: what was received of blobs, too."""
        store, seen = self.store, self.seen
        live_layers, live_fixups, live_blobs = set[str](), set[str](), set[str]()
        for record in seen.records.values():
            live_layers.update(layer.key for layer in record.layers)
            live_fixups.add(hex_of(record.digest))
            live_blobs.update((record.digest, record.config))
            if not blobs:
                live_blobs.update(layer.digest for layer in record.layers)
        for each in seen.pinned:
            live_layers.update(each.pin.layers)
            live_fixups.add(hex_of(each.pin.digest))
            live_blobs.update((each.pin.digest, each.pin.config))
        for name in seen.names:
            live_blobs |= seen.documents(name)
        for wanted in seen.jobs:
            live_layers.update(wanted.layers)
            live_fixups.update(map(hex_of, wanted.images))
            live_blobs.update(wanted.blobs)
        self._sweep_layers(live_layers)
        for digits in Store.names(store.fixups):
            if digits not in live_fixups:
                self._move(store.fixups / digits)
        for algorithm in Store.names(store.blobs):
            for digits in Store.names(store.blobs / algorithm):
                if f"{algorithm}:{digits}" not in live_blobs:
                    self.removed.blobs += 1
                    self._move(store.blobs / algorithm / digits, count=True)
        for job in seen.dead_jobs:
            self._move(store.ingest / job)
        if partial:
            self._sweep_partial({hex_of(digest) for digest in live_blobs})

    def _sweep_partial(self, live: set[str]) -> None:
        """Remove what was received of blobs, and records and names that cannot be read."""
        store, seen = self.store, self.seen
        for name in Store.names(store.ingest):
            if not name.startswith(JOB) and name not in live:
                self._move(store.ingest / name, count=True)
        known = {store.record_path(digest) for digest in seen.records}
        known |= {store.name_path(each.name) for each in seen.names}
        for folder in (store.records, store.names):
            for name in Store.names(folder):
                if folder / name not in known:
                    self._move(folder / name)

    def _sweep_layers(self, live: set[str]) -> None:
        for key in Store.names(self.store.layers):
            if key not in live:
                with suppress(Damaged):
                    info = self.store.read_layer(key)
                    self.removed.size += info.unpacked.size if info else 0
                self.removed.layers += 1
                self._move(self.store.layers / key)

    def _move(self, path: Path, *, count: bool = False) -> None:
        with as_store_errors(f"remove {path}"), suppress(FileNotFoundError):
            if count:
                self.removed.size += path.stat().st_size
            if not self._moved:
                os.mkdir(self._trash, 0o700)
            self._moved += 1
            os.rename(path, self._trash / str(self._moved))

    def empty(self) -> None:
        """Remove what was moved. What cannot be removed now goes when the trash is next emptied."""
        if self._moved:
            with suppress(StoreError):
                remove_tree(self._trash)


def _wanted(job: Path) -> Wanted | None:
    """Return what a running ingest wants; None if its program has died."""
    try:
        if not is_held(job / "lock", make=False):
            return None
    except FileNotFoundError:
        return None
    path = job / "wanted.json"
    with as_store_errors(f"read {path}"):
        data = read_whole(path)
    found: Wanted = decode(data, Wanted, path, hint="wait until the program that adds images has ended")
    return found
