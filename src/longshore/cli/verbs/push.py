"""`longshore push`: an image to its registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Verb
from ..terminal.output import write
from .pull import INSECURE, QUIET

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..terminal.pull_progress import LayerProgress

    with LayerProgress(quiet=args.quiet) as progress:
        digest = await engine.images.push(args.image, insecure=args.insecure, progress=progress)
    write(f"{digest}\n")
    return 0


VERB = Verb(
    "push",
    "Send an image to the registry that its name says, byte for byte, and print the digest that it has there.",
    arguments=["IMAGE"],
    options=[INSECURE, QUIET],
    run=run,
    text="What the registry has already is not sent. For registries that want a password: `longshore login`.",
    examples=[
        ("longshore tag app:1 ghcr.io/owner/app:1", "first a name that says which registry"),
        ("longshore push ghcr.io/owner/app:1", "then this"),
    ],
)
