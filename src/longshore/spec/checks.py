"""Checks of single values that a user gives: each returns the value as longshore keeps it, or names the field."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..errors import InvalidSpec

SIGNALS: Mapping[str, int] = {
    name: number
    for number, name in enumerate(
        "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP"
        " TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS".split(),
        start=1,
    )
}
"""Linux's numbers: they mean the same on every platform, also where Python's `signal` module lacks them."""

SIGNAL_ALIASES: Mapping[str, int] = {"IOT": 6, "CLD": 17, "POLL": 29, "UNUSED": 31}
RTMIN, RTMAX = 34, 64
"""The first two real-time signals, 32 and 33, are the C library's own: signal(7)."""

_ELSEWHERE: Mapping[str, str] = {
    "pids_limit": "`pids`",
    "volumes": "`mounts`",
    "volume": "`mounts`",
    "binds": "`mounts`",
    "tmpfs": "`mounts`: [Mount(target=..., type='tmpfs')]",
    "shm_size": "`mounts`: [Mount(target='/dev/shm', type='tmpfs', options=['size=64m'])]",
    "environment": "`env`",
    "working_dir": "`cwd`",
    "workdir": "`cwd`",
    "mem_limit": "`memory`",
    "memory_limit": "`memory`",
    "memswap_limit": "`memory_swap`",
    "mem_reservation": "`memory_reservation`",
    "cpu_shares": "`cpu_weight`",
    "nano_cpus": "`cpus`",
    "cpu_quota": "`cpus`",
    "cpuset_cpus": "`cpuset`",
    "limits": "`memory`, `cpus`, `pids` and the like, or `resources`: Resources(...)",
    "command": "`args`: a list",
    "cmd": "`args`: a list",
    "entrypoint": "`args`: a list",
    "image": "`root`",
    "rootfs": "`root`: 'rootfs:/path'",
    "network_mode": "`network`: none or host",
    "ports": "`network`: 'host'; there are no other networks yet",
    "publish": "`network`: 'host'; there are no other networks yet",
    "tty": "`terminal`",
    "ulimits": "`rlimits`: [Rlimit(...)]",
    "readonly": "`read_only`",
    "privileged": "`security`: Security(cap_add=['ALL'], seccomp='unconfined', no_new_privileges=False), as far as"
    " it is needed",
    "cap_add": "`security`: Security(cap_add=[...])",
    "cap_drop": "`security`: Security(cap_drop=[...])",
    "security_opt": "`security`: Security(...)",
    "seccomp": "`security`: Security(seccomp=...)",
    "userns": "`security`: Security(userns=...)",
    "capture_output": "`stdout`, `stderr`: `run` collects both unless they say otherwise",
    "text": "`text` of what `run` returns",
    "shell": "`args`: ['sh', '-c', ...]",
    "name": "the id, which is the first argument of `create` and `launch`",
    "detach": "`launch`: what it starts stays",
    "remove": "`owner`: 'remove', of `create` and `launch`; what `run` makes goes in any case",
    "auto_remove": "`owner`: 'remove', of `create` and `launch`; what `run` makes goes in any case",
    "stdin_open": "`stdin`: PIPE, of `create` and `launch`",
    "runtime": "Engine(runtime=...)",
}
"""What others call it, and where it is here."""

_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_SIZE = re.compile(r"([0-9]+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def check_id(value: str, field: str = "id") -> str:
    """Return a container id or process name if it is a legal one: letters, digits, `_.-`, at most 128."""
    if not isinstance(value, str):
        raise InvalidSpec(field, f"must be a string, not {type(value).__name__}")
    if not _ID.fullmatch(value):
        hint = "use letters, digits, `_`, `.`, `-`; begin with a letter or digit; at most 128 of them"
        raise InvalidSpec(field, f"{value[:80]!r} is not legal", hint=hint)
    return value


def parse_signal(value: str | int, field: str = "signal") -> int:
    """The number of a signal given as `15`, `"15"`, `"TERM"`, `"SIGTERM"`, `"RTMIN+1"` or `"RTMAX-1"`."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InvalidSpec(field, f"must be a name or a number, not {type(value).__name__}")
    if isinstance(value, str):
        name = value.upper().removeprefix("SIG") if value.isascii() else value
        number = _named_signal(name)
        if number is None:
            raise InvalidSpec(field, f"there is no signal {value!r:.100}", hint=_near_signals(name))
        value = number
    if not 1 <= value <= RTMAX:
        raise InvalidSpec(field, f"{value} is not between 1 and 64", hint="write a name: 'TERM', 'KILL', 'HUP'")
    return value


def _named_signal(name: str) -> int | None:
    if name in SIGNALS or name in SIGNAL_ALIASES:
        return SIGNALS.get(name) or SIGNAL_ALIASES[name]
    if re.fullmatch(r"[0-9]{1,3}", name):
        return int(name)
    match = re.fullmatch(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?", name)
    if match is None or match[2] == ("-" if match[1] == "MIN" else "+"):
        return None
    distance = int(match[3] or 0)
    number = RTMIN + distance if match[1] == "MIN" else RTMAX - distance
    return number if RTMIN <= number <= RTMAX else None


def _near_signals(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, SIGNALS, n=3, cutoff=0.6)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}use {', '.join(SIGNALS)}, RTMIN+n, RTMAX-n, or a number from 1 to 64"


def parse_size(value: str | int, field: str) -> int:
    """A number of bytes given as a number or as `512m`, `1.5g` is refused: sizes are whole."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidSpec(field, f"must be a number of bytes or text such as '512m', not {type(value).__name__}")
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise InvalidSpec(field, f"{value!r} is not a size", hint="write a whole number with k, m, g or t: '512m'")
        value = int(match[1]) * _UNITS[match[2].lower()]
    if not 0 <= value < 1 << 63:
        raise InvalidSpec(field, f"{value} is out of range")
    return value


def check_text(value: str, field: str) -> None:
    """Check that a text can be written down: no NUL, which ends a text for the kernel, and nothing beside UTF-8.

    A file name that is not UTF-8 is such a text (os.fsdecode makes lone surrogates of its bytes): the documents of
    runtimes are JSON, which cannot carry it.
    """
    if "\0" in value:
        raise InvalidSpec(field, "holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidSpec(
                field,
                f"{value[:80]!r} is not valid UTF-8, which runtimes require",
                hint="rename the file, or mount the folder that it is in",
            ) from None


DEEPEST = 100
"""Levels that a document may have; those of the OCI specification have nine."""


def check_tree(value: Any, field: str) -> None:
    """Check every text and number in a tree of objects, lists and structs. Raises InvalidSpec, which names the field.

    Only what JSON has may be in it: all else would be written down as something different.
    """
    waiting: list[tuple[Any, str, int]] = [(value, field, 0)]
    while waiting:
        item, path, depth = waiting.pop()
        if depth > DEEPEST:
            raise InvalidSpec(field, f"is nested deeper than {DEEPEST} levels")
        if isinstance(item, str):
            check_text(item, path)
        elif isinstance(item, msgspec.Struct):
            waiting += [(getattr(item, name), f"{path}.{name}", depth + 1) for name in item.__struct_fields__]
        elif isinstance(item, Mapping):
            waiting += [(each, below(path, _name(name, path)), depth + 1) for name, each in item.items()]
        elif isinstance(item, (list, tuple)):
            waiting += [(each, f"{path}[{index}]", depth + 1) for index, each in enumerate(item)]
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise InvalidSpec(path, f"{item} is not a number in JSON")
        elif item is not None and not isinstance(item, int):
            raise InvalidSpec(path, f"must be a JSON value, not {type(item).__name__}")


def _name(name: Any, path: str) -> str:
    if not isinstance(name, str):
        raise InvalidSpec(path, f"has the name {name!r:.60}, which is not text")
    check_text(name, path)
    return name


_PLAIN = re.compile(r"[A-Za-z_]\w*")


def below(path: str, name: str) -> str:
    """Return the path of a member: `path.name`; `path[name]` if its names are the caller's, or not plain words."""
    return f"{path}.{name}" if _PLAIN.fullmatch(name) and path not in ("env", "labels") else f"{path}[{name}]"


def check_arguments(value: Sequence[str], field: str) -> list[str]:
    """A command as a list: a plain string is refused, because nobody agrees on how to split one."""
    if isinstance(value, (str, bytes)):
        raise TypeError(
            f"{field}: a command is a list, not a string; write [{value!r}], or ['sh', '-c', ...] for a shell"
        )
    arguments = []
    for index, item in enumerate(value):
        text = os.fspath(item) if isinstance(item, os.PathLike) else item
        if not isinstance(text, str):
            raise InvalidSpec(f"{field}[{index}]", f"must be text, not {type(text).__name__}")
        check_text(text, f"{field}[{index}]")
        arguments.append(text)
    return arguments


def check_environment(value: Mapping[str, str] | Iterable[str], field: str) -> dict[str, str]:
    """An environment as a mapping, or as `NAME=value` texts."""
    if isinstance(value, (str, bytes)):
        raise InvalidSpec(field, "must be a mapping, not a string")
    if not isinstance(value, Iterable):
        raise InvalidSpec(field, f"must be a mapping, not {type(value).__name__}")
    if not isinstance(value, Mapping):
        given = list(value)
        for index, item in enumerate(given):
            if not isinstance(item, str):
                raise InvalidSpec(f"{field}[{index}]", f"must be text as NAME=value, not {type(item).__name__}")
        pairs = [item.partition("=") for item in given]
        value = {name: text for name, _, text in pairs}
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name[1:] or "\0" in name:
            raise InvalidSpec(field, f"{name!r} is not a name for a variable")
        if not isinstance(text, str):
            raise InvalidSpec(f"{field}[{name}]", f"must be text, not {type(text).__name__}")
        check_text(name, field)
        check_text(text, f"{field}[{name}]")
    return dict(value)


def check_list(value: Any, field: str, of: str) -> list[Any]:
    """A list, where one element alone is easily given in its place."""
    if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
        raise InvalidSpec(
            field, f"must be a list of {of}, not {type(value).__name__}", hint=f"write {field.rpartition('.')[2]}=[...]"
        )
    return list(value)


def check_endpoints(value: Sequence[str], field: str) -> list[str]:
    """Ids of network endpoints as a list; all are looked at before the first is used."""
    ids = check_list(value, field, "ids of endpoints")
    for index, id in enumerate(ids):
        if not isinstance(id, str) or not id:
            raise InvalidSpec(f"{field}[{index}]", f"{id!r} is not the id of an endpoint")
        check_text(id, f"{field}[{index}]")
    return ids


_OF_CALLS = ("check", "input", "max_output", "owner", "stderr", "stdin", "stdout", "timeout")  # beside the spec's


def unknown_field(name: str, known: Sequence[str]) -> InvalidSpec:
    """What to say of a keyword that no spec has: what may have been meant, and what there is."""
    import difflib

    named = [*known, *(each for each in _OF_CALLS if each != name.lower())]
    near = difflib.get_close_matches(name.lower(), named, n=1, cutoff=0.7)
    meant = _ELSEWHERE.get(name.lower()) or (f"`{near[0]}`" if near else None)
    asked = f"did you mean {meant}? " if meant else ""
    return InvalidSpec(name, "is not a field of a spec", hint=f"{asked}use one of {', '.join(known)}")


def check_network(value: Any) -> None:
    """The network that a container is in."""
    if value not in ("none", "host"):
        raise InvalidSpec("network", f"{value!r} is not known", hint="use none or host: there are no others yet")


def check_type(value: Any, field: str, types: type | tuple[type, ...], what: str) -> None:
    """That a value, if there is one, is what it is to be."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
        raise InvalidSpec(field, f"must be {what}, not {value!r:.100}")


def unknown_root(root: str) -> InvalidSpec:
    """What to say of a root that is none."""
    if root.startswith(("/", "./", "../")) and root.strip("/"):
        return InvalidSpec("root", f"{root!r} is not known", hint=f"write rootfs:{root} for a root file system")
    return InvalidSpec(
        "root",
        f"{root[:200]!r} is not known",
        hint="use an image's name such as python:3.12-slim, host, host:full, rootfs:/path, or folders as layers",
    )


IMAGE = "image:"
"""Before the name of an image that could be taken for another word."""

_IMAGE_NAME = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9_.:/@\[\]-]*")


def image_of_root(root: str) -> str | None:
    """Return the name of the image that a root means, as it was written; None if it is one of the other words.

    Whether it is a legal name is for whoever looks the image up to say.
    """
    if root.startswith(IMAGE):
        return root[len(IMAGE) :]
    other = root.partition(":")[0] in ("", "host", "rootfs") or not _IMAGE_NAME.fullmatch(root)
    return None if other else root


def check_path(value: str, field: str, *, inside: bool = False) -> str:
    """A path of either platform, absolute. `inside`: of the container, else of this machine."""
    if not value:
        raise InvalidSpec(field, "is empty")
    check_text(value, field)
    if not (value.startswith("/") or re.match(r"[A-Za-z]:[\\/]|\\\\", value)):
        meant = posixpath.normpath(f"/{value}") if inside else os.path.abspath(os.path.expanduser(value))
        start = "the container's root" if inside else "the root of this machine"
        raise InvalidSpec(field, f"{value!r} is not an absolute path", hint=f"write it from {start}, as {meant!r}")
    return value


_A_COMMAND = "name the program, then its arguments, as args=['sleep', '600']; for a shell, args=['sh', '-c', ...]"


def empty_command() -> InvalidSpec:
    """What to say of a program without a name."""
    return InvalidSpec("args[0]", "is an empty string", hint=_A_COMMAND)


def check_command(args: list[str], command_line: str | None, process: Mapping[str, Any]) -> None:
    """That there is one command, and only one. `process` is that of an OCI document."""
    if command_line is not None:
        if args:
            raise InvalidSpec("command_line", "cannot be combined with `args`", hint="give one of them")
        check_text(command_line, "command_line")
    elif not args and not process.get("args") and not process.get("commandLine"):
        raise InvalidSpec("args", "is empty: there is no command to run", hint=_A_COMMAND)


def command_of(args: list[str], command_line: str | None, process: Mapping[str, Any]) -> list[str]:
    """The command as a list; one element where it is a command line."""
    if args or command_line is not None:
        return args or [command_line or ""]
    # a document for both platforms has both; only Windows runs its commandLine
    return list(process.get("args") or []) or [process.get("commandLine") or ""]


def check_size(size: tuple[int, int] | None) -> None:
    """Rows and columns of a terminal."""
    if size is not None and not all(1 <= n <= 1000 for n in size):  # conmon takes no more than 1000
        raise InvalidSpec("size", f"{size} is not (rows, columns) between 1 and 1000")
