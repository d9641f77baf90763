"""`longshore login`: user and password for a registry, kept in a file for its owner only."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, UsageError, Verb
from ..terminal.output import note
from .pull import INSECURE

if TYPE_CHECKING:
    from ...images.registry.credentials import Credentials


def log_in(args: Arguments) -> int:
    """Try credentials at a registry, and keep them."""
    from ...errors import LongshoreError
    from ..running import run_verb

    run_verb.debugging = args.debug
    try:
        return _log_in(args)
    except LongshoreError as error:
        return run_verb.report_error(error)


def _log_in(args: Arguments) -> int:
    from ...images.names import check_registry
    from ...images.registry import login
    from ...images.registry.credentials import Credentials

    registry = check_registry(args.registry or "docker.io")
    user = args.username or _asked_user(args)
    password = _piped_password() if args.password_stdin else _asked_password(registry)
    credentials = Credentials(username=user, password=password)
    _try(registry, credentials, insecure=args.insecure)
    path = login.store(registry, credentials, environ=os.environ, uid=uid())
    note(f"logged in to {registry}; user and password are in {path}, which only its owner can read")
    return 0


def uid() -> int | None:
    """The uid of this program; None where there are none."""
    return os.getuid() if hasattr(os, "getuid") else None


def _try(registry: str, credentials: Credentials, *, insecure: bool) -> None:
    """Have the registry say whether it takes them."""
    from ...images.registry.interrupts import Interrupt
    from ...images.registry.repository import RegistryState
    from ...images.registry.sources import open_registry

    with open_registry(
        registry,
        operation=f"log in to {registry}",
        state=RegistryState(environ=os.environ),
        interrupt=Interrupt(),
        credentials=credentials,
        insecure=insecure or None,
    ) as opened:
        opened.origin.check_access()


def _asked_user(args: Arguments) -> str:
    if args.password_stdin or not _at_terminal():
        raise UsageError("login needs a user", hint="give it with -u USER")
    sys.stderr.write("User: ")
    sys.stderr.flush()
    user = sys.stdin.readline().strip()
    if not user:
        raise UsageError("login needs a user")
    return user


def _asked_password(registry: str) -> str:
    if not _at_terminal():
        raise UsageError(
            "login needs a password, and there is no terminal to ask at",
            hint="pass it to standard input with --password-stdin",
        )
    from getpass import getpass

    password = getpass(f"Password for {registry}: ")
    if not password:
        raise UsageError("login needs a password")
    return password


def _piped_password() -> str:
    """The password in standard input, without the end of its line."""
    data = sys.stdin.buffer.read(1 << 16) if sys.stdin is not None else b""
    try:
        password = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("the password in standard input is not UTF-8") from None
    if not password:
        raise UsageError("there is no password in standard input")
    return password


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


VERB = Verb(
    "login",
    "Try user and password at a registry, and keep them for pull, push and run.",
    arguments=["[REGISTRY]"],
    options=[
        Option("-u", "--username", kind="value", metavar="USER", help="the user (default: it is asked for)"),
        Option("--password-stdin", help="read the password from standard input, not from the terminal"),
        INSECURE,
    ],
    simple=log_in,
    text="""\
REGISTRY is a host, with its port if it has one; without it, Docker Hub. A password is
never taken from the command line, which all users of a machine can see. They are kept
where podman keeps them: in the file that $REGISTRY_AUTH_FILE names, or in
containers/auth.json below $XDG_RUNTIME_DIR (for root: /run/containers/0), with mode 0600.
Those of `podman login` and `docker login` are used, too.""",
    examples=[
        ("longshore login ghcr.io", "asks for user and password, without showing it"),
        ("longshore login -u ann --password-stdin ghcr.io < token", "for scripts"),
    ],
)
