"""`longshore pull`: images from their registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.options import PLATFORM, POLICIES
from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine

INSECURE = Option("--insecure", help="take a registry without TLS, or with a certificate that is not trusted here")
QUIET = Option("-q", "--quiet", help="do not show how far it is")

NAMES = """\
NAME is [HOST[:PORT]/]PATH[:TAG][@DIGEST], as docker writes it: without a host it is
Docker Hub's, without a tag `latest`. With a digest, that very image and no other."""


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each
    from ..terminal.pull_progress import LayerProgress

    async def pull(name: str) -> None:
        with LayerProgress(quiet=args.quiet) as progress:
            image = await engine.images.pull(
                name, platform=args.platform, policy=args.policy, insecure=args.insecure, progress=progress
            )
        write(f"{image.id}\n")

    return await for_each(args.names, pull)


VERB = Verb(
    "pull",
    "Fetch images from their registries, as far as they are not here, and print their ids.",
    arguments=["NAME..."],
    options=[
        PLATFORM,
        Option("--policy", kind="value", choices=POLICIES, default="always",
               help="when to ask the registry: always (default), if the image is not here (missing), always but go on"
                    " with what is here if it cannot be reached (newer), never"),
        INSECURE,
        QUIET,
    ],
    run=run,
    text=NAMES
    + """

How far it is goes to standard error. A pull that was broken off goes on where it was.
For registries that want a password: `longshore login`.""",
    examples=[
        ("longshore pull python:3.12-slim", "from Docker Hub"),
        ("longshore pull ghcr.io/owner/app:1", "from another registry"),
        ("longshore pull --platform linux/arm64 debian:12", "for another kind of machine"),
        ("longshore pull localhost:5000/app", "from a registry on this machine, which needs no TLS"),
    ],
)  # fmt: skip
