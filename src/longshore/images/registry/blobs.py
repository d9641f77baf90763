"""Reading a blob as a stream that survives broken connections, and that is what its digest says, or an error.

Where a connection breaks, the rest is asked for with a Range, at the registry again: an address that it redirected to
may have ended. A registry that answers with the whole blob is read from the beginning, without what is known already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from ...errors import InvalidImage, LongshoreError, RegistryError
from ..digests import digest_of_hash, new_hash
from ..documents import Descriptor
from .transport import Answer, ConnectionFailure, close_quietly

if TYPE_CHECKING:
    from hashlib import _Hash

    from .repository import Repository

_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]{1,19})-[0-9]{1,19}/(?:[0-9]{1,19}|\*)")


class BlobReader:
    """The bytes of a blob, in pieces, by iteration. The last piece comes only if all were what the digest says.

    `position` is the number of bytes that were read. Close it, or use it with `with`; it may be closed at any point.
    """

    def __init__(
        self, repository: Repository, descriptor: Descriptor, *, start: int = 0, hash_: _Hash | None = None
    ) -> None:
        assert start == 0 or hash_ is not None, "a hash of what comes before"
        self.descriptor = descriptor
        self.position = start
        self._repository = repository
        self._hash = hash_ if hash_ is not None else new_hash(descriptor.digest)
        self._answer: Answer | None = None
        self._to_skip = 0  # bytes of an answer that are known already
        self._tries = repository.new_tries()
        self._counted = start  # where the tries were last counted from
        self._window = (0.0, start)  # when and where the present look at the speed began
        self._what = f"the blob {descriptor.digest}"

    def read(self) -> bytes:
        """Return the next piece; empty at the end.

        Raises: InvalidImage if the content is not what the descriptor says; RegistryUnreachable if the connection
        broke too often; RegistryError and its kinds.
        """
        while self.position < self.descriptor.size:
            try:
                piece = self._piece()
            except ConnectionFailure as failure:
                self.close()
                if not self._tries.after(failure):
                    raise self._repository.unreachable(failure) from failure
                continue
            if piece:
                return piece
        if self.position == self.descriptor.size:
            self._finish()
        return b""

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read():
            yield piece

    def close(self) -> None:
        """Give the connection back."""
        if self._answer is not None:
            answer, self._answer = self._answer, None
            close_quietly(answer)

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _piece(self) -> bytes:
        """What the connection has; empty if that was known already. Raises ConnectionFailure."""
        answer = self._answer
        if answer is None:
            answer = self._answer = self._open()
        piece = answer.read()
        if not piece:
            raise ConnectionFailure("the connection ended early", "broken", retry=True)
        self._check_speed(len(piece))
        if self._to_skip:
            known = min(self._to_skip, len(piece))
            self._to_skip -= known
            piece = piece[known:]
        if self.position + len(piece) > self.descriptor.size:
            raise InvalidImage(self._what, f"it has more bytes than its {self.descriptor.size}")
        self._hash.update(piece)
        self.position += len(piece)
        if self.position - self._counted >= self._repository.limits.progress:
            self._counted = self.position
            self._tries.progress()
        if self.position == self.descriptor.size:
            self._finish()
        return piece

    def _open(self) -> Answer:
        repository = self._repository
        start = self.position
        headers = {"Range": f"bytes={start}-"} if start else {}
        path = f"/v2/{repository.endpoint.path}/blobs/{self.descriptor.digest}"
        answer = repository.exchange("GET", path, headers, good=(200, 206), missing=self._missing)
        try:
            self._begin(answer, start)
        except BaseException:
            close_quietly(answer)
            raise
        return answer

    def _begin(self, answer: Answer, start: int) -> None:
        """See from the head of an answer what its body is."""
        clock = self._repository.transport.clock
        self._window = (clock(), 0)
        size = self.descriptor.size
        first = 0
        if answer.status == 206:
            given = _CONTENT_RANGE.match(answer.header("Content-Range"))
            first = int(given[1]) if given else start
            if first > start:
                raise RegistryError(
                    self._repository.operation,
                    self._repository.registry,
                    "it answers with another range than asked for",
                )
        self._to_skip = start - first
        length = answer.length
        if length is not None and first + length != size:
            raise InvalidImage(self._what, f"the registry has {first + length} bytes of it, and its size is {size}")

    def _check_speed(self, count: int) -> None:
        """Raises: ConnectionFailure for a connection that lives, and brings next to nothing."""
        limits = self._repository.limits
        now = self._repository.transport.clock()
        since, counted = self._window
        if now - since < limits.idle:
            self._window = (since, counted + count)
        elif counted + count < limits.slowest:
            raise ConnectionFailure(f"it sent {counted + count} bytes in {limits.idle:g} s", "late", retry=True)
        else:
            self._window = (now, 0)

    def _finish(self) -> None:
        """Check the digest of all. Raises: InvalidImage."""
        found = digest_of_hash(self._hash)
        self.close()
        if found != self.descriptor.digest:
            raise InvalidImage(
                self._what,
                f"the registry {self._repository.registry} sends {found}",
                hint="try again; if it stays so, the registry or a proxy before it changes what it sends",
            )

    def _missing(self, reason: str) -> LongshoreError:
        said = f" ({reason})" if reason else ""
        return RegistryError(
            self._repository.operation,
            self._repository.registry,
            f"the registry {self._repository.registry} has no blob {self.descriptor.digest}{said}",
            status=404,
            hint="push the image again: it is incomplete there",
        )
