"""`longshore resize`: the size of a container's terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, UsageError, Verb

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..arguments.options import number

    try:
        rows, columns = number(args.rows), number(args.columns)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not (1 <= rows <= 1000 and 1 <= columns <= 1000):
        raise UsageError(f"{rows} x {columns} is not a size: rows and columns are 1 to 1000")
    await (await engine.get(args.container)).resize(rows, columns)
    return 0


VERB = Verb(
    "resize",
    "Set the size of the terminal that a container's command has.",
    arguments=["CONTAINER", "ROWS", "COLUMNS"],
    run=run,
    text="`attach` and `run -it` do this by themselves when the window changes.",
    examples=[("longshore resize shell 40 120", "40 rows of 120 columns")],
)
