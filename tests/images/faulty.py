"""A registry that does what a test says: it serves what it is given, and fails as no real one can be made to."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from longshore.images import media_types
from longshore.images.digests import digest_of


class Seen:
    """A request that came."""

    def __init__(self, handler: Handler) -> None:
        self.method = handler.command
        self.path = handler.path
        self.headers = {name.lower(): value for name, value in handler.headers.items()}

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"


class Handler(BaseHTTPRequestHandler):
    """One connection to the registry."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: FaultyRegistry

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()
            return
        self.close_connection = True

    def body(self) -> bytes:
        """The body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        """Answer as a registry should."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str = "UNKNOWN", message: str = "", **headers: str) -> None:
        """Answer with an error as registries write it."""
        data = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.answer(status, data, Content_Type="application/json", **headers)

    def begin(self, status: int, **headers: str) -> None:
        """Send a head; the test sends the body itself."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def cut(self) -> None:
        """End the connection amid an answer."""
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def hang(self) -> None:
        """Say nothing until the test is over, or the other side is gone."""
        self.wfile.flush()
        self.server.over.wait(30)
        self.close_connection = True

    def serve(self) -> None:
        """Answer by the rule for this request, else as a registry does."""
        self.server.seen.append(Seen(self))
        for rule in list(self.server.rules):
            if rule.takes(self):
                rule.act(self)
                return
        self.server.registry(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = serve


class Rule:
    """What happens to requests that fit, so many times."""

    def __init__(self, method: str, pattern: str, act: Callable[[Handler], object], times: int | None) -> None:
        self._method = method
        self._pattern = re.compile(pattern)
        self._times = times
        self._lock = threading.Lock()
        self.act = act

    def takes(self, handler: Handler) -> bool:
        with self._lock:
            if handler.command not in self._method.split("|") or not self._pattern.search(handler.path):
                return False
            if self._times is None:
                return True
            self._times -= 1
            return self._times >= 0


class FaultyRegistry(ThreadingHTTPServer):
    """A registry on this machine, without TLS. `rules` come before what a registry does."""

    daemon_threads = False  # the end of the registry waits for all connections: clients have to close theirs

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.rules: list[Rule] = []
        self.seen: list[Seen] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.over = threading.Event()
        self.ranges = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away

    def on(self, method: str, pattern: str, act: Callable[[Handler], object], times: int | None = None) -> None:
        """Have requests that fit (methods with `|` between them) answered so, the first `times` of them."""
        self.rules.append(Rule(method, pattern, act, times))

    def requests(self, method: str = "", pattern: str = "") -> list[Seen]:
        """The requests that came, of a method and with a path that fits."""
        return [each for each in list(self.seen) if method in each.method and re.search(pattern, each.path)]

    def add_blob(self, data: bytes) -> str:
        """Have a blob; its digest is returned."""
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def add_manifest(self, data: bytes, *references: str, media_type: str = media_types.OCI_MANIFEST) -> str:
        """Have a manifest, by its digest and these tags."""
        for each in (digest_of(data), *references):
            self.manifests[each] = (data, media_type)
        return digest_of(data)

    def registry(self, handler: Handler) -> None:
        """Do what a registry does, as far as a client needs it."""
        path, _, query = handler.path.partition("?")
        method, _, reference = path.rpartition("/")
        if path == "/v2/":
            handler.answer(200, b"{}")
        elif method.endswith("/manifests"):
            self._manifest(handler, reference)
        elif method.endswith("/uploads") or "/uploads/" in path:
            self._upload(handler, path, query)
        elif method.endswith("/blobs"):
            self._blob(handler, reference)
        else:
            handler.refuse(404, "NAME_UNKNOWN", "no such thing")

    def _manifest(self, handler: Handler, reference: str) -> None:
        if handler.command == "PUT":
            data = handler.body()
            self.add_manifest(data, reference, media_type=handler.headers["Content-Type"])
            handler.answer(201, Docker_Content_Digest=digest_of(data))
        elif reference in self.manifests:
            data, media_type = self.manifests[reference]
            handler.answer(200, data, Content_Type=media_type, Docker_Content_Digest=digest_of(data))
        else:
            handler.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")

    def _blob(self, handler: Handler, digest: str) -> None:
        data = self.blobs.get(digest)
        if data is None:
            handler.refuse(404, "BLOB_UNKNOWN", "blob unknown")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if wanted and self.ranges:
            start = int(wanted[1])
            told = f"bytes {start}-{len(data) - 1}/{len(data)}"
            handler.answer(206, data[start:], Content_Range=told)
        else:
            handler.answer(200, data)

    def _upload(self, handler: Handler, path: str, query: str) -> None:
        if handler.command == "POST":
            mount = re.search(r"mount=(sha256(?::|%3A)[0-9a-f]{64})", query)
            if mount and mount[1].replace("%3A", ":") in self.blobs:
                handler.answer(201)
                return
            name = f"{path.rstrip('/')}/{len(self.uploads)}"
            self.uploads[name] = bytearray()
            handler.answer(202, Location=f"{name}?_state=a%2Fb")
            return
        assert query.startswith("_state=a%2Fb"), f"the query of the Location is lost: {query}"
        self.uploads[path] += handler.body()
        if handler.command == "PATCH":
            handler.answer(202, Location=f"{path}?_state=a%2Fb")
            return
        self.add_blob(bytes(self.uploads[path]))
        handler.answer(201)


@contextmanager
def faulty_registry() -> Iterator[FaultyRegistry]:
    """A registry for one test."""
    server = FaultyRegistry()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
