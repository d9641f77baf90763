"""`longshore inspect`: all that is known of containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import as_json, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each

    found: list[dict[str, Any]] = []

    async def inspect(id: str) -> None:
        found.append(await (await engine.get(id)).inspect())

    code = await for_each(args.containers, inspect)
    write(as_json(found))
    return code


VERB = Verb(
    "inspect",
    "Show everything about containers, as a JSON list. Values of environment variables are not shown.",
    arguments=["CONTAINER..."],
    options=[Option("--format", kind="value", choices=("json",), default="json", help="json, the only one")],
    run=run,
    examples=[
        ("longshore inspect web", "state, exit record, settings, processes"),
        (
            """longshore inspect web | python3 -c 'import json,sys; print(json.load(sys.stdin)[0]["pid"])'""",
            "one value",
        ),
    ],
)
