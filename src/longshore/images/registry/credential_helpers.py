"""Credential helpers: programs called `docker-credential-NAME`, which know a keyring or a cloud's sign-in.

The protocol is docker's: the server on standard input, a JSON object on standard output. That there are no credentials
is said on standard output as well, with exit code 1.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from ...typed_json import decode_json

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NONE = "credentials not found"
_LOOK = 0.05  # seconds between looks at whether the caller wants to stop


class HelperFailed(Exception):
    """A helper is not there, or gave no answer that can be used. The message has nothing of what it wrote."""


def ask_helper(
    name: str,
    server: str,
    *,
    environ: Mapping[str, str],
    limit: float,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[str, str] | None:
    """Return the user and the secret that a helper has for a server; None if it has none.

    The helper is killed after `limit` seconds, or when `should_stop` returns True. Raises: HelperFailed.
    """
    if not _NAME.fullmatch(name):
        raise HelperFailed("its name in the file is not one of a helper")
    program = _find(f"docker-credential-{name}", environ)
    if program is None:
        raise HelperFailed(f"docker-credential-{name} is not in PATH")
    code, output = _run([program, "get"], f"{server}\n".encode(), environ, limit, should_stop)
    if code != 0:
        if _NONE in output.decode("utf-8", "replace").lower():
            return None
        raise HelperFailed(f"it ended with exit code {code}")
    try:
        answer = decode_json(output, dict[str, Any])
    except (ValueError, RecursionError):
        raise HelperFailed("its answer is not a JSON object") from None
    user, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(user, str) or not isinstance(secret, str):
        raise HelperFailed("its answer has no Username and Secret")
    return (user, secret) if user or secret else None


def _find(program: str, environ: Mapping[str, str]) -> str | None:
    """Where a program is by PATH; an entry that is not absolute is passed over, as another user may own that place."""
    endings = [".exe", ".cmd", ".bat"] if os.name == "nt" else [""]
    for directory in environ.get("PATH", os.defpath).split(os.pathsep):
        for ending in endings:
            path = os.path.join(directory, program + ending)
            if os.path.isabs(directory) and os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    return None


def _run(
    command: list[str], given: bytes, environ: Mapping[str, str], limit: float, should_stop: Callable[[], bool]
) -> tuple[int, bytes]:
    """Exit code and standard output of a program. Raises HelperFailed if it cannot be run, or takes too long."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environ),
            start_new_session=os.name != "nt",
        )
    except OSError as error:
        raise HelperFailed(f"it cannot be run: {error.strerror}") from None
    deadline = time.monotonic() + limit
    first: bytes | None = given
    try:
        while True:
            try:
                output, _ = process.communicate(first, timeout=_LOOK)
                return process.returncode, output
            except subprocess.TimeoutExpired:
                first = None  # it is being sent, and may be given only once
                if should_stop():
                    raise HelperFailed("it was stopped") from None
                if time.monotonic() > deadline:
                    raise HelperFailed(f"it gave no answer within {limit:g} s; it may wait for a keyring") from None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the program and of its children, and take up its end."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            if os.name == "nt":
                process.kill()
            else:
                # its children too: one that holds the pipe would otherwise be left behind
                getattr(os, "killpg")(process.pid, getattr(signal, "SIGKILL"))  # noqa: B009
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
