"""What a user holds: `Container` and `Process`. Thin: what happens is in engine.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import msgspec

from .compute import DEVNULL, PIPE, Cause, ComputeProcess, Exit, ProcessInfo, Stats, Stdio
from .errors import OutputLimit, TimeLimit
from .logs import LogGap, LogRecord
from .spec import ProcessSpec, Resources, check_environment, parse_signal

if TYPE_CHECKING:
    from .engine import Engine
    from .store import Entry, Owner

MAX_OUTPUT = 64 << 20
CHUNK = 1 << 18


class ContainerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One container in a listing. `state` is creating, created, running, paused or stopped."""

    id: str
    uid: str
    state: str
    command: list[str]
    root: str
    created_at: datetime
    started_at: datetime | None = None
    pid: int | None = None
    exit: Exit | None = None
    owner: Owner = "keep"
    labels: dict[str, str] = {}


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A command that has ended: as `subprocess.CompletedProcess`, with the whole exit record."""

    args: list[str]
    exit: Exit
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128 + n for signal n; None if nobody saw it."""
        return self.exit.code

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "replace")


class Process:
    """A process in a container: its streams, as in `asyncio.subprocess`, and its end."""

    def __init__(self, engine: Engine, container_id: str, name: str, args: list[str], process: ComputeProcess) -> None:
        self._engine = engine
        self._process = process
        self.container_id = container_id
        self.name = name
        self.args = args
        self.exit: Exit | None = None
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._cause: Cause | None = None
        self._seconds: float | None = None

    def __repr__(self) -> str:
        return f"<Process {self.name} of {self.container_id}, pid {self.pid}>"

    @property
    def pid(self) -> int:
        """The pid on this machine."""
        return self._process.pid

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        return self._process.streams.stdin

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        return self._process.streams.stdout

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        return self._process.streams.stderr

    @property
    def returncode(self) -> int | None:
        """The exit code, 128 + n for signal n; None while it runs, or if nobody saw it."""
        return None if self.exit is None else self.exit.code

    def _finish(self, exit: Exit) -> None:
        self.exit = exit
        if not self._ended.done():
            self._ended.set_result(exit)

    def _fail(self, error: BaseException) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # retrieved: nobody has to wait for it

    async def wait(self) -> Exit:
        """Wait for its end; any number of waiters get the same record. Cancelling only stops waiting.

        It does not wait for the streams: what a grandchild holds open holds nobody.
        """
        return await asyncio.shield(self._ended)

    async def communicate(
        self, input: bytes | None = None, *, timeout: float | None = None, max_output: int = MAX_OUTPUT
    ) -> tuple[bytes, bytes]:
        """Send `input` and the end of input, read both streams to their end, wait for the process.

        Raises TimeLimit after `timeout` seconds and OutputLimit when a stream grows past `max_output` bytes; the
        process is then killed, with what it started, and the error carries what was read. Cancelled: not killed.
        """
        stdout, stderr = bytearray(), bytearray()
        work = [
            asyncio.create_task(self._send(input)),
            asyncio.create_task(self._collect(self.stdout, stdout, max_output)),
            asyncio.create_task(self._collect(self.stderr, stderr, max_output)),
        ]
        try:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.gather(*work)
                    exit = await self.wait()
            except (TimeoutError, _TooMuch) as error:
                late = isinstance(error, TimeoutError)
                await self._kill_because(Cause.TIME_LIMIT if late else Cause.KILLED)
                exit = await self.wait()
                await asyncio.gather(*work, return_exceptions=True)  # what it wrote until then
                if not late:
                    raise OutputLimit(self._what(), max_output, result=self._completed(exit, stdout, stderr)) from None
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        if exit.cause is Cause.TIME_LIMIT:
            seconds = timeout if timeout is not None else self._seconds or 0.0
            raise TimeLimit(self._what(), seconds, result=self._completed(exit, stdout, stderr))
        return bytes(stdout), bytes(stderr)

    def _what(self) -> str:
        return f"`{' '.join(self.args)[:200]}` in container `{self.container_id}`"

    def _completed(self, exit: Exit, stdout: bytearray, stderr: bytearray) -> Completed:
        return Completed(args=self.args, exit=exit, stdout=bytes(stdout), stderr=bytes(stderr))

    async def _send(self, input: bytes | None) -> None:
        if self.stdin is None:
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            view = memoryview(input or b"")
            for start in range(0, len(view), CHUNK):
                self.stdin.write(view[start : start + CHUNK])
                await self.stdin.drain()
        await self.close_stdin()

    @staticmethod
    async def _collect(stream: asyncio.StreamReader | None, into: bytearray, limit: int) -> None:
        if stream is None:
            return
        while data := await stream.read(CHUNK):
            into += data
            if len(into) > limit:
                del into[limit:]
                raise _TooMuch

    async def _kill_because(self, cause: Cause) -> None:
        if self.exit is None:
            self._cause = self._cause or cause
            await self._engine._kill_process(self)

    async def signal(self, signal: str | int) -> None:
        """Deliver a signal: `"TERM"`, `15`. ProcessNotFound if it has ended (not for KILL)."""
        await self._process.signal(parse_signal(signal))

    async def kill(self) -> None:
        """End it at once; asked, not waited for. Already ended is fine."""
        await self._kill_because(Cause.KILLED)

    async def terminate(self) -> None:
        """Ask it to end, by TERM."""
        await self.signal("TERM")

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal. InvalidState if it has none."""
        await self._process.resize(rows, columns)

    async def close_stdin(self) -> None:
        """Give it the end of input. Already ended is fine."""
        if self.stdin is not None:
            self.stdin.close()
        await self._process.close_stdin()


class _TooMuch(Exception):
    """A stream grew past its bound."""


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


class Attachment:
    """A view of a kept container's output from now (or a cursor) on, and perhaps its standard input.

    A slow reader stalls nobody: the output comes from the log. Closing it lets go; the container goes on.
    """

    def __init__(self, container: Container, stdin: asyncio.StreamWriter | None) -> None:
        self._container = container
        self.stdin = stdin
        self._flows = {"stdout": _Flow(), "stderr": _Flow()}
        self._task: asyncio.Task[None] | None = None

    @property
    def stdout(self) -> asyncio.StreamReader:
        return self._flows["stdout"].reader

    @property
    def stderr(self) -> asyncio.StreamReader:
        return self._flows["stderr"].reader

    async def _pump(self, records: AsyncIterator[LogRecord | LogGap]) -> None:
        try:
            async for record in records:
                if isinstance(record, LogRecord):
                    flow = self._flows[record.stream]
                    flow.reader.feed_data(record.data)
                    await flow.open.wait()  # only we wait for our reader: the log goes on growing meanwhile
        finally:
            for flow in self._flows.values():
                flow.reader.feed_eof()

    async def wait(self) -> Exit:
        """Wait for the container's end."""
        return await self._container.wait()

    async def close(self) -> None:
        """Let go; the container goes on. Its input ends, unless it has a terminal."""
        if self.stdin is not None:
            self.stdin.close()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class Container:
    """One container, known by its id. Many of these may stand for the same one, in many programs."""

    def __init__(self, engine: Engine, entry: Entry, uid: str) -> None:
        self._engine = engine
        self._entry = entry
        self._uid = uid
        self.init: Process | None = None

    def __repr__(self) -> str:
        return f"<Container {self.id}>"

    @property
    def id(self) -> str:
        return self._entry.id

    async def start(self) -> Process:
        """Run its init; its streams go to the log. InvalidState unless it is created.

        Failed or cancelled: what was started is ended, and the container is stopped.
        """
        return await self._engine._start(self)

    async def info(self) -> ContainerInfo:
        """What a listing says of it, now."""
        return await self._engine._info(self._entry)

    async def inspect(self) -> dict[str, Any]:
        """All that is known of it, as plain data; without the values of its environment."""
        return await self._engine._inspect(self._entry)

    async def wait(self) -> Exit:
        """Wait for the end of init; any number of waiters, in any program. Cancelling only stops waiting.

        InvalidState if it was not started. ContainerNotFound if it is deleted before it is started.
        """
        return await self._engine._wait(self)

    async def exec(
        self,
        args: Sequence[str],
        *,
        name: str | None = None,
        stdin: int = DEVNULL,
        stdout: int = PIPE,
        stderr: int = PIPE,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        terminal: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Process:
        """Start a further process, with streams of its own.

        `env` adds to the container's environment; `cwd` and `user` fall back to the container's. `timeout` seconds
        after its start it is killed, with its children and its session; its record then says `time_limit`. It ends
        with this engine, however that ends. Raises InvalidState unless running, CommandNotFound,
        CommandNotExecutable, ProcessExists. Cancelled: nothing of it runs.
        """
        process = ProcessSpec(
            args=list(args) if not isinstance(args, (str, bytes)) else args,  # refused there, with a hint
            env=check_environment(env or {}, "env"),
            cwd=cwd,
            user=user,
            terminal=terminal,
            size=size,
        )
        stdio = Stdio(stdin=stdin, stdout=stdout, stderr=stderr)
        return await self._engine._exec(self, process, stdio, name, timeout)

    async def process(self, name: str) -> Process:
        """A process by its name, also one that another program started (its streams are that program's)."""
        return await self._engine._process(self, name)

    async def processes(self) -> list[str]:
        """Names of the execs that run here, or ran with a name of their own."""
        return self._entry.processes()

    def logs(
        self, *, follow: bool = False, tail: int | None = None, since: datetime | None = None
    ) -> AsyncIterator[LogRecord | LogGap]:
        """What it wrote, from its log. With `follow`, until it has ended. `tail`: the last n lines."""
        return self._engine._logs(self, follow=follow, tail=tail, since=since)

    async def attach(self, *, stdin: bool = False, logs: bool = False) -> Attachment:
        """Its streams from now on (with `logs`: from the first byte on), and its standard input if asked for."""
        return await self._engine._attach(self, stdin=stdin, logs=logs)

    async def signal(self, signal: str | int) -> None:
        """Deliver a signal to init. InvalidState unless it runs."""
        await self._engine._signal(self, parse_signal(signal))

    async def kill(self) -> None:
        """End it at once, also when paused; asked, not waited for. Already ended is fine."""
        await self._engine._kill(self)

    async def stop(self, grace: float = 10, signal: str | int | None = None) -> Exit:
        """Ask it to end (its stop signal, or `signal`), and kill it after `grace` seconds. Returns how it ended.

        If init cannot receive the signal at all, it is killed at once. Cancelled in the grace: the signal is sent
        and the container runs on.
        """
        return await self._engine._stop(self, grace, None if signal is None else parse_signal(signal))

    async def pause(self) -> None:
        """Freeze it. InvalidState unless running. Cancelled: resumed."""
        await self._engine._pause(self)

    async def resume(self) -> None:
        """Let it go on. InvalidState unless paused."""
        await self._engine._resume(self)

    async def stats(self) -> Stats:
        """What it uses now. InvalidState unless it runs."""
        system = await self._engine._running_system(self, "measure")
        return await system.stats()

    async def watch_stats(self, interval: float = 1.0) -> AsyncIterator[Stats]:
        """What it uses, every `interval` seconds, until it ends."""
        end = asyncio.ensure_future(self.wait())
        try:
            while not end.done():
                yield await self.stats()
                await asyncio.wait((end,), timeout=interval)
        finally:
            end.cancel()
            with suppress(asyncio.CancelledError):
                await end

    async def top(self) -> list[ProcessInfo]:
        """The processes that run in it."""
        system = await self._engine._running_system(self, "list the processes of")
        return await system.processes()

    async def pids(self) -> list[int]:
        """Their pids on this machine."""
        return sorted(info.pid for info in await self.top())

    async def update(
        self,
        *,
        memory: int | str | None = None,
        memory_swap: int | str | None = None,
        memory_reservation: int | str | None = None,
        cpus: float | None = None,
        cpu_weight: int | None = None,
        cpuset: str | None = None,
        pids: int | None = None,
    ) -> None:
        """Change its limits while it lives; None leaves one as it is."""
        change = Resources(
            memory=memory,
            memory_swap=memory_swap,
            memory_reservation=memory_reservation,
            cpus=cpus,
            cpu_weight=cpu_weight,
            cpuset=cpuset,
            pids=pids,
        )
        system = await self._engine._running_system(self, "update", also_created=True)
        await system.update(change)

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of init's terminal."""
        await self._engine._resize(self, rows, columns)

    async def delete(self, *, force: bool = False) -> None:
        """Remove it and all that it has. InvalidState if it runs, unless `force`: then it is killed first.

        Once begun it completes, also when cancelled.
        """
        await self._engine._delete(self, force=force)
