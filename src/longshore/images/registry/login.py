"""What `login` writes and `logout` removes: one entry in the file of credentials, readable by its owner only."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from ...errors import LongshoreError
from .credentials import Credentials, files, login_file, normal_key, read_file


def store(registry: str, credentials: Credentials, *, environ: Mapping[str, str], uid: int | None) -> str:
    """Write the credentials for a registry, and return the file: all else in it stays as it is.

    Raises: LongshoreError if the file cannot be written, or holds something else.
    """
    path = login_file(environ, uid)
    content = _content(path)
    auths = content.setdefault("auths", {})
    if not isinstance(auths, dict):
        raise LongshoreError(
            f"cannot write credentials to {path}: its `auths` is not an object", hint="repair the file"
        )
    for key in [key for key in auths if normal_key(key) == registry]:
        del auths[key]
    if credentials.identity_token:
        auths[registry] = {"auth": _auth(credentials.username, ""), "identitytoken": credentials.identity_token}
    else:
        auths[registry] = {"auth": _auth(credentials.username, credentials.password)}
    _write(path, content)
    return path


def erase(registry: str, *, environ: Mapping[str, str], uid: int | None) -> list[str]:
    """Remove the credentials for a registry from the file that `login` writes. Return the files that still have some.

    Raises: LongshoreError if the file cannot be written, or has none for this registry.
    """
    path = login_file(environ, uid)
    content = _content(path)
    found = _remove(content, registry)
    others = [other for other in files(environ, uid) if other != path and _mentions(other, registry)]
    if not found:
        raise LongshoreError(
            f"cannot log out of {registry}: {path} has no credentials for it",
            hint=f"log out with the programs that keep credentials in {', '.join(others)}" if others else None,
        )
    _write(path, content)
    return others


def _auth(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def _content(path: str) -> dict[str, Any]:
    try:
        return read_file(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        hint = "repair the file, or rename it"
        raise LongshoreError(f"cannot change credentials: {path} {error}", hint=hint) from None
    except OSError as error:
        raise LongshoreError(f"cannot read credentials from {path}: {error.strerror}") from error


def _remove(content: dict[str, Any], registry: str) -> bool:
    auths = content.get("auths")
    if not isinstance(auths, dict):
        return False
    keys = [key for key in auths if normal_key(key) == registry]
    for key in keys:
        del auths[key]
    return bool(keys)


def _mentions(path: str, registry: str) -> bool:
    try:
        return _remove(read_file(path), registry)
    except (OSError, ValueError):
        return False


def _write(path: str, content: dict[str, Any]) -> None:
    """Replace the file in one step; a link to it stays a link."""
    path = os.path.realpath(path)
    temporary = f"{path}.{os.urandom(4).hex()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise LongshoreError(
            f"cannot write credentials to {path}: {error.strerror}",
            hint="name another file with $REGISTRY_AUTH_FILE",
        ) from error
