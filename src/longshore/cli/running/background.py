"""Continue in the background after the command has returned.

Some work needs a process of longshore to continue: holding a container, or writing a log that has no other writer. On
Unix a monitor writes the log of a container, and `exec -d` forks. Windows has neither. There, the command starts a
second longshore without a console. The second one reports on its standard output what it made, then detaches from its
streams. The first one passes that report on and exits.
"""

from __future__ import annotations

import os
import sys
from typing import IO

from ..arguments.parser import Arguments, Option

NO_MONITOR = os.name == "nt"
"""Whether a container that keeps running needs a process of longshore beside it, and cannot be attached to later."""

OPTION = Option("--background", hidden=True, help="be the process that continues in the background")


def is_needed(args: Arguments) -> bool:
    """Return whether a second longshore must be started for `args`."""
    return NO_MONITOR and not args.background


def start(args: Arguments, words: list[str] | None = None) -> int:
    """Start the process that continues in the background, pass its report on, and return the exit code.

    The process gets the same words as this one, or `words`: a verb and what follows it.
    """
    import subprocess
    import threading

    before, given = args.line
    verb, *rest = words or given
    flags = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    child = subprocess.Popen(
        [sys.executable, "-m", "longshore.cli", *before, verb, OPTION.names[0], *rest],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,  # without a console it cannot write to ours
        creationflags=flags,
        start_new_session=not flags,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    relay = threading.Thread(target=_pass_on, args=(child.stderr,), daemon=True)
    relay.start()
    report = child.stdout.read()
    relay.join()
    sys.stdout.buffer.write(report)
    if not report:  # it failed, and its error is on stderr
        return child.wait()
    child.returncode = 0  # it continues on purpose: no ResourceWarning about a child that still runs
    return 0


def _pass_on(stderr: IO[bytes]) -> None:
    sys.stderr.buffer.write(stderr.read())


def report_and_detach(text: str) -> None:
    """Report what was made to the process that started this one, then detach from its streams."""
    from ..terminal.output import flush, write

    write(f"{text}\n")
    flush()
    detach_streams()


def detach_streams() -> None:
    """Connect the standard streams to the null device, so that their readers see the end."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
