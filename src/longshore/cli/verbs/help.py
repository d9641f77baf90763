"""Help that teaches by example."""

from __future__ import annotations

from ..arguments.parser import GLOBAL, Arguments, Option, UsageError, Verb, close_match
from . import ALIASES, OF_IMAGES, VERBS, load, take_name

WIDTH = 98
GROUPS = (
    ("Run", ("run", "create", "start", "exec", "attach")),
    ("Watch", ("ps", "logs", "events", "stats", "top", "pids", "inspect", "wait")),
    ("Change", ("stop", "kill", "signal", "pause", "resume", "resize", "update", "rm")),
    ("Images", ("pull", "push", "images", "rmi", "tag", "load", "save", "history", "login", "logout", "image")),
    ("Checkpoints", ("checkpoint", "checkpoints", "import")),
    ("This machine", ("doctor", "explain", "restore", "version", "completion", "help")),
)


def columns(rows: list[tuple[str, str]], indent: int = 2, limit: int = 34) -> str:
    """Return two columns; a long left one has its line to itself."""
    width = max((len(left) for left, _ in rows if len(left) <= limit), default=0)
    text = ""
    for left, right in rows:
        first = f"{'':<{indent}}{left:<{width}}"
        lines = _wrapped(right, WIDTH - indent - width - 2)
        if len(left) > width:
            text += f"{'':<{indent}}{left}\n"
            first = f"{'':<{indent}}{'':<{width}}"
        for number, line in enumerate(lines or [""]):
            text += f"{first if number == 0 else ' ' * len(first)}  {line}".rstrip() + "\n"
    return text


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line] if line else lines


def _option(option: Option) -> tuple[str, str]:
    short = [name for name in option.names if not name.startswith("--")]
    long = [name for name in option.names if name.startswith("--")]
    names = ", ".join([*(short or ["  "] * bool(long)), *long]).replace("  , ", "    ")
    return names + (f" {option.metavar}" if option.kind != "flag" else ""), option.help


def _examples(examples: object) -> str:
    text = ""
    for command, why in examples:  # type: ignore[attr-defined]  # a sequence of pairs
        text += f"  # {why}\n  $ {command}\n"
    return text


def _other_names() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for alias, verb in ALIASES.items():
        found.setdefault(verb, []).append(alias)
    return found


def _names_of(verb: Verb) -> list[str]:
    """What else a verb is called."""
    module = VERBS[verb.name][0] if verb.name in VERBS else None
    second = [f"image {word}" for word, (found, _) in OF_IMAGES.items() if found == module]
    return [*_other_names().get(verb.name, []), *second]


def verb_help(verb: Verb) -> str:
    """The help of one verb."""
    parts = [f"Usage: {verb.usage}\n", "\n".join(_wrapped(verb.summary, WIDTH)) + "\n"]
    if others := _names_of(verb):
        parts.append(f"It is also called {' and '.join(f'`{name}`' for name in others)}.\n")
    if verb.text:
        parts.append(verb.text + "\n")
    parts.append("Examples:\n" + _examples(verb.examples))
    if verb.options:
        parts.append("Options:\n" + columns([_option(option) for option in verb.options if not option.hidden]))
    parts.append("Options of every verb:\n" + columns([_option(option) for option in GLOBAL]))
    return "\n".join(parts)


def overview() -> str:
    """The help of the whole program."""
    parts = ["Usage: longshore [OPTIONS] VERB ...\n", "Containers without a daemon.\n"]
    parts.append(
        "Examples:\n"
        + _examples(
            [
                ("longshore run host -- echo hi", "run a program of this machine in a container"),
                ("longshore run -it host -- bash", "a shell in a container"),
                ("longshore run -d --name web -m 256m host -- sleep infinity", "a container in the background"),
                (
                    "longshore exec web -- ls /; longshore rm -f web",
                    "work in it, then remove it",
                ),
                ("longshore run python:3.12-slim -- python -V", "run a program of an image"),
                ("longshore doctor", "what works here, and the reason for the rest"),
            ]
        )
    )
    for title, names in GROUPS:
        parts.append(f"{title}:\n" + columns([(name, VERBS[name][1]) for name in names]))
    parts.append("Options:\n" + columns([_option(option) for option in GLOBAL]))
    others = ", ".join(f"{' and '.join(names)} for {verb}" for verb, names in _other_names().items())
    parts.append(f"Other names of verbs: {others}.\n")
    parts.append("`longshore VERB --help` shows examples and options of a verb.\n")
    return "\n".join(parts)


def show(args: Arguments) -> int:
    if not args.verbs:
        print(overview(), end="")
        return 0
    name, rest = take_name(args.verbs)
    first = args.verbs[0]
    if rest or (first not in VERBS and first not in ALIASES):
        hint = close_match(first, [*VERBS, *ALIASES]) if not rest else None
        raise UsageError(f"there is no verb `{' '.join(args.verbs)}`", hint=hint or "run `longshore --help`")
    print(verb_help(load(name)), end="")
    return 0


VERB = Verb(
    "help",
    "Show help about longshore, or about a verb.",
    arguments=["[VERB...]"],
    simple=show,
    examples=[("longshore help run", "the same as `longshore run --help`")],
)
