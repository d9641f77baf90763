"""`longshore create`: a container that no code has run in yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import settings
from .output import write
from .parser import Arguments, Verb

if TYPE_CHECKING:
    from ..engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from ..compute import DEVNULL, PIPE

    id = args.name or settings.made_up_name()
    spec = settings.spec(args, size=(24, 80) if args.tty else None)
    await engine.create(id, spec, stdin=PIPE if args.interactive or args.tty else DEVNULL)
    write(f"{id}\n")
    return 0


VERB = Verb(
    "create",
    "Make a container without starting it, and print its id.",
    arguments=["ROOT"],
    command=True,
    options=settings.CONTAINER,
    rootless=settings.rootless,
    run=run,
    text=settings.ROOTS,
    examples=[
        ("longshore create --name job host -- sh -c 'echo working; sleep 5'", "then: longshore start job"),
        ("longshore create -it --name shell host -- bash", "then: longshore start -ai shell"),
    ],
)
