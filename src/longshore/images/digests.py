"""Digests, the names of content: `sha256:` and 64 hexadecimal digits, or `sha512:` and 128.

A digest is text here, because it is text in every document. Whoever takes one from outside checks it with
`check_digest` first: after that it has no character that a path or a URL could misread.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from ..errors import InvalidSpec

if TYPE_CHECKING:
    from hashlib import _Hash

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")


def is_digest(text: str) -> bool:
    """Return whether this is a digest of an algorithm that images may use."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(text: str, field: str = "digest") -> str:
    """Return the digest if it is one.

    Raises: InvalidSpec, which says what is wrong with it: the algorithm, the length or a character.
    """
    if not isinstance(text, str):
        raise InvalidSpec(field, f"must be text, not {type(text).__name__}")
    if is_digest(text):
        return text
    algorithm, colon, encoded = text.partition(":")
    if not colon:
        problem = f"{text[:80]!r} has no algorithm"
    elif algorithm not in _HEX_LENGTH:
        problem = f"{algorithm[:40]!r} is not sha256 or sha512"
    elif len(encoded) != _HEX_LENGTH[algorithm]:
        problem = f"{text[:80]!r} has {len(encoded)} digits, and {algorithm} has {_HEX_LENGTH[algorithm]}"
    else:
        problem = f"{text[:80]!r} has characters other than 0-9 and a-f"
    raise InvalidSpec(field, problem, hint="write sha256: and 64 hexadecimal digits, in lower case")


def new_hash(digest: str) -> _Hash:
    """Return a fresh hash of the algorithm of this digest; `digest_of_hash` makes a digest of it."""
    return hashlib.new(digest.partition(":")[0], usedforsecurity=False)


def digest_of_hash(hash_: _Hash) -> str:
    """Return the digest of all that a hash was given."""
    return f"{hash_.name}:{hash_.hexdigest()}"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of some bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()}"


def matches(data: bytes, digest: str) -> bool:
    """Return whether these bytes are the content of this digest."""
    return digest_of(data, digest.partition(":")[0]) == digest


def hex_of(digest: str) -> str:
    """Return the hexadecimal digits alone."""
    return digest.partition(":")[2]


def id_prefix(text: str) -> str | None:
    """Return the digits if this can be an image id, whole or its beginning of at least 12; None if it cannot."""
    match = _ID_PREFIX.fullmatch(text)
    return match[1] if match else None


def chain_ids(diff_ids: list[str]) -> list[str]:
    """Return the chain id of each layer: it names the layer together with all that are below it."""
    found: list[str] = []
    for diff_id in diff_ids:
        found.append(digest_of(f"{found[-1]} {diff_id}".encode()) if found else diff_id)
    return found
