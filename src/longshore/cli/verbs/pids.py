"""`longshore pids`: pids of the processes in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..terminal.output import as_json

    found = await (await engine.get(args.container)).pids()
    write(as_json(found) if args.format == "json" else "".join(f"{pid}\n" for pid in found))
    return 0


VERB = Verb(
    "pids",
    "Print the pids, on this machine, of the processes in a container.",
    arguments=["CONTAINER"],
    options=[
        Option("--format", kind="value", choices=("lines", "json"), default="lines", help="lines (default) or json")
    ],
    run=run,
    examples=[
        ("longshore pids web", "a pid a line"),
        ("ps -o pid,rss,args -p $(longshore pids web | paste -sd,)", "for the machine's own tools"),
    ],
)
