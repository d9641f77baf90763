"""Names of images, as docker writes and reads them: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.

The first part is a host only if it has a `.` or a `:`, is `localhost`, or has an upper-case letter, which no path may
have. Without a host it is Docker Hub's, `docker.io`, and there a path of one part is below `library/`. So `alpine`,
`docker.io/alpine` and `index.docker.io/library/alpine:latest` are one name, and `registry/app` is not a host's: it is
Docker Hub's `registry/app`. Where a tag and a digest are given, the digest is what counts.

A name is compared only in its whole form. Two names are the same image's if their whole forms are equal: no search.
"""

from __future__ import annotations

import re

import msgspec

from ..errors import InvalidSpec
from .digests import check_digest, is_digest

DOCKER_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_LATEST = "latest"
LONGEST = 255
"""Characters that host and path may have together."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST_PART = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ID = re.compile(r"[0-9a-f]{64}")
_SCHEME = re.compile(r"[a-z-]+://", re.IGNORECASE)


class ImageName(msgspec.Struct, frozen=True, kw_only=True):
    """The whole name of an image. Make one of text with `ImageName.parse`.

    `registry` is the host as names have it (`docker.io`, `localhost:5000`), `path` the repository there. There is a
    tag, or a digest, or both.
    """

    registry: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str, field: str = "image") -> ImageName:
        """Return the whole name of what a user wrote: the tag is `latest` if there is neither a tag nor a digest.

        Raises: InvalidSpec, with `field` as the name of what is wrong.
        """
        if not isinstance(text, str):
            raise InvalidSpec(field, f"must be text, not {type(text).__name__}", hint=f"write {field}='alpine:3.20'")
        if not text:
            raise InvalidSpec(field, "is empty", hint=f"write {field}='alpine:3.20'")
        if scheme := _SCHEME.match(text):
            raise InvalidSpec(field, _not_a_name(text), hint=f"leave out {scheme[0]}: a name begins with its host")
        if _is_id(text):
            raise InvalidSpec(field, f"{text!r} is an id, not a name", hint="write NAME@sha256:... for a digest")
        rest, at, digest = text.partition("@")
        if at:
            check_digest(digest, field)
        slash = rest.rfind("/")
        colon = rest.find(":", slash + 1)
        tag = rest[colon + 1 :] if colon >= 0 else None
        if tag is not None:
            check_tag(tag, field)
        registry, path = _split(rest[:colon] if colon >= 0 else rest)
        _check_repository(registry, path, text, field)
        return cls(registry=registry, path=path, tag=tag if tag or digest else _LATEST, digest=digest or None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def repository(self) -> str:
        """Host and path: the name without tag and digest."""
        return f"{self.registry}/{self.path}"

    @property
    def familiar(self) -> str:
        """The short form, as docker shows it: without `docker.io/library/`, but with the tag."""
        short = familiar_repository(self.repository) + str(self)[len(self.repository) :]
        return str(self) if _is_id(short) else short  # docker.io/library/sha256:... with a tag of 64 digits

    @property
    def reference(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag or _LATEST

    @property
    def host(self) -> str:
        """The host that has this registry's API: Docker Hub's has another name than the hub itself."""
        return api_host(self.registry)

    def with_tag(self, tag: str) -> ImageName:
        """Return the name of another tag in the same repository."""
        return ImageName(registry=self.registry, path=self.path, tag=check_tag(tag))

    def with_digest(self, digest: str) -> ImageName:
        """Return the name of exactly this content in the same repository, without a tag."""
        return ImageName(registry=self.registry, path=self.path, digest=check_digest(digest))


def parse_repository(text: str, field: str = "repository") -> ImageName:
    """Return a name of which only `registry` and `path` are meant: text that has neither tag nor digest.

    Raises: InvalidSpec.
    """
    name = ImageName.parse(text, field)
    if name.digest or ":" in text[text.rfind("/") + 1 :]:
        raise InvalidSpec(field, f"{text[:200]!r} has a tag or a digest", hint="write the repository alone")
    return name


def check_tag(tag: str, field: str = "tag") -> str:
    """Return the tag if it is one. Raises: InvalidSpec."""
    if not isinstance(tag, str):
        raise InvalidSpec(field, f"must be text, not {type(tag).__name__}")
    if not _TAG.fullmatch(tag):
        hint = "use at most 128 letters, digits, `_`, `.` and `-`, and begin with none of the last two"
        raise InvalidSpec(field, f"{tag[:140]!r} is not a tag", hint=hint)
    return tag


def has_host(text: str) -> bool:
    """Return whether this name begins with a host, and not with a path of Docker Hub's."""
    first, slash, _ = text.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost" or first.lower() != first)


def check_registry(text: str, field: str = "registry") -> str:
    """Return the registry that a user named, in the form that names have: `docker.io` for each of Docker Hub's names.

    Raises: InvalidSpec.
    """
    if not isinstance(text, str):
        raise InvalidSpec(field, f"must be text, not {type(text).__name__}")
    if not _HOST.fullmatch(text):
        hint = "write the host alone, with its port if it is not the usual one: ghcr.io, localhost:5000"
        raise InvalidSpec(field, f"{text[:200]!r} is not a registry's host", hint=hint)
    return DOCKER_HUB if text in ("index.docker.io", _HUB_API) else text


def api_host(registry: str) -> str:
    """Return the host that has the API of this registry."""
    return _HUB_API if registry == DOCKER_HUB else registry


def familiar_repository(repository: str) -> str:
    """Return a repository as docker shows it."""
    if not repository.startswith(f"{DOCKER_HUB}/"):
        return repository
    path = repository[len(DOCKER_HUB) + 1 :]
    # a path whose first part reads as a host is not the hub's any more without the hub's name
    return path[len("library/") :] if path.startswith("library/") and path.count("/") == 1 else _unmistakable(path)


def _unmistakable(path: str) -> str:
    return f"{DOCKER_HUB}/{path}" if has_host(path) else path


def _split(text: str) -> tuple[str, str]:
    """Host and path of a name without tag and digest, in their whole form."""
    registry, path = DOCKER_HUB, text
    if has_host(text):
        registry, _, path = text.partition("/")
        registry = DOCKER_HUB if registry == "index.docker.io" else registry
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return registry, path


def _is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None or is_digest(text)


def _not_a_name(text: str) -> str:
    return f"{text[:200]!r} is not an image's name"


def _check_repository(registry: str, path: str, text: str, field: str) -> None:
    if not _HOST.fullmatch(registry):
        raise InvalidSpec(field, f"{_not_a_name(text)}: {registry[:200]!r} is not a host")
    if not _PATH.fullmatch(path):
        if _PATH.fullmatch(path.lower()):
            wrong = path.removeprefix("library/")
            raise InvalidSpec(
                field,
                f"{_not_a_name(text)}: a repository is written in lower case",
                hint=f"write {text.replace(wrong, wrong.lower(), 1)[:200]}",
            )
        hint = "write a name such as alpine, python:3.12-slim, ghcr.io/owner/app@sha256:..."
        raise InvalidSpec(field, _not_a_name(text), hint=hint)
    if len(registry) + 1 + len(path) > LONGEST:
        raise InvalidSpec(field, f"{_not_a_name(text)}: it is longer than {LONGEST} characters")
