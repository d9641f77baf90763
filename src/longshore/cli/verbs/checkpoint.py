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
    "Write a running container to a checkpoint, and end it; `start --checkpoint` has it go on.",
    arguments=["CONTAINER", "NAME"],
    options=[
        Option("-R", "--leave-running", help="it runs on"),
        Option("--connections", help="write its open TCP connections, too"),
        Option(
            "--export", kind="value", metavar="FILE", complete="file", help="then write the checkpoint to an archive"
        ),
    ],
    run=run,
    examples=[
        ("longshore checkpoint web monday", "it stops here, and can go on from here"),
        ("longshore checkpoint -R web monday", "it runs on; this is what it can be set back to"),
        ("longshore checkpoint web monday --export web.tar", "to be carried elsewhere: see `longshore import`"),
    ],
)
