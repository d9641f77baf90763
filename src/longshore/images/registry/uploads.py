"""Writing to a repository: blobs first, then the manifests that name them.

A blob that is there is not sent. One that another repository of the registry has is mounted from there, if the registry
allows it. Else it is sent in one request; a registry, or a proxy before it, that refuses so long a body gets it in
pieces. An upload that breaks begins anew: how far it got is told too differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO, Literal
from urllib.parse import quote, urljoin, urlsplit

from ...errors import RegistryError
from ..digests import is_digest
from ..documents import Descriptor
from .answers import LARGEST_ANSWER
from .repository import Repository, TryAgain
from .transport import PIECE, Answer

CHUNK = 32 << 20
"""Bytes of one request, where a blob is sent in several."""

_TOO_LONG = 413
_FORGOTTEN = 404  # an upload that the registry knows no more
Outcome = Literal["there", "mounted", "uploaded"]
Progress = Callable[[int], None]
"""Is told how many bytes of the blob were sent; the number falls when an upload begins anew."""


def push_blob(
    repository: Repository,
    descriptor: Descriptor,
    open_file: Callable[[], BinaryIO],
    *,
    mount_from: str | None = None,
    progress: Progress = lambda sent: None,
) -> Outcome:
    """Have the repository have a blob, and return how it came there.

    `open_file` gives its content, perhaps several times. `mount_from` is the path of another repository there that may
    have it. Raises: RegistryError and its kinds; OSError of the file.
    """
    if repository.has_blob(descriptor):
        return "there"
    tries = repository.new_tries()
    chunked = False
    while True:
        location = _begin(repository, descriptor, mount_from)
        if location is None:
            return "mounted"
        mount_from = None
        try:
            if chunked:
                _send_in_chunks(repository, descriptor, open_file, location, progress)
            elif not _send_whole(repository, descriptor, open_file, location, progress):
                chunked = True
                continue
            return "uploaded"
        except TryAgain as again:
            if not again.may_help or not tries.again(again.wait):
                raise again.error from again
        except RegistryError as error:
            if error.status != _FORGOTTEN or not tries.again():
                raise


def push_manifest(repository: Repository, data: bytes, media_type: str, reference: str, digest: str) -> None:
    """Write a manifest or index, byte for byte, under a tag or its digest.

    Raises: RegistryError if the registry takes it for another one, or refuses it.
    """
    headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
    path = f"/v2/{repository.endpoint.path}/manifests/{reference}"
    with repository.exchange("PUT", path, headers, body=lambda: [data], good=(201, 200, 202)) as answer:
        told = answer.header("Docker-Content-Digest")
    if is_digest(told) and told != digest and told.partition(":")[0] == digest.partition(":")[0]:
        raise RegistryError(
            repository.operation,
            repository.registry,
            f"the registry {repository.registry} has the manifest as {told}, and it is {digest}",
        )


def _begin(repository: Repository, descriptor: Descriptor, mount_from: str | None) -> str | None:
    """Begin an upload, and return its address; None if the blob was mounted instead."""
    path = f"/v2/{repository.endpoint.path}/blobs/uploads/"
    if mount_from is not None:
        path += f"?mount={quote(descriptor.digest)}&from={quote(mount_from, safe='')}"
    with repository.exchange("POST", path, {"Content-Length": "0"}, good=(201, 202)) as answer:
        if answer.status == 201 and mount_from is not None:
            return None
        return _location(repository, answer)


def _location(repository: Repository, answer: Answer) -> str:
    """Where an upload goes on. The address is used as it is, with all that its query says."""
    told = answer.header("Location")
    target = urljoin(answer.url, told)
    if not told or urlsplit(target).scheme not in ("http", "https"):
        raise RegistryError(repository.operation, repository.registry, "the registry gives no address for the upload")
    if answer.url.startswith("https:") and target.startswith("http:"):
        raise RegistryError(
            repository.operation,
            repository.registry,
            "the registry wants the upload without TLS, after https",
            hint="set https in the Location headers of the registry, or of the proxy before it",
        )
    return target


def _completed(location: str, descriptor: Descriptor) -> str:
    """The address that completes an upload."""
    return f"{location}{'&' if urlsplit(location).query else '?'}digest={quote(descriptor.digest)}"


def _send_whole(
    repository: Repository,
    descriptor: Descriptor,
    open_file: Callable[[], BinaryIO],
    location: str,
    progress: Progress,
) -> bool:
    """Send a blob in one request; False if that is too long for the registry."""
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
    with repository.exchange_once(
        "PUT",
        _completed(location, descriptor),
        headers,
        body=lambda: _pieces(open_file, 0, descriptor.size, progress),
        good=(201, 204, _TOO_LONG),
    ) as answer:
        return answer.status != _TOO_LONG


def _send_in_chunks(
    repository: Repository,
    descriptor: Descriptor,
    open_file: Callable[[], BinaryIO],
    location: str,
    progress: Progress,
) -> None:
    for start in range(0, descriptor.size, CHUNK):
        length = min(CHUNK, descriptor.size - start)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Content-Range": f"{start}-{start + length - 1}",
        }
        with repository.exchange_once(
            "PATCH",
            location,
            headers,
            body=lambda start=start, length=length: _pieces(open_file, start, length, progress),  # type: ignore[misc]
            good=(202, 204),
        ) as answer:
            location = _location(repository, answer)
    with repository.exchange_once(
        "PUT", _completed(location, descriptor), {"Content-Length": "0"}, good=(201, 204)
    ) as answer:
        answer.read_all(LARGEST_ANSWER, "the answer")


def _pieces(open_file: Callable[[], BinaryIO], start: int, length: int, progress: Progress) -> Iterable[bytes]:
    """So many bytes of the file, and nothing but that: a shorter file ends the request."""
    with open_file() as file:
        file.seek(start)
        left = length
        progress(start)
        while left:
            piece = file.read(min(PIECE, left))
            if not piece:
                raise OSError("the file is shorter than its descriptor says")
            yield piece
            left -= len(piece)
            progress(start + length - left)
