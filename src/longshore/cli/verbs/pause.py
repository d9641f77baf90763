"""`longshore pause`: containers are frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each

    async def pause(id: str) -> None:
        await (await engine.get(id)).pause()
        write(f"{id}\n")

    return await for_each(args.containers, pause)


VERB = Verb(
    "pause",
    "Freeze containers: their processes do not run until `resume`.",
    arguments=["CONTAINER..."],
    run=run,
    examples=[("longshore pause web", "freeze it; memory and connections stay as they are")],
)
