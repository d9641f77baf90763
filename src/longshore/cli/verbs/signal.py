"""`longshore signal`: a signal for a container, or for one of its processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ...spec import parse_signal

    number = parse_signal(args.signal)
    container = await engine.get(args.container)
    if args.process is None:
        await container.signal(number)
    else:
        await (await container.process(args.process)).signal(number)
    return 0


VERB = Verb(
    "signal",
    "Send a signal to a container's command, or to another of its processes.",
    arguments=["CONTAINER", "SIGNAL"],
    options=[
        Option("-p", "--process", kind="value", metavar="NAME", help="the process that `exec --name` started"),
    ],
    run=run,
    text="SIGNAL is a name or a number: TERM, SIGTERM and 15 are the same.",
    examples=[
        ("longshore signal web HUP", "to its command"),
        ("longshore signal web KILL --process backup", "to the process that `exec --name backup` started"),
    ],
)
