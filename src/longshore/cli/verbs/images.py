"""`longshore images`: what is on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import ago_text, json_line, size_text, table, write

if TYPE_CHECKING:
    from ...engine.engine import Engine

HEADINGS = ["NAME", "ID", "PLATFORM", "CREATED", "SIZE", "UNIQUE"]


async def run(engine: Engine, args: Arguments) -> int:
    found = await engine.images.list()
    if args.quiet:
        write("".join(f"{image.id}\n" for image in found))
    elif args.format == "json":
        write(b"".join(json_line(image) for image in found))
    else:
        rows = [
            [
                name,
                image.id.partition(":")[2][:12],
                image.platform,
                ago_text(image.created),
                size_text(image.size),
                size_text(image.unique_size),
            ]
            for image in found
            for name in image.names or ["<none>"]
        ]
        write(table(HEADINGS, rows, right=(4, 5)))
    return 0


VERB = Verb(
    "images",
    "List the images on this machine, the youngest first: a line for each name.",
    options=[
        Option("-q", "--quiet", help="ids only, each once"),
        Option("--format", kind="value", choices=("table", "json"), default="table",
               help="table (default), or a line of json for each image"),
    ],
    run=run,
    text="""\
SIZE is that of the unpacked layers, UNIQUE of those that no other image here has. An
image without a name (<none>) is one whose name means another image by now.""",
    examples=[
        ("longshore images", "all"),
        ("longshore images --format json", "for a program"),
    ],
)  # fmt: skip
