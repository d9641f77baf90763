"""Going on after the command line has returned: for what has to be held, or whose log nobody else would write.

On Unix a monitor writes the log of a container, and `exec -d` forks. Windows has neither: there another of this
program stays behind, without a console. It tells by its standard output what was made, then lets go of its streams.
"""

from __future__ import annotations

import os
import sys
from typing import IO

from ..arguments.parser import Arguments, Option

NO_MONITOR = os.name == "nt"
"""Whether what runs on for itself needs one of us to stay with it, and nobody can come back to a terminal."""

OPTION = Option("--behind", hidden=True, help="be the one that stays behind")


def wanted(args: Arguments) -> bool:
    """Whether another of this program is to be started for `args`, in place of doing it ourselves."""
    return NO_MONITOR and not args.behind


def leave(args: Arguments, words: list[str] | None = None) -> int:
    """Start the one that stays behind, and pass on what it tells; the exit code that this comes to.

    It gets the same words as we got, or `words`: a verb and what follows it.
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
    told = child.stdout.read()
    relay.join()
    sys.stdout.buffer.write(told)
    if not told:  # it failed, and has said why
        return child.wait()
    child.returncode = 0  # it goes on: nobody is to wait for it, or to warn that nobody does
    return 0


def _pass_on(words: IO[bytes]) -> None:
    sys.stderr.buffer.write(words.read())


def tell(text: str) -> None:
    """As the one that stays behind: say what was made, and let go of the streams of who started us."""
    from ..terminal.output import flush, write

    write(f"{text}\n")
    flush()
    let_go_of_streams()


def let_go_of_streams() -> None:
    """Nobody who reads our streams is to wait for us."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)
