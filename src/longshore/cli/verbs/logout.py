"""`longshore logout`: what `login` kept goes."""

from __future__ import annotations

import os

from ..arguments.parser import Arguments, Verb
from ..terminal.output import note
from .login import uid


def log_out(args: Arguments) -> int:
    """Remove the credentials that `login` kept for a registry."""
    from ...errors import LongshoreError
    from ...images.names import check_registry
    from ...images.registry import login
    from ..running import run_verb

    run_verb.debugging = args.debug
    try:
        registry = check_registry(args.registry or "docker.io")
        others = login.erase(registry, environ=os.environ, uid=uid())
    except LongshoreError as error:
        return run_verb.report_error(error)
    note(f"logged out of {registry}")
    if others:
        note(f"credentials for it that other programs keep are still in {', '.join(others)}")
    return 0


VERB = Verb(
    "logout",
    "Forget user and password for a registry.",
    arguments=["[REGISTRY]"],
    simple=log_out,
    text="REGISTRY is as for `login`. What `podman login` or `docker login` keep in other files stays.",
    examples=[("longshore logout ghcr.io", "what `longshore login ghcr.io` kept")],
)
