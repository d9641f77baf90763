"""Processes of containers: how their end is known, told, and never guessed.

Three ways to be watched: as the child of a runtime that is our own child (`run`, `exec`), through the monitor of
a kept container, and, where another program started it, by pid and start time alone.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ...aio.fork_safety import is_lost
from ...aio.tasks import in_thread
from ...compute.values import Streams, now
from ...errors import EngineClosed, InvalidState, LongshoreError, ProcessNotFound, ServiceError
from ...exit_record import Cause, Exit
from ..cgroups import killing
from ..cgroups.cgroup import Cgroup
from ..processes import proc
from ..processes.launch import Child
from ..processes.stdio import Wiring, set_terminal_size
from . import conmon
from .runtime import Runtime
from .status import Channel, read_record, refusal

BEGIN_LIMIT = 1.0  # seconds that the runtime's own code may take to become the user's program
MONITOR_LIMIT = 10.0  # seconds that a monitor may take to write the status after init has ended
GRANDCHILD_LIMIT = 2.0  # seconds
ON_THE_WAY = 3 << 20  # bytes of a process's output that two pipes and a runtime may hold when it has ended
LINGER_PAUSE = 0.05  # seconds between two looks at a runtime that outlives its process
KILL = int(signal.SIGKILL)
REAP_LIMIT = 5.0  # seconds until a dead process's new parent has reaped it (there is a pid 1 that looks every two)


class ProcessToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """What finds a process again: a pid alone never does. Without `start` it was gone before it could be looked at."""

    pid: int
    start: int | None = None
    wrapped: bool = False  # a small init that ends with 128 + n when what it runs dies of signal n


def identify(pid: int, *, wrapped: bool = False) -> ProcessToken:
    """The identity of a process that has this pid now."""
    return ProcessToken(pid, proc.start_time(pid), wrapped)


async def ended(pidfd: int) -> None:
    """Wait until the process behind a pidfd has ended (pidfd_open(2): it becomes readable). One waiter for each
    descriptor, which stays open meanwhile: with a thousand containers, a copy for each wait is a thousand more."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(pidfd, ready)
    try:
        await future
    finally:
        loop.remove_reader(pidfd)


async def status_of(pidfd: int, identity: ProcessToken) -> int | None:
    """The raw wait status of a process that has ended and is not our child; None if it cannot be known."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REAP_LIMIT
    pause = 0.0005
    while True:
        status = proc.status_of_zombie(identity.pid, identity.start)
        if status is None:  # in this order: it may be reaped between the two
            status = proc.wait_status(pidfd)
        if status is not None or not proc.status_known() or loop.time() >= deadline:
            return status
        # there is no notification of being reaped by somebody else; this is the path of a lost monitor only
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.05)


class OciProcess:
    """One process; `_watch` of each kind tells how its end is known. The watching task is owned here."""

    def __init__(self, container_id: str, name: str, identity: ProcessToken, cgroup: Cgroup) -> None:
        self.container_id = container_id
        self.name = name
        self.identity = identity
        self.streams = Streams()
        self.failure: LongshoreError | None = None  # it turned out that it never ran
        self.started_at: datetime | None = now()
        self._pid = identity.pid
        self._start = identity.start
        self._cgroup = cgroup
        self._pidfd = None if identity.start is None else proc.open_pidfd(identity.pid, identity.start)
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def token(self) -> bytes:
        return msgspec.json.encode(self.identity)

    def from_status(self, raw: int, at: datetime) -> Exit:
        """The exit record of a raw wait status (wait(2))."""
        if os.WIFSIGNALED(raw):
            return self._signalled(os.WTERMSIG(raw), at)
        code = os.WEXITSTATUS(raw)
        return self.from_code(code, at) if self.identity.wrapped else self._exited(code, at)

    def from_code(self, code: int, at: datetime) -> Exit:
        """The exit record of a code in which signal n is told as 128 + n: by a runtime, a monitor, a small init."""
        if 128 < code <= 128 + 64:
            return self._signalled(code - 128, at, inferred=True)
        return self._exited(code, at)

    def _exited(self, code: int, at: datetime) -> Exit:
        return Exit(code=code, at=at, pid=self._pid, started_at=self.started_at)

    def _signalled(self, number: int, at: datetime, *, inferred: bool = False) -> Exit:
        return Exit(
            code=128 + number,
            signal=number,
            cause=Cause.SIGNALLED,
            at=at,
            pid=self._pid,
            started_at=self.started_at,
            signal_inferred=inferred,
        )

    def watch(self) -> None:
        """Begin to wait for the end."""
        self._task = asyncio.create_task(self._run(), name=f"watch {self.container_id}/{self.name}")

    async def _run(self) -> None:
        try:
            exit = await self._watch()
        except asyncio.CancelledError:
            if not self._exit.done() and not is_lost():
                self._exit.set_exception(EngineClosed())
                self._exit.exception()  # retrieved: nobody has to have waited
            raise
        except Exception as error:  # every waiter must hear of it
            self._exit.set_exception(error)
            self._exit.exception()
        else:
            self._exit.set_result(exit)
        finally:
            self._close_pidfd()

    async def _watch(self) -> Exit:
        raise NotImplementedError  # each kind has its own

    @staticmethod
    def _never_started(at: datetime) -> Exit:
        return Exit(code=None, cause=Cause.NEVER_STARTED, at=at)

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def begun(self) -> None:
        """Wait until it is the user's program: the pid is told a moment before, while it is still the runtime's own
        code, which handles signals in its own way. Without this one would be lost, or end it with a code of runc's."""
        deadline = asyncio.get_running_loop().time() + BEGIN_LIMIT
        while not self._has_begun and proc.is_runtime(self._pid):
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.001)  # execve(2) tells nobody
        self._has_begun = True  # once for all: a process may call itself what it likes later

    async def signal(self, signal: int) -> None:
        if signal != KILL:
            await self.begun()
        self.send(signal)
        if signal == KILL and self._cgroup.frozen():
            await in_thread(lambda: killing.let_die(self._pid, self._start, self._cgroup))

    def send(self, number: int) -> None:
        """Deliver a signal to the very process, never to another that got its pid."""
        if self._pidfd is not None and not self._exit.done():
            with suppress(ProcessLookupError):
                try:
                    signal.pidfd_send_signal(self._pidfd, number)
                except PermissionError as error:
                    raise ServiceError(
                        f"sending signal {number} to process `{self.name}`",
                        self.container_id,
                        "the kernel does not permit it to this program",
                        hint="run as root, and not in a user namespace",
                    ) from error
                return
        if number != signal.SIGKILL:
            raise ProcessNotFound(self.container_id, self.name)

    async def kill_tree(self) -> None:
        await in_thread(lambda: killing.kill_tree(self._pid, self._start, self._cgroup))

    async def close_stdin(self) -> None:
        stdin = self.streams.stdin
        if stdin is not None and not stdin.is_closing():
            with suppress(OSError):
                stdin.write(proc.end_of_input(self._pid, self._start))
            stdin.close()

    async def resize(self, rows: int, columns: int) -> None:
        if not proc.resize_terminal(self._pid, self._start, rows, columns):
            raise InvalidState("resize a terminal of", self.container_id, "one without a terminal")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.streams.stdin is not None:
            self.streams.stdin.close()
        self._close_pidfd()


class DirectProcess(OciProcess):
    """Started for its caller by a runtime that is our child: its status is the runtime's."""

    def __init__(
        self,
        container_id: str,
        name: str,
        identity: ProcessToken,
        cgroup: Cgroup,
        *,
        child: Child,
        wiring: Wiring,
        runtime: Runtime,
        log: Path,
        verb: str,
        command: str,
        start_is_reported: bool,
    ) -> None:
        super().__init__(container_id, name, identity, cgroup)
        self.child = child
        self.runtime = runtime
        self.log = log
        self.verb = verb
        self.channel: Channel | None = None  # while the first program may yet report that the command never ran
        self._wiring = wiring
        self._command = command
        self._start_is_reported = start_is_reported  # by the first program, whether the command ran
        self._releasing: asyncio.Task[None] | None = None
        self.kills_before: int | None = None  # for lack of memory in its container, before it was started

    def _signalled(self, number: int, at: datetime, *, inferred: bool = False) -> Exit:
        exit = super()._signalled(number, at, inferred=inferred)
        if number == KILL and self.kills_before is not None and (self._cgroup.oom_kills() or 0) > self.kills_before:
            return msgspec.structs.replace(exit, cause=Cause.OOM)
        return exit

    async def _watch(self) -> Exit:
        if self.verb == "exec":
            exit = await self._outlived_by_runtime()
            if exit is not None:
                return exit if self._ran_after_all() else self._never_started(exit.at or now())
        else:
            await self._end_the_rest()
        status = await self.child.wait()
        at = now()
        if status is None or status < 0:  # the runtime was killed, or waited for by somebody else
            raw = None
            if self._pidfd is not None:
                await ended(self._pidfd)  # with a runtime that hands over its streams, it may have more to say
                raw = await status_of(self._pidfd, self.identity)
                at = now()
            self._end_streams()
            return self._unknown(at) if raw is None else self.from_status(raw, at)
        self._end_streams()
        if not self._ran_after_all() or self._log_says_it_never_ran(status):
            return self._never_started(at)
        raw = None
        if status > 128 and self._pidfd is not None:
            raw = proc.wait_status(self._pidfd)  # the runtime has reaped it: known at once, or never
        return self.from_code(status, at) if raw is None else self.from_status(raw, at)

    def _ran_after_all(self) -> bool:
        """Whether the command ran, where its start was not waited for to the end; else `failure` is set."""
        if self.channel is not None:
            outcome = self.channel.received(self._pid)
            self.channel.close()
            self.channel = None
            if not outcome.ran:
                self.failure = refusal(self.container_id, self._command, outcome)
        return self.failure is None

    def _log_says_it_never_ran(self, status: int) -> bool:
        """Whether the runtime has logged that the command never ran; where there is no first program to report it."""
        if self._start_is_reported or status == 0 or self._wiring.terminal:
            return False
        if not self.runtime.failed_to_start(self.log):
            return False
        self.failure = self.runtime.failure(
            self.verb, self.log, self.container_id, command=self._command, status=status
        )
        return True

    async def _gone_before_its_runtime(self) -> datetime | None:
        """When the process ended, if its runtime has not ended with it, nor a moment later; else None."""
        ending = asyncio.ensure_future(self.child.wait())
        watched = [ending]
        if self._pidfd is not None:  # else it was gone before anybody could look
            watched.append(asyncio.ensure_future(ended(self._pidfd)))
        try:
            if self._pidfd is not None:
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            at = now()
            done, _ = await asyncio.wait((ending,), timeout=LINGER_PAUSE)
            return None if done else at
        finally:
            for task in watched:
                task.cancel()
            await asyncio.gather(*watched, return_exceptions=True)

    async def _end_the_rest(self) -> None:
        """Have what init leaves behind end with it, as the kernel does where it has a pid namespace of its own. Without
        one, crun waits for the last process of the container."""
        if await self._gone_before_its_runtime() is not None:
            await in_thread(self._cgroup.kill, or_here=True)
            for reader in self._wiring.readers:
                reader.fill_to_the_end()  # runc has more to pass on: a reader that has stopped must not hold it

    def _end_streams(self) -> None:
        rest = self.runtime.rest_of_terminal(self.log) if self._wiring.terminal else b""
        for reader in self._wiring.readers:
            reader.process_ended(rest)
        self._release_terminal()

    def _release_terminal(self) -> None:
        """Close the engine's sides of a terminal that has no process any more, but for what is still to be read."""
        if self._wiring.control is not None:
            os.close(self._wiring.control)
            self._wiring.control = None
            if self.streams.stdin is not None and not self.streams.stdin.is_closing():
                self.streams.stdin.transport.abort()  # the kernel reports no end here, as it does for a pipe

    async def _outlived_by_runtime(self) -> Exit | None:
        """The exit of a process whose runtime does not end with it; None if the runtime did, or can tell it.

        runc copies the streams of an exec and waits for their end (its tty.go): a grandchild that holds them, or a
        reader that has stopped, would hold us, too.
        """
        at = await self._gone_before_its_runtime()
        if at is None:
            return None
        pidfd = self._pidfd
        limit = GRANDCHILD_LIMIT if pidfd is None else math.inf
        releasing = self._release_runtime(limit)
        self._releasing = asyncio.create_task(releasing, name=f"end of the runtime of {self.name}")
        raw = None if pidfd is None else await status_of(pidfd, self.identity)  # a busy runtime reaps when it can
        if raw is not None:
            return self.from_status(raw, at)
        await self._releasing
        return None

    async def _release_runtime(self, limit: float) -> None:
        """Have a runtime end that only waits for a grandchild to close its streams, once it has copied everything.

        A grandchild that writes on and on is cut off once all that the process itself wrote must have come through;
        or after `limit` seconds, where only the runtime can tell how the process ended, which it does when it ends.
        """
        begun_at = asyncio.get_running_loop().time()
        ours = [reader.inode for reader in self._wiring.readers]
        for reader in self._wiring.readers:
            reader.fill()  # what nobody asks for must not hold the runtime
            reader.end_after(ON_THE_WAY)
        while not self.child.ended:
            # nobody tells that another program's pipe is empty: it is looked at, and only in this rare case
            elapsed = asyncio.get_running_loop().time() - begun_at
            overrun = elapsed > GRANDCHILD_LIMIT and any(reader.overrun for reader in self._wiring.readers)
            late = elapsed > limit or overrun
            if late or await in_thread(lambda: proc.has_passed_on_everything(self.child.pid, ours)):
                if not self._wiring.terminal:  # its end comes below, after all that is in it
                    for reader in self._wiring.readers:
                        reader.close()  # all is read; with nobody to write to, the next byte ends the copying
                if ours and self._wiring.piped and await self._wiring.relays_ended():
                    await in_thread(lambda: proc.disturb_copying(self.child.pid))
                else:
                    self.child.kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_PAUSE):
                    await self.child.wait()
        if self._wiring.terminal:
            self._end_streams()

    async def passed_on(self) -> None:
        """Return when what it wrote has reached the streams that its caller gave it."""
        if self._releasing is not None:  # its runtime may have more to pass on
            await asyncio.wait((self._releasing,), timeout=GRANDCHILD_LIMIT)
        self._wiring.end_relays()
        await self._wiring.passed_on()
        self.streams.unwritten.update(self._wiring.unwritten)

    def _unknown(self, at: datetime) -> Exit:
        return Exit(code=None, cause=Cause.MONITOR_LOST, at=at, pid=self._pid, started_at=self.started_at)

    async def resize(self, rows: int, columns: int) -> None:
        if not self._wiring.terminal:
            await super().resize(rows, columns)
            return
        if self._wiring.control is None:
            raise InvalidState("resize the terminal of", self.container_id, "stopped")
        set_terminal_size(self._wiring.control, (rows, columns))
        if not proc.resize_terminal(self._pid, self._start, rows, columns):
            # a runtime in the foreground copies our terminal's size to the container's on this signal (runc's tty.go)
            self.child.kill(signal.SIGWINCH)

    async def close(self) -> None:
        await super().close()
        if self._releasing is not None:
            self._releasing.cancel()
            await asyncio.gather(self._releasing, return_exceptions=True)
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        for reader in self._wiring.readers:
            reader.close()
        if not await self._wiring.relays_ended() and not self.child.ended:
            self._wiring.cut_relays()  # else the runtime waits for the caller's stream as long as this program lives
        self._release_terminal()


class KeptProcess(OciProcess):
    """The init of a container with a monitor: the monitor writes its status."""

    def __init__(
        self,
        container_id: str,
        name: str,
        identity: ProcessToken,
        cgroup: Cgroup,
        *,
        run: Path,
        monitor: ProcessToken,
        terminal: bool,
    ) -> None:
        super().__init__(container_id, name, identity, cgroup)
        self._files = run
        self._terminal = terminal
        self._monitor = monitor

    async def _watch(self) -> Exit:
        pidfd = self._pidfd
        if pidfd is not None:
            await ended(pidfd)
        at = now()
        # at once: whoever reaps it, the monitor or the parent that it gets in its place, need not tell
        raw = proc.status_of_zombie(self._pid, self._start)
        await self._monitor_done()
        outcome = read_record(self._files)
        if outcome is not None and not outcome.ran:
            return self._never_started(at)
        if raw is not None:
            return self.from_status(raw, at)
        found = conmon.read_exit(self._files, self.container_id)
        if found is not None and found[0] is not None:
            code, mtime = found
            assert code is not None
            if pidfd is None:  # it ended before we looked
                at = datetime.fromtimestamp(mtime, UTC)
            raw = proc.wait_status(pidfd) if pidfd is not None and code > 128 else None
            return self.from_code(code, at) if raw is None else self.from_status(raw, at)
        raw = await status_of(pidfd, self.identity) if pidfd is not None else None
        if raw is not None:
            return self.from_status(raw, at)
        return Exit(code=None, cause=Cause.MONITOR_LOST, at=at, pid=self._pid, started_at=self.started_at)

    async def _monitor_done(self) -> None:
        """Wait for the monitor, which ends once the status is in its file. It is opened only now: a thousand
        containers that run take a thousand descriptors, not two."""
        monitor = proc.open_pidfd(self._monitor.pid, self._monitor.start)
        if monitor is None:
            return
        try:
            async with asyncio.timeout(MONITOR_LIMIT):
                await ended(monitor)
        except TimeoutError:
            pass
        finally:
            os.close(monitor)

    async def resize(self, rows: int, columns: int) -> None:
        if not self._terminal:
            await super().resize(rows, columns)
            return
        if proc.resize_terminal(self._pid, self._start, rows, columns):
            return
        try:
            await conmon.resize(self._files, rows, columns)
        except OSError:
            raise InvalidState("resize the terminal of", self.container_id, "stopped") from None


class ForeignProcess(OciProcess):
    """Started by another program: its end is seen, its status only where the kernel tells it to strangers."""

    async def _watch(self) -> Exit:
        if self._pidfd is None:
            return Exit(code=None, cause=Cause.SYSTEM_GONE, pid=self._pid)
        await ended(self._pidfd)
        at = now()
        raw = await status_of(self._pidfd, self.identity)
        if raw is None:
            return Exit(code=None, cause=Cause.MONITOR_LOST, at=at, pid=self._pid)
        return self.from_status(raw, at)
