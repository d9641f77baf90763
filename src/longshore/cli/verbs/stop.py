"""`longshore stop`: containers are asked to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.options import seconds
from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ...spec import parse_signal
    from ..running.run_verb import for_each_at_once

    if args.signal is not None:
        parse_signal(args.signal)

    async def stop(id: str) -> None:
        await (await engine.get(id)).stop(args.time, args.signal)
        write(f"{id}\n")

    return await for_each_at_once(args.containers, stop)


VERB = Verb(
    "stop",
    "Ask containers to end; kill them after a grace period. Prints the id of each when it has ended.",
    arguments=["CONTAINER..."],
    options=[
        Option("-t", "--time", "--timeout", kind="value", dest="time", metavar="TIME", default=10.0, convert=seconds,
               help="grace period before the kill (default: 10 s)"),
        Option("-s", "--signal", kind="value", metavar="SIGNAL", complete="signal",
               help="signal to send (default: its stop signal, TERM unless set)"),
    ],
    run=run,
    text="A command that cannot receive the signal (an init without a handler for it) is killed immediately.",
    examples=[
        ("longshore stop web", "TERM, and KILL after 10 seconds"),
        ("longshore stop -t 60 -s INT db cache", "two containers, with more time"),
    ],
)  # fmt: skip
