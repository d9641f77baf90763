"""`longshore pause`: containers are frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .output import write
from .parser import Arguments, Verb

if TYPE_CHECKING:
    from ..engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from .running import for_each

    async def pause(id: str) -> None:
        await (await engine.get(id)).pause()
        write(f"{id}\n")

    return await for_each(args.containers, pause)


VERB = Verb(
    "pause",
    "Freeze containers: their processes get no time until they are resumed.",
    arguments=["CONTAINER..."],
    run=run,
    examples=[("longshore pause web", "freeze it; memory and connections stay as they are")],
)
