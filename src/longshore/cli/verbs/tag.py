"""`longshore tag`: a further name for an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Verb

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    await engine.images.tag(args.image, args.name)
    return 0


VERB = Verb(
    "tag",
    "Give an image a further name. An image that had the name before loses it.",
    arguments=["IMAGE", "NAME"],
    run=run,
    text="IMAGE is a name, an id, a digest, or the first 12 or more digits of an id.",
    examples=[
        ("longshore tag python:3.12-slim base:today", "a name on this machine"),
        ("longshore tag app:1 ghcr.io/owner/app:1", "one to push it under"),
    ],
)
