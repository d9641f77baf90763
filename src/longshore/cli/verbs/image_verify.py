"""`longshore image verify`: is what the store has what it should be?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import escaped, json_line, note, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    problems = await engine.images.verify(args.image, repair=args.repair)
    for problem in problems:
        if args.format == "json":
            write(json_line(problem))
        else:
            repaired = " (repaired)" if problem.repaired else ""
            write(f"{escaped(problem.what)}: {escaped(problem.problem)}{repaired}\n")
            if problem.hint and not problem.repaired:
                write(f"  -> {escaped(problem.hint)}\n")
    if not problems:
        note("all is as it should be")
    return 0 if all(problem.repaired for problem in problems) else 1


VERB = Verb(
    "image verify",
    "Check an image, or all of them, against their digests: blobs and unpacked layers.",
    arguments=["[IMAGE]"],
    options=[
        Option("--repair", help="remove damaged blobs, so that the next pull fetches them; make damaged layers again"),
        Option("--format", kind="value", choices=("text", "json"), default="text",
               help="text (default), or a line of json for each problem"),
    ],
    run=run,
    text="It reads and unpacks everything. The exit code is 1 if something is wrong and was not repaired.",
    examples=[
        ("longshore image verify", "all images"),
        ("longshore image verify --repair python:3.12-slim", "one, and make it good again"),
    ],
)  # fmt: skip
