"""`longshore history`: the steps in the making of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import ago_text, json_line, on_terminal, shortened, size_text, table, write

if TYPE_CHECKING:
    from ...engine.engine import Engine

WIDTH = 80


async def run(engine: Engine, args: Arguments) -> int:
    found = await engine.images.history(args.image)
    if args.format == "json":
        write(b"".join(json_line(entry) for entry in found))
        return 0
    rows = []
    for entry in found:
        step = entry.created_by or entry.comment
        rows.append([ago_text(entry.created), size_text(entry.size), shortened(step, WIDTH) if on_terminal() else step])
    write(table(["CREATED", "SIZE", "STEP"], rows, right=(1,)))
    return 0


VERB = Verb(
    "history",
    "Show the steps in the making of an image, as far as it names them, the first one first.",
    arguments=["IMAGE"],
    options=[
        Option("--format", kind="value", choices=("table", "json"), default="table",
               help="table (default), or a line of json for each step"),
    ],
    run=run,
    text="On a terminal, long steps are cut; in a file, a pipe or json they are whole.",
    examples=[("longshore history python:3.12-slim", "with the size of the layer that each step made")],
)  # fmt: skip
