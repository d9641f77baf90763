"""The output of a kept container: readers of its log, and the log itself where no monitor writes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from ..compute.values import Streams
from ..errors import EngineClosed, LongshoreError
from ..exit_record import Exit
from ..fs.files import as_store_errors
from ..logs.format import LogGap, LogRecord, Stream
from ..logs.reader import LogReader
from ..logs.writer import LogWriter
from .process import CHUNK
from .state import ContainerRef, EngineState, log

# writing


def keep_output(container: ContainerRef, streams: Streams, limit: int) -> asyncio.Task[None] | None:
    """Start the task that writes the log of a container from its streams. None if a monitor writes the log.

    The log is then written for as long as this engine lives.
    """
    sources: list[tuple[Stream, asyncio.StreamReader]] = []
    if streams.stdout is not None:
        sources.append(("stdout", streams.stdout))
    if streams.stderr is not None:
        sources.append(("stderr", streams.stderr))
    if not sources:
        return None
    return container.engine.spawn(_copy(container.directory.place().log, limit, sources), f"log of {container.id}")


async def _copy(path: Path, limit: int, sources: list[tuple[Stream, asyncio.StreamReader]]) -> None:
    async def copy(name: Stream, source: asyncio.StreamReader) -> None:
        while data := await source.read(CHUNK):
            writer.write(name, data)
            await asyncio.sleep(0)  # a program with much output must not keep other tasks from running

    try:
        writer = LogWriter(path, limit)
    except OSError as error:
        log.warning("the log %s cannot be written: %s", path, error)
        return
    try:
        async with asyncio.TaskGroup() as group:
            for name, source in sources:
                group.create_task(copy(name, source))
    except* Exception as errors:
        log.warning("writing a log: %s", errors.exceptions[0])
    finally:
        writer.close()


# reading


async def log_records(
    container: ContainerRef,
    inode: int | None,
    *,
    tail: int | None,
    since: datetime | None,
    ending: Callable[[], Awaitable[None]] | None,
    pieces: bool,
) -> AsyncGenerator[LogRecord | LogGap, None]:
    """Yield the records of a log; with `ending`, until that has returned. It ends when the engine is closed."""
    async with (
        _reading(container, inode, ending) as (reader, until),
        aclosing(reader.records(tail=tail, since=since, until=until, lines=not pieces)) as records,
    ):
        async for record in records:
            yield record


async def log_chunks(
    container: ContainerRef,
    inode: int | None,
    only: Stream,
    *,
    tail: int | None,
    ending: Callable[[], Awaitable[None]],
) -> AsyncGenerator[tuple[Stream, bytes] | LogGap, None]:
    """Yield the bytes of one stream of a log, until `ending` has returned. Faster than `log_records`, without times."""
    async with (
        _reading(container, inode, ending) as (reader, until),
        aclosing(reader.chunks(tail=tail, until=until, only=only)) as chunks,
    ):
        async for chunk in chunks:
            yield chunk


@asynccontextmanager
async def _reading(
    container: ContainerRef, inode: int | None, ending: Callable[[], Awaitable[None]] | None
) -> AsyncIterator[tuple[LogReader, asyncio.Task[None] | None]]:
    """Open the log of a container, and begin to wait for `ending`; close and end both. The engine closes it, too."""
    reader = LogReader(container.directory.place().log, expected_inode=inode)
    until = _until(container, ending)
    container.engine.subscriptions.add(reader.close)
    try:
        with as_store_errors(f"read the log of container `{container.id}`"):
            yield reader, until
    finally:
        container.engine.subscriptions.discard(reader.close)
        reader.close()
        await _end(until)


def _until(container: ContainerRef, ending: Callable[[], Awaitable[None]] | None) -> asyncio.Task[None] | None:
    if ending is None:
        return None

    async def end() -> None:
        with suppress(EngineClosed):  # the log ends then, too
            await ending()

    return container.engine.spawn(end(), f"end of {container.id}, for its log")


async def _end(until: asyncio.Task[None] | None) -> None:
    if until is not None and not until.done():
        until.cancel()
        await asyncio.wait((until,))


# attaching


class _Flow(asyncio.ReadTransport):
    """A StreamReader that is fed by hand, and says when it has enough."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = asyncio.StreamReader(limit=CHUNK)
        self.reader.set_transport(self)
        self.open = asyncio.Event()
        self.open.set()

    def pause_reading(self) -> None:
        self.open.clear()

    def resume_reading(self) -> None:
        self.open.set()

    def close(self) -> None:
        """The reader wants no more."""
        self.open.set()


class Attachment:
    """A view of a kept container's output from now (or its beginning) on, and perhaps its standard input.

    A slow reader stalls nobody: the output comes from the log. Where the log's bound has cost output, `gaps` says
    so, for each stream by its name. Closing it lets go; the container goes on.
    """

    def __init__(self, container: Any, stdin: asyncio.StreamWriter | None) -> None:
        self._container = container
        self.stdin = stdin
        self._gaps: dict[Stream, list[LogGap]] = {"stdout": [], "stderr": []}
        self._flows: dict[Stream, _Flow] = {"stdout": _Flow(), "stderr": _Flow()}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def stdout(self) -> asyncio.StreamReader:
        """What it writes to standard output."""
        return self._flows["stdout"].reader

    @property
    def stderr(self) -> asyncio.StreamReader:
        """What it writes to standard error."""
        return self._flows["stderr"].reader

    def _begin(
        self, engine: EngineState, chunks: Callable[[Stream], AsyncGenerator[tuple[Stream, bytes] | LogGap, None]]
    ) -> None:
        """Read the log once for each stream: who reads only one of them, or slowly, does not hold up the other."""
        for name in self._flows:
            self._tasks.append(engine.spawn(self._pump(name, chunks(name)), f"{name} of {self._container.id}"))

    async def _pump(self, name: Stream, chunks: AsyncGenerator[tuple[Stream, bytes] | LogGap, None]) -> None:
        flow = self._flows[name]
        try:
            async with aclosing(chunks) as items:
                async for item in items:
                    if isinstance(item, LogGap):
                        self._gaps[name].append(item)
                    elif item[0] == name:
                        await flow.open.wait()  # the log goes on growing meanwhile
                        flow.reader.feed_data(item[1])
        except LongshoreError as error:
            flow.reader.set_exception(error)  # an end would look as if that were all
        finally:
            flow.reader.feed_eof()

    @property
    def gaps(self) -> dict[Stream, list[LogGap]]:
        """Where output was lost, or may have been, to the log's bound; for each stream by its name."""
        return self._gaps

    async def wait(self) -> Exit:
        """Wait for the container's end."""
        exit: Exit = await self._container.wait()
        return exit

    async def close(self) -> None:
        """Let go; the container goes on. Its input ends, unless it has a terminal."""
        if self.stdin is not None:
            self.stdin.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
