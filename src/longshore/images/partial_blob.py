"""Receive a blob into a file, from where an earlier attempt ended, and hash it on the way.

A blob that is received in part is worth keeping: the next attempt asks the registry for the rest. Its file is below
`ingest`, named by the digest, and belongs to whoever holds the digest's lock. It becomes a blob of the store by a
rename when all of it was hashed, and the hash is its name. So a partial blob that a loss of power has damaged does no
harm: the hash is another one then, and the blob is fetched once more from its beginning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING

from ..errors import InvalidImage
from ..fs.files import open_file
from .digests import digest_of_hash, new_hash
from .documents import Descriptor
from .locks import Stop

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

CHUNK = 256 << 10  # bytes of a file that are read at once

Progress = Callable[[str, int, int], None]
"""Told of a layer: its state (waiting, downloading, unpacking, done, there), bytes received, and bytes in all."""


class WrongDigest(InvalidImage):
    """All of a blob was received, and it is another one than its name says."""

    def __init__(self, what: str, found: str, *, resumed: bool) -> None:
        super().__init__(
            what,
            f"what was received has the digest {found}",
            hint="try again; if it happens again, the registry or a proxy on the way delivers something else",
        )
        self.resumed = resumed  # part of it was received by an earlier attempt


class Truncated(InvalidImage):
    """A blob ended before its size; what was received of it can be gone on with."""


def received(
    path: str | os.PathLike[str],
    blob: Descriptor,
    rest: Callable[[int, Hash], Iterable[bytes]],
    take: Callable[[int], None],
    stop: Stop,
    progress: Progress,
) -> Generator[bytes, None, None]:
    """Yield all of a blob: what is in the file at `path`, then `rest(offset, hash)`, which is written there on the way.

    `take` is told before bytes are written, and may refuse them. The last piece is yielded before the digest is known:
    only when the iterator ends without an error is the blob what it should be.

    Raises: WrongDigest; Truncated; InvalidImage if it is longer than its size; Stopped; OSError; whatever `rest`
    raises.
    """
    digest, size = blob.digest, blob.size
    what = f"blob {digest}"
    fd = open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        have = os.fstat(fd).st_size
        if have > size:
            os.ftruncate(fd, 0)
            have = 0
        hash_ = new_hash(digest)
        at = 0
        while at < have:
            stop.check()
            piece = os.read(fd, CHUNK)
            if not piece:
                break
            hash_.update(piece)
            at += len(piece)
            progress("downloading", at, size)
            yield piece
        resumed = at > 0
        for piece in rest(at, hash_.copy()) if at < size else ():
            stop.check()
            if at + len(piece) > size:
                raise InvalidImage(what, f"it has more than the {size} bytes that its image says")
            take(len(piece))
            write_all(fd, piece)
            hash_.update(piece)
            at += len(piece)
            progress("downloading", at, size)
            yield piece
        if at < size:
            raise Truncated(what, f"it ended after {at} of {size} bytes", hint="try again: it goes on from there")
        if digest_of_hash(hash_) != digest:
            raise WrongDigest(what, digest_of_hash(hash_), resumed=resumed)
    finally:
        os.close(fd)


def stored(fd: int, digest: str, stop: Stop) -> Iterator[bytes]:
    """Yield a blob of the store from its descriptor, hashed again. Raises: WrongDigest; Stopped; OSError."""
    hash_ = new_hash(digest)
    while piece := os.read(fd, CHUNK):
        stop.check()
        hash_.update(piece)
        yield piece
    if digest_of_hash(hash_) != digest:
        raise WrongDigest(f"blob {digest}", digest_of_hash(hash_), resumed=False)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, in as many calls as it takes."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
