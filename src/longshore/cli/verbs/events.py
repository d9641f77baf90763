"""`longshore events`: what happens to containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..arguments.parser import Arguments, Option, Verb
from ..arguments.times import moment
from ..terminal.output import complain, flush, json_line, write

if TYPE_CHECKING:
    from datetime import datetime

    from ...compute.events import Event
    from ...engine.engine import Engine


def cursor_or_moment(text: str) -> int | datetime:
    """Where to begin: the number of an event, or a time."""
    return int(text) if text.isascii() and text.isdigit() else moment(text)


async def run(engine: Engine, args: Arguments) -> int:
    from contextlib import aclosing

    from ...compute.events import Gap

    begin, cursor = None, args.since
    if cursor is not None and not isinstance(cursor, int):
        begin, cursor = cursor, 0
    follow = not args.no_follow
    if not follow and cursor is None:
        cursor = 0
    async with aclosing(engine.events(since=cursor, follow=follow, container=args.container)) as events:
        async for event in events:
            if isinstance(event, Gap):
                _show_gap(event, args)
            elif begin is None or event.at >= begin:
                write(json_line(event) if args.format == "json" else _line(event))
            if follow:
                flush()
    return 0


def _show_gap(gap: Any, args: Arguments) -> None:
    if args.format == "json":
        write(json_line({"type": "gap", "since": gap.since, "until": gap.until}))
    else:
        complain(
            f"events {gap.since} to {gap.until} are no longer known: they were too old, or lost in a power failure"
        )


def _line(event: Event) -> str:
    text = f"{event.seq:>6}  {event.at:%Y-%m-%dT%H:%M:%S.%fZ}  {event.type:<15}  {event.container}"
    if event.process not in (None, "init"):
        text += f"  process={event.process}"
    if event.exit is not None:
        code = "unknown" if event.exit.code is None else event.exit.code
        text += f"  code={code}  cause={event.exit.cause}"
    return text + "\n"


VERB = Verb(
    "events",
    "Follow the events of containers, from now on, or since an event or a time.",
    options=[
        Option("--since", kind="value", metavar="NUMBER|TIME", convert=cursor_or_moment,
               help="begin after this event number (0: all events), or at a time: 10m, 2026-01-31T12:00:00Z"),
        Option("--no-follow", help="end after the last event; without --since, show all"),
        Option("--container", kind="value", metavar="NAME", complete="container", help="only events of this container"),
        Option("--format", kind="value", choices=("text", "json"), default="text",
               help="text (default), or a line of json each"),
    ],
    run=run,
    text="""\
Types: start-container, pause, resume, exit, exit-process, restore, oom, checkpoint, delete.
The first column is the number of the event: pass it to --since to continue there; no event
is lost.""",
    examples=[
        ("longshore events", "from now on; ctrl-c ends it"),
        ("longshore events --since 0 --no-follow --container web", "the whole life of `web`"),
        ("longshore events --since 4711 --format json", "all after event 4711, for a program"),
    ],
)  # fmt: skip
