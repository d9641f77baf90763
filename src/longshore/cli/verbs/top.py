"""`longshore top`: the processes in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import ago_text, as_json, command_text, seconds_text, size_text, table, write

if TYPE_CHECKING:
    from ...compute.values import ProcessInfo
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    found = await (await engine.get(args.container)).top()
    if args.format == "json":
        write(as_json(found))
    else:
        headings = ["PID", "PARENT", "USER", "STARTED", "CPU", "MEMORY", "COMMAND"]
        write(table(headings, [_row(info, args) for info in found], right=[0, 1, 4, 5]))
    return 0


def _row(info: ProcessInfo, args: Arguments) -> list[str]:
    cpu = None if info.cpu_user is None else info.cpu_user + (info.cpu_system or 0)
    return [
        str(info.pid),
        str(info.parent_pid or "-"),
        info.user or "-",
        ago_text(info.started_at),
        seconds_text(cpu),
        size_text(info.memory),
        command_text(info.arguments or [info.command], None if args.no_trunc else 60),
    ]


VERB = Verb(
    "top",
    "List the processes in a container, with their pids on this machine.",
    arguments=["CONTAINER"],
    options=[
        Option("--format", kind="value", choices=("table", "json"), default="table", help="table (default) or json"),
        Option("--no-trunc", help="do not shorten commands"),
    ],
    run=run,
    examples=[("longshore top web", "its processes, with their time and memory")],
)
