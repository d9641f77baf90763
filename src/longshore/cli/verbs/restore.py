"""`longshore restore`: all containers are taken up again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import as_json, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    found = await engine.restore()
    if args.format == "json":
        write(as_json(found))
        return 0
    for word, ids in (
        ("running", found.running),
        ("ended", found.ended),
        ("undone", found.undone),
        ("hidden", found.hidden),
    ):
        write("".join(f"{word:<8} {id}\n" for id in sorted(ids)))
    return 0


VERB = Verb(
    "restore",
    "Take up all containers again: record how those ended that nobody watched, undo half-made ones.",
    options=[Option("--format", kind="value", choices=("text", "json"), default="text", help="text (default) or json")],
    run=run,
    text="""\
Every verb does this by itself for the container that it is about; this does it for all, as
after a crash or a boot. Prints what runs, what had ended, and what was undone.""",
    examples=[("longshore restore", "put the records in order")],
)
