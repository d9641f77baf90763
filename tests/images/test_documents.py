"""Documents of images: what is read, what is refused and in which words, and that no bytes do anything else."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longshore.errors import InvalidImage, NotSupported
from longshore.images import media_types
from longshore.images.digests import digest_of
from longshore.images.documents import Descriptor, Index, Manifest, check_image, parse_config, parse_document

from .samples import Json, config, descriptor, encoded, entry, index, manifest

EXAMPLES = int(os.environ.get("LONGSHORE_EXAMPLES", "400"))
"""Documents that are tried of each kind: 10,000 before a release."""

WHAT = "image `x`"


def parsed_manifest(document: Json, content_type: str | None = None) -> Manifest:
    found = parse_document(encoded(document), WHAT, content_type)
    assert isinstance(found, Manifest)
    return found


def parsed_index(document: Json) -> Index:
    found = parse_document(encoded(document), WHAT)
    assert isinstance(found, Index)
    return found


def test_a_manifest_names_a_config_and_layers() -> None:
    found = parsed_manifest(manifest(b"config", annotations={"a": "b"}), f"{media_types.OCI_MANIFEST}; charset=utf-8")
    assert found.config.digest == digest_of(b"config")
    assert [each.size for each in found.layers] == [1, 1]
    assert found.annotations == {"a": "b"}
    check_image(found, WHAT)


def test_dockers_documents_mean_the_same() -> None:
    document = manifest(mediaType=media_types.DOCKER_MANIFEST)
    document["config"]["mediaType"] = media_types.DOCKER_CONFIG
    document["layers"] = [descriptor(media_type=media_types.DOCKER_LAYER + ".gzip")]
    check_image(parsed_manifest(document, media_types.DOCKER_MANIFEST), WHAT)
    listed = parsed_index(index(entry("linux/arm/v7"), mediaType=media_types.DOCKER_INDEX))
    assert str(listed.manifests[0].platform) == "linux/arm/v7"


def test_a_document_without_a_media_type_has_that_of_its_shape() -> None:
    document = manifest()
    del document["mediaType"]
    assert parsed_manifest(document).media_type == media_types.OCI_MANIFEST
    assert parsed_manifest(document, media_types.DOCKER_MANIFEST).media_type == media_types.DOCKER_MANIFEST
    assert parsed_manifest(document, "application/json").media_type == media_types.OCI_MANIFEST


def test_null_is_the_same_as_absent() -> None:
    document = manifest(annotations=None, subject=None, artifactType=None)
    document["layers"][0] |= {"urls": None, "annotations": {"a": None, "b": "c"}, "platform": None, "data": None}
    found = parsed_manifest(document)
    assert (found.annotations, found.layers[0].annotations) == ({}, {"b": "c"})
    content = config(config=None, history=None, author=None, created=None)
    assert parse_config(encoded(content), WHAT).config.cmd is None
    inner = dict.fromkeys(["Env", "Cmd", "Entrypoint", "Labels", "Volumes", "Healthcheck", "OnBuild", "User"])
    assert parse_config(encoded(config(config=inner)), WHAT).config.env == []


def test_fields_that_are_unknown_are_no_error() -> None:
    document = manifest(future={"a": [1]})
    document["layers"][0]["new"] = True
    parsed_manifest(document)
    parse_config(encoded(config(container_config={"Hostname": "h"}, docker_version="20")), WHAT)


def test_a_config_says_how_to_run_the_image() -> None:
    data = encoded(config())
    found = parse_config(data, WHAT, parsed_manifest(manifest(data)))
    assert (found.config.entrypoint, found.config.cmd) == (["/entry"], ["serve"])
    assert set(found.config.exposed_ports) == {"80/tcp", "53/udp"}
    assert str(found.platform) == "linux/amd64"
    assert found.created_at == datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    assert [each.empty_layer for each in found.history] == [False, True]


@pytest.mark.parametrize("created", ["", "yesterday", "2026-01-02", "2026-01-02T03:04:05", "99999-01-01T00:00:00Z"])
def test_a_time_that_cannot_be_read_is_none(created: str) -> None:
    assert parse_config(encoded(config(created=created)), WHAT).created_at is None


def test_content_in_a_descriptor_is_taken_only_if_it_is_the_content() -> None:
    data = b"hello"
    good = Descriptor(media_type="x", digest=digest_of(data), size=5, data=base64.b64encode(data).decode())
    assert good.embedded() == data
    for change in ({"size": 4}, {"digest": digest_of(b"other")}, {"data": "!!"}, {"data": ""}, {"data": "AAAA"}):
        fields: dict[str, Any] = {name: getattr(good, name) for name in good.__struct_fields__} | change
        assert Descriptor(**fields).embedded() is None


BAD_MANIFESTS: dict[str, Json] = {
    "both `manifests` and `layers`": {"manifests": [], "config": None},
    "both `manifests` and `config`": {"manifests": []},
    "schemaVersion": {"schemaVersion": 3},
    "mediaType is not text": {"mediaType": 5},
    "content is a manifest": {"mediaType": media_types.OCI_INDEX},
    "object": {"config": "x"},
    r"layers\[0\]": {"layers": [None]},
    "digest is not a digest": {"layers": [descriptor() | {"digest": "sha256:../../x"}]},
    "config.digest": {"config": descriptor(media_type=media_types.OCI_CONFIG) | {"digest": "sha1:aa"}},
    "size is out of range": {"layers": [descriptor() | {"size": -1}]},
    "int": {"layers": [descriptor() | {"size": "1"}]},
    "size": {"layers": [{"mediaType": "x", "digest": digest_of(b"")}]},
    "layers": {"layers": None},
}


@pytest.mark.parametrize("problem", BAD_MANIFESTS)
def test_a_manifest_against_the_format_is_refused(problem: str) -> None:
    with pytest.raises(InvalidImage, match=problem) as refused:
        parse_document(encoded(manifest() | BAD_MANIFESTS[problem]), WHAT)
    assert refused.value.what == WHAT


def test_what_the_registry_calls_it_has_to_agree() -> None:
    with pytest.raises(InvalidImage, match="content is a manifest"):
        parse_document(encoded(manifest()), WHAT, media_types.OCI_INDEX)
    with pytest.raises(InvalidImage, match="the registry says"):
        parse_document(encoded(manifest()), WHAT, media_types.DOCKER_MANIFEST)


def test_an_old_schema_is_refused_with_a_hint() -> None:
    old = {"schemaVersion": 1, "fsLayers": [], "history": [], "signatures": []}
    with pytest.raises(NotSupported, match="schema 1") as refused:
        parse_document(encoded(old), WHAT, "application/vnd.docker.distribution.manifest.v1+prettyjws")
    assert refused.value.hint is not None


def test_artifacts_are_no_images() -> None:
    helm = manifest()
    helm["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    with pytest.raises(NotSupported, match=r"an artifact, not an image: application/vnd\.cncf\.helm"):
        check_image(parsed_manifest(helm), WHAT)
    attestation = manifest()
    attestation["layers"][1]["mediaType"] = "application/vnd.in-toto+json"
    with pytest.raises(NotSupported, match="an artifact, not an image"):
        check_image(parsed_manifest(attestation), WHAT)
    with pytest.raises(NotSupported, match="an artifact, not an image"):
        parse_document(encoded(manifest(mediaType="application/vnd.oci.artifact.manifest.v1+json")), WHAT)
    locked = manifest()
    locked["layers"][0]["mediaType"] += "+encrypted"
    with pytest.raises(NotSupported, match="encrypted"):
        check_image(parsed_manifest(locked), WHAT)
    with pytest.raises(NotSupported, match="neither a manifest nor an index"):
        parse_document(b'{"schemaVersion": 2}', WHAT)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rootfs": None}, "no `rootfs`"),
        ({"rootfs": {"type": "layers", "diff_ids": [digest_of(b"")]}}, "2 layers, and 1 diff_ids"),
        ({"rootfs": {"type": "layers", "diff_ids": [digest_of(b""), "sha256:x"]}}, r"diff_ids\[1\] is not a digest"),
        ({"rootfs": {"type": "layers"}}, "2 layers, and 0 diff_ids"),
        ({"config": {"Env": "PATH=/bin"}}, r"array.*config\.Env"),
        ({"config": {"Cmd": [1]}}, r"config\.Cmd"),
        ({"history": {}}, "history"),
    ],
)
def test_a_config_against_the_format_is_refused(change: Json, problem: str) -> None:
    with pytest.raises(InvalidImage, match=problem):
        parse_config(encoded(config(**change)), WHAT, parsed_manifest(manifest()))


def test_a_root_of_another_kind_is_not_supported() -> None:
    with pytest.raises(NotSupported, match=r"rootfs\.type is 'layers\+base'"):
        parse_config(encoded(config(rootfs={"type": "layers+base"})), WHAT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe{}",
        b'{"schemaVersion": 2',
        b'{"schemaVersion": 2} x',
        b'{"a": NaN}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a":' * 50_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"schemaVersion": 1e999}',
        b" " * (4 << 20) + b"{}",
    ],
)
def test_bytes_that_are_no_document_are_refused(data: bytes) -> None:
    for parse in (parse_document, parse_config):
        with pytest.raises(InvalidImage):
            parse(data, WHAT)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
KEYS = st.sampled_from(
    "schemaVersion mediaType config layers manifests digest size urls annotations data platform artifactType subject os"
    " architecture variant rootfs type diff_ids history created empty_layer Env Cmd User Labels ExposedPorts".split()
)
VALUES = LEAVES | st.sampled_from([2, digest_of(b""), *sorted(media_types.DOCUMENTS), media_types.OCI_CONFIG, "layers"])
ANY = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
LOOSE = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mutated(document: Any, path: list[int], value: Any) -> Any:
    """The document with what is found along a path replaced."""
    if not path or not isinstance(document, (dict, list)) or not document:
        return value
    if isinstance(document, dict):
        chosen = list(document)[path[0] % len(document)]
        return document | {chosen: mutated(document[chosen], path[1:], value)}
    place = path[0] % len(document)
    return [*document[:place], mutated(document[place], path[1:], value), *document[place + 1 :]]


SEEDS = [manifest(), index(entry("linux/amd64"), entry("linux/arm/v7")), config()]


def is_read_or_refused(data: bytes) -> None:
    for parse in (parse_document, parse_config):
        try:
            found = parse(data, WHAT)
        except (InvalidImage, NotSupported):
            continue
        if isinstance(found, Manifest):
            try:
                check_image(found, WHAT)
            except (InvalidImage, NotSupported):
                continue
        for each in [*getattr(found, "layers", []), *getattr(found, "manifests", [])]:
            assert each.digest.partition(":")[2].isalnum()
            assert each.size >= 0


@LOOSE
@given(st.sampled_from(SEEDS), st.lists(st.integers(0, 20), max_size=5), ANY)
def test_a_changed_document_is_read_or_refused(document: Json, path: list[int], value: Any) -> None:
    is_read_or_refused(encoded(mutated(document, path, value)))


@LOOSE
@given(st.dictionaries(KEYS, ANY, max_size=6))
def test_any_object_is_read_or_refused(document: Json) -> None:
    is_read_or_refused(encoded(document))


@LOOSE
@given(st.sampled_from(SEEDS).map(encoded), st.integers(0, 2000), st.binary(max_size=6), st.integers(0, 5))
def test_changed_bytes_are_read_or_refused(data: bytes, place: int, new: bytes, removed: int) -> None:
    place %= len(data)
    is_read_or_refused(data[:place] + new + data[place + removed :])


def test_the_samples_are_images() -> None:
    data = json.dumps(config()).encode()
    check_image(parsed_manifest(manifest(data)), WHAT)
    parse_config(data, WHAT, parsed_manifest(manifest(data)))
    parsed_index(index(entry("linux/amd64")))
