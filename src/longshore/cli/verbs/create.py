"""`longshore create`: a container that no code has run in yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import options
from ..arguments.parser import Arguments, Verb
from ..running.image_pull import fetch
from ..terminal.output import write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ...compute.values import DEVNULL, PIPE

    id = args.name or options.made_up_name()
    spec = options.spec(args, size=(24, 80) if args.tty else None)
    image = await fetch(engine, spec, args)
    await engine.create(id, spec, stdin=PIPE if args.interactive or args.tty else DEVNULL, **image)
    write(f"{id}\n")
    return 0


VERB = Verb(
    "create",
    "Create a container without starting it, and print its id.",
    arguments=["ROOT"],
    command=True,
    options=(*options.CONTAINER, options.QUIET_PULL),
    rootless=options.rootless,
    run=run,
    text=options.ROOTS,
    examples=[
        ("longshore create --name job host -- sh -c 'echo working; sleep 5'", "then: longshore start job"),
        ("longshore create -it --name shell host -- bash", "then: longshore start -ai shell"),
    ],
)
