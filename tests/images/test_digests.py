"""Digests and ids: what is one, and what they are the digest of."""

from __future__ import annotations

import hashlib

import pytest

from longshore.errors import InvalidSpec
from longshore.images import digests

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_digest_names_its_content() -> None:
    assert digests.digest_of(b"") == EMPTY
    assert digests.matches(b"", EMPTY)
    assert not digests.matches(b"x", EMPTY)
    long = digests.digest_of(b"x", "sha512")
    assert digests.check_digest(long) == long
    assert digests.matches(b"x", long)
    hash_ = digests.new_hash(long)
    hash_.update(b"x")
    assert digests.digest_of_hash(hash_) == long


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("e3b0c442", "no algorithm"),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", "not sha256 or sha512"),
        ("sha256:e3b0", "has 4 digits"),
        (EMPTY.upper(), "not sha256 or sha512"),
        (EMPTY[:-1] + "G", "characters other than"),
        (EMPTY + "\n", "65 digits"),
        ("sha256:../../../../etc/passwd" + "a" * 42, "characters other than"),
        (None, "must be text"),
    ],
)
def test_what_is_no_digest_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidSpec, match=problem):
        digests.check_digest(text)


def test_an_id_is_the_beginning_of_a_digest() -> None:
    digits = EMPTY[7:]
    assert digests.id_prefix(digits) == digests.id_prefix(EMPTY) == digits
    assert digests.id_prefix(digits[:12]) == digits[:12]
    for other in (digits[:11], "alpine", digits + "0", "sha512:" + digits, digits[:12].upper()):
        assert digests.id_prefix(other) is None


def test_a_chain_id_depends_on_all_layers_below() -> None:
    one, two, three = (digests.digest_of(each) for each in (b"1", b"2", b"3"))
    second = "sha256:" + hashlib.sha256(f"{one} {two}".encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {three}".encode()).hexdigest()
    assert digests.chain_ids([one, two, three]) == [one, second, third]
    assert digests.chain_ids([]) == []
