"""Watch a process whose runtime stays in the foreground: `run` and `exec`. The exit code is the runtime's.

`watch.py` explains how the end of a process becomes known. The difficulty here is a runtime that does not end together
with its process:

- crun waits for the last process of a container that has no pid namespace of its own. When init has ended, the engine
  kills the rest of the cgroup, as the kernel does where there is a pid namespace.
- runc copies the streams of an `exec` and waits for their end (its tty.go). A grandchild that holds the streams keeps
  runc alive, and so does a reader that has stopped. When the process has ended, longshore reads everything that runc
  still holds, then makes runc end.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from ...aio.tasks import in_thread
from ...compute.values import now
from ...errors import InvalidState
from ...exit_record import Cause, Exit
from ..cgroups.cgroup import Cgroup
from ..processes import proc
from ..processes.launch import Child
from ..processes.stdio import Wiring, set_terminal_size
from .runtime import Runtime
from .status import Channel, refusal
from .watch import KILL, OciProcess, ProcessToken, ended, status_of

GRANDCHILD_LIMIT = 2.0  # seconds that a grandchild may continue to write to the streams of a process that has ended
ON_THE_WAY = 3 << 20  # bytes of its output that two pipes and a runtime may hold when a process has ended
LINGER_PAUSE = 0.05  # seconds between two looks at a runtime that outlives its process


class DirectProcess(OciProcess):
    """A process that a runtime, our child, started in the foreground. Its exit code is the runtime's."""

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
        self.channel: Channel | None = None  # open while the first program may still report a failed start
        self._wiring = wiring
        self._command = command
        self._start_is_reported = start_is_reported  # the first program reports whether the command ran
        self._releasing: asyncio.Task[None] | None = None
        self.kills_before: int | None = None  # OOM kills that the cgroup had counted before the start

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
        if status is None or status < 0:  # the runtime was killed, or other code in this program reaped it
            return await self._end_without_runtime()
        if not self._ran_after_all() or self._log_says_it_never_ran(status):
            self._end_streams()
            return self._never_started(at)
        if self._pidfd is not None and not proc.has_ended(self._pidfd):
            # runc takes the stop of a process that asked to be traced (PTRACE_TRACEME) for its end, and reports 255
            return await self._end_without_runtime()
        self._end_streams()
        raw = None
        if status > 128 and self._pidfd is not None:
            raw = proc.wait_status(self._pidfd)  # the runtime has reaped it: known now, or never
        return self.from_code(status, at) if raw is None else self.from_status(raw, at)

    async def _end_without_runtime(self) -> Exit:
        """Return the exit of a process whose runtime ended before it. Only the kernel knows its status."""
        raw = None
        if self._pidfd is not None:
            await ended(self._pidfd)  # a process that has the streams itself may still write to them
            raw = await status_of(self._pidfd, self.identity)
        at = now()
        self._end_streams()
        return self._unknown(at) if raw is None else self.from_status(raw, at)

    def _ran_after_all(self) -> bool:
        """Return whether the command ran, where the start was not awaited to its end. Sets `failure` if it did not."""
        if self.channel is not None:
            outcome = self.channel.received(self._pid)
            self.channel.close()
            self.channel = None
            if not outcome.ran:
                self.failure = refusal(self.container_id, self._command, outcome)
        return self.failure is None

    def _log_says_it_never_ran(self, status: int) -> bool:
        """Return whether the runtime logged that the command never ran, where no first program reports that."""
        if self._start_is_reported or status == 0 or self._wiring.terminal:
            return False
        if not self.runtime.failed_to_start(self.log):
            return False
        self.failure = self.runtime.failure(
            self.verb, self.log, self.container_id, command=self._command, status=status
        )
        return True

    async def _gone_before_its_runtime(self) -> datetime | None:
        """Return when the process ended, if its runtime still runs a moment later; else None."""
        ending = asyncio.ensure_future(self.child.wait())
        watched = [ending]
        if self._pidfd is not None:  # None: it ended before a pidfd could be opened
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
        """Kill the processes that init leaves behind, as the kernel does where init has a pid namespace of its own.

        Without such a namespace, crun waits for the last process of the container.
        """
        if await self._gone_before_its_runtime() is not None:
            await in_thread(self._cgroup.kill, or_here=True)
            for reader in self._wiring.readers:
                reader.fill_to_the_end()  # runc still has output to pass on: a reader that stopped must not hold it up

    def _end_streams(self) -> None:
        rest = self.runtime.rest_of_terminal(self.log) if self._wiring.terminal else b""
        for reader in self._wiring.readers:
            reader.process_ended(rest)
        self._release_terminal()

    def _release_terminal(self) -> None:
        """Close the engine's sides of a terminal whose process has ended; what is still to be read stays readable."""
        if self._wiring.control is not None:
            os.close(self._wiring.control)
            self._wiring.control = None
            if self.streams.stdin is not None and not self.streams.stdin.is_closing():
                self.streams.stdin.transport.abort()  # the kernel reports no end here, as it does for a pipe

    async def _outlived_by_runtime(self) -> Exit | None:
        """Return the exit of a process that its runtime outlives; None if the runtime ended, and has the exit code.

        Starts the task that makes the runtime end.
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
        """Make a runtime end that only waits for a grandchild to close its streams, once it has copied everything.

        A grandchild may continue to write. Its output is cut off when all output of the process itself must have
        arrived, or after `limit` seconds. A limit is needed where only the runtime knows how the process ended, since
        it reports that when it ends.
        """
        begun_at = asyncio.get_running_loop().time()
        ours = [reader.inode for reader in self._wiring.readers]
        for reader in self._wiring.readers:
            reader.fill()  # output that no caller asks for must not hold up the runtime
            reader.end_after(ON_THE_WAY)
        while not self.child.ended:
            # the kernel does not notify us that another program's pipe is empty, so this rare case polls
            elapsed = asyncio.get_running_loop().time() - begun_at
            overrun = elapsed > GRANDCHILD_LIMIT and any(reader.overrun for reader in self._wiring.readers)
            late = elapsed > limit or overrun
            if late or await in_thread(lambda: proc.has_passed_on_everything(self.child.pid, ours)):
                if not self._wiring.terminal:  # a terminal is ended below, after its content was read
                    for reader in self._wiring.readers:
                        reader.close()  # all is read; without a reader, the next byte ends the copying
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
        """Wait until its output has reached the streams that the caller gave it."""
        if self._releasing is not None:  # its runtime may still have output to pass on
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
            raise InvalidState("resize the terminal of", self.container_id, "stopped", hint="start another process")
        set_terminal_size(self._wiring.control, (rows, columns))
        if not proc.resize_terminal(self._pid, self._start, rows, columns):
            # on this signal, a runtime in the foreground copies our terminal's size to the container's (runc's tty.go)
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
            self._wiring.cut_relays()  # else the runtime waits for the caller's stream until this program ends
        self._release_terminal()
