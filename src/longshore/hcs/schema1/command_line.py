"""Windows' one string for a command: quoting a list so that programs take it apart into the same list again.

Windows passes a program one string. Programs take it apart themselves, nearly all by the rules of CommandLineToArgvW
(shellapi) and of Microsoft's C runtime, which agree on what is written here:

- blanks and tabs separate, except inside double quotes;
- a double quote that is meant is written with a backslash before it; backslashes before a double quote are doubled;
  all other backslashes stand for themselves;
- the first argument is different: nothing is escaped in it, and in quotes it ends at the next quote.

`cmd.exe` has rules of its own for what comes after `/c`, and so have a few other programs: give those a command line
as text, which is passed on as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...errors import InvalidSpec

LONGEST = 32_766
"""Characters (UTF-16 units) that CreateProcess takes, its terminating NUL not counted."""


def join(args: Sequence[str], field: str = "args") -> str:
    """The command line that is taken apart into `args` again. InvalidSpec where there is none."""
    if not args:
        return ""
    return " ".join([_program(args[0], field), *map(quote, args[1:])])


def quote(argument: str) -> str:
    """One argument, but not the first: quoted where it must be."""
    # backslashes count only before a quote: those before one that is meant, and those before the closing one
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', argument)
    if argument and not re.search(r"[ \t\n\v]", argument):
        return escaped
    return f'"{_double_at_end(escaped)}"'


def _double_at_end(text: str) -> str:
    return text + "\\" * (len(text) - len(text.rstrip("\\")))


def _program(name: str, field: str) -> str:
    if '"' in name:
        raise InvalidSpec(
            f"{field}[0]",
            f"{name!r} holds a double quote, and the name of a program cannot",
            hint="give a command line as text: `command_line=`",
        )
    # besides blanks, any control character ends a first argument that is not quoted
    return f'"{name}"' if not name or any(character <= " " for character in name) else name


def check(text: str, field: str) -> str:
    """A command line as given, if Windows takes one so long."""
    length = len(text.encode("utf-16-le", "surrogatepass")) // 2
    if length > LONGEST:
        raise InvalidSpec(field, f"is a command of {length} characters: Windows takes at most {LONGEST}")
    return text
