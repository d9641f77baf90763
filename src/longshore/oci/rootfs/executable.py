"""Whether execve(2) will take a command: looked at before anything is made.

A runtime hands its own process over to the command by execve, when it has told everybody that the container runs.
If that fails, all that is left of the reason is a line on the container's standard error, and exit code 1: as if the
command itself had ended so. What can be known before is known here.
"""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Callable, Iterable, Sequence

from ...errors import CommandNotExecutable, InvalidSpec
from .resolve_in_root import Inside

# execve(2), "Limits on size of arguments and environment"
STRING_LIMIT = 128 << 10  # MAX_ARG_STRLEN: 32 pages
TOTAL_FLOOR = 128 << 10
TOTAL_CEILING = 6 << 20
RESERVE = 8 << 10  # for what a runtime and the kernel add

HEAD = 4096
BINFMT_MISC = "/proc/sys/fs/binfmt_misc"
PT_INTERP = 3

_ELSEWHERE = "pass it as standard input (`input=...`), or in a file (`mounts`)"


def check_sizes(args: Sequence[str], env: Iterable[str], *, stack_limit: int | None = None) -> None:
    """Raise InvalidSpec if arguments and environment are larger than execve takes.

    `stack_limit` is the soft RLIMIT_STACK of the process (None: this program's, which runtimes pass on).
    """
    total = RESERVE
    for field, texts in (("args", args), ("env", env)):
        for index, text in enumerate(texts):
            size = len(os.fsencode(text)) + 1
            if size > STRING_LIMIT:
                name = f"env[{text.partition('=')[0]}]" if field == "env" else f"args[{index}]"
                raise InvalidSpec(
                    name, f"is {size - 1} bytes long, and the kernel takes at most {STRING_LIMIT - 1}", hint=_ELSEWHERE
                )
            total += size + struct.calcsize("P")
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0] if stack_limit is None else stack_limit
    ceiling = TOTAL_CEILING if stack == resource.RLIM_INFINITY else min(TOTAL_CEILING, max(TOTAL_FLOOR, stack // 4))
    if total > ceiling:
        raise InvalidSpec(
            "env", f"is {total} bytes together with args, and the kernel takes at most {ceiling}", hint=_ELSEWHERE
        )


def check_format(container_id: str, command: str, path: str, inside: Inside, there: Callable[[str], bool]) -> None:
    """Raise CommandNotExecutable if the file at `path` is none that the kernel can run in this root.

    `there` tells whether a loader or an interpreter may be at a path.
    """
    head = inside.read(path, HEAD)
    if head is None:
        return  # not for us to read: the runtime will tell
    problem = _problem(head, there)
    if problem is not None:
        raise CommandNotExecutable(container_id, command, problem)


def _problem(head: bytes, there: Callable[[str], bool]) -> str | None:
    if head.startswith(b"\x7fELF"):
        return _missing(_elf_interpreter(head), there, "it needs the loader")
    if head.startswith(b"#!"):
        words = head[2:].partition(b"\n")[0].split()
        if not words:
            return "its first line names no interpreter"
        return _missing(words[0], there, "its first line names the interpreter")
    if _other_formats():
        return None
    return "it is neither a program nor a script with a `#!` line (exec format error)"


def _missing(interpreter: bytes | None, there: Callable[[str], bool], words: str) -> str | None:
    if interpreter is None or not interpreter.startswith(b"/") or there(os.fsdecode(interpreter)):
        return None
    return f"{words} `{interpreter.decode('utf-8', 'backslashreplace')}`, which is not in the container's root"


def _elf_interpreter(head: bytes) -> bytes | None:
    """The loader that a program asks for (elf(5), PT_INTERP); None if none, or not in the part that was read."""
    try:
        wide = head[4] == 2
        order = "<" if head[5] == 1 else ">"
        if wide:
            offset, size, count = struct.unpack_from(f"{order}32xQ14xHH", head)
            layout = f"{order}I4xQ16xQ"
        else:
            offset, size, count = struct.unpack_from(f"{order}28xI10xHH", head)
            layout = f"{order}IIxxxxxxxxI"
        for index in range(count):
            kind, start, length = struct.unpack_from(layout, head, offset + index * size)
            if kind == PT_INTERP:
                found = head[start : start + length]
                return found.rstrip(b"\0") if len(found) == length else None
    except (struct.error, IndexError):
        pass
    return None


def _other_formats() -> bool:
    """Whether this machine knows further formats (binfmt_misc)."""
    try:
        with open(f"{BINFMT_MISC}/status", encoding="ascii") as file:
            return file.read().startswith("enabled") and len(os.listdir(BINFMT_MISC)) > 2
    except OSError:
        return False
