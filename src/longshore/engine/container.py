"""`Container`: what a user holds of a container. It checks arguments and calls the file of each verb."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from ..aio.tasks import shielded
from ..compute.values import DEVNULL, PIPE, ContainerInfo, ProcessInfo, Stats, Stdio
from ..errors import (
    CommandFailed,
    ContainerNotFound,
    EngineClosed,
    InvalidState,
    LongshoreError,
    ServiceError,
    TimeLimit,
)
from ..exit_record import Cause, Completed, Exit
from ..logs.format import LogGap, LogRecord
from ..spec import ProcessSpec, Resources, check_arguments, check_environment, parse_signal
from ..spec.checks import check_endpoints
from . import checkpoints, delete, exec, kill, listing, lookup, pause, resize, start, stop, update, wait
from .arguments import check_bound, check_input, check_seconds, check_since, check_streams, check_tail
from .checkpoints import CheckpointInfo
from .output import Attachment, log_chunks, log_records
from .process import MAX_OUTPUT, Process
from .signal import signal as send_signal
from .state import ContainerRef, log
from .states import Verb


class Container:
    """One container, known by its id. Many of these may stand for the same one, in many programs."""

    def __init__(self, ref: ContainerRef) -> None:
        self._known = ref

    @property
    def _ref(self) -> ContainerRef:
        """Return which container this is. With a damaged record that is not known, until the record is repaired."""
        if not self._known.uid:
            with suppress(LongshoreError):
                self._known = self._known.of(self._known.directory.read())
        return self._known

    def __repr__(self) -> str:
        return f"<Container {self.id}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self._known.id

    @property
    def init(self) -> Process | None:
        """Its first process, where this engine has started it or asked for it; else None: see `process`."""
        opened = self._ref.opened
        return None if opened is None else opened.process

    async def start(self, *, checkpoint: str | None = None) -> Process:
        """Run its init; what it writes goes to the log. InvalidState unless it is created.

        Failed or cancelled: what was started is ended, and the container is stopped.

        With `checkpoint`, a stopped container goes on from there, as often as one likes: InvalidState unless it is
        stopped, CheckpointNotFound, NotSupported. This is a next life of it, with an exit of its own; who else holds
        the earlier one has to `get` it again. Failed or cancelled: it is stopped, as it was.
        """
        async with self._ref.engine.operation():
            if checkpoint is None:
                return await start.start(self._ref)
            self._known, process = await checkpoints.start_from(self._ref, checkpoint)
            return process

    async def checkpoint(self, name: str, *, leave_running: bool = False, connections: bool = False) -> CheckpointInfo:
        """Write its processes, and what it wrote to its root, to a checkpoint; then end it, unless left running.

        `connections`: open TCP connections are written, too; without it, a container that has some is refused.
        NotSupported, with the reason that `doctor` gives, before anything is touched; InvalidState unless it runs, made
        by `create`, with no exec in it; CheckpointExists. Failed or cancelled: it runs on, and there is no checkpoint.
        """
        async with self._ref.engine.operation():
            return await checkpoints.checkpoint(self._ref, name, leave_running=leave_running, connections=connections)

    async def checkpoints(self) -> list[CheckpointInfo]:
        """Its checkpoints, oldest first."""
        async with self._ref.engine.operation():
            return await checkpoints.checkpoints(self._ref)

    async def delete_checkpoint(self, name: str) -> None:
        """Remove one of its checkpoints. CheckpointNotFound."""
        async with self._ref.engine.operation():
            await checkpoints.delete_checkpoint(self._ref, name)

    async def export_checkpoint(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write one of its checkpoints to a new file, for `Engine.import_checkpoint`. CheckpointNotFound."""
        async with self._ref.engine.operation():
            await checkpoints.export_checkpoint(self._ref, name, path)

    async def info(self) -> ContainerInfo:
        """What a listing says of it, now."""
        async with self._ref.engine.operation():
            record = self._ref.read_current()
            return await listing.look(self._ref, record)

    async def inspect(self) -> dict[str, Any]:
        """All that is known of it, as plain data; without the values of its environment."""
        async with self._ref.engine.operation():
            return await listing.inspection(self._ref)

    async def wait(self) -> Exit:
        """Wait for the end of init; any number of waiters, in any program. Cancelling only stops waiting.

        InvalidState if it was not started. ContainerNotFound if it is deleted before it is started.
        """
        async with self._ref.engine.operation():
            init = self.init
            exit = await wait.wait(self._ref)
            if init is not None:
                await init._passed_on()
            return exit

    async def exec(
        self,
        args: Sequence[str] = (),
        *,
        command_line: str | None = None,
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
        oci: Mapping[str, Any] | None = None,
    ) -> Process:
        """Start a further process, with streams of its own.

        `command_line` is Windows' way to give a command: one string, passed as it is. `env` adds to the container's
        environment; `cwd` and `user` fall back to the container's. `timeout` seconds after its start it is killed,
        with its children and its session; its record then says `time_limit`. It ends with this engine, however that
        ends. Raises InvalidState unless running, CommandNotFound, CommandNotExecutable, ProcessExists. Cancelled:
        nothing of it runs.

        `oci` is the `process` of an OCI runtime specification, in the place of the container's own: then nothing but
        an empty working directory is taken from there, and what is said beside it counts more.
        """
        process = ProcessSpec(
            args=check_arguments(args, "args"),
            env=check_environment(env or {}, "env"),
            cwd=cwd,
            user=user,
            terminal=terminal,
            size=size,
            command_line=command_line,
            oci=None if oci is None else dict(oci),
        )
        stdio = check_streams(Stdio(stdin=stdin, stdout=stdout, stderr=stderr), log=False)
        check_seconds(timeout)
        async with self._ref.engine.operation():
            return await exec.exec_(self._ref, process, stdio, name=name, timeout=timeout)

    async def run(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> Completed:
        """Run a further command to its end and collect what it writes: `exec`, `communicate` and `wait` in one.

        Like `subprocess.run`: `input` goes to its standard input (without it there is none); after `timeout` seconds
        it is killed and TimeLimit raised with what there was; `check` raises CommandFailed unless it ended with 0;
        `max_output` bounds each stream in bytes (OutputLimit). `env` adds to the container's environment; `cwd` and
        `user` fall back to the container's. Raises what `exec` raises. Cancelled: it is killed, with what it started.
        """
        input, timeout = check_input(input), check_seconds(timeout)
        check_bound(max_output)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        process = await self.exec(args, stdin=DEVNULL if input is None else PIPE, env=env, cwd=cwd, user=user)
        try:
            rest = None if timeout is None else max(0.0, timeout - (loop.time() - begin))
            try:
                out, err = await process.communicate(input, timeout=rest, max_output=max_output)
            except TimeLimit as error:
                raise TimeLimit(error.what, timeout or 0.0, result=error.result) from None
            exit = await process.wait()
        finally:
            if process.exit is None:
                await shielded(self._end(process))
        if exit.cause is Cause.NEVER_STARTED:
            # where the service knows no reason
            raise ServiceError("run a command in", self.id, "the command never started", hint="run `longshore doctor`")
        completed = Completed(args=process.args, exit=exit, stdout=out, stderr=err)
        if check and exit.code != 0:
            raise CommandFailed(completed)
        return completed

    @staticmethod
    async def _end(process: Process) -> None:
        try:
            await process._end_for(Cause.KILLED)
        except LongshoreError as error:  # what ended the call is what the caller is to hear of
            log.warning("process `%s` could not be killed: %s", process.name, error)

    async def process(self, name: str) -> Process:
        """A process by its name, also one that another program started (its streams are that program's)."""
        async with self._ref.engine.operation():
            return await exec.process(self._ref, name)

    async def processes(self) -> list[str]:
        """Names of the execs that run here, or ran with a name of their own."""
        async with self._ref.engine.operation():
            self._ref.read_current()
            return self._ref.directory.processes()

    async def logs(
        self, *, follow: bool = False, tail: int | None = None, since: datetime | None = None, pieces: bool = False
    ) -> AsyncGenerator[LogRecord | LogGap, None]:
        """What it wrote, line by line, from its log. With `follow`, until it has ended. `tail`: the last n lines.

        A record is one line of one stream, and lines come in the order of their ends. The last line of a stream has
        no newline if the program wrote none; it comes at the end, which with `follow` is that of the container. A line
        of more than 1 MiB comes in parts of that size, and a LogGap cuts a line in two. With `pieces` a record is what
        the program wrote at once, as soon as it is there: that may be a part of a line, as a prompt is.

        InvalidState if it has no log, because it runs for its caller.
        """
        tail, since = check_tail(tail), check_since(since)
        async with self._ref.engine.operation():
            self._ref.engine.descriptors.check_view(f"read the log of container `{self.id}`")
            inode = await self._log_inode("read the log of")
        ending = partial(wait.ended, self._ref) if follow else None
        async for record in log_records(self._ref, inode, tail=tail, since=since, ending=ending, pieces=pieces):
            yield record

    async def _log_inode(self, operation: str) -> int | None:
        record = self._ref.read_current()
        if not record.kept:
            raise InvalidState(
                operation,
                self.id,
                "without a log",
                reason="it has no log, because `run` returns output to its caller",
                hint="make it with `launch` or `create`",
            )
        return record.log_inode

    async def attach(self, *, stdin: bool = False, logs: bool = False) -> Attachment:
        """Its streams from now on (with `logs`: from the first byte on), and its standard input if asked for."""
        async with self._ref.engine.operation():
            self._ref.engine.descriptors.check_view(f"attach to container `{self.id}`")
            inode = await self._log_inode("attach to")
            writer = await self._input() if stdin else None
            attachment = Attachment(self, writer)
            ending = partial(wait.ended, self._ref)
            tail = None if logs else 0
            attachment._begin(
                self._ref.engine,
                lambda stream: log_chunks(self._ref, inode, stream, tail=tail, ending=ending),
            )
            try:
                await asyncio.sleep(0)  # the views are at the log's end as it is now: what comes next is theirs
            except asyncio.CancelledError:
                await attachment.close()
                raise
            return attachment

    async def _input(self) -> asyncio.StreamWriter:
        record = self._ref.read_current()
        if not record.stdin and not record.terminal:
            raise InvalidState(
                "attach to the input of",
                self.id,
                "without an input",
                reason="it has no input",
                hint="create it with stdin=PIPE (`-i`)",
            )
        opened = await lookup.open_container(self._ref, record)
        ours = None if opened.process is None else opened.process.stdin
        return ours or await opened.system.attach_stdin()

    async def signal(self, signal: str | int) -> None:
        """Deliver a signal to init. InvalidState unless it runs. Where there are no signals, KILL kills and any
        other asks the container to shut down."""
        number = parse_signal(signal)
        async with self._ref.engine.operation():
            await send_signal(self._ref, number)

    async def kill(self) -> None:
        """End it at once, also when paused or not started; asked, not waited for.

        Already ended is fine: the caller has what it wanted. (The command `longshore kill` calls that an error, as
        people know it from docker.)
        """
        async with self._ref.engine.operation():
            await kill.kill(self._ref)

    async def stop(self, grace: float = 10, signal: str | int | None = None) -> Exit:
        """Ask it to end (its stop signal, or `signal`), and kill it after `grace` seconds. Returns how it ended.

        If init cannot receive the signal at all, it is killed at once. Cancelled in the grace: the signal is sent
        and the container runs on.
        """
        number = None if signal is None else parse_signal(signal)
        seconds = check_seconds(grace, "grace") or 0.0
        async with self._ref.engine.operation():
            return await stop.stop(self._ref, seconds, number)

    async def pause(self) -> None:
        """Freeze it. InvalidState unless running. Cancelled: resumed."""
        async with self._ref.engine.operation():
            await pause.pause(self._ref)

    async def resume(self) -> None:
        """Let it go on. InvalidState unless paused. Cancelled: it may go on, and is then told of."""
        async with self._ref.engine.operation():
            await pause.resume(self._ref)

    async def stats(self) -> Stats:
        """What it uses now. InvalidState unless it runs."""
        async with self._ref.engine.operation():
            return await lookup.with_system(self._ref, Verb.STATS, lambda system: system.stats())

    async def watch_stats(self, interval: float = 1.0) -> AsyncGenerator[Stats, None]:
        """What it uses, every `interval` seconds, until it ends."""
        end = asyncio.ensure_future(self.wait())
        try:
            while not end.done():
                with suppress(InvalidState, ContainerNotFound, EngineClosed):  # it has ended: so will `end`
                    yield await self.stats()
                await asyncio.wait((end,), timeout=interval)
            with suppress(EngineClosed, ContainerNotFound):
                await end
        finally:
            end.cancel()
            await asyncio.wait((end,))

    async def top(self) -> list[ProcessInfo]:
        """The processes that run in it."""
        async with self._ref.engine.operation():
            return await lookup.with_system(self._ref, Verb.TOP, lambda system: system.processes())

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
        add_endpoints: Sequence[str] = (),
        remove_endpoints: Sequence[str] = (),
    ) -> None:
        """Change its limits while it lives; None leaves one as it is. `inspect` then shows the new ones.

        In the words and units of `Resources`. Cancelled: done, or not done. On Windows, limits cannot be changed, but
        network endpoints (by their ids) can be added and removed; what is NotSupported is refused before anything else
        is tried.
        """
        change = Resources(
            memory=memory,
            memory_swap=memory_swap,
            memory_reservation=memory_reservation,
            cpus=cpus,
            cpu_weight=cpu_weight,
            cpuset=cpuset,
            pids=pids,
        )
        add = check_endpoints(add_endpoints, "add_endpoints")
        remove = check_endpoints(remove_endpoints, "remove_endpoints")
        async with self._ref.engine.operation():
            if add or remove:
                await update.need_endpoints(self._ref)
            if change or not (add or remove):
                await update.update(self._ref, change)
            if add or remove:
                await update.change_endpoints(self._ref, add, remove)

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of init's terminal."""
        async with self._ref.engine.operation():
            await resize.resize(self._ref, rows, columns)

    async def delete(self, *, force: bool = False) -> None:
        """Remove it and all that it has. InvalidState if it runs, unless `force`: then it is killed first.

        Once begun it completes, also when cancelled. Deleted already is fine.
        """
        async with self._ref.engine.operation():
            await delete.delete(self._ref, force=force)


__all__ = ["MAX_OUTPUT", "Attachment", "Completed", "Container", "ContainerInfo", "Process"]
