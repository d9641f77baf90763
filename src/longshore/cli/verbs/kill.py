"""`longshore kill`: containers end at once, or get a signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ...engine import states
    from ...spec import parse_signal
    from ..running.run_verb import for_each

    number = parse_signal(args.signal)

    async def kill(id: str) -> None:
        container = await engine.get(id)
        info = await container.info()
        # as docker: whoever names it expects that it runs. Programs, who want it ended, have `Container.kill`
        states.check_state(states.Verb.KILL_COMMAND, id, info.state)
        await container.signal(number)
        write(f"{id}\n")

    return await for_each(args.containers, kill)


VERB = Verb(
    "kill",
    "Kill containers, or send their commands another signal. Does not wait for their end.",
    arguments=["CONTAINER..."],
    options=[
        Option("-s", "--signal", kind="value", metavar="SIGNAL", default="KILL", complete="signal",
               help="name or number (default: KILL)"),
    ],
    run=run,
    text="""\
As with docker, it is an error (exit code 125) if the container does not run: it is
stopped, or was never started. `stop` succeeds in that case; so does Python's
`Container.kill()`.""",
    examples=[
        ("longshore kill web", "kill it"),
        ("longshore kill -s HUP web", "make it reload its configuration"),
    ],
)  # fmt: skip
