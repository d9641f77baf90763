"""docker's own registry: what is pushed is there byte for byte, and each kind of authorization is passed."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from longshore.errors import ImageNotFound, RegistryAuthError, RegistryUnreachable
from longshore.images import media_types
from longshore.images.digests import digest_of
from longshore.images.documents import Manifest, parse_config, parse_document
from longshore.images.registry import login
from longshore.images.registry.credentials import Credentials
from longshore.images.registry.interrupts import Interrupt
from longshore.images.registry.repository import RegistryState
from longshore.images.registry.sources import Source, open_registry
from longshore.images.registry.uploads import push_blob, push_manifest

from .clients import blob_of, source, state
from .real import (
    PASSWORD,
    USER,
    Registry,
    TokenService,
    certificate,
    registry,
    registry_with_passwords,
    registry_with_tokens,
)
from .samples import config, descriptor, encoded, entry, index, manifest

pytestmark = pytest.mark.real

LAYERS = [random.Random(1).randbytes(3_000_000), b"second layer", b""]
CONFIG = encoded(config(3))
MANIFEST = encoded(
    manifest(CONFIG, mediaType=media_types.OCI_MANIFEST) | {"layers": [descriptor(each) for each in LAYERS]}
)
INDEX = encoded(index(entry("linux/amd64", MANIFEST)))
KNOWN = Credentials(USER, PASSWORD)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_with_passwords(tmp_path_factory.mktemp("secure")) as made:
        yield made


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[tuple[Registry, TokenService]]:
    with registry_with_tokens(tmp_path / "tokens") as made:
        yield made


def push(host: str, path: str = "team/app", *, mount_from: str | None = None, **given: Any) -> list[str]:
    """Push the sample, and return how each blob came there."""
    with source(f"{host}/{path}", push=True, mount_from=mount_from, **given) as opened:
        outcomes = [
            push_blob(opened.origin, blob_of(each), lambda each=each: io.BytesIO(each), mount_from=mount_from)  # type: ignore[misc]
            for each in [*LAYERS, CONFIG]
        ]
        push_manifest(opened.origin, MANIFEST, media_types.OCI_MANIFEST, digest_of(MANIFEST), digest_of(MANIFEST))
        push_manifest(opened.origin, INDEX, media_types.OCI_INDEX, "v1", digest_of(INDEX))
        return [str(each) for each in outcomes]


def check_pull(host: str, path: str = "team/app", **given: Any) -> None:
    """Pull the sample, and compare each byte of it."""
    with source(f"{host}/{path}:v1", **given) as opened:
        assert opened.digest_of_tag("v1") == digest_of(INDEX)
        received, repository = opened.manifest("v1")
        assert (received.data, received.content_type) == (INDEX, media_types.OCI_INDEX)
        inner, _ = opened.manifest(digest_of(MANIFEST))
        found = parse_document(inner.data, "x", inner.content_type)
        assert isinstance(found, Manifest)
        parse_config(repository.blob(found.config), "x", found)
        for layer, data in zip(found.layers, LAYERS, strict=True):
            with repository.open_blob(layer) as reader:
                assert b"".join(reader) == data
        assert repository.tags() == ["v1"]


def test_what_was_pushed_is_pulled_byte_for_byte(plain: Registry) -> None:
    assert push(plain.host) == ["uploaded"] * 4
    check_pull(plain.host)
    assert push(plain.host) == ["there"] * 4


def test_blobs_are_mounted_from_another_repository(plain: Registry) -> None:
    push(plain.host)
    assert push(plain.host, "team/other", mount_from="team/app") == ["mounted"] * 4
    check_pull(plain.host, "team/other")


def test_a_blob_is_resumed(plain: Registry) -> None:
    push(plain.host)
    with source(f"{plain.host}/team/app") as opened, opened.origin.open_blob(blob_of(LAYERS[0])) as reader:
        first = reader.read()
        reader.close()  # as a broken connection does
        assert first + b"".join(reader) == LAYERS[0]


def test_what_there_is_not_is_named(plain: Registry) -> None:
    push(plain.host)
    with source(f"{plain.host}/team/app:nope") as opened, pytest.raises(ImageNotFound, match="manifest unknown"):
        opened.manifest("nope")
    with source(f"{plain.host}/nobody/nothing") as opened:
        with pytest.raises(ImageNotFound):
            opened.digest_of_tag("latest")
        with pytest.raises(ImageNotFound, match="repository name not known"):
            opened.origin.tags()


def test_a_password_is_passed_by_tls(secure: Registry) -> None:
    known = state(secure.home)
    push(secure.host, credentials=KNOWN, state=known)
    check_pull(secure.host, credentials=KNOWN, state=known)


def test_a_login_is_found_by_the_next_pull(secure: Registry, tmp_path: Path) -> None:
    known = state(secure.home, REGISTRY_AUTH_FILE=str(tmp_path / "auth.json"))
    push(secure.host, credentials=KNOWN, state=known)
    login.store(secure.host, KNOWN, environ=known.environ, uid=None)
    check_pull(secure.host, state=state(secure.home, REGISTRY_AUTH_FILE=str(tmp_path / "auth.json")))


@contextmanager
def as_registry(host: str, known: RegistryState, credentials: Credentials | None) -> Iterator[Source]:
    operation = f"log in to {host}"
    with open_registry(
        host, operation=operation, state=known, interrupt=Interrupt(), credentials=credentials
    ) as opened:
        yield opened


def test_credentials_can_be_tried(secure: Registry) -> None:
    with as_registry(secure.host, state(secure.home), KNOWN) as opened:
        opened.origin.check_access()
    wrong = Credentials(USER, "wrong")
    with as_registry(secure.host, state(secure.home), wrong) as opened, pytest.raises(RegistryAuthError) as refused:
        opened.origin.check_access()
    assert "refuses user `ann` from the call" in str(refused.value)
    assert "wrong" not in str(refused.value)


def test_a_registry_that_wants_a_password_says_where_none_was(secure: Registry) -> None:
    known = state(secure.home)
    with source(f"{secure.host}/team/app", state=known) as opened, pytest.raises(RegistryAuthError) as refused:
        opened.manifest("v1")
    assert f"{secure.home}/.docker/config.json (No such file" in str(refused.value)
    assert f"longshore login {secure.host}" in (refused.value.hint or "")


def test_a_certificate_that_is_not_trusted_is_never_passed_by_http(secure: Registry, tmp_path: Path) -> None:
    name = f"{secure.host}/team/app"
    with (
        source(name, state=state(tmp_path)) as opened,
        pytest.raises(RegistryUnreachable, match="not trusted") as failed,
    ):
        opened.manifest("v1")
    assert f"certs.d/{secure.host}/ca.crt" in (failed.value.hint or "")
    push(secure.host, credentials=KNOWN, state=state(secure.home))
    check_pull(secure.host, credentials=KNOWN, state=state(tmp_path), insecure=True)


def test_this_machine_shows_its_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "registry")
    client, client_key = certificate(tmp_path, "client")
    tls = {"tls": {"certificate": str(cert), "key": str(key), "clientcas": [str(client)]}}
    with registry(tmp_path / "registry", name="localhost", http=tls) as made:
        trusted = made.home / ".config/containers/certs.d" / made.host
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes(cert.read_bytes())
        unwelcome = pytest.raises(RegistryUnreachable, match=r"TLS failed|broke|reset")
        with source(f"{made.host}/a", state=state(made.home)) as opened, unwelcome:
            opened.manifest("v1")
        (trusted / "client.cert").write_bytes(client.read_bytes())
        (trusted / "client.key").write_bytes(client_key.read_bytes())
        push(made.host, state=state(made.home))
        check_pull(made.host, state=state(made.home))


def test_tokens_are_for_what_is_done(tokens: tuple[Registry, TokenService]) -> None:
    made, service = tokens
    push(made.host, credentials=KNOWN)
    assert service.scopes == [["repository:team/app:pull,push"]]
    known = state()
    push(made.host, "team/other", mount_from="team/app", credentials=KNOWN, state=known)
    assert service.scopes[1:] == [["repository:team/app:pull", "repository:team/other:pull,push"]]
    check_pull(made.host, "team/other", credentials=KNOWN, state=known)
    assert service.scopes[2:] == [["repository:team/other:pull"]]


def test_a_token_that_ends_is_renewed(tokens: tuple[Registry, TokenService]) -> None:
    made, service = tokens
    push(made.host, credentials=KNOWN)
    service.scopes.clear()
    service.first_life = 1.5  # and the service says 300
    with source(f"{made.host}/team/app", credentials=KNOWN) as opened:
        end = time.monotonic() + 30
        while len(service.scopes) < 2 and time.monotonic() < end:
            assert opened.manifest("v1")[0].data == INDEX
    assert len(service.scopes) == 2


def test_a_wrong_password_is_refused_by_the_token_service(tokens: tuple[Registry, TokenService]) -> None:
    made, _ = tokens
    with (
        source(f"{made.host}/team/app", credentials=Credentials(USER, "wrong")) as opened,
        pytest.raises(RegistryAuthError, match="refuses user `ann` from the call"),
    ):
        opened.manifest("v1")
    with source(f"{made.host}/team/app") as opened, pytest.raises(RegistryAuthError, match="wants credentials"):
        opened.manifest("v1")
