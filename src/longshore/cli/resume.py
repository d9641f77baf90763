"""`longshore resume`: paused containers go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .output import write
from .parser import Arguments, Verb

if TYPE_CHECKING:
    from ..engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from .running import for_each

    async def resume(id: str) -> None:
        await (await engine.get(id)).resume()
        write(f"{id}\n")

    return await for_each(args.containers, resume)


VERB = Verb(
    "resume",
    "Let paused containers go on.",
    arguments=["CONTAINER..."],
    run=run,
    examples=[("longshore resume web", "let it go on")],
)
