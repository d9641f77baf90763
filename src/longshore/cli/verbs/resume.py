"""`longshore resume`: paused containers go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each

    async def resume(id: str) -> None:
        await (await engine.get(id)).resume()
        write(f"{id}\n")

    return await for_each(args.containers, resume)


VERB = Verb(
    "resume",
    "Resume paused containers.",
    arguments=["CONTAINER..."],
    run=run,
    examples=[("longshore resume web", "resume it")],
)
