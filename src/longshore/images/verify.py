"""Check what the store holds against its digests, and make again what is damaged.

A blob is hashed. The folder of a layer has no digest of its own, so its blob is unpacked once more beside it, and the
two are compared: names, kinds, owners, modes, times, attributes and data. What differs is replaced, unless a container
uses it: taking a layer from under a container would break it.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ImageNotFound, InvalidImage, StoreError
from ..fs.files import as_store_errors
from ..fs.trees import remove_though_open
from ..store.records import Damaged
from ..store.state_directory import Store
from .collect import pins
from .ingest import Ingest
from .locks import Stop, gc_lock
from .lower_layers import LayerStack
from .partial_blob import CHUNK, WrongDigest, stored
from .records import ImageRecord, LayerInfo
from .settle import CHAIN, count_mounted
from .store import ImageStore
from .values import Problem

if sys.platform == "win32":
    raise ImportError("Windows makes layers by a call of its own")


def verify(
    store: ImageStore, *, repair: bool = True, stop: Stop | None = None, only: Collection[str] | None = None
) -> Iterator[Problem]:
    """Check every blob and layer, and yield what is wrong. It blocks, and reads and unpacks all that the store has.

    With `repair`, a damaged blob is removed, so that the next pull fetches it again; and a damaged layer is replaced by
    one that its blob makes. `only` are digests of manifests: then it is about these images.

    Raises: StoreError; Stopped.
    """
    stop = stop or Stop()
    records = list(store.read_records())
    about = records if only is None else [record for record in records if record.digest in only]
    blobs = {digest for each in about for digest in (each.digest, each.config, *(it.digest for it in each.layers))}
    keys = {layer.key for record in about for layer in record.layers}
    good: set[str] = set()
    for algorithm in Store.names(store.blobs):
        for digits in sorted(Store.names(store.blobs / algorithm)):
            if not digits.startswith("."):
                digest = f"{algorithm}:{digits}"
                if only is not None and digest not in blobs:
                    continue
                problem = _check_blob(store, digest, stop, repair=repair)
                if problem is None:
                    good.add(digest)
                else:
                    yield problem
    yield from _missing(store, about)
    for key in sorted(Store.names(store.layers)):
        if only is not None and key not in keys:
            continue
        yield from _check_layer(store, key, records, good, stop, repair=repair)


def _check_blob(store: ImageStore, digest: str, stop: Stop, *, repair: bool) -> Problem | None:
    try:
        fd = store.open_blob(digest)
    except ImageNotFound:
        return None  # removed meanwhile
    try:
        with as_store_errors(f"read blob {digest}"):
            for _ in stored(fd, digest, stop):
                pass
        return None
    except (WrongDigest, StoreError) as error:
        if repair:
            remove_though_open(store.blob_path(digest), store.state.data_trash)
        problem = "its content has another digest" if isinstance(error, WrongDigest) else str(error)
        return Problem(f"blob {digest}", problem, hint="pull the image again")
    finally:
        os.close(fd)


def _missing(store: ImageStore, records: list[ImageRecord]) -> Iterator[Problem]:
    for record in records:
        for digest in (record.digest, record.config):
            if store.blob_size(digest) is None:
                yield Problem(f"image {record.digest}", f"it lacks the document {digest}", hint="pull the image again")
        for layer in record.layers:
            if not store.layer_path(layer.key).is_dir():
                problem = f"it lacks the layer {layer.diff_id}"
                yield Problem(f"image {record.digest}", problem, hint="pull the image again")


def _check_layer(
    store: ImageStore, key: str, records: list[ImageRecord], good: set[str], stop: Stop, *, repair: bool
) -> Iterator[Problem]:
    what = f"layer {key}"
    try:
        info = store.read_layer(key)
    except Damaged as error:
        info, problem = None, str(error)
    else:
        problem = "its `layer.json` is missing"
    if info is None:
        yield Problem(what, problem, hint="remove its images, and pull them again")
        return
    if info.blob not in good:
        return  # removed to save room, or told already: there is nothing to compare with
    with Ingest(store, stop) as ingest:
        ingest.want(blobs=[info.blob], layers=[key])
        with ingest.alone(key):
            if not store.layer_path(key).is_dir():
                return
            difference = _compare_with_blob(ingest, key, info, records)
            if difference is None:
                return
            if not repair:
                yield Problem(what, difference)
                return
            with gc_lock(store.gc_lock_path, shared=False):
                users = sorted(each.container for each in pins(store) if key in each.pin.layers)
                if users:
                    hint = f"delete the containers that use it ({', '.join(users)}), and verify again"
                    yield Problem(what, difference, hint=hint)
                    return
                with as_store_errors(f"replace {what}"):
                    remove_though_open(store.layers / key, store.state.data_trash)
                    ingest.keep_layer(key, info)
            yield Problem(what, difference, repaired=True)


def _compare_with_blob(ingest: Ingest, key: str, info: LayerInfo, records: list[ImageRecord]) -> str | None:
    """Unpack a layer again, and return how the folder in the store differs from that."""
    store = ingest.store
    below: list[Path] = []
    if key.startswith(CHAIN):
        found = _below(store, key, records)
        if found is None:
            return None  # of no image any more
        below = found
    with LayerStack(below) as stack:
        try:
            ingest.unpack_stored(info.blob, info.diff_id, key, stack if key.startswith(CHAIN) else None)
        except InvalidImage as error:
            return f"its blob cannot be unpacked: {error.problem}"
    return _difference(store.layer_path(key), ingest.path / key / "fs")


def _below(store: ImageStore, key: str, records: list[ImageRecord]) -> list[Path] | None:
    """Return the layers below one that belongs to one image, the topmost first."""
    for record in records:
        keys = [layer.key for layer in record.layers]
        if key in keys:
            below = keys[: keys.index(key)]
            infos = [info for each in below if (info := store.read_layer(each)) is not None]
            shown = below[-count_mounted(infos) :] if len(infos) == len(below) else []
            return [store.layer_path(each) for each in reversed(shown)]
    return None


def _difference(found: Path, expected: Path) -> str | None:
    """Return in words where two folders differ; None if they do not."""
    left = [b""]
    while left:
        path = left.pop()
        ours, theirs = os.path.join(os.fsencode(found), path), os.path.join(os.fsencode(expected), path)
        here, there = set(os.listdir(ours)), set(os.listdir(theirs))
        if here != there:
            name = min(here ^ there)
            shown = os.fsdecode(os.path.join(path, name))
            return f"`{shown}` is {'missing' if name in there else 'not of it'}"
        for name in sorted(here):
            at = os.path.join(path, name)
            problem = _differs(os.path.join(ours, name), os.path.join(theirs, name))
            if problem:
                return f"`{os.fsdecode(at)}` has other {problem}"
            if stat.S_ISDIR(os.lstat(os.path.join(ours, name)).st_mode):
                left.append(at)
    return None


def _attributes(fd: int) -> dict[str, bytes]:
    """Return all attributes but labels, which the machine sets as it likes: overlayfs' own count, too."""
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd) if name != "security.selinux"}


@contextmanager
def _opened(path: bytes) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _differs(ours: bytes, theirs: bytes) -> str | None:
    a, b = os.lstat(ours), os.lstat(theirs)
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) != (b.st_mode, b.st_uid, b.st_gid, b.st_rdev):
        return "attributes"
    if a.st_mtime_ns != b.st_mtime_ns and not stat.S_ISCHR(a.st_mode):  # whiteouts have the time of their making
        return "times"
    if stat.S_ISLNK(a.st_mode):
        return None if os.readlink(ours) == os.readlink(theirs) else "content"
    if stat.S_ISREG(a.st_mode) or stat.S_ISDIR(a.st_mode):
        with _opened(ours) as first, _opened(theirs) as second:
            if _attributes(first) != _attributes(second):
                return "attributes"
            if stat.S_ISREG(a.st_mode):
                while True:
                    here, there = os.read(first, CHUNK), os.read(second, CHUNK)
                    if here != there:
                        return "content"
                    if not here:
                        break
    return None
