"""`longshore version`: longshore and its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import as_json, escaped, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    found = await engine.version()
    if args.format == "json":
        write(as_json(found))
    else:
        width = max(len(name) for name in found)
        write("".join(f"{name:<{width}}  {escaped(text)}\n" for name, text in found.items()))
    return 0


VERB = Verb(
    "version",
    "Show the versions of longshore and of the programs that it uses.",
    options=[Option("--format", kind="value", choices=("text", "json"), default="text", help="text (default) or json")],
    run=run,
    examples=[("longshore version", "a line for each part")],
)
