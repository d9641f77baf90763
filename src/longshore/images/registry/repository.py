"""One repository at one registry: its manifests, its blobs, its tags. Every method blocks.

The registry is asked over https. Only where the caller says so, or the host is this machine, is http tried where https
is not spoken; a certificate that is not trusted never leads to that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import msgspec

from ...errors import ImageNotFound, InvalidImage, LongshoreError, RegistryError, RegistryUnreachable
from ...typed_json import decode_json
from .. import media_types
from ..digests import digest_of, is_digest, matches
from ..documents import LARGEST, Descriptor
from .answers import LARGEST_ANSWER, words_of
from .auth import Authenticator, TokenCache
from .blobs import BlobReader
from .challenges import pull_scope
from .credentials import Credentials, Lookup, find
from .interrupts import Interrupt
from .limits import RegistryLimits
from .registries_conf import Endpoint
from .retries import BUSY, Tries, retry_after
from .transport import Answer, Body, ConnectionFailure, Transport, close_quietly, is_loopback, origin

if TYPE_CHECKING:
    from hashlib import _Hash

_OK = frozenset({200})
_RENEWALS = 5
_NO_TLS = ("tls", "refused", "broken")  # how connections fail where TLS is not spoken
_PAGES = 200


Missing = Callable[[str], LongshoreError]
"""Returns the error for what a registry does not have, from its words."""


class TryAgain(Exception):
    """A request failed in a way that may pass; `error` is what to raise if it does not."""

    def __init__(self, error: LongshoreError, *, may_help: bool = True, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.may_help = may_help
        self.wait = wait


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest or index as it was received, and its digest, which was checked."""

    data: bytes
    digest: str
    content_type: str


class _Page(msgspec.Struct):
    tags: list[str] | None = None


class RegistryState:
    """What outlives one operation: tokens, and how the hosts are spoken to. Can be used by several threads."""

    def __init__(self, *, environ: Mapping[str, str] | None = None, limits: RegistryLimits | None = None) -> None:
        self.environ = os.environ if environ is None else environ
        self.limits = limits or RegistryLimits()
        self.tokens = TokenCache()
        self.schemes: dict[str, str] = {}  # of hosts that have answered


class Repository:
    """A repository, for one operation such as a pull. Can be used by several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str,
        operation: str,
        state: RegistryState,
        transport: Transport,
        credentials: Credentials | None = None,
        scope: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.registry = endpoint.registry
        self.operation = operation
        self.state = state
        self.transport = transport
        self.scope = pull_scope(endpoint.path) if scope is None else scope
        self._name = name
        self._scheme = state.schemes.get(endpoint.host, "https")
        if self._scheme == "http" and not self._may_be_plain():
            self._scheme = "https"
        self._lock = threading.Lock()
        self._auth = Authenticator(
            self.registry,
            operation=operation,
            transport=transport,
            cache=state.tokens,
            given=credentials,
            look_up=self._look_up,
            environ=state.environ,
            insecure=bool(endpoint.insecure),
        )

    @property
    def limits(self) -> RegistryLimits:
        """The time limits of the operation."""
        return self.transport.limits

    @property
    def interrupt(self) -> Interrupt:
        """What ends the operation."""
        return self.transport.interrupt

    def check_access(self) -> None:
        """Ask whether the registry is one, and takes the credentials.

        Raises: RegistryAuthError, RegistryUnreachable, RegistryError.
        """
        with self.exchange("GET", "/v2/") as answer:
            answer.read_all(LARGEST_ANSWER, f"the answer of {self.registry}")

    def digest_of_tag(self, reference: str) -> str | None:
        """Return the digest of a tag by asking for the head only, which counts against no limit; None if untold.

        Raises: ImageNotFound; RegistryError and its kinds.
        """
        path = self._manifest_path(reference)
        with self.exchange("HEAD", path, {"Accept": media_types.ACCEPT}, missing=self._no_image) as answer:
            told = answer.header("Docker-Content-Digest")
        return told if is_digest(told) else None

    def manifest(self, reference: str) -> Received:
        """Return the manifest or index of a tag or digest, verified.

        Raises: ImageNotFound; InvalidImage if the bytes are not those of the digest; RegistryError and its kinds.
        """
        what = f"the manifest of `{self._name}`"
        tries = self.new_tries()
        while True:
            path = self._manifest_path(reference)
            answer = self.exchange("GET", path, {"Accept": media_types.ACCEPT}, missing=self._no_image)
            try:
                with answer:
                    data = answer.read_all(LARGEST, what)
                break
            except ConnectionFailure as failure:
                if not tries.after(failure):
                    raise self.unreachable(failure) from failure
        told = answer.header("Docker-Content-Digest")
        wanted = reference if is_digest(reference) else told if is_digest(told) else digest_of(data)
        if not matches(data, wanted):
            raise InvalidImage(
                what,
                f"the registry {self.registry} sends {digest_of(data)} in the place of {wanted}",
                hint="try again; if it stays so, the registry or a proxy before it changes what it sends",
            )
        return Received(data=data, digest=wanted, content_type=answer.header("Content-Type"))

    def open_blob(self, descriptor: Descriptor, *, start: int = 0, hash_: _Hash | None = None) -> BlobReader:
        """Return a reader of a blob, from `start` on; `hash_` then has to know what comes before that.

        Nothing is asked for before the first read.
        """
        return BlobReader(self, descriptor, start=start, hash_=hash_)

    def blob(self, descriptor: Descriptor, most: int = LARGEST) -> bytes:
        """Return a small blob as a whole, verified; such as a config. Raises: what reading does, and InvalidImage."""
        if (embedded := descriptor.embedded()) is not None:
            return embedded
        if descriptor.size > most:
            what = f"the blob {descriptor.digest}"
            raise InvalidImage(what, f"it has {descriptor.size} bytes, and may have {most}")
        with self.open_blob(descriptor) as reader:
            return b"".join(reader)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Return whether the repository has this blob, of this size."""
        path = f"{self._base_path()}/blobs/{descriptor.digest}"
        with self.exchange("HEAD", path, good=(200, 404)) as answer:
            return answer.status == 200 and answer.length in (None, descriptor.size)

    def tags(self) -> list[str]:
        """Return all tags of the repository, in the registry's order."""
        found: list[str] = []
        url = f"{self._base_path()}/tags/list?n=1000"
        for _ in range(_PAGES):
            with self.exchange("GET", url, missing=self._no_image) as answer:
                data = answer.read_all(LARGEST, f"the tag list of `{self._name}`")
                link, base = answer.header("Link"), answer.url
            try:
                found += decode_json(data, _Page).tags or []
            except (ValueError, RecursionError):
                raise InvalidImage(f"the tag list of `{self._name}`", "it is not a JSON object") from None
            following = link.partition(">")[0].strip()
            if not following.startswith("<") or 'rel="next"' not in link:
                return found
            url = urljoin(base, following[1:])
        return found

    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Body | None = None,
        good: Collection[int] = _OK,
        missing: Missing | None = None,
    ) -> Answer:
        """Send a request until there is an answer that counts: authorized, and not "try again later".

        `path` may be a whole address, such as one of an upload: authorization goes there only if it is the registry's.
        """
        tries = self.new_tries()
        while True:
            try:
                return self.exchange_once(method, path, headers, body=body, good=good, missing=missing)
            except TryAgain as again:
                if not again.may_help or not tries.again(again.wait):
                    raise again.error from again.__cause__

    def exchange_once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Body | None = None,
        good: Collection[int] = _OK,
        missing: Missing | None = None,
    ) -> Answer:
        """Do the same for a request that cannot simply be sent again; authorization is renewed here, too.

        Raises: TryAgain for a failure that may pass, or not: with the error that it is if it stays.
        """
        shown: str | None = None
        renewals = 0
        while True:
            base = f"{self._scheme}://{self.endpoint.host}"
            url = path if "://" in path else base + path
            at_home = origin(url) == origin(base)
            used = self._auth.header(self.scope) if at_home else None
            try:
                answer = self.transport.send(
                    method,
                    url,
                    headers or {},
                    body=body,
                    authorization=used,
                    insecure=bool(self.endpoint.insecure) and at_home,
                )
            except ConnectionFailure as failure:
                if self._try_plain(failure, base):
                    continue
                raise TryAgain(self.unreachable(failure), may_help=failure.retry) from failure
            if answer.status in good:
                self._has_answered(base)
                return answer
            strange = origin(answer.url) != origin(base)
            try:
                if answer.status != 401 or strange:
                    # an address that a registry redirects to may have ended: then another one is asked for
                    wait = retry_after(answer.header("Retry-After"))
                    if answer.status in BUSY or strange:
                        raise TryAgain(self._refusal(answer, missing), wait=wait)
                    raise self._refusal(answer, missing)
                renewals += 1
                if (used is not None and used == shown) or renewals > _RENEWALS:
                    raise self._refusal(answer, missing)
                self._auth.respond(answer, used, self.scope)
                shown = self._auth.header(self.scope)
            finally:
                close_quietly(answer)

    def new_tries(self) -> Tries:
        """Return the count of failures of one step."""
        return Tries(self.limits, self.interrupt, lambda: self.endpoint.host in self.state.schemes)

    def unreachable(self, failure: ConnectionFailure) -> RegistryUnreachable:
        """Return the error of a failure that stays."""
        host = self.endpoint.host
        hints = {
            "certificate": f"trust its authority by /etc/containers/certs.d/{host}/ca.crt, or say `insecure`",
            "tls": "if the registry has no TLS, say `insecure`, or `insecure = true` in registries.conf",
            "name": "check the spelling of the name, and the network",
        }
        return RegistryUnreachable(
            self.operation,
            self.registry,
            f"no answer from the registry {host}: {failure.reason}",
            hint=hints.get(failure.kind, "check the network and that the registry runs, and HTTPS_PROXY and NO_PROXY"),
        )

    def _look_up(self) -> Lookup:
        getuid = getattr(os, "getuid", None)
        return find(
            self.registry,
            self.endpoint.path,
            environ=self.state.environ,
            uid=getuid() if getuid is not None else None,
            helper_limit=self.limits.helper,
            should_stop=self.interrupt.is_set,
        )

    def _base_path(self) -> str:
        return f"/v2/{self.endpoint.path}"

    def _manifest_path(self, reference: str) -> str:
        return f"{self._base_path()}/manifests/{reference}"

    def _may_be_plain(self) -> bool:
        insecure = self.endpoint.insecure
        return insecure is True or (insecure is None and is_loopback(self.endpoint.host))

    def _try_plain(self, failure: ConnectionFailure, base: str) -> bool:
        """Go on with http if https is not spoken there, and http may be."""
        with self._lock:
            if not base.startswith("https:") or not self._may_be_plain() or failure.kind not in _NO_TLS:
                return False
            if self.transport.spoke_tls(base) or self.state.schemes.get(self.endpoint.host) == "https":
                return False  # it is spoken there: this is another failure
            self._scheme = "http"
            return True

    def _has_answered(self, base: str) -> None:
        self.state.schemes[self.endpoint.host] = urlsplit(base).scheme

    def _no_image(self, reason: str) -> LongshoreError:
        return ImageNotFound(
            self._name,
            place=self.registry,
            reason=reason,
            hint="check the spelling of the name and of the tag",
        )

    def _refusal(self, answer: Answer, missing: Missing | None) -> LongshoreError:
        """The error of an answer that is not good."""
        try:
            code, message = words_of(answer.read_all(LARGEST_ANSWER, "the error"))
        except (ConnectionFailure, InvalidImage):
            code, message = "", ""
        status = answer.status
        if status == 404 and missing is not None:
            return missing(message)
        host = origin(answer.url)[1]
        if host == origin(f"//{self.endpoint.host}")[1]:
            if status in (401, 403):
                return self._auth.refused(message, status, self.scope)
            host = self.registry
        said = f": {message}" if message else ""
        hint = None
        if status == 429:
            hint = f"wait; with `longshore login {self.registry}` a registry allows more"
        elif status >= 500:
            hint = "try again later: the registry has a failure of its own"
        reason = f"the registry {host} answers {status}{said}"
        return RegistryError(self.operation, self.registry, reason, status=status, code=code, hint=hint)
