"""Starting what runs for its caller: a runtime in the foreground, our own child, with plain pipes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...aio.tasks import in_thread, shielded
from ...compute.values import Stdio
from ...errors import ServiceError
from ...fs.files import store_error
from ...fs.watching import wait_for_file
from ..cgroups import killing, membership
from ..cgroups.cgroup import Cgroup
from ..cgroups.entering import Entrance, flags, shell
from ..processes import proc
from ..processes.launch import UMASK, Child, MountStep, pipe_to_child
from ..processes.stdio import Wiring
from .direct_process import DirectProcess
from .runtime import Runtime
from .status import PATH, Channel, refusal
from .watch import identify

STREAMS_LIMIT = 1.0  # seconds that a runtime may take to end after the exec that it started was killed


def read_pid(pidfile: Path) -> int | None:
    """The number in a pid file; None if there is none yet."""
    try:
        return _pid(pidfile.read_bytes())
    except OSError:
        return None


def _pid(text: bytes) -> int | None:
    """A pid as a runtime or monitor writes it; None for anything else: -1 would be everybody (kill(2))."""
    with suppress(ValueError):
        pid = int(text)
        return pid if 0 < pid < 1 << 31 else None
    return None


class PidFile:
    """The pid that a runtime writes: into the file, which the keeper reads, too.

    crun writes to any path, so that its pid comes by a pipe, and we write the file. That spares an inotify watch, whose
    end takes the kernel many milliseconds; runc replaces the file by a rename, and has to be watched for.
    """

    def __init__(self, runtime: Runtime, path: Path) -> None:
        self._path = path
        self._pid: int | None = None
        self._ours = self._theirs = -1
        self.argument = str(path)
        if runtime.name.startswith("crun"):
            self._ours, self._theirs = pipe_to_child()
            os.set_blocking(self._ours, False)
            self.argument = f"/proc/self/fd/{self._theirs}"

    @property
    def pass_fds(self) -> list[int]:
        """What the runtime must inherit."""
        return [] if self._theirs < 0 else [self._theirs]

    def started(self) -> None:
        """The runtime has its end of the pipe."""
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1

    async def wait(self, child: Child) -> int | None:
        """Wait until the runtime has written the pid; None if it ended without. Any number of times."""
        if self._pid is None:
            if self._ours >= 0:
                self._pid = await self._from_pipe()  # kept here: it can be read but once
                if self._pid is not None:
                    try:
                        self._path.write_text(f"{self._pid}\n")
                    except OSError as error:
                        raise store_error(f"write {self._path}", error) from error
            else:
                self._pid = read_pid(self._path)
                if self._pid is None:
                    self._pid = await self._from_file(child)
        return self._pid

    async def _from_pipe(self) -> int | None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._ours, ready.set)
        try:
            await ready.wait()  # the pid in one write, or the runtime's end
        finally:
            loop.remove_reader(self._ours)
        return _pid(os.read(self._ours, 64))

    async def _from_file(self, child: Child) -> int | None:
        waiting = asyncio.ensure_future(wait_for_file(self._path))
        ending = asyncio.ensure_future(child.wait())
        try:
            await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            ending.cancel()
            await asyncio.gather(waiting, ending, return_exceptions=True)
        return read_pid(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.started()
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1


def _may_be_of(pid: int, cgroup: Cgroup, child: Child) -> bool:
    """Whether a pid is of the container, or on the way: a process that the runtime started, which has yet to enter the
    cgroup by itself. True also if it has ended."""
    return membership.is_in(pid, cgroup.path) is not False or proc.descends(pid, child.pid)


async def _undo_start(child: Child, pidfile: PidFile, verb: str, cgroup: Cgroup, limit: float) -> None:
    """End what a runtime in the foreground has started, or is about to start. A runtime that makes a container is not
    killed: it removes what it made. One that only waits for the streams of an exec would wait for what that left
    behind."""
    pid = await _bounded(pidfile.wait(child), limit)
    if pid is not None and not child.ended and proc.start_time(pid) is not None and _may_be_of(pid, cgroup, child):
        with suppress(ProcessLookupError):
            if verb == "exec":
                start = proc.start_time(pid)
                await in_thread(lambda: killing.kill_tree(pid, start, cgroup))
            os.kill(pid, signal.SIGKILL)  # alive, or a zombie until its runtime, alive, has waited for it
    if not child.ended:
        patience = STREAMS_LIMIT if verb == "exec" and pid is not None else limit
        if await _bounded(child.wait(), patience) is None and not child.ended:
            child.kill()
            await child.wait()


def check_pid(operation: str, container_id: str, pid: int, cgroup: Cgroup, starter: Child | None = None) -> None:
    """ServiceError if what we were told is the pid of a process that is not the container's: it would be killed.

    `starter`: the runtime of a process that enters the container's cgroup by itself, in a moment.
    """
    known = membership.is_in(pid, cgroup.path) is not False if starter is None else _may_be_of(pid, cgroup, starter)
    if not known:
        raise ServiceError(
            operation,
            container_id,
            f"the reported pid {pid} is not a process of the container",
            hint="run `longshore doctor`; the runtime or monitor may be broken",
        )


async def _bounded(awaitable: Any, limit: float) -> Any:
    try:
        async with asyncio.timeout(limit):
            return await awaitable
    except TimeoutError:
        return None


@asynccontextmanager
async def within(limit: float, operation: str, container_id: str) -> AsyncIterator[None]:
    """ServiceError if what is awaited in it takes longer than `limit` seconds."""
    try:
        async with asyncio.timeout(limit):
            yield
    except TimeoutError:
        raise ServiceError(
            operation,
            container_id,
            f"the process did not start within {limit:g} s",
            hint="run `longshore doctor`; the runtime may hang",
        ) from None


async def _begin(channel: Channel, process: DirectProcess, command: str, limit: float, last_step: str) -> None:
    """Return when the command was executed. Raises why it was not."""
    child, runtime = process.child, process.runtime
    ending = asyncio.ensure_future(child.wait())
    try:
        async with within(limit, process.verb, process.container_id):
            outcome = await channel.wait(process.pid, ending)
            if not outcome.begun:
                await ending
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
    if outcome.error is not None:
        raise refusal(process.container_id, command, outcome)
    if not outcome.begun:
        raise runtime.never_ran(process.verb, process.log, process.container_id, child.status, last_step)
    if not channel.certain:
        process.channel, channel.held = channel, True


async def run_direct(
    runtime: Runtime,
    verb: str,
    arguments: Sequence[str],
    *,
    container_id: str,
    name: str,
    command: str,
    directory: Path,
    cgroup: Cgroup,
    stdio: Stdio,
    terminal: bool,
    size: tuple[int, int] | None,
    pass_fds: Sequence[int],
    steps: Sequence[MountStep] = (),
    wrapped: bool = False,
    umask: int = UMASK,
    first: bool = False,
    enters: bool = False,
    anteroom: Cgroup | None = None,
    last_step: str = "",
) -> DirectProcess:
    """Start `run` or `exec` of a runtime with streams of the caller's; returns when the command was executed.

    `first`: the document has the first program execute the command, and report. Without it the process has its pid
    when this returns, and no more is known. `enters`: the process enters the cgroup by itself, and its runtime the
    `anteroom`, if there is one (cgroups/entering.py). `last_step` is what the runtime does after it has reported that
    it runs.

    Failed or cancelled: what was started is killed, and its runtime waited for. Raises CommandNotFound or
    CommandNotExecutable, what the runtime's log says, ServiceError after `Limits.start` seconds.
    """
    log = directory / f"{verb}.log"
    limit = runtime.limits.start
    with ExitStack() as opened:
        wiring = opened.enter_context(Wiring(stdio, terminal=terminal, size=size))
        pidfile = opened.enter_context(PidFile(runtime, directory / "pid"))
        channel = opened.enter_context(Channel(directory)) if first else None
        places = list(channel.places) if channel is not None else []
        begun_by: Sequence[str] = shell(cgroup) if enters and not first else ()
        entrances = []
        if enters and first:
            entrances.append(opened.enter_context(Entrance(cgroup)))
            places += entrances[0].places
        preserve = ["--preserve-fds", str(len(places))] if channel is not None else []
        if enters and first and anteroom is not None:  # its descriptors end with the program that begins the runtime
            entrances.append(opened.enter_context(Entrance(anteroom)))
            places += entrances[1].places
            begun_by = [PATH, flags(1)]
        child = await runtime.start(
            log,
            verb,
            "--pid-file",
            pidfile.argument,
            *preserve,
            *arguments,
            stdio=wiring.child,
            steps=steps,
            private=verb == "run",
            pass_fds=[*pass_fds, *pidfile.pass_fds],
            places=places,
            cwd=directory,
            umask=umask,
            begun_by=begun_by,
        )
        wiring.close_theirs()
        pidfile.started()
        if channel is not None:
            channel.started()
        for entrance in entrances:
            entrance.close()
        process: DirectProcess | None = None
        try:
            async with within(limit, verb, container_id):
                pid = await pidfile.wait(child)
                if pid is None:
                    await child.wait()
            if pid is None:
                reason = await runtime.unread(log, directory / "bundle", container_id) if verb == "run" else ""
                named = None if first else command  # the runtime knows the first program alone
                raise runtime.failure(verb, log, container_id, command=named, status=child.status, reason=reason)
            check_pid(verb, container_id, pid, cgroup, child if enters else None)
            process = DirectProcess(
                container_id,
                name,
                identify(pid, wrapped=wrapped),
                cgroup,
                child=child,
                wiring=wiring,
                runtime=runtime,
                log=log,
                verb=verb,
                command=command,
                start_is_reported=channel is not None,
            )
            process.streams = await wiring.open()
            if wiring.relays_output:
                process.streams.passed_on = process.passed_on
            if channel is not None:
                await _begin(channel, process, command, limit, last_step)
        except BaseException:
            await shielded(_undo_start(child, pidfile, verb, cgroup, runtime.limits.verb))
            if process is not None:
                await process.close()
            raise
        process.watch()
        return process
