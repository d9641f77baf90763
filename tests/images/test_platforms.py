"""Platforms: which image of an index a machine gets."""

from __future__ import annotations

import subprocess

import pytest

from longshore.errors import InvalidImage, InvalidSpec, PlatformNotFound
from longshore.images import media_types
from longshore.images.documents import Descriptor, Index, Manifest, parse_config, parse_document
from longshore.images.platforms import Platform, amd64_level, parse_platform, rank, this_platform
from longshore.images.selection import check_platform, select

from .samples import Json, config, encoded, entry, index

V3 = set("cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave".split())


def read(document: Json) -> Index:
    found = parse_document(encoded(document), "index")
    assert isinstance(found, Index)
    return found


def no_more(descriptor: Descriptor) -> Manifest | Index:
    raise AssertionError(f"nothing is nested, but {descriptor.digest} was asked for")


def chosen(wanted: str, *offered: str) -> str | None:
    """The platform of the entry that is taken, as text."""
    try:
        path = select(read(index(*map(entry, offered))), parse_platform(wanted), no_more, "x")
    except PlatformNotFound:
        return None
    return str(path[-1].platform)


@pytest.mark.parametrize(
    ("wanted", "offered", "taken"),
    [
        ("linux/amd64", "linux/arm64 linux/amd64 windows/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64", "linux/amd64"),
        ("linux/amd64", "linux/amd64/v3 linux/amd64", "linux/amd64"),
        ("linux/amd64", "linux/amd64/v2", None),
        ("linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v3 linux/amd64/v4", "linux/amd64/v3"),
        ("linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v4", "linux/amd64/v2"),
        ("linux/amd64/v3", "linux/amd64/v4 linux/amd64", "linux/amd64"),
        ("linux/arm64", "linux/arm64/v8", "linux/arm64/v8"),
        ("linux/arm64/v8", "linux/arm64", "linux/arm64"),
        ("linux/aarch64", "linux/arm/v7 linux/arm64", "linux/arm64"),
        ("linux/arm64", "linux/arm/v7", None),
        ("linux/arm", "linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v7 linux/arm/v5 linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v6", "linux/arm/v7 linux/arm/v5", "linux/arm/v5"),
        ("linux/arm/v6", "linux/arm linux/arm/v5", "linux/arm/v5"),
        ("linux/arm/v6", "linux/arm", "linux/arm"),
        ("linux/armhf", "linux/arm/v6", "linux/arm/v6"),
        ("linux/386", "linux/amd64 linux/386", "linux/386"),
        ("linux/riscv64", "linux/riscv64", "linux/riscv64"),
        ("linux/s390x", "unknown/unknown", None),
        ("linux/amd64", "", None),
    ],
)
def test_a_machine_gets_the_best_image_that_it_runs(wanted: str, offered: str, taken: str | None) -> None:
    assert chosen(wanted, *offered.split()) == taken


def test_the_error_names_what_there_is() -> None:
    listed = read(index(entry("linux/arm64"), entry("linux/arm64"), entry("unknown/unknown"), entry("linux/386")))
    with pytest.raises(PlatformNotFound) as refused:
        select(listed, parse_platform("linux/amd64"), no_more, "x")
    assert refused.value.available == ["linux/arm64", "linux/386"]
    assert str(refused.value) == "image `x` is not available for linux/amd64, only for linux/arm64, linux/386"


def test_attestations_and_artifacts_are_never_chosen() -> None:
    attestation = entry("linux/amd64", b"a", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    artifact = entry("linux/amd64", b"b", media_type="application/vnd.example+json")
    image = entry("linux/amd64", b"c")
    path = select(read(index(attestation, artifact, image)), parse_platform("linux/amd64"), no_more, "x")
    assert [each.digest for each in path] == [image["digest"]]


def test_an_entry_without_a_platform_is_the_last_choice() -> None:
    bare = entry("", b"bare")
    del bare["platform"]
    for listed, taken in ((index(bare, entry("linux/amd64")), "linux/amd64"), (index(bare), None)):
        path = select(read(listed), parse_platform("linux/amd64"), no_more, "x")
        assert (str(path[-1].platform) if path[-1].platform else None) == taken


def test_indexes_within_indexes_are_read() -> None:
    inner = index(entry("linux/arm64"), entry("linux/amd64"))
    nested = entry("", encoded(inner), media_type=media_types.OCI_INDEX)
    del nested["platform"]
    documents = {nested["digest"]: read(inner)}
    path = select(
        read(index(nested, entry("linux/386"))), parse_platform("linux/amd64"), lambda d: documents[d.digest], "x"
    )
    assert [each.media_type for each in path] == [media_types.OCI_INDEX, media_types.OCI_MANIFEST]
    assert str(path[-1].platform) == "linux/amd64"


def test_an_index_of_another_platform_is_not_read() -> None:
    nested = entry("linux/s390x", b"x", media_type=media_types.OCI_INDEX)
    assert select(read(index(nested, entry("linux/amd64"))), parse_platform("linux/amd64"), no_more, "x")


@pytest.mark.parametrize("width", [1, 3])
def test_indexes_without_end_are_refused(width: int) -> None:
    nested = [entry("", str(number).encode(), media_type=media_types.OCI_INDEX) for number in range(width)]
    for each in nested:
        del each["platform"]
    endless = read(index(*nested))
    with pytest.raises(InvalidImage, match="nested too deep"):
        select(endless, parse_platform("linux/amd64"), lambda descriptor: endless, "x")


WINDOWS = ["10.0.17763.1", "10.0.20348.5", "10.0.20348.169", "10.0.20348.20", "10.0.26100.1"]


@pytest.mark.parametrize(
    ("version", "taken"), [("10.0.20348.1", "10.0.20348.169"), ("10.0.14393.0", None), ("", "10.0.26100.1")]
)
def test_windows_gets_the_highest_revision_of_its_build(version: str, taken: str | None) -> None:
    offered = [entry("windows/amd64", each.encode()) for each in WINDOWS]
    for each, build in zip(offered, WINDOWS, strict=True):
        each["platform"]["os.version"] = build
    wanted = Platform(os="windows", architecture="amd64", os_version=version)
    if taken is None:
        with pytest.raises(PlatformNotFound, match=r"windows/amd64 \(10\.0\.14393\.0\)"):
            select(read(index(*offered)), wanted, no_more, "x")
        return
    path = select(read(index(*offered)), wanted, no_more, "x")
    assert path[-1].platform is not None
    assert path[-1].platform.os_version == taken


def test_an_image_without_an_index_is_checked_by_its_config() -> None:
    check_platform(parse_config(encoded(config()), "x"), parse_platform("linux/amd64/v2"), "x")
    with pytest.raises(PlatformNotFound, match="not available for linux/arm64, only for linux/amd64"):
        check_platform(parse_config(encoded(config()), "x"), parse_platform("linux/arm64"), "x")
    check_platform(parse_config(encoded(config(os="", architecture="")), "x"), parse_platform("linux/arm64"), "x")


@pytest.mark.parametrize("text", ["linux", "", "linux/", "/amd64", "linux/a/b/c", "linux/am d64", "linux/../x", None])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_platform(text)
    assert refused.value.field == "platform"


def test_the_level_of_a_processor_is_that_of_all_its_flags() -> None:
    assert amd64_level(set()) == "v1"
    assert amd64_level({"cx16", "popcnt"}) == "v1"
    assert amd64_level(V3) == "v3"
    assert amd64_level(V3 - {"sse4_1"}) == "v1"
    assert amd64_level(V3 - {"movbe"}) == "v2"


def test_this_machine_runs_its_own_platform() -> None:
    own = this_platform()
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    assert rank(parse_platform(f"linux/{machine}"), own) is not None
    assert rank(parse_platform("linux/s390x"), own) is None or machine == "s390x"
