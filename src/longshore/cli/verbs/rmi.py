"""`longshore rmi`: names of images go, and images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each

    async def remove(name: str) -> None:
        removed = await engine.images.remove(name, force=args.force)
        write("".join(f"{each}\n" for each in removed))

    return await for_each(args.images, remove)


VERB = Verb(
    "rmi",
    "Remove names of images, and images that have no further name; print what went: names, then digests.",
    arguments=["IMAGE..."],
    options=[Option("-f", "--force", help="with an id: also if the image has several names")],
    run=run,
    text="What a container uses stays until that is gone; `longshore image prune` removes it then.",
    examples=[
        ("longshore rmi python:3.12-slim", "by name"),
        ("longshore rmi -f 3f5b1c9ad0e2", "by id, with all its names"),
    ],
)
