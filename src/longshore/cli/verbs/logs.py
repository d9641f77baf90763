"""`longshore logs`: what a container wrote."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..arguments.options import number
from ..arguments.parser import Arguments, Option, Verb
from ..arguments.times import moment
from ..terminal.output import complain, flush, json_line, write

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...logs.reader import LogRecord


def _count(text: str) -> int | None:
    if text == "all":
        return None
    found = number(text)
    if found < 0:
        raise ValueError(f"{text!r} is not a number of lines")
    return found


async def run(engine: Engine, args: Arguments) -> int:
    from contextlib import aclosing

    from ...logs.reader import LogRecord

    container = await engine.get(args.container)
    show = _show_json if args.format == "json" else _Text(args).show
    async with aclosing(container.logs(follow=args.follow, tail=args.tail, since=args.since, pieces=True)) as records:
        async for record in records:
            if isinstance(record, LogRecord):
                if args.stream in (None, record.stream):
                    show(record)
            elif args.format == "json":
                write(json_line({"gap": record.reason}))
            else:
                flush()
                complain(f"output is missing here: {record.reason}")
            if args.follow:
                flush()
    return 0


def _show_json(record: LogRecord) -> None:
    """A line of JSON; bytes that are not UTF-8 are given in base64."""
    line: dict[str, Any] = {"at": record.at, "stream": record.stream}
    try:
        line["data"] = record.data.decode()
    except UnicodeDecodeError:
        line["base64"] = record.data
    write(json_line(line))


class _Text:
    """Output as it was, each stream to our own of the same name; with a time or a tag, line by line."""

    def __init__(self, args: Arguments) -> None:
        self._args = args
        self._whole_lines = args.timestamps or args.tags
        self._unended: str | None = None  # the stream whose line has begun, where lines are marked

    def show(self, record: LogRecord) -> None:
        data = record.data
        if self._whole_lines:
            data = self._marked(record)
        if record.stream == "stderr" and not self._args.tags and sys.stderr is not None:
            flush()
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
        else:
            write(data)

    def _marked(self, record: LogRecord) -> bytes:
        head = b""
        if self._unended != record.stream:
            if self._unended is not None and self._args.tags:
                head += b"\n"  # the other stream's line goes on after this one
            if self._args.timestamps:
                head += f"{record.at:%Y-%m-%dT%H:%M:%S.%fZ} ".encode()
            if self._args.tags:
                head += f"{record.stream} ".encode()
        self._unended = None if record.data.endswith(b"\n") else record.stream
        return head + record.data


VERB = Verb(
    "logs",
    "Show the output of a kept container: its standard output here, its standard error on standard error.",
    arguments=["CONTAINER"],
    options=[
        Option("-f", "--follow", help="follow the output until the container ends"),
        Option("-n", "--tail", kind="value", metavar="N", convert=_count, help="only the last lines"),
        Option(
            "--since",
            kind="value",
            metavar="TIME",
            convert=moment,
            help="only newer lines: 10m, 2026-01-31T12:00:00Z",
        ),
        Option("-t", "--timestamps", help="begin each line with its time"),
        Option("--tags", help="begin each line with its stream; write both to standard output"),
        Option("--stream", kind="value", choices=("stdout", "stderr"), help="only this stream"),
        Option(
            "--format",
            kind="value",
            choices=("raw", "json"),
            default="raw",
            help="raw (default), or a line of json each",
        ),
    ],
    run=run,
    examples=[
        ("longshore logs web", "all output"),
        ("longshore logs -f -n 20 web", "the last 20 lines, then new ones"),
        ("longshore logs --since 10m --tags -t web", "with times and streams"),
        ("longshore logs --stream stderr web 2> errors", "only standard error"),
    ],
)
