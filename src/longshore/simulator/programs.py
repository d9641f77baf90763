"""What simulated containers can run: small programs in Python, found by the first word of a command.

A program is `async def program(process: Process) -> int`: it has `process.args`, `env`, `cwd`, `user`, `stdin`,
`stdout`, `stderr`, `signals`, `size`, and returns its exit code. It runs only while its container is not paused;
KILL ends it wherever it waits. A BrokenPipeError that it lets out ends it as SIGPIPE would.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .process import Process

Program: TypeAlias = "Callable[[Process], Awaitable[int]]"

LINE = b"x" * 63 + b"\n"  # what `spew` writes, over and over
SPEW_CHUNK = LINE * 1024

NOT_EXECUTABLE = frozenset({"/etc/passwd", "/tmp"})
"""Names that every simulated root has, and that nobody can run."""


async def true(process: Process) -> int:
    """Ends with 0."""
    return 0


async def false(process: Process) -> int:
    """Ends with 1."""
    return 1


async def exit_(process: Process) -> int:
    """`exit N`: ends with N."""
    return int(process.args[1])


async def echo(process: Process) -> int:
    """`echo TEXT...`: writes its arguments and a newline."""
    await process.stdout.write(" ".join(process.args[1:]).encode("utf-8", "surrogateescape") + b"\n")
    return 0


async def cat(process: Process) -> int:
    """Copies its input to its output, to the end of input."""
    while data := await process.stdin.read(1 << 16):
        await process.stdout.write(data)
    return 0


async def sleep(process: Process) -> int:
    """`sleep SECONDS`, `sleep forever` (or `infinity`)."""
    if process.args[1] in ("forever", "infinity"):
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(float(process.args[1]))
    return 0


async def trap(process: Process) -> int:
    """`trap [TEXT...]`: writes its arguments, if any, and ends with 0 on TERM."""
    process.signals.catch(15)
    if len(process.args) > 1:
        await echo(process)
    await process.signals.get()
    return 0


async def spew(process: Process) -> int:
    """`spew BYTES [stderr]`: writes so many bytes, in lines of 64."""
    rest = int(process.args[1])
    stream = process.stderr if process.args[2:] == ["stderr"] else process.stdout
    while rest > 0:
        data = SPEW_CHUNK[:rest]
        await stream.write(data)
        rest -= len(data)
        await asyncio.sleep(0)
    return 0


async def env(process: Process) -> int:
    """Writes its environment, a line for each variable."""
    text = "".join(f"{name}={value}\n" for name, value in process.env.items())
    await process.stdout.write(text.encode("utf-8", "surrogateescape"))
    return 0


async def pwd(process: Process) -> int:
    """Writes its working directory."""
    await process.stdout.write(f"{process.cwd}\n".encode())
    return 0


async def whoami(process: Process) -> int:
    """Writes its user as it was asked for; `root` if none was."""
    await process.stdout.write(f"{process.user or 'root'}\n".encode())
    return 0


async def stty(process: Process) -> int:
    """`stty size`: writes rows and columns of its terminal; fails if it has none."""
    if process.size is None:
        await process.stderr.write(b"stty: standard input: Inappropriate ioctl for device\n")
        return 1
    await process.stdout.write(b"%d %d\n" % process.size)
    return 0


async def hold(process: Process) -> int:
    """`hold [N]`: ends with N (0) while a child of it lives on and holds its output open."""
    process.spawn(["sleep", "forever"])
    return int(process.args[1]) if len(process.args) > 1 else 0


BUILT_IN: Mapping[str, Program] = {
    "true": true,
    "false": false,
    "exit": exit_,
    "echo": echo,
    "cat": cat,
    "sleep": sleep,
    "trap": trap,
    "spew": spew,
    "env": env,
    "pwd": pwd,
    "whoami": whoami,
    "stty": stty,
    "hold": hold,
}


async def complain(process: Process, error: BaseException) -> None:
    """Write an error that a program let out, as the interpreter would."""
    text = "".join(traceback.format_exception(error))
    await process.stderr.write(text.encode("utf-8", "backslashreplace"))
