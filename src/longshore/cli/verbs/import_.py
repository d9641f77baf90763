"""`longshore import`: a container from an exported checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    container = await engine.import_checkpoint(args.file, args.name)
    if args.start:
        [info] = await container.checkpoints()
        await container.start(checkpoint=info.name)
    write(f"{container.id}\n")
    return 0


VERB = Verb(
    "import",
    "Create a stopped container from an exported checkpoint. Import only what you trust.",
    arguments=["FILE"],
    options=[
        Option("--name", kind="value", metavar="NAME", help="id of the container (default: the exported id)"),
        Option("--start", help="start it immediately"),
    ],
    run=run,
    examples=[
        ("longshore import web.tar", "then `longshore start --checkpoint monday web`"),
        ("longshore import --start --name web-2 web.tar", "under another name, and start it"),
    ],
)
