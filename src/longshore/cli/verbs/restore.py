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
    "Record the exits that no program has recorded, and undo containers that were half made.",
    options=[Option("--format", kind="value", choices=("text", "json"), default="text", help="text (default) or json")],
    run=run,
    text="""\
Every verb does this for its own container; `restore` does it for all, for example
after a crash or a boot. It prints what runs, what has ended, and what was undone.""",
    examples=[("longshore restore", "complete all records")],
)
