"""`longshore checkpoint`: a container is written to files, from which it can go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    container = await engine.get(args.container)
    await container.checkpoint(args.name, leave_running=args.leave_running, connections=args.connections)
    if args.export:
        await container.export_checkpoint(args.name, args.export)
    write(f"{args.name}\n")
    return 0


VERB = Verb(
    "checkpoint",
    "Save a running container to a checkpoint, and end it. `start --checkpoint` continues it.",
    arguments=["CONTAINER", "NAME"],
    options=[
        Option("-R", "--leave-running", help="leave it running"),
        Option("--connections", help="also save open TCP connections"),
        Option(
            "--export", kind="value", metavar="FILE", complete="file", help="also write the checkpoint to an archive"
        ),
    ],
    run=run,
    examples=[
        ("longshore checkpoint web monday", "save and end it; it can continue later"),
        ("longshore checkpoint -R web monday", "save it and leave it running"),
        ("longshore checkpoint web monday --export web.tar", "for another machine: see `longshore import`"),
    ],
)
