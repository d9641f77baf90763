"""`longshore checkpoints`: what a container can go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import ago_text, as_json, size_text, table, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    container = await engine.get(args.container)
    for name in args.remove:
        await container.delete_checkpoint(name)
    if args.remove:
        write("".join(f"{name}\n" for name in args.remove))
        return 0
    found = await container.checkpoints()
    if args.quiet:
        write("".join(f"{info.name}\n" for info in found))
    elif args.format == "json":
        write(as_json(found))
    else:
        rows = [[info.name, ago_text(info.created_at), size_text(info.size)] for info in found]
        write(table(["CHECKPOINT", "CREATED", "SIZE"], rows))
    return 0


VERB = Verb(
    "checkpoints",
    "List the checkpoints of a container, oldest first; or remove some.",
    arguments=["CONTAINER"],
    options=[
        Option("--remove", kind="list", metavar="NAME", help="remove this one, and print its name"),
        Option("-q", "--quiet", help="names only"),
        Option("--format", kind="value", choices=("table", "json"), default="table", help="table (default) or json"),
    ],
    run=run,
    examples=[
        ("longshore checkpoints web", "the checkpoints of `web`"),
        ("longshore checkpoints web --remove monday", "remove one"),
    ],
)
