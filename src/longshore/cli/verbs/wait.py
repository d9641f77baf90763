"""`longshore wait`: until containers have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Verb
from ..terminal.exit_codes import ENGINE_FAILED
from ..terminal.output import complain, flush, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each

    unknown = False

    async def wait(id: str) -> None:
        nonlocal unknown
        exit = await (await engine.get(id)).wait()
        if exit.code is None:
            unknown = True
            complain(
                f"the exit code of container `{id}` is unknown ({exit.cause})", hint=f"run `longshore inspect {id}`"
            )
        else:
            write(f"{exit.code}\n")
            flush()

    return await for_each(args.containers, wait) or (ENGINE_FAILED if unknown else 0)


VERB = Verb(
    "wait",
    "Wait until containers have ended, and print their exit codes, one on each line.",
    arguments=["CONTAINER..."],
    run=run,
    examples=[
        ("longshore wait job", "prints, say, 0"),
        ('test "$(longshore wait job)" = 0 && echo done', "in a script"),
    ],
)
