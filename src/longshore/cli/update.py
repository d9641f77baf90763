"""`longshore update`: other limits for living containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import windows
from .output import write
from .parser import Arguments, UsageError, Verb
from .settings import LIMITS, limits

if TYPE_CHECKING:
    from ..engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from .running import for_each

    change = limits(args)
    windows.refuse_elsewhere(args, windows.ENDPOINTS)
    add, remove = args.add_endpoint, args.remove_endpoint
    if not (change or add or remove):
        raise UsageError("there is nothing to change", hint="give a limit, as `longshore update -m 512m web`")

    async def update(id: str) -> None:
        await (await engine.get(id)).update(**change, add_endpoints=add, remove_endpoints=remove)
        write(f"{id}\n")

    return await for_each(args.containers, update)


VERB = Verb(
    "update",
    "Change the limits of living containers, at once.",
    arguments=["CONTAINER..."],
    options=[*LIMITS, *windows.ENDPOINTS],
    run=run,
    examples=[
        ("longshore update -m 512m web", "more memory"),
        ("longshore update --cpus 0.5 --pids-limit 200 web db", "for two"),
    ],
)
