"""`longshore doctor`: what works on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.exit_codes import ENGINE_FAILED
from ..terminal.output import as_json, escaped, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    found = await engine.features()
    works = found.items.get("run")
    code = 0 if works is None or works.supported else ENGINE_FAILED
    if args.format == "json":
        write(as_json(found))
        return code
    width = max((len(name) for name in found.items), default=0)
    for feature in found.items.values():
        line = f"{'yes' if feature.supported else 'no':<4} {feature.name:<{width}}  {escaped(feature.reason)}".rstrip()
        write(line + "\n")
        if feature.hint:
            write(f"{'':<4} {'':<{width}}  -> {escaped(feature.hint)}\n")
    return code


VERB = Verb(
    "doctor",
    "Show what works on this machine; for the rest, the reason and the next step.",
    options=[Option("--format", kind="value", choices=("text", "json"), default="text", help="text (default) or json")],
    run=run,
    text="The exit code is 0 if containers can be run. The first time it tries every runtime there is.",
    examples=[("longshore doctor", "a line for each capability: yes or no, and why")],
)
