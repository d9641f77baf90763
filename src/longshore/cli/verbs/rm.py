"""`longshore rm`: containers and all that they have go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ...errors import InvalidState
    from ..running.run_verb import for_each

    async def remove(id: str) -> None:
        try:
            await (await engine.get(id)).delete(force=args.force)
        except InvalidState as error:
            raise InvalidState("remove", id, error.state, hint=f"run `longshore rm -f {id}` to end it first") from None
        write(f"{id}\n")

    return await for_each(args.containers, remove)


VERB = Verb(
    "rm",
    "Remove containers: their files, logs and records.",
    arguments=["CONTAINER..."],
    options=[Option("-f", "--force", help="if it runs, kill it first")],
    run=run,
    examples=[
        ("longshore rm web", "one that has ended, or was never started"),
        ("longshore rm -f web db", "also if they run"),
        ("longshore ps -aq --filter state=stopped | xargs -r longshore rm", "all that have ended"),
    ],
)
