"""`longshore ps`: what containers there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, UsageError, Verb
from ..terminal.output import ago_text, as_json, command_text, escaped, shortened, table, write

if TYPE_CHECKING:
    from ...engine.container import ContainerInfo
    from ...engine.engine import Engine

STATES = ("creating", "created", "running", "paused", "stopped", "damaged", "hidden")
COMMAND_WIDTH = 40


def _filters(args: Arguments) -> tuple[dict[str, str | None], set[str], list[str]]:
    labels: dict[str, str | None] = {}
    states: set[str] = set()
    names: list[str] = []
    for text in args.filter:
        name, equals, value = text.partition("=")
        if name == "label" and value:
            label, equals, wanted = value.partition("=")
            labels[label] = wanted if equals else None
        elif name in ("state", "status"):
            word = "stopped" if value == "exited" else value
            if word not in STATES:
                raise UsageError(f"--filter: there is no state {value!r}", hint=f"use one of: {', '.join(STATES)}")
            states.add(word)
        elif name in ("name", "id") and value:
            names.append(value)
        else:
            raise UsageError(f"--filter: {text!r} is not known", hint="use label=NAME[=TEXT], state=STATE or name=PART")
    return labels, states, names


async def run(engine: Engine, args: Arguments) -> int:
    labels, states, names = _filters(args)
    if not states and not args.all:
        states = {"running", "paused", "hidden"}
    found = await engine.list(states=states or None)
    show([info for info in found if _matches(info, labels, names)], args)
    return 0


def _matches(info: ContainerInfo, labels: dict[str, str | None], names: list[str]) -> bool:
    if names and not any(part in info.id for part in names):
        return False
    return all(
        name in info.labels and (wanted is None or info.labels[name] == wanted) for name, wanted in labels.items()
    )


def show(found: list[ContainerInfo], args: Arguments) -> None:
    """Print them, as was asked for."""
    if args.quiet:
        write("".join(f"{info.id}\n" for info in found))
    elif args.format == "json":
        write(as_json(found))
    else:
        width = None if args.no_trunc else COMMAND_WIDTH
        headings = ["CONTAINER", "STATE", "PID", "ROOT", "CREATED", "COMMAND"]
        rows = [
            [
                info.id,
                state_text(info),
                str(info.pid or "-"),
                info.root or "-" if width is None else shortened(escaped(info.root or "-"), 30),
                ago_text(info.created_at),
                command_text(info.command, width),
            ]
            for info in found
        ]
        write(table(headings, rows))


def state_text(info: ContainerInfo) -> str:
    """The state, and how it ended."""
    exit = info.exit
    if info.state != "stopped" or exit is None:
        return info.state
    if exit.cause == "never_started":
        return "never started"
    if exit.code is None:
        return f"stopped ({exit.cause})"
    why = f", {exit.cause}" if exit.cause in ("oom", "time_limit", "checkpointed") else ""
    return f"stopped ({exit.code}{why})"


VERB = Verb(
    "ps",
    "List running containers, oldest first.",
    options=[
        Option("-a", "--all", help="also containers that do not run"),
        Option("-q", "--quiet", help="ids only"),
        Option(
            "-f",
            "--filter",
            kind="list",
            metavar="WHAT",
            help="only matching ones: label=NAME[=TEXT], state=STATE, name=PART",
        ),
        Option("--format", kind="value", choices=("table", "json"), default="table", help="table (default) or json"),
        Option("--no-trunc", help="do not shorten commands"),
    ],
    run=run,
    examples=[
        ("longshore ps", "running containers"),
        ("longshore ps -a", "all containers"),
        ("longshore ps -q --filter label=ci", "ids of what has the label `ci`"),
        ("longshore ps -a --format json | python3 -m json.tool", "for programs"),
    ],
)
