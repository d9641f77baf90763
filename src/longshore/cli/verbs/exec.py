"""`longshore exec`: a further command in a running container."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ..arguments import options
from ..arguments.parser import Arguments, Option, UsageError, Verb
from ..running import background
from ..terminal.output import note

if TYPE_CHECKING:
    from ...engine.container import Process
    from ...engine.engine import Engine


def before(args: Arguments) -> int | None:
    """With --detach: a child of this program goes on to hold the command; this one tells its name and leaves."""
    if not args.detach:
        return None
    if args.interactive or args.tty:
        raise UsageError(
            "-d cannot be combined with -i or -t: no process would remain to pass the input",
            hint="leave -d out, or -i and -t",
        )
    args.name = args.name or f"exec-{os.urandom(5).hex()}"
    if background.is_needed(args):
        return background.start(args)
    if args.background:
        args.report_fd = os.dup(1)
        return None
    if sys.platform == "win32":
        raise AssertionError("Windows has no fork: `background` is needed there")
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        with os.fdopen(read) as report:
            name = report.read()
        if not name:  # it failed, and has said why
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(name, end="")
        return 0
    os.close(read)
    os.setsid()
    args.report_fd = write
    return None


async def run(engine: Engine, args: Arguments) -> int:
    from ...compute.values import DEVNULL
    from ..terminal import attach_io, terminal

    if not args.command:
        raise UsageError("there is no command to run", hint="write `longshore exec CONTAINER -- COMMAND`")
    attach_io.check_terminal(interactive=args.interactive, tty=args.tty)
    container = await engine.get(args.container)

    async def start(*, stdin: int, stdout: int, stderr: int) -> Process:
        return await container.exec(
            args.command,
            name=args.name,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            timeout=args.timeout,
            env=options.environment(args),
            cwd=args.workdir,
            user=args.user,
            terminal=args.tty,
            size=terminal.size() if args.tty else None,
        )

    if args.detach:
        process = await start(stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        os.write(args.report_fd, f"{process.name}\n".encode())
        os.close(args.report_fd)
        background.detach_streams()
        exit = await process.wait()
    elif args.tty:
        process, exit = await attach_io.with_terminal(start, stdin=args.interactive)
    else:
        process, exit = await attach_io.plain(start, stdin=args.interactive, timeout=None)
    code = attach_io.exit_code(exit, f"process `{process.name}` of container `{container.id}`", process)
    if exit.cause == "time_limit":
        note(f"`{args.command[0]}` did not end within {args.timeout:g} s, and was killed")
    return code


VERB = Verb(
    "exec",
    "Run another command in a running container.",
    arguments=["CONTAINER"],
    command=True,
    options=[
        *options.PROCESS,
        options.TTY,
        Option("-d", "--detach", help="run it in the background, and print its name"),
        Option("--name", kind="value", metavar="NAME",
               help="name of the process, for `signal` and other verbs"),
        Option("--timeout", kind="value", metavar="TIME", convert=options.seconds,
               help="kill it and its descendants after this time; the exit code is then 124"),
        background.OPTION,
    ],
    before=before,
    run=run,
    text="""\
The exit code is the command's own; 128+n if signal n ended it, 127 if there is no such
command, 126 if it cannot be executed, 124 after --timeout, 125 if longshore failed.
The command ends with this program, however that ends.""",
    examples=[
        ("longshore exec web -- ls -l /", "`--` is optional"),
        ("longshore exec -it web -- bash", "a shell in the container"),
        ("longshore exec -i web -- sh -c 'cat > /tmp/copy' < file", "copy a file into it"),
        ("longshore exec -u 0 -e LEVEL=3 -w /tmp web -- ./check", "as another user, with a variable"),
    ],
)  # fmt: skip
