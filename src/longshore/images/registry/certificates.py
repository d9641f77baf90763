"""Certificates for one registry, from the folders that docker and podman read: `certs.d/HOST[:PORT]/`.

`*.crt` are authorities that are trusted for this host beside the system's. `NAME.cert` and `NAME.key` are what this
machine shows of itself.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from ...errors import LongshoreError
from ..names import DOCKER_HUB, api_host


def folders(host: str, environ: Mapping[str, str]) -> list[str]:
    """Return the folders that may have certificates for a host, the user's own first."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    tops = [os.path.join(home, ".config", "containers", "certs.d")] if home else []
    names = [host]
    if host == api_host(DOCKER_HUB):
        names.append(DOCKER_HUB)
    if os.name == "nt":  # where a name has no colon, docker leaves it out
        tops.append(os.path.join(environ.get("PROGRAMDATA", "C:\\ProgramData"), "docker", "certs.d"))
        names = [name.replace(":", "") for name in names]
    else:
        tops += ["/etc/containers/certs.d", "/etc/docker/certs.d"]
    return [os.path.join(top, name) for top in tops for name in names]


def tls_context(host: str, *, environ: Mapping[str, str], insecure: bool = False) -> ssl.SSLContext:
    """Return how to speak TLS with a host: what is trusted, and what is shown. `insecure` trusts everything.

    Raises: LongshoreError for a certificate of a folder that cannot be used.
    """
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    shown = False
    for folder in folders(host, environ):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue  # mostly it does not exist
        for name in names:
            path = os.path.join(folder, name)
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(cafile=path)
                elif name.endswith(".cert") and not shown:
                    context.load_cert_chain(path, path.removesuffix(".cert") + ".key", password=_no_password)
                    shown = True
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
                hint = "put NAME.key beside NAME.cert" if name.endswith(".cert") else "convert it to PEM"
                raise LongshoreError(f"cannot use the certificate {path}: {reason}", hint=hint) from error
    return context


def _no_password() -> str:
    """For a key that is locked: without this, OpenSSL asks at the terminal."""
    raise ValueError("its key is locked with a password")
