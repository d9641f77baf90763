"""`longshore __complete WORDS...`: what the last word may become, a line each, with a tab and what it is.

For the scripts of completion.py. It reads names from the store's directories and nothing else: it must be quick,
and must not do anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from ...machine import places
from ..arguments.parser import GLOBAL, Arguments, Option, UsageError, Verb, parse_global
from . import GROUPS, VERBS, load, take_name

CAPABILITIES = (
    "ALL AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_ADMIN NET_BIND_SERVICE NET_RAW SETFCAP SETGID"
    " SETPCAP SETUID SYS_ADMIN SYS_CHROOT SYS_NICE SYS_PTRACE SYS_RESOURCE SYS_TIME"
).split()
SIGNALS = "HUP INT QUIT KILL USR1 USR2 TERM CONT STOP WINCH".split()


def containers(state: str | None) -> list[str]:
    """Names of the containers of a store."""
    base = state or os.environ.get("LONGSHORE_ROOT")
    found: set[str] = set()
    for place in (os.path.join(base, "run"), os.path.join(base, "lib")) if base else places():
        try:
            found.update(os.listdir(os.path.join(place, "containers")))
        except OSError:
            continue
    return sorted(name for name in found if not name.startswith("."))


def images(state: str | None) -> list[str]:
    """Names of the images of a store, in their short form."""
    base = state or os.environ.get("LONGSHORE_ROOT")
    place = os.path.join(base, "lib") if base else places()[-1]
    try:
        files = os.listdir(os.path.join(place, "images", "names"))
    except OSError:
        return []
    # a name that is too long for a file is not in it: such a file has a tilde
    found = [file.removesuffix(".json") for file in files if not file.startswith(".") and "~" not in file]
    return sorted(_familiar(re.sub("%([0-9A-F]{2})", lambda code: chr(int(code[1], 16)), file)) for file in found)


def _familiar(name: str) -> str:
    """An image's name without what Docker Hub's names may leave away; `ImageName` itself takes long to import."""
    if name.startswith("docker.io/library/") and name.count("/") == 2:
        return name.removeprefix("docker.io/library/")
    short = name.removeprefix("docker.io/")
    host = short.partition("/")[0]
    return name if "." in host or ":" in host or host == "localhost" else short


def _values(kind: str, args: Arguments) -> list[str]:
    if kind == "container":
        return containers(args.state)
    if kind == "signal":
        return SIGNALS
    if kind == "capability":
        return CAPABILITIES
    if kind == "runtime":
        return ["crun", "runc"]
    return []  # files and folders are the shell's


def candidates(words: list[str]) -> Iterator[tuple[str, str]]:
    """What the last of `words` may become, with what it is."""
    *before, current = words or [""]
    try:
        common, rest = parse_global(before)
    except UsageError:  # the value of an option is missing: that is what is being typed
        yield from _option_values(before, current, GLOBAL)
        return
    if not rest:
        if current.startswith("-"):
            yield from _option_names(GLOBAL, current)
        else:
            yield from ((name, what) for name, (_, what) in VERBS.items() if name.startswith(current))
        return
    if len(rest) == 1 and rest[0] in GROUPS and not current.startswith("-"):
        yield from ((word, what) for word, (_, what) in GROUPS[rest[0]].items() if word.startswith(current))
        return
    name, after = take_name(rest)
    try:
        verb = load(name)
    except KeyError:
        return
    if verb.name == "explain":
        if len(rest) == 1:
            yield from ((name, VERBS[name][1]) for name in ("run", "create") if name.startswith(current))
            return
        verb, after = load(rest[1]) if rest[1] in ("run", "create") else verb, rest[2:]
    yield from _of_verb(verb, after, current, common)


def _of_verb(verb: Verb, words: list[str], current: str, args: Arguments) -> Iterator[tuple[str, str]]:
    options = (*verb.options, *GLOBAL)
    known = {name: option for option in options for name in option.names}
    plain = 0
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return
        if word.startswith("-") and word != "-":
            option = known.get(word if word.startswith("--") else f"-{word[-1]}")
            if option is not None and option.kind != "flag" and "=" not in word:
                index += 1
                if option.dest == "state" and index < len(words):
                    args.state = words[index]
                if index >= len(words):
                    yield from _value(option, "", current, args)
                    return
        else:
            plain += 1
        index += 1
    name, equals, value = current.partition("=")
    if equals and name in known and name.startswith("--"):
        yield from _value(known[name], f"{name}=", value, args)
    elif current.startswith("-"):
        yield from _option_names(options, current)
    else:
        yield from _argument(verb, plain, current, args)


def _argument(verb: Verb, plain: int, current: str, args: Arguments) -> Iterator[tuple[str, str]]:
    patterns = verb.arguments
    if not patterns:
        return
    if plain >= len(patterns):
        if "..." not in patterns[-1]:
            return
        plain = len(patterns) - 1
    name = patterns[plain].strip("[].")
    if name == "CONTAINER":
        yield from ((id, "container") for id in containers(args.state) if id.startswith(current))
    elif name == "ROOT":
        known = {"host": "a safe view of this machine", "host:full": "all of it", "rootfs:": "a folder"}
        yield from ((root, what) for root, what in known.items() if root.startswith(current))
        yield from ((image, "image") for image in images(args.state) if image.startswith(current))
    elif name in ("IMAGE", "NAME"):
        yield from ((image, "image") for image in images(args.state) if image.startswith(current))
    elif name == "SIGNAL":
        yield from ((signal, "signal") for signal in SIGNALS if signal.startswith(current.upper()))
    elif name == "VERB":
        yield from ((verb, what) for verb, (_, what) in VERBS.items() if verb.startswith(current))
    elif name == "SHELL":
        yield from ((shell, "shell") for shell in ("bash", "zsh", "fish") if shell.startswith(current))


def _option_names(options: tuple[Option, ...], current: str) -> Iterator[tuple[str, str]]:
    for option in options:
        for name in option.names:
            if name.startswith(current) and (name.startswith("--") or current == "-") and not option.hidden:
                yield name, option.help


def _option_values(before: list[str], current: str, options: tuple[Option, ...]) -> Iterator[tuple[str, str]]:
    for option in options:
        if before and before[-1] in option.names:
            yield from _value(option, "", current, Arguments(state=None))


def _value(option: Option, prefix: str, current: str, args: Arguments) -> Iterator[tuple[str, str]]:
    for value in option.choices or _values(option.complete, args):
        if value.startswith(current):
            yield f"{prefix}{value}", ""


def show(args: Arguments) -> int:
    for value, what in candidates(args.words):
        print(f"{value}\t{what}" if what else value)
    return 0


VERB = Verb(
    "__complete", "Used by completion scripts.", arguments=["[WORD...]"], simple=show, examples=(), verbatim=True
)
