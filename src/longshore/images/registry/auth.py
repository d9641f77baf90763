"""Authorization at one registry: a challenge is answered with a token, or with user and password.

A request is sent first, with the token that is there or with none; the registry's 401 says what it wants. So a registry
that wants nothing is not asked twice, and credentials are looked up only if they are needed. A token that dies amid a
pull is the same case again: the first thread that meets the 401 gets a new one, and the others take that.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from ...errors import RegistryAuthError, RegistryError, RegistryUnreachable
from ...typed_json import decode_json
from .answers import LARGEST_ANSWER, words_of
from .challenges import Challenge, merged_scopes, parse_challenges
from .credentials import Credentials, Lookup
from .retries import BUSY, Tries, retry_after
from .transport import Answer, ConnectionFailure, Transport, is_loopback, origin

_SHORTEST_LIFE = 60.0
"""Seconds that a token lives at least: so old clients were told, and it is what counts where nothing is said."""

_MARGIN = 0.1  # of a token's life: it is renewed that much before its end


class Token(msgspec.Struct, frozen=True):
    """The value of an Authorization header, and until when it can be used."""

    header: str
    ends: float


class TokenCache:
    """Tokens of several operations, by registry, scope and who asked. Can be used by several threads."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str, Credentials | None], Token] = {}
        self._locks: dict[tuple[str, str, Credentials | None], threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, Credentials | None], now: float) -> str | None:
        """Return the header for a key, if there is one that can still be used."""
        found = self._tokens.get(key)
        return found.header if found is not None and found.ends > now else None

    def put(self, key: tuple[str, str, Credentials | None], token: Token, now: float) -> None:
        """Keep a token, and drop those that have ended."""
        with self._lock:
            self._tokens = {each: kept for each, kept in self._tokens.items() if kept.ends > now}
            self._tokens[key] = token

    def lock(self, key: tuple[str, str, Credentials | None]) -> threading.Lock:
        """Return the lock of a key: only one thread gets a new token for it at a time."""
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())


class Authenticator:
    """Answers the challenges of one registry, for one operation."""

    def __init__(
        self,
        registry: str,
        *,
        operation: str,
        transport: Transport,
        cache: TokenCache,
        given: Credentials | None,
        look_up: Callable[[], Lookup],
        environ: Mapping[str, str],
        insecure: bool,
    ) -> None:
        self._registry = registry
        self._operation = operation
        self._transport = transport
        self._cache = cache
        self._given = given
        self._look_up = look_up
        self._environ = environ
        self._insecure = insecure
        self._found: Lookup | None = None
        self._lock = threading.Lock()

    def header(self, scope: str) -> str | None:
        """Return what to send as Authorization, if anything is known yet."""
        return self._cache.get(self._key(scope), self._transport.clock())

    def respond(self, answer: Answer, used: str | None, scope: str) -> None:
        """Get what the registry wants to see, after its 401 to a request that showed `used`; `header` then has it.

        Raises: RegistryAuthError if there are no credentials, or they are refused; RegistryUnreachable.
        """
        with self._cache.lock(self._key(scope)):
            known = self.header(scope)
            if known is not None and known != used:
                return  # another thread was first
            challenges = parse_challenges(answer.header("WWW-Authenticate"))
            bearer = next((each for each in challenges if each.scheme == "bearer" and "realm" in each.parameters), None)
            if bearer is not None:
                token = self._token(bearer, scope, answer.url)
            elif any(each.scheme == "basic" for each in challenges):
                token = self._basic(used)
            else:
                kinds = ", ".join(each.scheme for each in challenges) or "none"
                raise self._error(f"it wants authorization of a kind that is not known here: {kinds:.80}")
            self._cache.put(self._key(scope), token, self._transport.clock())

    def refused(self, detail: str, status: int, scope: str) -> RegistryAuthError:
        """Return the error of a request that the registry refuses in spite of what it was shown, or for lack of it."""
        found = self._lookup()
        if status == 401 and (self.header(scope) or "").startswith("Basic "):
            return self._wrong(found, status, detail)
        said = f" ({detail})" if detail else ""
        if found.credentials is None:
            return self._error(
                f"it does not exist, or the registry {self._registry} wants credentials{said}; {self._nothing(found)}",
                status,
                hint=self._login_hint(),
            )
        who = self._who(found)
        return self._error(
            f"it does not exist, or the registry {self._registry} does not let {who} do it{said}",
            status,
            hint="check the spelling of the name, and what these credentials may do",
        )

    def _key(self, scope: str) -> tuple[str, str, Credentials | None]:
        return self._registry, scope, self._given

    def _lookup(self) -> Lookup:
        with self._lock:
            if self._found is None:
                given = self._given
                self._found = Lookup(credentials=given, source="the call") if given is not None else self._look_up()
            return self._found

    def _basic(self, used: str | None) -> Token:
        found = self._lookup()
        if found.credentials is None or not found.credentials.username:
            reason = f"the registry {self._registry} wants user and password; {self._nothing(found)}"
            raise self._error(reason, 401, hint=self._login_hint())
        header = _basic_header(found.credentials)
        if header == used:
            raise self._wrong(found, 401)
        return Token(header, float("inf"))

    def _token(self, challenge: Challenge, scope: str, url: str) -> Token:
        found = self._lookup()
        credentials = found.credentials
        if credentials is not None and credentials.registry_token:
            return Token(f"Bearer {credentials.registry_token}", float("inf"))
        realm = challenge.parameters["realm"]
        self._check_realm(realm, url, credentials)
        wanted = merged_scopes(scope, challenge.parameters.get("scope", ""))
        service = challenge.parameters.get("service", "")
        tries = Tries(self._transport.limits, self._transport.interrupt)
        while True:
            try:
                with self._ask(realm, service, wanted, credentials) as answer:
                    data = answer.read_all(LARGEST_ANSWER, f"the token of {self._registry}")
                    if answer.status == 200:
                        return self._read_token(data)
                    if answer.status in BUSY and tries.again(retry_after(answer.header("Retry-After"))):
                        continue
                    detail = words_of(data)[1]
                    if answer.status in (400, 401, 403) and credentials is not None:
                        raise self._wrong(found, answer.status, detail)
                    if answer.status in (401, 403):
                        said = f" ({detail})" if detail else ""
                        reason = f"the registry {self._registry} wants credentials{said}; {self._nothing(found)}"
                        raise self._error(reason, answer.status, hint=self._login_hint())
                    raise RegistryError(
                        self._operation,
                        self._registry,
                        f"its token service {origin(realm)[1]} answers {answer.status}"
                        + (f": {detail}" if detail else ""),
                        status=answer.status,
                    )
            except ConnectionFailure as failure:
                if tries.after(failure):
                    continue
                raise RegistryUnreachable(
                    self._operation,
                    self._registry,
                    f"no token from {origin(realm)[1]}, which the registry {self._registry} names: {failure.reason}",
                    hint="check the network, and HTTPS_PROXY and NO_PROXY",
                ) from failure

    def _check_realm(self, realm: str, url: str, credentials: Credentials | None) -> None:
        """Refuse a token service to which credentials would go less safely than to the registry itself."""
        try:
            scheme, host, _ = origin(realm)
        except ValueError:
            scheme, host = "", ""
        if scheme not in ("https", "http") or not host:
            raise self._error("its token service has no address of http or https")
        same = host == origin(url)[1]
        if scheme == "http" and credentials is not None and not (same and url.startswith("http:")):
            if is_loopback(f"[{host}]" if ":" in host else host) and url.startswith("http:"):
                return
            raise self._error(f"its token service {host} is without TLS: the credentials are not sent there")

    def _ask(self, realm: str, service: str, scope: str, credentials: Credentials | None) -> Answer:
        insecure = self._insecure
        headers = {"Accept": "application/json"}
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "service": service,
                "client_id": "longshore",
                "scope": scope,
            }
            data = urlencode(form).encode()
            headers |= {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(data))}
            return self._transport.send("POST", realm, headers, body=lambda: [data], insecure=insecure)
        query = [("service", service)] if service else []
        query += [("scope", each) for each in scope.split()]
        if credentials is not None and credentials.username:
            query.append(("account", credentials.username))
        address = realm + ("&" if urlsplit(realm).query else "?") + urlencode(query, quote_via=quote)
        basic = _basic_header(credentials) if credentials is not None and credentials.username else None
        return self._transport.send("GET", address, headers, authorization=basic, insecure=insecure)

    def _read_token(self, data: bytes) -> Token:
        try:
            content = decode_json(data, dict[str, Any])
        except (ValueError, RecursionError):
            content = {}
        token = content.get("token") or content.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
            raise RegistryError(self._operation, self._registry, "its token service gave no token")
        life = content.get("expires_in")
        usable = isinstance(life, (int, float)) and not isinstance(life, bool) and life > _SHORTEST_LIFE
        seconds = min(float(life), 1e9) if usable and life is not None else _SHORTEST_LIFE
        return Token(f"Bearer {token}", self._transport.clock() + seconds * (1 - _MARGIN))

    def _wrong(self, found: Lookup, status: int, detail: str = "") -> RegistryAuthError:
        said = f" ({detail})" if detail else ""
        return self._error(
            f"the registry {self._registry} refuses {self._who(found)}{said}", status, hint=self._login_hint()
        )

    def _who(self, found: Lookup) -> str:
        credentials = found.credentials
        user = f"user `{credentials.username}`" if credentials and credentials.username else "the token"
        return f"{user} from {found.source}"

    def _nothing(self, found: Lookup) -> str:
        if not found.looked:
            return "none are known"
        sudo = self._environ.get("SUDO_USER")
        home = f" (under sudo, HOME is {self._environ.get('HOME')})" if sudo else ""
        return f"none were found in {', '.join(dict.fromkeys(found.looked))}{home}"

    def _login_hint(self) -> str:
        return f"`longshore login {self._registry}`, or give `credentials`"

    def _error(self, reason: str, status: int | None = None, hint: str | None = None) -> RegistryAuthError:
        return RegistryAuthError(self._operation, self._registry, reason, status=status, hint=hint)


def _basic_header(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
