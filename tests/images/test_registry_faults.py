"""What registries do to a pull: they cut, stall, lie, redirect, limit, and forget tokens amid a layer."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longshore.errors import (
    ImageNotFound,
    InvalidImage,
    LongshoreError,
    RegistryAuthError,
    RegistryError,
    RegistryUnreachable,
)
from longshore.images.digests import digest_of, new_hash
from longshore.images.documents import Descriptor
from longshore.images.registry.credentials import Credentials
from longshore.images.registry.interrupts import Interrupt, Interrupted
from longshore.images.registry.registries_conf import Configuration, Mirror, Registry
from longshore.images.registry.uploads import CHUNK, push_blob, push_manifest

from .clients import QUICK, blob_of, source, state
from .faulty import FaultyRegistry, Handler, faulty_registry
from .samples import encoded, manifest

DATA = bytes(range(256)) * 20_000  # 5 MB
MANIFEST = encoded(manifest())
SHORT = msgspec.structs.replace(QUICK, idle=0.05, answer=0.1, connect=2, document=0.2, tries=3)


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with faulty_registry() as server:
        server.add_blob(DATA)
        server.add_manifest(MANIFEST, "latest")
        yield server


@pytest.fixture
def elsewhere() -> Iterator[FaultyRegistry]:
    """A second host, such as a store of blobs."""
    with faulty_registry() as server:
        server.host = server.host.replace("127.0.0.1", "localhost")
        server.add_blob(DATA)
        yield server


def image(registry: FaultyRegistry) -> str:
    return f"{registry.host}/team/app"


def pulled(registry: FaultyRegistry, descriptor: Descriptor | None = None, **given: Any) -> bytes:
    """The blob, as a pull reads it."""
    with source(image(registry), **given) as opened, opened.origin.open_blob(descriptor or blob_of(DATA)) as reader:
        return b"".join(reader)


# --- what there is -------------------------------------------------------------------------------------------------


def test_a_manifest_and_a_blob_are_read_and_verified(registry: FaultyRegistry) -> None:
    with source(image(registry)) as opened:
        assert opened.digest_of_tag("latest") == digest_of(MANIFEST)
        received, repository = opened.manifest("latest")
        assert (received.data, received.digest) == (MANIFEST, digest_of(MANIFEST))
        assert repository is opened.origin
        with repository.open_blob(blob_of(DATA)) as reader:
            assert b"".join(reader) == DATA
    accepted = registry.requests("GET", "manifests")[0].headers["accept"]
    assert len(re.findall(r"manifest\.v\d|index\.v1|manifest\.list", accepted)) == 4


def test_one_connection_serves_one_request_after_another(registry: FaultyRegistry) -> None:
    with source(image(registry)) as opened:
        opened.digest_of_tag("latest")
        before = len(registry.seen)
        for _ in range(3):
            opened.manifest("latest")
            opened.blob(blob_of(b""))
    assert len(registry.seen) == before + 3, "an empty blob is not asked for"


def test_what_is_missing_is_named(registry: FaultyRegistry) -> None:
    with source(image(registry)) as opened:
        with pytest.raises(ImageNotFound, match=f"no image `{image(registry)}:latest` at the registry") as missing:
            opened.manifest("v9")
        assert "manifest unknown" in str(missing.value)
        with pytest.raises(ImageNotFound):
            opened.digest_of_tag("v9")
        with pytest.raises(RegistryError, match=r"has no blob sha256:.* \(blob unknown\)"):
            opened.blob(blob_of(b"other"))


# --- wrong content ---------------------------------------------------------------------------------------------------


def test_a_manifest_of_another_digest_is_refused(registry: FaultyRegistry) -> None:
    wanted = digest_of(b"other")
    registry.manifests[wanted] = (MANIFEST, "application/json")
    with source(image(registry)) as opened, pytest.raises(InvalidImage, match=f"in the place of {wanted}"):
        opened.manifest(wanted)


def test_wrong_bytes_of_a_blob_are_an_error_before_its_last_piece(registry: FaultyRegistry) -> None:
    registry.blobs[digest_of(DATA)] = DATA[:-1] + b"x"
    got = bytearray()
    with source(image(registry)) as opened, opened.origin.open_blob(blob_of(DATA)) as reader:
        with pytest.raises(InvalidImage, match="sends sha256:"):
            for piece in reader:
                got += piece
        assert len(got) < len(DATA)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_blob_of_another_size_is_refused(registry: FaultyRegistry, change: int) -> None:
    wrong = msgspec.structs.replace(blob_of(DATA), size=len(DATA) + change)
    with pytest.raises(InvalidImage, match=f"has {len(DATA)} bytes of it, and its size is {len(DATA) + change}"):
        pulled(registry, wrong)


def test_a_blob_without_an_end_is_refused_at_its_size(registry: FaultyRegistry) -> None:
    def endless(handler: Handler) -> None:
        handler.begin(200, Transfer_Encoding="chunked")
        while True:
            handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    registry.on("GET", "blobs", endless)
    with pytest.raises(InvalidImage, match="more bytes than"):
        pulled(registry, blob_of(bytes(100_000)))


@pytest.mark.parametrize("path", ["manifests", "token"])
def test_a_document_without_an_end_is_refused(registry: FaultyRegistry, path: str) -> None:
    def endless(handler: Handler) -> None:
        handler.begin(200, Transfer_Encoding="chunked")
        while True:
            handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    registry.on("GET", "/token", endless)
    if path == "token":
        challenge = f'Bearer realm="http://{registry.host}/token"'
        registry.on("GET", "manifests", lambda handler: handler.refuse(401, WWW_Authenticate=challenge))
    else:
        registry.on("GET", "manifests", endless)
    with source(image(registry)) as opened, pytest.raises(InvalidImage, match="more than"):
        opened.manifest("latest")


def test_an_encoding_of_the_answer_is_not_undone(registry: FaultyRegistry) -> None:
    registry.on("GET", "blobs", lambda handler: handler.answer(200, DATA, Content_Encoding="gzip"))
    assert pulled(registry) == DATA


# --- broken connections ----------------------------------------------------------------------------------------------


def cut_after(count: int) -> Any:
    def act(handler: Handler) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        told = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        handler.begin(206 if start else 200, Content_Length=str(len(DATA) - start), Content_Range=told)
        handler.wfile.write(DATA[start : start + count])
        handler.cut()

    return act


def test_a_cut_connection_is_resumed_where_it_was(registry: FaultyRegistry) -> None:
    registry.on("GET", "blobs", cut_after(1_000_000), times=2)
    assert pulled(registry) == DATA
    assert [each.headers.get("range") for each in registry.requests("GET", "blobs")] == [
        None,
        "bytes=1000000-",
        "bytes=2000000-",
    ]


def test_a_registry_without_ranges_is_read_from_the_start_again(registry: FaultyRegistry) -> None:
    registry.ranges = False
    registry.on("GET", "blobs", cut_after(1_000_000), times=1)
    assert pulled(registry) == DATA


def test_progress_begins_the_count_of_tries_anew(registry: FaultyRegistry) -> None:
    registry.on("GET", "blobs", cut_after(150_000))
    limits = msgspec.structs.replace(QUICK, progress=100_000, tries=2)
    assert pulled(registry, state=state(limits=limits)) == DATA
    assert len(registry.requests("GET", "blobs")) > 30


def test_a_connection_that_is_always_cut_is_given_up(registry: FaultyRegistry) -> None:
    registry.on("GET", "blobs", cut_after(10))
    with pytest.raises(RegistryUnreachable, match="no answer from the registry") as failed:
        pulled(registry)
    assert len(registry.requests("GET", "blobs")) == QUICK.tries
    assert failed.value.hint is not None


def test_a_partial_blob_is_completed(registry: FaultyRegistry) -> None:
    hash_ = new_hash(digest_of(DATA))
    hash_.update(DATA[:1000])
    with source(image(registry)) as opened:
        with opened.origin.open_blob(blob_of(DATA), start=1000, hash_=hash_) as reader:
            assert b"".join(reader) == DATA[1000:]
        damaged = new_hash(digest_of(DATA))
        damaged.update(b"x" * 1000)
        with (
            opened.origin.open_blob(blob_of(DATA), start=1000, hash_=damaged) as reader,
            pytest.raises(InvalidImage, match="sends sha256:"),
        ):
            b"".join(reader)


def test_a_range_that_was_not_asked_for_is_refused(registry: FaultyRegistry) -> None:
    registry.on("GET", "blobs", cut_after(1000), times=1)
    wrong = f"bytes 2000-{len(DATA) - 1}/{len(DATA)}"
    registry.on("GET", "blobs", lambda handler: handler.answer(206, DATA[2000:], Content_Range=wrong))
    with pytest.raises(RegistryError, match="another range"):
        pulled(registry)


# --- silence ---------------------------------------------------------------------------------------------------------


def silent(handler: Handler) -> None:
    handler.hang()


def silent_amid_a_body(handler: Handler) -> None:
    handler.begin(200, Content_Length=str(len(DATA)))
    handler.wfile.write(DATA[:1000])
    handler.hang()


def drips_its_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.over.wait(0.01):
        handler.wfile.write(b"X: y\r\n")


def drips_its_body(handler: Handler) -> None:
    handler.begin(200, Content_Length=str(len(DATA)))
    while not handler.server.over.wait(0.01):
        handler.wfile.write(b"x")


@pytest.mark.parametrize("act", [silent, silent_amid_a_body, drips_its_head, drips_its_body])
def test_a_registry_that_stalls_is_given_up(registry: FaultyRegistry, act: Any) -> None:
    registry.on("GET", "blobs|manifests", act)
    known = state(limits=SHORT)
    with source(image(registry), state=known) as opened:
        with pytest.raises(RegistryUnreachable, match=r"silent for too long|sent \d+ bytes in"):
            b"".join(opened.origin.open_blob(blob_of(DATA)))
        with pytest.raises((RegistryUnreachable, InvalidImage)):
            opened.manifest("latest")


def blob_in_a_thread(registry: FaultyRegistry, interrupt: Interrupt) -> tuple[threading.Thread, list[BaseException]]:
    ended: list[BaseException] = []

    def work() -> None:
        try:
            pulled(registry, interrupt=interrupt)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, ended


@pytest.mark.parametrize("act", [silent, silent_amid_a_body, drips_its_body])
def test_a_read_that_waits_can_be_interrupted(registry: FaultyRegistry, act: Any) -> None:
    arrived = threading.Event()

    def arrive(handler: Handler) -> None:
        arrived.set()
        act(handler)

    registry.on("GET", "blobs", arrive)
    interrupt = Interrupt()
    thread, ended = blob_in_a_thread(registry, interrupt)
    assert arrived.wait(10)
    interrupt.set()
    thread.join(10)
    assert [type(each) for each in ended] == [Interrupted]


def test_a_pause_before_another_try_can_be_interrupted(registry: FaultyRegistry) -> None:
    arrived = threading.Event()

    def busy(handler: Handler) -> None:
        handler.refuse(429, Retry_After="5")
        arrived.set()

    registry.on("GET", "blobs", busy)
    interrupt = Interrupt()
    thread, ended = blob_in_a_thread(registry, interrupt)
    assert arrived.wait(10)
    interrupt.set()
    thread.join(4)
    assert [type(each) for each in ended] == [Interrupted]


def test_an_answer_that_ends_its_connection_can_be_interrupted(registry: FaultyRegistry) -> None:
    def last(handler: Handler) -> None:
        handler.begin(200, Content_Length=str(len(DATA)), Connection="close")
        handler.wfile.write(DATA[:10])
        handler.hang()

    registry.on("GET", "blobs", last)
    interrupt = Interrupt()
    with source(image(registry), interrupt=interrupt) as opened, opened.origin.open_blob(blob_of(DATA)) as reader:
        assert reader.read() == DATA[:10]
        threading.Timer(0.01, interrupt.set).start()
        with pytest.raises(Interrupted):
            reader.read()
    assert not interrupt._handles, "no descriptor of a connection is left"


# --- busy registries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(registry: FaultyRegistry, status: int) -> None:
    registry.on("GET", "", lambda handler: handler.refuse(status, Retry_After="0"), times=2)
    with source(image(registry)) as opened:
        opened.digest_of_tag("latest")
        assert opened.manifest("latest")[0].data == MANIFEST


def test_a_limit_is_told_with_what_to_do(registry: FaultyRegistry) -> None:
    registry.on("GET", "", lambda handler: handler.refuse(429, "TOOMANYREQUESTS", "you have reached\nyour limit"))
    with source(image(registry)) as opened, pytest.raises(RegistryError, match="answers 429: you have reached") as late:
        opened.manifest("latest")
    assert (late.value.status, late.value.code) == (429, "TOOMANYREQUESTS")
    assert "longshore login" in (late.value.hint or "")


def test_a_long_pause_that_is_asked_for_is_not_made(registry: FaultyRegistry) -> None:
    registry.on("GET", "", lambda handler: handler.refuse(429, Retry_After="86400"))
    with source(image(registry)) as opened, pytest.raises(RegistryError, match="answers 429"):
        opened.manifest("latest")
    assert len(registry.requests("GET")) == 1


@pytest.mark.parametrize("status", [400, 405, 418, 501])
def test_other_refusals_are_final(registry: FaultyRegistry, status: int) -> None:
    registry.on("GET", "", lambda handler: handler.refuse(status, "UNSUPPORTED", "no \x1b[31mway"))
    with source(image(registry)) as opened, pytest.raises(RegistryError, match=f"answers {status}") as refused:
        opened.manifest("latest")
    assert len(registry.requests("GET")) == 1
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"errors": [7]}', b"\xff" * 100, b"[" * 90_000])
def test_an_error_may_have_any_body(registry: FaultyRegistry, body: bytes) -> None:
    registry.on("GET", "", lambda handler: handler.answer(403, body))
    with source(image(registry)) as opened, pytest.raises(RegistryAuthError):
        opened.manifest("latest")


# --- redirects -------------------------------------------------------------------------------------------------------

SECRET = Credentials("user", "secret")


def with_password(registry: FaultyRegistry) -> None:
    """Have the registry want user and password of every request."""

    def ask(handler: Handler) -> None:
        if handler.headers.get("Authorization") == "Basic dXNlcjpzZWNyZXQ=":
            handler.server.registry(handler)
        else:
            handler.refuse(401, "UNAUTHORIZED", "who are you", WWW_Authenticate='Basic realm="x"')

    registry.on("GET|HEAD|POST|PUT|PATCH", "", ask)


def redirect(target: FaultyRegistry, status: int = 307) -> Any:
    def act(handler: Handler) -> None:
        handler.answer(status, Location=f"http://{target.host}{handler.path}?X-Signature=s")

    return act


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_another_host_gets_no_credentials(registry: FaultyRegistry, elsewhere: FaultyRegistry, status: int) -> None:
    registry.on("GET", "blobs/sha256", lambda handler: authorized_redirect(handler, elsewhere, status))
    with_password(registry)
    assert pulled(registry, credentials=SECRET) == DATA
    assert [each.headers.get("authorization") for each in registry.requests("GET", "blobs")][-1] is not None
    assert [each.headers.get("authorization") for each in elsewhere.seen] == [None]


def authorized_redirect(handler: Handler, target: FaultyRegistry, status: int) -> None:
    if handler.headers.get("Authorization"):
        redirect(target, status)(handler)
    else:
        handler.refuse(401, WWW_Authenticate='Basic realm="x"')


def test_another_port_of_the_same_host_gets_no_credentials(registry: FaultyRegistry) -> None:
    with faulty_registry() as neighbour:
        neighbour.add_blob(DATA)
        registry.on("GET", "blobs/sha256", lambda handler: authorized_redirect(handler, neighbour, 307))
        assert pulled(registry, credentials=SECRET) == DATA
        assert [each.headers.get("authorization") for each in neighbour.seen] == [None]


def test_the_same_host_keeps_them(registry: FaultyRegistry) -> None:
    registry.on("GET", "^/v2/team/app/blobs", lambda handler: handler.answer(307, Location="/v2/moved/blobs/" + DIGEST))
    with_password(registry)
    assert pulled(registry, credentials=SECRET) == DATA


DIGEST = digest_of(DATA)


def test_an_address_that_has_ended_is_asked_for_anew(registry: FaultyRegistry, elsewhere: FaultyRegistry) -> None:
    registry.on("GET", "blobs/sha256", redirect(elsewhere))
    elsewhere.on("GET", "", cut_after(1_000_000), times=1)
    elsewhere.on("GET", "", lambda handler: handler.answer(403, b"<Error>Request has expired</Error>"), times=1)
    assert pulled(registry) == DATA
    assert len(registry.requests("GET", "blobs")) == len(elsewhere.seen) == 3


def test_redirects_without_end_are_refused(registry: FaultyRegistry) -> None:
    registry.on("GET", "", lambda handler: handler.answer(302, Location=handler.path))
    with pytest.raises(RegistryError, match="more than 10"):
        pulled(registry)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x", "http://[x", "http://:80/"])
def test_redirects_lead_to_http_only(registry: FaultyRegistry, location: str) -> None:
    registry.on("GET", "", lambda handler: handler.answer(302, Location=location))
    with pytest.raises((RegistryError, RegistryUnreachable), match=r"no address of http|not valid"):
        pulled(registry)


# --- uploads ---------------------------------------------------------------------------------------------------------


def push(registry: FaultyRegistry, data: bytes, tmp_path: Path, **given: Any) -> tuple[str, list[int]]:
    file = tmp_path / "blob"
    file.write_bytes(data)
    sent: list[int] = []
    with source(image(registry), push=True, **given) as opened:
        outcome = push_blob(
            opened.origin,
            blob_of(data),
            lambda: file.open("rb"),
            mount_from=given.get("mount_from"),
            progress=sent.append,
        )
    return outcome, sent


def test_a_blob_that_is_there_is_not_sent(registry: FaultyRegistry, tmp_path: Path) -> None:
    assert push(registry, DATA, tmp_path) == ("there", [])
    assert [each.method for each in registry.seen] == ["HEAD"]


def test_a_blob_is_sent_in_one_request(registry: FaultyRegistry, tmp_path: Path) -> None:
    outcome, sent = push(registry, DATA[1:], tmp_path)
    assert (outcome, sent[-1]) == ("uploaded", len(DATA) - 1)
    assert registry.blobs[digest_of(DATA[1:])] == DATA[1:]
    assert len(registry.requests("PUT")) == 1


def test_a_blob_of_another_repository_is_mounted(registry: FaultyRegistry, tmp_path: Path) -> None:
    registry.on("HEAD", "blobs", lambda handler: handler.refuse(404))
    assert push(registry, DATA, tmp_path, mount_from="team/base")[0] == "mounted"
    assert registry.requests("POST")[0].path.endswith("&from=team%2Fbase")
    assert push(registry, DATA[1:], tmp_path, mount_from="team/base")[0] == "uploaded"


def test_a_body_that_is_too_long_is_sent_in_chunks(registry: FaultyRegistry, tmp_path: Path) -> None:
    def too_long(handler: Handler) -> None:
        if int(handler.headers["Content-Length"]) > CHUNK:
            handler.body()
            handler.refuse(413)
        else:
            handler.server.registry(handler)

    data = bytes(CHUNK + 10)
    registry.on("PUT", "uploads", too_long)
    assert push(registry, data, tmp_path)[0] == "uploaded"
    assert [each.headers["content-range"] for each in registry.requests("PATCH")] == [
        f"0-{CHUNK - 1}",
        f"{CHUNK}-{CHUNK + 9}",
    ]
    assert registry.blobs[digest_of(data)] == data


@pytest.mark.parametrize(
    "fault",
    [
        lambda handler: handler.cut(),
        lambda handler: handler.body() and handler.refuse(503),
        lambda handler: handler.refuse(404),
    ],
)
def test_an_upload_that_breaks_begins_anew(registry: FaultyRegistry, tmp_path: Path, fault: Any) -> None:
    registry.on("PUT", "uploads", fault, times=2)
    outcome, sent = push(registry, DATA[1:], tmp_path)
    assert outcome == "uploaded"
    assert sent.count(0) >= 1
    assert len(registry.requests("POST")) == 3
    assert registry.blobs[digest_of(DATA[1:])] == DATA[1:]


def test_a_file_that_is_too_short_is_the_callers_error(registry: FaultyRegistry, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"short")
    with (
        source(image(registry), push=True) as opened,
        pytest.raises(OSError, match="shorter than its descriptor"),
    ):
        push_blob(opened.origin, blob_of(b"longer"), lambda: file.open("rb"))
    assert len(registry.requests("PUT")) <= 1


def test_an_upload_elsewhere_gets_no_credentials(
    registry: FaultyRegistry, elsewhere: FaultyRegistry, tmp_path: Path
) -> None:
    elsewhere.uploads["/v2/team/app/blobs/uploads/0"] = bytearray()
    target = f"http://{elsewhere.host}/v2/team/app/blobs/uploads/0?_state=a%2Fb"
    registry.on("POST", "uploads", lambda handler: handler.answer(202, Location=target))
    with_password(registry)
    assert push(registry, DATA[1:], tmp_path, credentials=SECRET)[0] == "uploaded"
    assert [each.headers.get("authorization") for each in elsewhere.seen] == [None]


def test_a_manifest_is_pushed_as_it_is(registry: FaultyRegistry) -> None:
    data = b'{ "schemaVersion" : 2 }\n'
    with source(image(registry), push=True) as opened:
        push_manifest(opened.origin, data, "application/vnd.x+json", "v2", digest_of(data))
        assert registry.manifests["v2"] == (data, "application/vnd.x+json")
        registry.on("PUT", "", lambda handler: handler.answer(201, Docker_Content_Digest=digest_of(b"other")))
        with pytest.raises(RegistryError, match="has the manifest as"):
            push_manifest(opened.origin, data, "application/vnd.x+json", "v2", digest_of(data))


# --- tokens ----------------------------------------------------------------------------------------------------------


def with_tokens(registry: FaultyRegistry, **more: Any) -> list[str]:
    """Have the registry want a token of its own service; each is good until the next is given. Returns those given."""
    given: list[str] = []

    def token(handler: Handler) -> None:
        handler.body()
        given.append(f"token{len(given)}")
        handler.answer(200, encoded({"token": given[-1], "expires_in": 300, **more}))

    def ask(handler: Handler) -> None:
        if given and handler.headers.get("Authorization") == f"Bearer {given[-1]}":
            handler.server.registry(handler)
        else:
            challenge = (
                f'Bearer realm="http://{handler.server.host}/token?a=b",service="reg",scope="repository:team/app:pull"'
            )
            handler.refuse(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)

    registry.on("GET|POST", "^/token", token)
    registry.on("GET|HEAD|POST|PUT|PATCH", "^/v2", ask)
    return given


def test_one_token_serves_all_requests_of_a_pull(registry: FaultyRegistry) -> None:
    given = with_tokens(registry)
    known = state()
    with source(image(registry), state=known) as opened:
        opened.digest_of_tag("latest")
        opened.manifest("latest")
    assert len(given) == 1
    with source(image(registry), state=known) as opened:
        opened.manifest("latest")
    assert len(given) == 1, "the next operation has it, too"
    path = registry.requests("GET", "^/token")[0].path
    assert path == "/token?a=b&service=reg&scope=repository%3Ateam%2Fapp%3Apull"
    assert "authorization" not in registry.requests("GET", "^/token")[0].headers


def test_a_token_that_dies_amid_a_blob_is_renewed(registry: FaultyRegistry) -> None:
    given = with_tokens(registry)

    def cut_and_forget(handler: Handler) -> None:
        given.append("stolen")
        cut_after(1_000_000)(handler)

    with source(image(registry)) as opened:
        opened.digest_of_tag("latest")
        registry.rules.insert(
            0, __import__("tests.images.faulty", fromlist=["Rule"]).Rule("GET", "blobs", cut_and_forget, 1)
        )
        with opened.origin.open_blob(blob_of(DATA)) as reader:
            assert b"".join(reader) == DATA
    assert len(registry.requests("GET", "^/token")) == 2


def test_three_threads_get_one_new_token(registry: FaultyRegistry) -> None:
    given = with_tokens(registry)
    with source(image(registry)) as opened:
        together = threading.Barrier(3)
        ended: list[object] = []

        def work() -> None:
            together.wait()
            ended.append(opened.manifest("latest")[0].digest)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert ended == [digest_of(MANIFEST)] * 3
    assert len(given) == 1


def test_a_fresh_token_that_is_refused_ends_it(registry: FaultyRegistry) -> None:
    registry.on("GET", "^/token", lambda handler: handler.answer(200, encoded({"token": "t"})))
    challenge = f'Bearer realm="http://{registry.host}/token",error="insufficient_scope"'
    registry.on("GET", "^/v2", lambda handler: handler.refuse(401, "DENIED", "denied", WWW_Authenticate=challenge))
    with source(image(registry), state=state("/home/x")) as opened, pytest.raises(RegistryAuthError) as refused:
        opened.manifest("latest")
    said = str(refused.value)
    assert f"cannot pull `{image(registry)}`: it does not exist, or the registry" in said
    assert "/home/x/.docker/config.json (No such file or directory)" in said
    assert len(registry.requests("GET", "^/token")) == 1


def test_credentials_that_are_refused_are_named_but_not_shown(registry: FaultyRegistry, tmp_path: Path) -> None:
    registry.on("GET", "^/token", lambda handler: handler.refuse(401, "UNAUTHORIZED", "incorrect password"))
    with_tokens(registry)
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_bytes(encoded({"auths": {registry.host: {"auth": "dXNlcjpzZWNyZXQ="}}}))
    with source(image(registry), state=state(tmp_path)) as opened, pytest.raises(RegistryAuthError) as refused:
        opened.manifest("latest")
    said = str(refused.value)
    assert f"refuses user `user` from {tmp_path}/.docker/config.json (incorrect password)" in said
    assert "secret" not in said
    assert "dXNlcjpzZWNyZXQ=" not in said
    assert registry.requests("GET", "^/token")[0].headers["authorization"] == "Basic dXNlcjpzZWNyZXQ="


def test_an_identity_token_is_exchanged(registry: FaultyRegistry) -> None:
    with_tokens(registry)
    with source(image(registry), credentials=Credentials(identity_token="refresh")) as opened:
        opened.manifest("latest")
    assert len(registry.requests("POST", "^/token")) == 1
    assert not registry.requests("GET", "^/token")


def test_a_push_asks_for_more_than_the_challenge_says(registry: FaultyRegistry) -> None:
    with_tokens(registry)
    with source(image(registry), push=True, mount_from="team/base") as opened:
        push_manifest(opened.origin, MANIFEST, "a/b", "v1", digest_of(MANIFEST))
    asked = registry.requests("GET", "^/token")[0].path
    assert "scope=repository%3Ateam%2Fapp%3Apull%2Cpush&scope=repository%3Ateam%2Fbase%3Apull" in asked


@pytest.mark.parametrize("answer", [{}, {"token": ""}, {"token": 5}, {"token": "a\nb"}, {"token": "\u00e9"}])
def test_a_token_service_without_a_token_is_an_error(registry: FaultyRegistry, answer: Any) -> None:
    registry.on("GET", "^/token", lambda handler: handler.answer(200, encoded(answer)))
    with_tokens(registry)
    with source(image(registry)) as opened, pytest.raises(RegistryError, match="gave no token"):
        opened.manifest("latest")


@pytest.mark.parametrize("life", [None, -5, 0, 30, "x", True, 1e308])
def test_any_life_of_a_token_is_taken(registry: FaultyRegistry, life: Any) -> None:
    given = with_tokens(registry, expires_in=life)
    with source(image(registry)) as opened:
        opened.manifest("latest")
        opened.manifest("latest")
    assert len(given) == 1


@pytest.mark.parametrize("realm", ["http://192.0.2.1/token", "ftp://x/", "", "http://"])
def test_credentials_go_to_no_unsafe_token_service(registry: FaultyRegistry, realm: str) -> None:
    registry.on("GET", "", lambda handler: handler.refuse(401, WWW_Authenticate=f'Bearer realm="{realm}"'))
    with (
        source(image(registry), credentials=SECRET) as opened,
        pytest.raises(RegistryAuthError, match=r"without TLS|no address of http"),
    ):
        opened.manifest("latest")


def test_a_kind_of_authorization_that_is_unknown_is_named(registry: FaultyRegistry) -> None:
    registry.on("GET", "", lambda handler: handler.refuse(401, WWW_Authenticate="Negotiate"))
    with source(image(registry)) as opened, pytest.raises(RegistryAuthError, match="not known here: negotiate"):
        opened.manifest("latest")


def test_sudo_is_named_where_home_has_changed(registry: FaultyRegistry, tmp_path: Path) -> None:
    with_password(registry)
    known = state(tmp_path, SUDO_USER="ann")
    with source(image(registry), state=known) as opened, pytest.raises(RegistryAuthError) as refused:
        opened.manifest("latest")
    assert f"(under sudo, HOME is {tmp_path})" in str(refused.value)
    assert refused.value.hint == f"`longshore login {registry.host}`, or give `credentials`"


# --- mirrors and hosts -----------------------------------------------------------------------------------------------


def mirrored(registry: FaultyRegistry, mirror: FaultyRegistry) -> Configuration:
    there = Mirror(location=f"{mirror.host}/mirror")
    return Configuration(registries=[Registry(prefix=registry.host, location=registry.host, mirrors=[there])])


def test_a_mirror_is_asked_first_and_gets_no_credentials_of_the_call(
    registry: FaultyRegistry, elsewhere: FaultyRegistry
) -> None:
    elsewhere.add_manifest(MANIFEST, "latest")
    with source(image(registry), configuration=mirrored(registry, elsewhere), credentials=SECRET) as opened:
        _, repository = opened.manifest("latest")
        assert repository.registry == elsewhere.host
        with repository.open_blob(blob_of(DATA)) as reader:
            assert b"".join(reader) == DATA
    assert registry.seen == []
    assert {each.headers.get("authorization") for each in elsewhere.seen} == {None}
    assert elsewhere.seen[0].path == "/v2/mirror/team/app/manifests/latest"


@pytest.mark.parametrize("fault", ["missing", "wrong", "down", "forbidden"])
def test_a_mirror_that_fails_is_passed_over(registry: FaultyRegistry, elsewhere: FaultyRegistry, fault: str) -> None:
    wanted = digest_of(MANIFEST)
    if fault == "wrong":
        elsewhere.manifests[wanted] = (b"{}", "application/json")
    elif fault == "down":
        elsewhere.on("GET", "", lambda handler: handler.refuse(503))
    elif fault == "forbidden":
        with_password(elsewhere)
    with source(image(registry), configuration=mirrored(registry, elsewhere)) as opened:
        assert opened.manifest(wanted)[1].registry == registry.host
        registry.manifests.clear()
        with pytest.raises(ImageNotFound, match=f"at the registry {registry.host}"):
            opened.manifest(wanted)


def test_a_registry_that_is_down_is_told_soon(registry: FaultyRegistry) -> None:
    with socket.socket() as bound:  # no one listens
        bound.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{bound.getsockname()[1]}"
        with source(f"{host}/app") as opened, pytest.raises(RegistryUnreachable) as failed:
            opened.manifest("latest")
    assert (
        str(failed.value) == f"cannot pull `{host}/app`: no answer from the registry {host}: the connection was refused"
    )


def test_a_host_that_there_is_not_is_told_at_once() -> None:
    with (
        source("no-such-host.invalid/app") as opened,
        pytest.raises(RegistryUnreachable, match="address was not found"),
    ):
        opened.manifest("latest")


def test_http_is_not_tried_where_it_is_refused(registry: FaultyRegistry) -> None:
    with (
        source(image(registry), insecure=False) as opened,
        pytest.raises(RegistryUnreachable, match="TLS") as failed,
    ):
        opened.manifest("latest")
    assert registry.seen == []
    assert "insecure" in (failed.value.hint or "")


# --- proxies ---------------------------------------------------------------------------------------------------------


def test_a_proxy_is_used_but_not_for_this_machine(
    registry: FaultyRegistry, elsewhere: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://ann:pa%40ss@{elsewhere.host}")
    monkeypatch.setenv("https_proxy", f"http://ann:pa%40ss@{elsewhere.host}")
    monkeypatch.setenv("no_proxy", "direct.example")
    with source(image(registry)) as opened:
        opened.manifest("latest")
    assert elsewhere.seen == []
    elsewhere.add_manifest(MANIFEST, "latest")
    with source("registry.example/team/app", insecure=True) as opened:  # https by CONNECT fails, then plain http
        assert opened.manifest("latest")[0].data == MANIFEST
    seen = elsewhere.requests("GET", "manifests")[-1]
    assert seen.path == "http://registry.example/v2/team/app/manifests/latest"
    assert seen.headers["proxy-authorization"] == "Basic YW5uOnBhQHNz"
    with source("registry.example/team/app") as opened, pytest.raises(RegistryUnreachable) as failed:
        opened.manifest("latest")
    assert f"(through the proxy http://{elsewhere.host})" in str(failed.value)


def test_a_proxy_of_another_kind_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with source("registry.example/app") as opened, pytest.raises(LongshoreError, match="a socks5 proxy"):
        opened.manifest("latest")
