"""`longshore attach`: this program's streams are those of a running container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import note

if TYPE_CHECKING:
    from ...engine.container import Attachment, Container
    from ...engine.engine import Engine


async def wants_terminal(container: Container) -> bool:
    """Whether its command has a terminal."""
    return bool((await container.inspect())["spec"].get("terminal"))


async def run(engine: Engine, args: Arguments) -> int:
    from ...engine import states
    from ..terminal import attach_io, terminal

    container = await engine.get(args.container)
    info = await container.info()
    states.check_state(states.Verb.ATTACH_COMMAND, container.id, info.state)
    tty = await wants_terminal(container)
    keys = terminal.parse_keys(args.detach_keys)
    attachment = await _attachment(container, stdin=args.stdin)
    if attachment.stdin is not None:
        attach_io.check_terminal(interactive=True, tty=tty)
    try:
        exit = await attach_io.with_attachment(container, attachment, tty=tty, keys=keys, sig_proxy=args.sig_proxy)
    except attach_io.Detached:
        note(f"left container `{container.id}`, which runs on")
        return 0
    except attach_io.HungUp:  # it runs on, as if the keys had been typed
        return 129
    return attach_io.exit_code(exit, f"container `{container.id}`")


async def _attachment(container: Container, *, stdin: bool) -> Attachment:
    from ...errors import InvalidState, NotSupported

    if stdin:
        try:
            return await container.attach(stdin=True)
        except InvalidState as error:
            if error.state != "without an input":
                raise
        except NotSupported as error:
            error.hint = f"run `longshore attach --no-stdin {container.id}` to see its output"
            raise
    return await container.attach()


VERB = Verb(
    "attach",
    "Connect this program's streams to a running container's, from now on.",
    arguments=["CONTAINER"],
    options=[
        Option("--stdin", "--no-stdin", dest="stdin", default=True,
               help="connect standard input (default: if the container has one)"),
        Option("--detach-keys", kind="value", metavar="KEYS", default="ctrl-p,ctrl-q",
               help="keys that detach (default: ctrl-p,ctrl-q)"),
        Option("--sig-proxy", default=True, help="pass signals on to it (default: yes; --sig-proxy=false)"),
    ],
    run=run,
    text="The exit code is the container's; 0 after the detach keys. What was written before is in `longshore logs`.",
    examples=[
        ("longshore attach shell", "come back to the container `shell`"),
        ("longshore attach --no-stdin --sig-proxy=false web", "only watch; ctrl-c leaves it running"),
    ],
)  # fmt: skip
