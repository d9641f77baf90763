"""`longshore update`: other limits for living containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import windows_options
from ..arguments.options import LIMITS, limits
from ..arguments.parser import Arguments, UsageError, Verb
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each

    change = limits(args)
    windows_options.refuse_elsewhere(args, windows_options.ENDPOINTS)
    add, remove = args.add_endpoint, args.remove_endpoint
    if not (change or add or remove):
        raise UsageError("there is nothing to change", hint="give a limit: `longshore update -m 512m web`")

    async def update(id: str) -> None:
        await (await engine.get(id)).update(**change, add_endpoints=add, remove_endpoints=remove)
        write(f"{id}\n")

    return await for_each(args.containers, update)


VERB = Verb(
    "update",
    "Change the limits of running containers immediately.",
    arguments=["CONTAINER..."],
    options=[*LIMITS, *windows_options.ENDPOINTS],
    run=run,
    examples=[
        ("longshore update -m 512m web", "more memory"),
        ("longshore update --cpus 0.5 --pids-limit 200 web db", "two containers"),
    ],
)
