"""Names of images: docker's grammar and its whole and short forms, against a table and another implementation."""

from __future__ import annotations

import pytest
from docker_image import reference as oracle
from docker_image.digest import InvalidDigest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore.errors import InvalidSpec
from longshore.images.names import ImageName, check_registry, has_host, parse_repository

DIGEST = "sha256:" + "0123456789abcdef" * 4
LONG_DIGEST = "sha512:" + "0123456789abcdef" * 8

WHOLE = {
    "alpine": "docker.io/library/alpine:latest",
    "alpine:3.20": "docker.io/library/alpine:3.20",
    "docker.io/alpine": "docker.io/library/alpine:latest",
    "index.docker.io/alpine": "docker.io/library/alpine:latest",
    "index.docker.io/library/alpine": "docker.io/library/alpine:latest",
    "owner/app": "docker.io/owner/app:latest",
    "registry/app": "docker.io/registry/app:latest",
    "localhost/app": "localhost/app:latest",
    "localhost:5000/app": "localhost:5000/app:latest",
    "localhost:5000": "docker.io/library/localhost:5000",
    "ghcr.io/owner/app:v1": "ghcr.io/owner/app:v1",
    "Registry/app": "Registry/app:latest",
    "[2001:db8::1]:5000/app": "[2001:db8::1]:5000/app:latest",
    "127.0.0.1:5000/a/b/c:x": "127.0.0.1:5000/a/b/c:x",
    f"alpine@{DIGEST}": f"docker.io/library/alpine@{DIGEST}",
    f"alpine:3@{DIGEST}": f"docker.io/library/alpine:3@{DIGEST}",
    f"alpine@{LONG_DIGEST}": f"docker.io/library/alpine@{LONG_DIGEST}",
    "a__b/c-----d.e": "docker.io/a__b/c-----d.e:latest",
    "alpine:_": "docker.io/library/alpine:_",
    "alpine:" + "a" * 128: "docker.io/library/alpine:" + "a" * 128,
}


@pytest.mark.parametrize("text", WHOLE)
def test_a_name_has_one_whole_form(text: str) -> None:
    assert str(ImageName.parse(text)) == WHOLE[text]


@pytest.mark.parametrize("text", WHOLE)
def test_the_short_form_leads_to_the_same_name(text: str) -> None:
    name = ImageName.parse(text)
    assert ImageName.parse(name.familiar) == name
    assert ImageName.parse(str(name)) == name


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/alpine", "alpine:latest"),
        ("docker.io/owner/app:1", "owner/app:1"),
        ("quay.io/owner/app:1", "quay.io/owner/app:1"),
        ("docker.io/library/deep/app", "library/deep/app:latest"),
        ("docker.io/some.host/app", "docker.io/some.host/app:latest"),
        (f"docker.io/library/alpine@{DIGEST}", f"alpine@{DIGEST}"),
    ],
)
def test_the_short_form_is_dockers(text: str, familiar: str) -> None:
    assert ImageName.parse(text).familiar == familiar


def test_a_digest_is_what_a_registry_is_asked_for() -> None:
    assert ImageName.parse("alpine").reference == "latest"
    assert ImageName.parse("alpine:3").reference == "3"
    assert ImageName.parse(f"alpine:3@{DIGEST}").reference == DIGEST
    assert ImageName.parse("alpine").host == "registry-1.docker.io"
    assert ImageName.parse("ghcr.io/a/b").host == "ghcr.io"


WRONG = [
    "",
    ":",
    "@",
    "alpine:",
    "alpine@",
    "alpine:a:b",
    "alpine@sha256:abc",
    "alpine@md5:" + "0" * 32,
    f"alpine@{DIGEST.upper()}",
    f"alpine@{DIGEST}@{DIGEST}",
    "/alpine",
    "alpine/",
    "a//b",
    "-alpine",
    "alpine-",
    "al pine",
    "alpine\n",
    "alpine:latest\n",
    "a___b",
    "a..b",
    "ghcr.io/Owner/app",
    "Alpine",
    "https://ghcr.io/a",
    "docker://alpine",
    "-host.io/app",
    "host.io:port/app",
    "host..io/app",
    "alpine:-x",
    "alpine:" + "a" * 129,
    "a" * 300,
    "x/" * 125 + "abcdef",
    "0123456789abcdef" * 4,
    DIGEST,
    "../../etc",
    "\u0430lpine",
    "alpine:\u0661",
    "alpine\0",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_name_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        ImageName.parse(text, "root")
    assert refused.value.field == "root"


@pytest.mark.parametrize("value", [None, 3, b"alpine", ["alpine"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidSpec, match="must be text"):
        ImageName.parse(value)  # type: ignore[arg-type]


def test_refusals_say_what_to_write() -> None:
    with pytest.raises(InvalidSpec) as refused:
        ImageName.parse("ghcr.io/Owner/App:V1")
    assert refused.value.hint == "write ghcr.io/owner/app:V1"
    with pytest.raises(InvalidSpec) as refused:
        ImageName.parse("docker://alpine")
    assert refused.value.hint is not None
    assert "leave out docker://" in refused.value.hint


PIECES = st.sampled_from(
    "a A b B 0 9 . _ - / : @ __ // localhost docker.io index.docker.io library/ host:80/ [::1]:5/ latest"
    f" sha256: sha512: {'0' * 64} {'f' * 128} {DIGEST}".split()
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=8).map("".join))
def test_names_are_read_as_another_implementation_reads_them(text: str) -> None:
    """But for what docker itself refuses, and it does not: long names, algorithms that images never have, and ids."""
    ours = theirs = None
    try:
        name = ImageName.parse(text)
        ours = (name.registry, name.path, name.tag, name.digest)
    except InvalidSpec:
        pass
    try:
        found = oracle.Reference.parse_normalized_named(text)
        registry, path = found.split_hostname()
        tag = found["tag"] if found["tag"] or found["digest"] else "latest"
        theirs = (registry, path, tag, found["digest"])
    except oracle.InvalidReference:
        pass
    except InvalidDigest:
        pass
    if ours != theirs:
        assert ours is None
        assert "sha384" in text or len(text) > 200 or len(text.partition(":")[2]) in (64, 128) or len(text) == 64


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = ImageName.parse(text)
    except InvalidSpec:
        return
    assert ImageName.parse(str(name)) == ImageName.parse(name.familiar) == name


def test_a_repository_has_no_tag() -> None:
    assert parse_repository("alpine").repository == "docker.io/library/alpine"
    for text in ("alpine:3", f"alpine@{DIGEST}"):
        with pytest.raises(InvalidSpec, match="tag or a digest"):
            parse_repository(text)


def test_a_registry_is_a_host() -> None:
    assert check_registry("ghcr.io") == "ghcr.io"
    assert check_registry("localhost:5000") == "localhost:5000"
    for hub in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        assert check_registry(hub) == "docker.io"
    for wrong in ("https://ghcr.io", "ghcr.io/owner", "", "a b", "host:x"):
        with pytest.raises(InvalidSpec, match="registry"):
            check_registry(wrong)


def test_only_some_first_parts_are_hosts() -> None:
    assert [text for text in ("a/b", "a.b/c", "a:1/b", "localhost/b", "A/b", "a.b", "localhost") if has_host(text)] == [
        "a.b/c",
        "a:1/b",
        "localhost/b",
        "A/b",
    ]


def test_another_tag_of_the_same_repository() -> None:
    name = ImageName.parse("ghcr.io/a/b:1")
    assert str(name.with_tag("2")) == "ghcr.io/a/b:2"
    assert str(name.with_digest(DIGEST)) == f"ghcr.io/a/b@{DIGEST}"
    with pytest.raises(InvalidSpec, match="not a tag"):
        name.with_tag("a/b")
