"""Real registries: docker's, on this machine, without TLS, with TLS and passwords, and with a token service."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "ann", "pass:word"


class Registry:
    """A registry that runs. `home` is a home directory in which its authority is trusted."""

    def __init__(self, host: str, folder: Path) -> None:
        self.host = host
        self.home = folder / "home"
        self.data = folder / "data"


def run(*command: str | Path, given: bytes = b"") -> bytes:
    """What a program writes."""
    return subprocess.run(command, input=given, check=True, capture_output=True).stdout


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for this machine, signed by itself, and its key."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert),
    )
    return cert, key


@contextmanager
def registry(folder: Path, *, name: str = "127.0.0.1", http: Any = None, auth: Any = None) -> Iterator[Registry]:
    """Run a registry with its data in this folder."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Registry(f"{name}:{port}", folder)
    settings = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(made.data)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}", **(http or {})},
        **({"auth": auth} if auth else {}),
    }
    file = folder / "config.yml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    command = ["docker-registry", "serve", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if "listening on" in line:
                break
        else:
            raise AssertionError(f"the registry did not start: {''.join(said)}")
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        yield made
    finally:
        process.kill()
        process.wait()
        if said and "listening on" in said[-1]:
            drain.join()
        process.stderr.close()


@contextmanager
def registry_with_passwords(folder: Path) -> Iterator[Registry]:
    """A registry with TLS, that wants user and password."""
    folder.mkdir(exist_ok=True)
    cert, key = certificate(folder, "registry")
    passwords = folder / "htpasswd"
    passwords.write_bytes(run("htpasswd", "-Bbn", "-C", "4", USER, PASSWORD))
    tls = {"tls": {"certificate": str(cert), "key": str(key)}}
    basic = {"htpasswd": {"realm": "real", "path": str(passwords)}}
    with registry(folder, name="localhost", http=tls, auth=basic) as made:
        trusted = made.home / ".config/containers/certs.d" / made.host
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes(cert.read_bytes())
        yield made


class TokenService(ThreadingHTTPServer):
    """Gives tokens that a registry takes, signed by openssl. `first_life` is how long the first one is taken."""

    daemon_threads = True
    registry_grace = 60  # seconds after its end in which docker's registry still takes a token

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Tokens)
        self.realm = f"http://127.0.0.1:{self.server_address[1]}/token"
        self.cert, self.key = certificate(folder, "tokens")
        self.scopes: list[list[str]] = []
        self.first_life = 300.0

    def token(self, scopes: list[str]) -> str:
        """A token for these scopes."""
        now = int(time.time())
        life = self.first_life if not self.scopes else 300.0
        self.scopes.append(scopes)
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        der = run("openssl", "x509", "-in", self.cert, "-outform", "DER")
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": "tokens",
            "sub": USER,
            "aud": "registry",
            "exp": int(now + life - self.registry_grace),
            "nbf": now - 100,
            "iat": now - 100,
            "jti": str(len(self.scopes)),
            "access": access,
        }
        signed = f"{_part(json.dumps(head).encode())}.{_part(json.dumps(claims).encode())}"
        signature = run("openssl", "dgst", "-sha256", "-sign", self.key, given=signed.encode())
        return f"{signed}.{_part(signature)}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Tokens(BaseHTTPRequestHandler):
    server: TokenService

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        wanted = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        query = parse_qs(urlsplit(self.path).query)
        allowed = self.headers.get("Authorization") == wanted and query.get("service") == ["registry"]
        data = b'{"details": "incorrect username or password"}'
        if allowed:
            data = json.dumps({"token": self.server.token(query.get("scope", [])), "expires_in": 300}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def registry_with_tokens(folder: Path) -> Iterator[tuple[Registry, TokenService]]:
    """A registry that wants tokens, and the service that gives them."""
    folder.mkdir(exist_ok=True)
    service = TokenService(folder)
    thread = threading.Thread(target=service.serve_forever, args=(0.01,))
    thread.start()
    settings = {
        "realm": service.realm,
        "service": "registry",
        "issuer": "tokens",
        "rootcertbundle": str(service.cert),
    }
    try:
        with registry(folder, auth={"token": settings}) as made:
            yield made, service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()
