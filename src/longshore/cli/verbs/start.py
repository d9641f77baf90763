"""`longshore start`: the command of a created container runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, UsageError, Verb
from ..running import background
from ..terminal.output import note, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


def before(args: Arguments) -> int | None:
    """Where there is no monitor, another of this program stays with what is started."""
    if args.attach or args.interactive or not background.is_needed(args):
        return None
    codes = [background.start(args, ["start", id]) for id in args.containers]
    return next((code for code in codes if code), 0)


async def run(engine: Engine, args: Arguments) -> int:
    from ..running.run_verb import for_each

    if args.attach or args.interactive:
        if args.checkpoint is not None:
            raise UsageError(
                "--checkpoint cannot be combined with -a or -i", hint="start it, then run `longshore attach`"
            )
        if len(args.containers) != 1:
            raise UsageError(
                "start can attach to one container only", hint="leave -a and -i out, or name one container"
            )
        return await _attached(engine, args)

    async def start(id: str) -> None:
        container = await engine.get(id)
        await container.start(checkpoint=args.checkpoint)
        if args.background:
            background.report_and_detach(id)
            await container.wait()
        else:
            write(f"{id}\n")

    return await for_each(args.containers, start)


async def _attached(engine: Engine, args: Arguments) -> int:
    from ...errors import NotSupported
    from ..terminal import attach_io, terminal
    from .attach import wants_terminal

    [id] = args.containers
    container = await engine.get(id)
    tty = await wants_terminal(container)
    attach_io.check_terminal(interactive=args.interactive, tty=tty)
    try:
        attachment = await container.attach(stdin=args.interactive, logs=True)
    except NotSupported as error:
        error.hint = (
            f"run `longshore start -a {id}` to see its output, or `longshore run -i` for a container with input"
        )
        raise
    try:
        exit = await attach_io.with_attachment(
            container,
            attachment,
            tty=tty,
            keys=terminal.parse_keys(args.detach_keys),
            start=container.start,
            sig_proxy=args.sig_proxy,
        )
    except attach_io.Detached:
        note(f"left container `{id}`, which runs on; `longshore attach {id}` comes back to it")
        return 0
    except attach_io.HungUp:  # it runs on, as if the keys had been typed
        return 129
    return attach_io.exit_code(exit, f"container `{id}`", container.init)


VERB = Verb(
    "start",
    "Start created containers, and print their ids. A container is started once: its command runs once.",
    arguments=["CONTAINER..."],
    options=[
        Option("-a", "--attach", help="show its output until it ends; the exit code is the command's"),
        Option("-i", "--interactive", help="the same, and pass this program's standard input"),
        Option("--detach-keys", kind="value", metavar="KEYS", default="ctrl-p,ctrl-q",
               help="keys that detach (default: ctrl-p,ctrl-q)"),
        Option("--sig-proxy", default=True, help="pass signals on to the command (default: yes; --sig-proxy=false)"),
        Option("--checkpoint", kind="value", metavar="NAME", help="continue a stopped container from this checkpoint"),
        background.OPTION,
    ],
    before=before,
    run=run,
    examples=[
        ("longshore start web", "start the container `web`"),
        ("longshore start -a job", "start `job`, and show its output until it ends"),
    ],
)  # fmt: skip
