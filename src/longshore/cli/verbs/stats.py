"""`longshore stats`: what containers use; a live table on a terminal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..arguments.options import seconds
from ..arguments.parser import Arguments, Option, UsageError, Verb
from ..terminal.output import flush, json_line, on_terminal, seconds_text, size_text, table, write

if TYPE_CHECKING:
    from ...compute.values import Stats
    from ...engine.engine import Engine

HEADINGS = ["CONTAINER", "CPU %", "CPU TIME", "MEMORY", "LIMIT", "PIDS", "READ", "WRITTEN", "NET IN", "NET OUT"]
FIRST_GLANCE = 0.25  # seconds between the two samples that a share of processors is worked out from


async def run(engine: Engine, args: Arguments) -> int:
    if args.interval < 0.1:
        raise UsageError("--interval: must be at least 0.1 seconds")
    for id in args.containers:  # an unknown one is told at once
        await engine.get(id)
    watch = _Watch(engine, args.containers)
    if args.no_stream:
        await watch.sample(complaining=True)
        if args.format == "json":
            await _lines(watch)
            return watch.code
        if watch.now:
            await asyncio.sleep(FIRST_GLANCE)
            await watch.sample()
        write(table(HEADINGS, watch.rows(), right=range(1, len(HEADINGS))))
        return watch.code
    if args.format == "json":
        return await _stream(watch, args)
    return await (_live if on_terminal() else _repeat)(watch, args)


class _Watch:
    """The last two samples of each container."""

    def __init__(self, engine: Engine, ids: list[str]) -> None:
        self._engine = engine
        self._ids = ids
        self.now: dict[str, Stats] = {}
        self.before: dict[str, Stats] = {}
        self.code = 0

    async def sample(self, *, complaining: bool = False) -> bool:
        """Measure all; False once none of those that were named lives."""
        from ...errors import LongshoreError
        from ..running.run_verb import report_error

        ids = self._ids or [info.id for info in await self._engine.list(states=("running", "paused"))]
        self.before, self.now = self.now, {}
        for id in ids:
            try:
                self.now[id] = await (await self._engine.get(id)).stats()
            except LongshoreError as error:  # it has ended
                if complaining and self._ids:
                    self.code = self.code or report_error(error)
        return bool(self.now) or not self._ids

    def share(self, id: str) -> float | None:
        """Percent of one processor, since the sample before."""
        now, before = self.now[id], self.before.get(id)
        if before is None or now.cpu_time is None or before.cpu_time is None:
            return None
        passed = (now.at - before.at).total_seconds()
        return 100 * (now.cpu_time - before.cpu_time) / passed if passed > 0 else None

    def rows(self) -> list[list[str]]:
        return [self._row(id, stats) for id, stats in self.now.items()]

    def _row(self, id: str, stats: Stats) -> list[str]:
        share = self.share(id)
        network = stats.network
        limit = "-" if stats.pids_limit is None else str(stats.pids_limit)
        return [
            id,
            "-" if share is None else f"{share:.1f}",
            seconds_text(stats.cpu_time),
            size_text(stats.memory),
            size_text(stats.memory_limit),
            "-" if stats.pids is None else f"{stats.pids}/{limit}" if limit != "-" else str(stats.pids),
            size_text(stats.read_bytes),
            size_text(stats.written_bytes),
            size_text(None if network is None else sum(one.received_bytes for one in network)),
            size_text(None if network is None else sum(one.sent_bytes for one in network)),
        ]


async def _lines(watch: _Watch) -> None:
    import msgspec

    for id, stats in watch.now.items():
        line: dict[str, Any] = {"container": id, **msgspec.to_builtins(stats), "cpu_percent": watch.share(id)}
        write(json_line(line))
    flush()


async def _stream(watch: _Watch, args: Arguments) -> int:
    while await watch.sample(complaining=not watch.now):
        await _lines(watch)
        await asyncio.sleep(args.interval)
    return watch.code


async def _repeat(watch: _Watch, args: Arguments) -> int:
    """A table again and again, for a file or a pipe."""
    while await watch.sample(complaining=not watch.now):
        write(table(HEADINGS, watch.rows(), right=range(1, len(HEADINGS))))
        flush()
        await asyncio.sleep(args.interval)
    return watch.code


async def _live(watch: _Watch, args: Arguments) -> int:
    """A table that stays in its place."""
    try:
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # somebody has left it away: the table is printed anew each time
        return await _repeat(watch, args)

    def drawn() -> Table:
        made = Table(box=None, pad_edge=False)
        for number, heading in enumerate(HEADINGS):
            made.add_column(heading, justify="right" if number else "left", no_wrap=True)
        for row in watch.rows():
            made.add_row(*(Text(cell) for cell in row))
        return made

    if not await watch.sample(complaining=True):
        return watch.code
    with Live(drawn(), auto_refresh=False, transient=False) as live:
        await asyncio.sleep(min(FIRST_GLANCE, args.interval))
        while await watch.sample():
            live.update(drawn(), refresh=True)
            await asyncio.sleep(args.interval)
    return watch.code


VERB = Verb(
    "stats",
    "Show the resource usage of the named containers, or of all that run.",
    arguments=["[CONTAINER...]"],
    options=[
        Option("--no-stream", help="show one sample only"),
        Option("--interval", kind="value", metavar="TIME", default=1.0, convert=seconds,
               help="time between samples (default: 1 s)"),
        Option("--format", kind="value", choices=("table", "json"), default="table",
               help="table (default), or a line of json each; numbers are then bytes and seconds"),
    ],
    run=run,
    text="CPU % is of one processor. A dash means that this machine does not know the value.",
    examples=[
        ("longshore stats", "a live table; ctrl-c ends it"),
        ("longshore stats --no-stream web", "once"),
        ("longshore stats --format json web", "a line a second, for a program"),
    ],
)  # fmt: skip
