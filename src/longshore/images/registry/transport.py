"""HTTP for one operation: requests by urllib3, with redirects, proxies and certificates handled here.

The rules of security, in one place:

- A redirect never leads from https to http.
- `Authorization` goes to the origin (scheme, host and port) that it is for. Stores of blobs refuse a second kind of
  authorization anyway, and a registry that redirects to another host must not give the user's credentials away.
- Without TLS, or with certificates that are not checked, only where the caller says so for this host.

A connection's failure is a `ConnectionFailure`, which says whether another try makes sense.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3 import exceptions
from urllib3.util import make_headers

from ...errors import InvalidImage, NotSupported, RegistryError
from .certificates import tls_context
from .connections import READING, pool_classes
from .interrupts import Handle, Interrupt
from .limits import RegistryLimits

REDIRECTS = 10
PIECE = 1 << 18
"""Bytes that are read or sent at once."""

_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_USER_AGENT = "longshore"

Body = Callable[[], Iterable[bytes]]
"""Returns the pieces of a request's body, from the beginning each time."""


class ConnectionFailure(Exception):
    """There was no answer, or not all of one. `kind` is certificate, tls, name, refused, late or broken."""

    def __init__(self, reason: str, kind: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.retry = retry


class _BodyFailure(Exception):
    """What is to be sent could not be read: that is no failure of the connection."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Answer:
    """The answer to a request: its head is there, its body is still to be read. Close it, or use it with `with`."""

    def __init__(self, response: urllib3.BaseHTTPResponse, url: str, transport: Transport) -> None:
        self._response = response
        self._transport = transport
        self._handle: Handle | None = getattr(response, "longshore_handle", None)
        self.url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    def header(self, name: str) -> str:
        """Return the value of a header; empty if there is none."""
        return self.headers.get(name) or ""

    @property
    def length(self) -> int | None:
        """The length of the body, as the head says it."""
        text = self.header("Content-Length").strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None

    def read(self) -> bytes:
        """Return what has come of the body, at least a byte; empty at its end. Raises: ConnectionFailure."""
        self._transport.interrupt.check()
        try:
            return self._response.read1(PIECE, decode_content=False) or b""
        except (exceptions.HTTPError, OSError) as error:
            raise self._transport.failure(error) from error

    def read_all(self, most: int, what: str) -> bytes:
        """Return the whole body, of at most so many bytes.

        Raises: InvalidImage for more bytes than that; ConnectionFailure, also if it takes too long.
        """
        limit = self._transport.limits.document
        end = self._transport.clock() + limit
        found = bytearray()
        while piece := self.read():
            found += piece
            if len(found) > most:
                raise InvalidImage(what, f"it has more than {most} bytes")
            if self._transport.clock() > end:
                raise ConnectionFailure(f"the answer did not end within {limit:g} s", "late", retry=True)
        return bytes(found)

    def close(self) -> None:
        """Give the connection back if the body was read, else end it."""
        if self._response.closed:
            self._response.release_conn()
        self._response.close()
        if self._handle is not None:
            self._transport.interrupt.remove(self._handle)
            self._handle.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Transport:
    """The connections of one operation. Can be used by several threads. Close it at the end."""

    def __init__(self, *, interrupt: Interrupt, limits: RegistryLimits, environ: Mapping[str, str]) -> None:
        import time

        self.interrupt = interrupt
        self.limits = limits
        self.clock: Callable[[], float] = time.monotonic
        self._environ = environ
        self._spoke_tls: set[tuple[str, int]] = set()
        self._pools = pool_classes(interrupt, limits, self._spoke_tls)
        self._managers: dict[tuple[str, str, bool], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: Body | None = None,
        authorization: str | None = None,
        insecure: bool = False,
    ) -> Answer:
        """Send a request, follow its redirects, and return the answer of where they lead.

        `authorization` and `insecure` are for the origin of `url` alone. Raises: ConnectionFailure; RegistryError for a
        redirect that must not be followed; Interrupted.
        """
        home = origin(url)
        for _ in range(REDIRECTS + 1):
            own = origin(url) == home
            sent = {**headers, "User-Agent": _USER_AGENT}
            if own and authorization:
                sent["Authorization"] = authorization
            answer = self._send(method, url, sent, body, insecure=insecure and origin(url)[1] == home[1])
            if answer.status not in _REDIRECTED or not answer.header("Location"):
                return answer
            if method not in READING and answer.status not in (307, 308):
                return answer
            answer.close()
            url = self._redirected(url, answer.header("Location"))
        raise RegistryError("follow a redirect", home[1], f"there are more than {REDIRECTS} of them")

    def spoke_tls(self, url: str) -> bool:
        """Return whether there was a connection with TLS to the origin of this address."""
        _, host, port = origin(url)
        return (host, port) in self._spoke_tls

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            for key in manager.pools.keys():  # noqa: SIM118  # it is no dict, and refuses to be iterated
                if (pool := manager.pools.get(key)) is not None:
                    pool.close()  # else only the garbage collector closes its connections
            manager.clear()

    def failure(self, error: BaseException, url: str = "") -> ConnectionFailure:
        """Return what a failure of urllib3's means. Raises: Interrupted, if that is what it comes from."""
        self.interrupt.check()
        found = _failure(error)
        proxy = proxy_for(url) if url else None
        if proxy:
            found.reason += f" (through the proxy {_shown(proxy)})"
            found.args = (found.reason,)
        return found

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None, *, insecure: bool) -> Answer:
        self.interrupt.check()
        limit = self.limits.answer if method in READING else self.limits.commit
        try:
            response = self._manager(url, insecure).urlopen(
                method,
                url,
                body=self._pieces(body()) if body is not None else None,
                headers=dict(headers),
                timeout=urllib3.Timeout(connect=self.limits.connect, read=limit),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except _BodyFailure as failure:
            raise failure.error from None
        except (exceptions.HTTPError, OSError, ValueError) as error:
            raise self.failure(error, url) from error
        return Answer(response, url, self)

    def _pieces(self, pieces: Iterable[bytes]) -> Iterable[bytes]:
        try:
            for piece in pieces:
                self.interrupt.check()
                yield piece
        except OSError as error:
            raise _BodyFailure(error) from error

    def _manager(self, url: str, insecure: bool) -> urllib3.PoolManager:
        scheme, host, _ = key = origin(url)
        with self._lock:
            found = self._managers.get((scheme, f"{host}:{key[2]}", insecure))
            if found is None:
                found = self._new_manager(url, insecure)
                self._managers[scheme, f"{host}:{key[2]}", insecure] = found
            return found

    def _new_manager(self, url: str, insecure: bool) -> urllib3.PoolManager:
        settings: dict[str, Any] = {"num_pools": 4, "maxsize": 8, "block": False}
        if url.startswith("https:"):
            settings["ssl_context"] = tls_context(urlsplit(url).netloc, environ=self._environ, insecure=insecure)
            settings["cert_reqs"] = "CERT_NONE" if insecure else "CERT_REQUIRED"
        if proxy := proxy_for(url):
            parts = urlsplit(proxy)
            if parts.scheme not in ("http", "https"):
                raise NotSupported(
                    f"the proxy {_shown(proxy)}", f"it is a {parts.scheme} proxy", hint="use an HTTP proxy, or none"
                )
            if parts.username is not None:
                user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                settings["proxy_headers"] = make_headers(proxy_basic_auth=user)
            manager: urllib3.PoolManager = urllib3.ProxyManager(_shown(proxy), **settings)
        else:
            manager = urllib3.PoolManager(**settings)
        manager.pool_classes_by_scheme = dict(self._pools)
        return manager

    def _redirected(self, url: str, location: str) -> str:
        """Where a redirect leads, if it may be followed."""
        try:
            target = urljoin(url, location)
            scheme, host, _ = origin(target)
        except ValueError:
            target = scheme = host = ""
        if scheme not in ("http", "https") or not host:
            raise RegistryError("follow a redirect", origin(url)[1], "it leads to no address of http or https")
        if url.startswith("https:") and scheme == "http":
            raise RegistryError(
                "follow a redirect",
                origin(url)[1],
                f"it leads from https to http, at {host}",
                hint="set https in the Location headers of the registry, or of the proxy before it",
            )
        return target


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address. Raises: ValueError if it has none."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or ""), port


def is_loopback(host: str) -> bool:
    """Return whether this host, with or without its port, is this machine by its name or address."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment (on Windows the system, too) names for an address; None for this machine.

    HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in upper and lower case.
    """
    from urllib.request import getproxies, proxy_bypass

    scheme, host, port = origin(url)
    proxies = getproxies()
    found = proxies.get(scheme) or proxies.get("all")
    if not found or is_loopback(f"[{host}]" if ":" in host else host) or proxy_bypass(f"{host}:{port}"):
        return None
    return found if "://" in found else f"http://{found}"


def _shown(proxy: str) -> str:
    """A proxy's address without the user and password in it."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _failure(error: BaseException) -> ConnectionFailure:
    """What went wrong, in a sentence, and whether it may be otherwise the next time."""
    chain = list(_causes(error))
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {each.verify_message}"
            return ConnectionFailure(reason, "certificate", retry=False)
        if isinstance(each, exceptions.NameResolutionError):
            again = any(isinstance(deep, socket.gaierror) and deep.errno == socket.EAI_AGAIN for deep in chain)
            return ConnectionFailure("its address was not found", "name", retry=again)
    for each in chain:
        # urllib3's error of a connection that could not be made is one of its time limits, too
        if isinstance(each, exceptions.ConnectTimeoutError) and not isinstance(each, exceptions.NewConnectionError):
            return ConnectionFailure("no connection in time", "late", retry=True)
        if isinstance(each, TimeoutError) or type(each) is exceptions.ReadTimeoutError:
            return ConnectionFailure("it was silent for too long", "late", retry=True)
        if isinstance(each, ssl.SSLError):
            words = (each.reason or "the connection ended").replace("_", " ").lower()
            return ConnectionFailure(f"TLS failed: {words}", "tls", retry=False)
    for each in chain:
        if isinstance(each, (exceptions.LocationValueError, exceptions.InvalidHeader)):
            return ConnectionFailure("its address is not valid", "name", retry=False)
        if isinstance(each, exceptions.NewConnectionError):
            refused = any(isinstance(deep, OSError) and deep.errno == errno.ECONNREFUSED for deep in chain)
            said = "the connection was refused" if refused else _system_words(chain) or "no connection"
            return ConnectionFailure(said, "refused", retry=True)
    return ConnectionFailure(_system_words(chain) or "the connection broke", "broken", retry=True)


def _causes(error: BaseException) -> Iterable[BaseException]:
    """An error, and all that it was made of: urllib3 keeps some in arguments, and some as causes."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = [*each.args, each.__cause__, each.__context__, getattr(each, "original_error", None)]
        waiting += [one for one in inner if isinstance(one, BaseException)]


def _system_words(chain: list[BaseException]) -> str:
    """The operating system's own words, or a proxy's."""
    for each in chain:
        if type(each) is OSError and str(each).startswith("Tunnel connection failed"):
            return f"the proxy refused: {str(each)[26:200]}"
        if isinstance(each, OSError) and each.strerror and not isinstance(each, ssl.SSLError):
            return each.strerror[:1].lower() + each.strerror[1:]
    return ""


def close_quietly(answer: Answer) -> None:
    """Close an answer that was of no use."""
    with contextlib.suppress(Exception):
        answer.close()
