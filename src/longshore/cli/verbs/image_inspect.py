"""`longshore image inspect`: all that is known of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..arguments.options import PLATFORM
from ..arguments.parser import Arguments, Verb
from ..terminal.output import as_json, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each

    found: list[Any] = []

    async def inspect(name: str) -> None:
        found.append(await engine.images.get(name, platform=args.platform))

    code = await for_each(args.images, inspect)
    write(as_json(found))
    return code


VERB = Verb(
    "image inspect",
    "Show all that is known of images: a list, as JSON.",
    arguments=["IMAGE..."],
    options=[PLATFORM],
    run=run,
    text="IMAGE is a name, an id, a digest, or the first 12 or more digits of an id.",
    examples=[
        ("longshore image inspect python:3.12-slim", "its ids, names, sizes, layers and how it wants to be run"),
        ("longshore image inspect python:3.12-slim | jq '.[0].config'", "a part of it"),
    ],
)
