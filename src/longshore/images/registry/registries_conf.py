"""registries.conf, podman's file about registries: mirrors, what is insecure or blocked, and short names.

containers-registries.conf(5). Its search list for short names is not used: a name without a host is Docker Hub's, as
with docker, unless `[aliases]` says otherwise. A file in the format of before 2018 is passed over with a warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ...errors import InvalidSpec, LongshoreError
from ...typed_json import convert
from ..names import ImageName, api_host, check_registry, has_host

_SYSTEM = "/etc/containers/registries.conf"
LARGEST = 4 << 20
_log = logging.getLogger("longshore.images")


class Mirror(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Another place with the same images; `pull_from_mirror` says for which names it may be asked."""

    location: str
    insecure: bool = False
    pull_from_mirror: Literal["all", "digest-only", "tag-only", ""] = ""


class Registry(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What is said of all names that begin with a prefix."""

    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirror_by_digest_only: bool = False
    mirrors: list[Mirror] = msgspec.field(default=[], name="mirror")


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """All files together. `aliases` are whole names by short ones."""

    registries: list[Registry] = []
    aliases: dict[str, str] = {}


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image may be asked for: the host of an API, the repository there, and whether it may be insecure.

    `insecure` None is what nobody said: then a host on this machine may be spoken to without TLS. `registry` is the
    host as names have it, by which credentials are looked up. `is_origin` tells a mirror from the registry itself.
    """

    registry: str
    path: str
    insecure: bool | None = None
    is_origin: bool = True

    @property
    def host(self) -> str:
        """The host that has the API."""
        return api_host(self.registry)


def load(environ: Mapping[str, str]) -> Configuration:
    """Return what the files of this machine and user say; empty if there are none.

    Raises: LongshoreError for a file that is not valid: guessing at one might undo a block.
    """
    registries: dict[str, Registry] = {}
    aliases: dict[str, str] = {}
    for path in _paths(environ):
        content = _read(path)
        for number, table in enumerate(_list(content.get("registry"), path, "registry")):
            found = _registry(table, path, number)
            registries[found.prefix] = found
        named = content.get("aliases", {})
        if not isinstance(named, dict) or not all(isinstance(each, str) for each in named.values()):
            raise _invalid(path, "aliases: every alias has to be text")
        aliases |= named
    return Configuration(registries=list(registries.values()), aliases={k: v for k, v in aliases.items() if v})


def parse_name(text: str, configuration: Configuration, field: str = "image") -> ImageName:
    """Return the whole name of what a user wrote, by way of an alias if there is one. Raises: InvalidSpec."""
    name = ImageName.parse(text, field)
    if has_host(text):
        return name
    short = text.partition("@")[0]
    tagged = ":" in short[short.rfind("/") + 1 :]
    alias = configuration.aliases.get(short[: short.rfind(":")] if tagged else short)
    if alias is None:
        return name
    target = ImageName.parse(alias, f"the alias of {text}")
    return ImageName(registry=target.registry, path=target.path, tag=name.tag, digest=name.digest)


def endpoints(name: ImageName, configuration: Configuration, insecure: bool | None = None) -> list[Endpoint]:
    """Return where to ask for an image, in order: mirrors as the file lists them, then the registry itself.

    `insecure` is the caller's word about the registry itself. Raises: LongshoreError if the registry is blocked.
    """
    origin = Endpoint(registry=name.registry, path=name.path, insecure=insecure)
    found = _matching(name, configuration)
    if found is None:
        return [origin]
    if found.blocked:
        raise LongshoreError(
            f"cannot use `{name.familiar}`: registries.conf blocks {found.prefix}",
            hint="change `blocked` in /etc/containers/registries.conf, or use another registry",
        )
    asked = [
        _moved(name, found, mirror.location, mirror.insecure, is_origin=False)
        for mirror in found.mirrors
        if _serves(mirror, name, found.mirror_by_digest_only)
    ]
    origin = _moved(name, found, found.location, found.insecure, is_origin=True)
    if insecure is not None:
        origin = msgspec.structs.replace(origin, insecure=insecure)
    return [*asked, origin]


def _paths(environ: Mapping[str, str]) -> list[str]:
    """The files, later ones over earlier ones."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    config = environ.get("XDG_CONFIG_HOME") or (os.path.join(home, ".config") if home else "")
    user = os.path.join(config, "containers", "registries.conf") if config else ""
    main = environ.get("CONTAINERS_REGISTRIES_CONF") or environ.get("REGISTRIES_CONFIG_PATH")
    if main:
        return [main]
    found = [user if user and os.path.isfile(user) else _SYSTEM]
    for top in filter(None, (f"{_SYSTEM}.d", f"{user}.d" if user else "")):
        try:
            names = sorted(os.listdir(top))
        except OSError:
            continue
        found += [os.path.join(top, name) for name in names if name.endswith(".conf")]
    return [path for path in found if os.path.isfile(path)]


def _read(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise _invalid(path, f"it has more than {LARGEST} bytes")
        content = tomllib.loads(data.decode())
    except OSError as error:
        raise LongshoreError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(path, str(error)[:200]) from None
    if isinstance(content.get("registries"), dict):
        _log.warning("%s has the format of before 2018: its [registries] are not used", path)
    return content


def _list(value: Any, path: str, name: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise _invalid(path, f"write [[{name}]]")
    return value or []


def _registry(table: Any, path: str, number: int) -> Registry:
    try:
        found = convert(table, Registry)
    except msgspec.ValidationError as error:
        raise _invalid(path, f"registry {number + 1}: {error}") from None
    prefix = (found.prefix or found.location).rstrip("/")
    if not prefix:
        raise _invalid(path, f"registry {number + 1} has neither `prefix` nor `location`")
    for location in (found.location, *(mirror.location for mirror in found.mirrors)):
        if "://" in location:
            raise _invalid(path, f"registry {number + 1}: {location} is not a location: leave out the scheme")
    if not found.location and not prefix.startswith("*."):
        raise _invalid(path, f"registry {number + 1} has no `location`")
    return msgspec.structs.replace(found, prefix=prefix, location=found.location.rstrip("/"))


def _invalid(path: str, problem: str) -> LongshoreError:
    return LongshoreError(f"{path} is not valid: {problem}", hint="read `man containers-registries.conf`")


def _matching(name: ImageName, configuration: Configuration) -> Registry | None:
    """The entry with the longest prefix of a name."""
    fitting = [each for each in configuration.registries if _prefix_of(name, each) is not None]
    return max(fitting, key=lambda each: len(each.prefix), default=None)


def _prefix_of(name: ImageName, registry: Registry) -> str | None:
    """The part of a repository that the prefix of an entry stands for; None if it is not the beginning of it."""
    prefix = registry.prefix
    if prefix.startswith("*."):
        return name.registry if name.registry.partition(":")[0].endswith(prefix[1:]) else None
    whole = str(name)
    if not whole.startswith(prefix) or whole[len(prefix) : len(prefix) + 1] not in ("", "/", ":", "@"):
        return None
    return prefix if len(prefix) <= len(name.repository) else name.repository


def _serves(mirror: Mirror, name: ImageName, by_digest_only: bool) -> bool:
    wanted = mirror.pull_from_mirror or ("digest-only" if by_digest_only else "all")
    return wanted == "all" or (wanted == "digest-only") == (name.digest is not None)


def _moved(name: ImageName, registry: Registry, location: str, insecure: bool, *, is_origin: bool) -> Endpoint:
    """Where a name leads if its prefix stands for this location."""
    prefix = _prefix_of(name, registry) or ""
    moved = (location or prefix) + name.repository[len(prefix) :]
    host, _, path = moved.partition("/")
    try:
        host = check_registry(host)
        ImageName.parse(f"localhost/{path}")
    except InvalidSpec as error:
        raise LongshoreError(
            f"cannot use registries.conf: it leads from {name.repository} to {moved}: {error.problem}"
        ) from None
    return Endpoint(registry=host, path=path, insecure=insecure or None, is_origin=is_origin)
