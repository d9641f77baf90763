"""Help that teaches by example."""

from __future__ import annotations

from ..arguments.parser import GLOBAL, Arguments, Option, UsageError, Verb, close_match
from . import ALIASES, VERBS, load

WIDTH = 98
GROUPS = (
    ("Run", ("run", "create", "start", "exec", "attach")),
    ("Watch", ("ps", "logs", "events", "stats", "top", "pids", "inspect", "wait")),
    ("Change", ("stop", "kill", "signal", "pause", "resume", "resize", "update", "rm")),
    ("Checkpoints", ("checkpoint", "checkpoints", "import")),
    ("This machine", ("doctor", "explain", "restore", "version", "completion", "help")),
)


def _columns(rows: list[tuple[str, str]], indent: int = 2, limit: int = 34) -> str:
    """Two columns; a long left one has its line to itself."""
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


def verb_help(verb: Verb) -> str:
    """The help of one verb."""
    parts = [f"Usage: {verb.usage}\n", "\n".join(_wrapped(verb.summary, WIDTH)) + "\n"]
    if others := _other_names().get(verb.name):
        parts.append(f"It is also called {' and '.join(f'`{name}`' for name in others)}.\n")
    if verb.text:
        parts.append(verb.text + "\n")
    parts.append("Examples:\n" + _examples(verb.examples))
    if verb.options:
        parts.append("Options:\n" + _columns([_option(option) for option in verb.options if not option.hidden]))
    parts.append("Options of every verb:\n" + _columns([_option(option) for option in GLOBAL]))
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
                ("longshore doctor", "what works here, and the reason for the rest"),
            ]
        )
    )
    for title, names in GROUPS:
        parts.append(f"{title}:\n" + _columns([(name, VERBS[name][1]) for name in names]))
    parts.append("Options:\n" + _columns([_option(option) for option in GLOBAL]))
    others = ", ".join(f"{' and '.join(names)} for {verb}" for verb, names in _other_names().items())
    parts.append(f"Other names of verbs: {others}.\n")
    parts.append("`longshore VERB --help` shows examples and options of a verb.\n")
    return "\n".join(parts)


def show(args: Arguments) -> int:
    if args.verb is None:
        print(overview(), end="")
        return 0
    if args.verb not in VERBS and args.verb not in ALIASES:
        hint = close_match(args.verb, [*VERBS, *ALIASES]) or "run `longshore --help`"
        raise UsageError(f"there is no verb `{args.verb}`", hint=hint)
    print(verb_help(load(args.verb)), end="")
    return 0


VERB = Verb(
    "help",
    "Show help about longshore, or about a verb.",
    arguments=["[VERB]"],
    simple=show,
    examples=[("longshore help run", "the same as `longshore run --help`")],
)
