"""`longshore run`: a command in a container of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import options
from ..arguments.parser import Arguments, Option, UsageError, Verb
from ..running import background
from ..running.image_pull import ImageSettings, fetch
from ..terminal.output import note, write

if TYPE_CHECKING:
    from ...engine.container import Container, Process
    from ...engine.engine import Engine
    from ...spec import Spec

RUNNING = (
    Option("-d", "--detach", help="run it in the background, and print its id; its output goes to its log"),
    Option("--rm", help="remove it when it ends (always so without -d)"),
    Option("--timeout", kind="value", metavar="TIME", convert=options.seconds,
           help="kill it after this time (30, 90s, 5m); the exit code is then 124"),
    Option("--detach-keys", kind="value", metavar="KEYS", default="ctrl-p,ctrl-q",
           help="with -it: keys that detach (default: ctrl-p,ctrl-q)"),
    Option("--sig-proxy", default=True, help="pass signals on to the command (default: yes; --sig-proxy=false)"),
    options.QUIET_PULL,
    background.OPTION,
)  # fmt: skip


def before(args: Arguments) -> int | None:
    """With --detach, where there is no monitor: another of this program stays with the container."""
    return background.start(args) if args.detach and background.is_needed(args) else None


async def run(engine: Engine, args: Arguments) -> int:
    from ...aio.tasks import shielded
    from ..terminal import attach_io, terminal

    id = args.name or options.made_up_name()
    if args.detach:
        return await _detached(engine, id, args)
    attach_io.check_terminal(interactive=args.interactive, tty=args.tty)
    size = terminal.size() if args.tty else None
    spec = options.spec(args, size=size)
    image = await fetch(engine, spec, args)
    if args.tty and args.interactive and terminal.is_terminal(0) and not background.NO_MONITOR:
        return await _at_terminal(engine, id, spec, image, args)

    made: list[Container] = []

    async def start(*, stdin: int, stdout: int, stderr: int) -> Process:
        container = await engine.launch(id, spec, stdin=stdin, stdout=stdout, stderr=stderr, **image)
        made.append(container)
        assert container.init is not None
        return container.init

    try:
        if args.tty:
            process, exit = await attach_io.with_terminal(
                start, stdin=args.interactive, timeout=args.timeout, sig_proxy=args.sig_proxy
            )
        else:
            process, exit = await attach_io.plain(
                start, stdin=args.interactive, timeout=args.timeout, sig_proxy=args.sig_proxy
            )
    finally:
        for container in made:
            await shielded(_remove(container))
    if exit.cause == "time_limit":
        note(f"container `{id}` did not end within {args.timeout:g} s, and was killed")
    return attach_io.exit_code(exit, f"container `{id}`", process)


async def _remove(container: Container) -> None:
    """Remove it. That this fails is told, and takes nobody the exit code, or the error, that there is already."""
    from ...errors import LongshoreError
    from ..running.run_verb import report_error

    try:
        await container.delete(force=True)
    except LongshoreError as error:
        report_error(error)
        note(f"run `longshore rm -f {container.id}` if container `{container.id}` is still there")


async def _detached(engine: Engine, id: str, args: Arguments) -> int:
    from ...compute.values import DEVNULL, PIPE

    if args.rm:
        raise UsageError(
            "-d and --rm cannot be combined: no process would remain to remove the container",
            hint="run `longshore rm` when it has ended",
        )
    if args.timeout is not None:
        raise UsageError(
            "-d and --timeout cannot be combined: no process would remain to end the container",
            hint="run `longshore stop` in time, or leave -d out",
        )
    if args.interactive and not args.tty:
        raise UsageError(
            "-d and -i cannot be combined without -t: the input would end with this command",
            hint="use -dit; or use `longshore create -i`, and `longshore start -i` when there is input",
        )
    spec = options.spec(args, size=(24, 80) if args.tty else None)
    image = await fetch(engine, spec, args)
    container = await engine.launch(id, spec, stdin=PIPE if args.tty else DEVNULL, **image)
    if args.background:
        background.report_and_detach(id)
        await container.wait()
    else:
        write(f"{id}\n")
    return 0


async def _at_terminal(engine: Engine, id: str, spec: Spec, image: ImageSettings, args: Arguments) -> int:
    """With a monitor, so that one can leave it and come back; else as if it ran for its caller alone."""
    from ...aio.tasks import shielded
    from ...compute.values import PIPE
    from ..terminal import attach_io, terminal

    keys = terminal.parse_keys(args.detach_keys)
    container = await engine.create(id, spec, stdin=PIPE, **image)
    try:
        attachment = await container.attach(stdin=True, logs=True)
        exit = await attach_io.with_attachment(
            container,
            attachment,
            tty=True,
            keys=keys,
            start=container.start,
            timeout=args.timeout,
            sig_proxy=args.sig_proxy,
        )
    except attach_io.Detached:
        stays = f", and stays until `longshore rm -f {id}`" if args.rm else ""
        note(f"left container `{id}`, which runs on{stays}; `longshore attach {id}` comes back to it")
        return 0
    except attach_io.HungUp:
        await shielded(container.delete(force=True))
        return 129
    except BaseException:
        await shielded(_remove(container))
        raise
    await shielded(_remove(container))
    return attach_io.exit_code(exit, f"container `{id}`", container.init)


VERB = Verb(
    "run",
    "Run a command in a new container, and remove the container when it ends.",
    arguments=["ROOT"],
    command=True,
    options=(*RUNNING, *options.CONTAINER),
    rootless=options.rootless,
    before=before,
    run=run,
    text=options.ROOTS
    + """

The exit code is the command's own; 128+n if signal n ended it, 127 if there is no such
command, 126 if it cannot be executed, 124 after --timeout, 125 if longshore failed.
Options may stand before or after ROOT; what follows the command is the command's.""",
    examples=[
        ("longshore run host -- echo hi", "a program of this machine, in a container"),
        ("longshore run host python3 -c 'print(6 * 7)'", "`--` is optional"),
        ("echo hi | longshore run -i host -- tr a-z A-Z", "with input"),
        ("longshore run -it host -- bash", "a shell; ctrl-p ctrl-q leaves it running"),
        ("longshore run -m 256m --pids-limit 64 --timeout 10 host -- ./untrusted", "with limits"),
        ("longshore run -d --name web -v /srv/www:/www:ro --network host host -- python3 -m http.server -d /www",
         "in the background; then: longshore logs web"),
        ("longshore run python:3.12-slim -- python -c 'print(6 * 7)'", "in an image, which is pulled if necessary"),
        ("longshore run -it --pull always --entrypoint sh ghcr.io/owner/app:1", "a shell in the newest image"),
        ("longshore run rootfs:/srv/alpine -- cat /etc/os-release", "with a root file system of its own"),
        ("longshore run --layer /srv/app --layer /srv/base -- /app/start", "folders as layers"),
        ("longshore run --spec config.json", "an OCI runtime specification"),
    ],
)  # fmt: skip
