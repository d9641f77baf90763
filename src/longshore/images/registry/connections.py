"""Connections of urllib3 that can be interrupted from another thread, and of which every step has a time limit."""

from __future__ import annotations

import socket
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from .interrupts import Handle, Interrupt, deadline
from .limits import RegistryLimits

READING = ("GET", "HEAD")


class _Interruptible(HTTPConnection):
    """What both kinds of connection have in addition to urllib3's; the first three are of a subclass."""

    interrupt: Interrupt
    limits: RegistryLimits
    spoke_tls: set[tuple[str, int]]
    handle: Handle | None = None
    _answering = False
    _answer_limit: float = 0

    def connect(self) -> None:
        """Connect, with TLS if the connection has it: all of that within the one limit."""
        with deadline(lambda: self.handle, self.limits.connect) as late:
            try:
                super().connect()
            except Exception:
                if late.is_set():
                    raise ConnectTimeoutError(self, f"not connected within {self.limits.connect:g} s") from None
                raise
        if self.sock is not None:
            self.sock.settimeout(self.limits.idle)
        if isinstance(self, HTTPSConnection):
            self.spoke_tls.add((self.host, self.port or 443))

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers."""
        self.interrupt.check()
        host = getattr(self, "_dns_host", self.host)  # of a proxy, if there is one
        try:
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(host, self, error) from error
        except UnicodeError:
            raise NameResolutionError(host, self, socket.gaierror(socket.EAI_NONAME, "not a host name")) from None
        failure: OSError | None = None
        for family, kind, protocol, _, address in found:
            self.interrupt.check()
            try:
                return self._connected(socket.socket(family, kind, protocol), address)
            except OSError as error:
                failure = error
        self.interrupt.check()
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no answer within {self.limits.connect:g} s") from failure
        raise NewConnectionError(self, (failure and failure.strerror) or str(failure)) from failure

    def _connected(self, sock: socket.socket, address: Any) -> socket.socket:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(self.limits.connect)
            self._use(Handle(sock))
            sock.connect(address)
        except BaseException:
            self._use(None)
            sock.close()
            raise
        return sock

    def _use(self, handle: Handle | None) -> None:
        """Have the interrupt end this socket, and none that was used before."""
        before, self.handle = self.handle, handle
        if before is not None:
            self.interrupt.remove(before)
            before.close()
        if handle is not None:
            self.interrupt.add(handle)

    def request(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Send a request, as urllib3 does."""
        self._answer_limit = self.limits.answer if method in READING else self.limits.commit
        if self.sock is not None:
            self.sock.settimeout(self.limits.idle)
        super().request(method, *args, **kwargs)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 has it
        """Wait for the head of the answer, however slowly it comes. Raises: TimeoutError."""
        sock, handle = self.sock, self.handle
        self._answering = True
        try:
            with deadline(lambda: handle, self._answer_limit) as late:
                try:
                    answer = super().getresponse()
                except Exception:
                    if not late.is_set():
                        raise
            if late.is_set():  # also if there is an answer: the end of a connection passes for that of the headers
                raise TimeoutError(f"no answer within {self._answer_limit:g} s")
        finally:
            self._answering = False
        if sock is not None:
            sock.settimeout(self.limits.idle)  # of the body, from now on
        if self.sock is None:  # closed, but the answer goes on reading from the socket, and ends it
            answer.longshore_handle, self.handle = self.handle, None  # type: ignore[attr-defined]
        return answer

    def close(self) -> None:
        """Close the connection."""
        if not self._answering:  # http.client closes one that ends with its answer before the body is read
            self._use(None)
        super().close()


def pool_classes(
    interrupt: Interrupt, limits: RegistryLimits, spoke_tls: set[tuple[str, int]]
) -> dict[str, type[urllib3.HTTPConnectionPool] | type[urllib3.HTTPSConnectionPool]]:
    """Return pools, by scheme, of which every connection obeys this interrupt and these limits.

    `spoke_tls` takes the hosts and ports to which there was a connection with TLS.
    """
    settings: dict[str, Any] = {"interrupt": interrupt, "limits": limits, "spoke_tls": spoke_tls}
    plain = type("_Plain", (_Interruptible,), settings)
    secure = type("_Secure", (_Interruptible, HTTPSConnection), settings)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = secure

        def _validate_conn(self, conn: Any) -> None:
            if conn.is_closed:  # urllib3's warns of an insecure connection each time, and this one was asked for
                conn.connect()

    return {"http": PlainPool, "https": SecurePool}
