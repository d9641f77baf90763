"""Credentials for registries, from the files and helpers where docker, podman and `longshore login` keep them.

The first place with an answer counts: what the call gives; `$REGISTRY_AUTH_FILE`; podman's file below the run-time
directory, then the one below the configuration directory; docker's `config.json`; the old `~/.dockercfg`.

In a file, a key may be a host, or a host with the beginning of a path; the longest key that fits the repository wins. A
helper that the file names for the host is asked first, then the file's store, then the file's own entries.

No secret is ever shown: not by `repr`, not in an error, not in a log.
"""

from __future__ import annotations

import base64
import logging
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ...errors import InvalidSpec
from ...typed_json import decode_json
from ..names import DOCKER_HUB
from .credential_helpers import HelperFailed, ask_helper

HUB_KEY = "https://index.docker.io/v1/"
"""What docker calls Docker Hub in its files and to its helpers."""

LARGEST_FILE = 1 << 20
_HUB_KEYS = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
_log = logging.getLogger("longshore.images")

AskHelper = Callable[[str, str], tuple[str, str] | None]
"""Returns user and secret that a helper has for a server, or None. Raises HelperFailed."""


class Credentials(msgspec.Struct, frozen=True):
    """What a registry is shown: user and password, or a token of one of two kinds.

    `identity_token` is exchanged for tokens of the registry, `registry_token` is one. `repr` shows no secret.
    """

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if not isinstance(value, str):
                raise InvalidSpec(f"credentials.{field}", f"must be text, not {type(value).__name__}")
            if any(character in value for character in "\0\r\n"):
                raise InvalidSpec(f"credentials.{field}", "has a character that no header can carry")
        if ":" in self.username:
            raise InvalidSpec("credentials.username", "has a `:`, which separates it from the password")

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def __repr__(self) -> str:
        kinds = [name for name in ("password", "identity_token", "registry_token") if getattr(self, name)]
        return f"Credentials(username={self.username!r}" + "".join(f", {kind}=<hidden>" for kind in kinds) + ")"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("username", self.username)]


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, where, and every place that was looked at, in words for an error."""

    credentials: Credentials | None = None
    source: str = ""
    looked: list[str] = []


def as_credentials(value: Any) -> Credentials | None:
    """Return credentials from what a call gives: `Credentials`, or a pair of user and password.

    Raises: InvalidSpec.
    """
    if value is None or isinstance(value, Credentials):
        return value
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, str) for each in value):
        return Credentials(*value)
    raise InvalidSpec(
        "credentials",
        f"must be Credentials(...), or a pair of user and password, not {type(value).__name__}",
        hint="write credentials=('user', 'password')",
    )


def files(environ: Mapping[str, str], uid: int | None) -> list[str]:
    """Return the files that may have credentials, the first to ask first. `uid` is None where there are no uids."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or os.path.expanduser("~")
    found = [environ.get("REGISTRY_AUTH_FILE", "")]
    found.append(_runtime_file(environ, uid) or "")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    found.append(os.path.join(config, "containers", "auth.json"))
    docker = environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    found.append(os.path.join(docker, "config.json"))
    found.append(os.path.join(home, ".dockercfg"))
    return [path for path in dict.fromkeys(found) if path]


def login_file(environ: Mapping[str, str], uid: int | None) -> str:
    """Return the file that `login` writes: the one that `$REGISTRY_AUTH_FILE` names, or podman's."""
    if given := environ.get("REGISTRY_AUTH_FILE"):
        return given
    return _runtime_file(environ, uid) or files({**environ, "DOCKER_CONFIG": ""}, uid)[0]


def _runtime_file(environ: Mapping[str, str], uid: int | None) -> str | None:
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "containers", "auth.json")
    return "/run/containers/0/auth.json" if uid == 0 else None


def find(
    registry: str,
    path: str,
    *,
    environ: Mapping[str, str],
    uid: int | None,
    helper_limit: float,
    should_stop: Callable[[], bool] = lambda: False,
) -> Lookup:
    """Return the credentials for a repository of a registry, and where they were looked for.

    A file or helper that fails is logged, named in `looked`, and passed over.
    """
    looked: list[str] = []

    def ask(helper: str, server: str) -> tuple[str, str] | None:
        return ask_helper(helper, server, environ=environ, limit=helper_limit, should_stop=should_stop)

    for file in files(environ, uid):
        try:
            content = read_file(file)
        except (OSError, ValueError) as error:
            reason = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
            if not isinstance(error, FileNotFoundError):
                _log.warning("cannot read credentials from %s: %s", file, reason)
            looked.append(f"{file} ({reason})")
            continue
        looked.append(file)
        found = _of_file(content, registry, path, ask, looked)
        if found is not None:
            return Lookup(credentials=found, source=looked[-1], looked=looked)
    return Lookup(looked=looked)


def read_file(path: str) -> dict[str, Any]:
    """Return the content of a file of credentials. Raises: OSError; ValueError, which quotes nothing of the file."""
    # a pipe in its place would be waited for
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("is not a regular file")
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"has more than {LARGEST_FILE} bytes")
    if not data.strip():
        return {}
    try:
        content = decode_json(data, dict[str, Any])
    except (ValueError, RecursionError):
        raise ValueError("is not a JSON object") from None
    if os.path.basename(path) == ".dockercfg" and "auths" not in content:
        return {"auths": content}
    return content


def keys_for(registry: str, path: str) -> list[str]:
    """Return the keys that mean this repository, the most specific first: `host/a/b`, `host/a`, `host`."""
    parts = [registry, *[part for part in path.split("/") if part]]
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]


def normal_key(key: str) -> str:
    """Return a key of a file as host and path: without a scheme, without a version, Docker Hub by its one name."""
    for scheme in ("https://", "http://"):
        key = key.removeprefix(scheme)
    key = key.rstrip("/")
    for version in ("/v1", "/v2"):
        key = key.removesuffix(version)
    host, slash, path = key.partition("/")
    return (DOCKER_HUB if host in _HUB_KEYS else host) + slash + path


def _of_file(
    content: dict[str, Any], registry: str, path: str, ask: AskHelper, looked: list[str]
) -> Credentials | None:
    file = looked[-1]
    keys = keys_for(registry, path)
    helpers = _by_key(content.get("credHelpers"), keys)
    store = content.get("credsStore")
    asked = [(name, key) for key, name in helpers if isinstance(name, str)]
    if isinstance(store, str) and store:
        asked.append((store, registry))
    for name, key in asked:
        found, problem = _of_helper(name, key, ask)
        looked.append(f"{file} (helper {name}{problem and ': '}{problem})")
        if found is not None:
            return found
    if asked:
        looked.append(file)
    for _, entry in _by_key(content.get("auths"), keys):
        try:
            entered = _of_entry(entry)
        except ValueError:
            _log.warning("an entry for %s in %s cannot be read", registry, file)
            looked[-1] = f"{file} (its entry for {registry} cannot be read)"
            continue
        if entered is not None:
            return entered
    return None


def _by_key(members: Any, keys: list[str]) -> list[tuple[str, Any]]:
    """The members of an object of which the key means one of these, the most specific first."""
    if not isinstance(members, dict):
        return []
    found = sorted(
        ((keys.index(normal), key not in keys, key) for key in members if (normal := normal_key(key)) in keys),
    )
    return [(keys[place], members[key]) for place, _, key in found]


def _of_helper(name: str, key: str, ask: AskHelper) -> tuple[Credentials | None, str]:
    """What a helper has, or why its answer is of no use."""
    servers = [HUB_KEY, DOCKER_HUB] if key == DOCKER_HUB else [key]
    for server in servers:
        try:
            answer = ask(name, server)
            if answer is not None:
                user, secret = answer
                return Credentials(identity_token=secret) if user == "<token>" else Credentials(user, secret), ""
        except HelperFailed as error:
            _log.warning("credential helper %s: %s", name, error)
            return None, str(error)
        except InvalidSpec:
            return None, "its answer cannot be used"
    return None, ""


def _of_entry(entry: Any) -> Credentials | None:
    """What an entry of `auths` has; None for an empty one. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")  # noqa: TRY004  # of a file, not of an argument
    texts = {name: value for name, value in entry.items() if isinstance(value, str)}
    user, password = texts.get("username", ""), texts.get("password", "")
    if auth := texts.get("auth"):
        decoded = base64.b64decode(auth, validate=True).decode()
        user, colon, password = decoded.partition(":")
        if not colon:
            raise ValueError("no colon")
        password = password.rstrip("\0")  # which some versions of docker wrote
    token = texts.get("identitytoken", "")
    found = Credentials("" if token else user, "" if token else password, token, texts.get("registrytoken", ""))
    return found or None
