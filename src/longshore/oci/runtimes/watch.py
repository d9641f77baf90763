"""Watch the processes of containers: how their end becomes known, and with which exit code.

The kernel gives two different answers about a process, and they reach different programs.

*That* a process has ended is visible to every program that may look. A pidfd names one process for as long as it is
open, and becomes readable when that process has ended (pidfd_open(2)). A pid alone is not enough: the kernel gives it
to a new process later. So longshore stores the start time beside each pid, and opens a pidfd only if both agree.

*How* it ended, the wait status, is a different matter. The kernel hands it once to the parent, by waitpid(2). The
process of a container is never a direct child of longshore. So its status comes by one of these ways:

1. From the runtime. `crun run`, `runc run` and `exec` stay in the foreground, wait for their child and exit with its
   code. The runtime is our own child, so waitpid gives that code. (`direct_process.py`)
2. From the monitor. A container that outlives its caller has conmon as the parent of its init. conmon writes the exit
   code into a file, then ends. (`kept_process.py`)
3. From the zombie. A process that has ended stays in /proc until its parent reaps it. Meanwhile, `stat` shows the wait
   status to programs that may trace the process (proc_pid_stat(5)).
4. From the pidfd. Since Linux 6.15, the ioctl PIDFD_GET_INFO returns the status after the process was reaped.

Ways 1 and 2 do not tell death by signal n from `exit(128 + n)`: both give the code 128 + n. Ways 3 and 4 do. So they
are asked too where a code is above 128. Where neither answers, the record says that the signal was inferred.

A process that another program started has neither our runtime nor our monitor: only ways 3 and 4 remain. Where no way
answers, the exit code stays unknown (None), with a cause that says why. It is never guessed.

A process may outlive its runtime or its monitor, and a runtime may outlive its process. runc, for example, waits until
the output pipes of an `exec` are closed, and a grandchild may hold them. So the pidfd of the process is watched
together with the runtime, and the first of the two to end decides how to continue.

Each `OciProcess` owns one task that watches. The task sets the exit once, before any caller of `wait` wakes.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from datetime import datetime

import msgspec

from ...aio.fork_safety import is_lost
from ...aio.tasks import in_thread
from ...compute.values import Streams, now
from ...errors import EngineClosed, InvalidState, LongshoreError, ProcessNotFound, ServiceError
from ...exit_record import Cause, Exit
from ..cgroups import killing
from ..cgroups.cgroup import Cgroup
from ..processes import proc

BEGIN_LIMIT = 1.0  # seconds that the runtime's own code may take to become the user's program
KILL = int(signal.SIGKILL)
REAP_LIMIT = 5.0  # seconds until a dead process's new parent has reaped it (there is a pid 1 that looks every two)


class ProcessToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """Identify a process by pid and start time, since pids are reused.

    `start` is None if the process had ended before its start time could be read.
    """

    pid: int
    start: int | None = None
    wrapped: bool = False  # it is a small init, which exits with 128 + n when its child dies of signal n


def identify(pid: int, *, wrapped: bool = False) -> ProcessToken:
    """Return the identity of the process that has this pid now."""
    return ProcessToken(pid, proc.start_time(pid), wrapped)


async def ended(pidfd: int) -> None:
    """Wait until the process behind a pidfd has ended (pidfd_open(2): it becomes readable).

    The descriptor must stay open meanwhile, and allows one waiter. It is not copied: with a thousand containers, the
    copies would take a thousand descriptors more.
    """
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
    """Return the raw wait status of a process that has ended and is not our child; None if it cannot be known.

    Waits up to `REAP_LIMIT` for the parent to reap it, where the kernel then gives the status.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REAP_LIMIT
    pause = 0.0005
    while True:
        status = proc.status_of_zombie(identity.pid, identity.start)
        if status is None:  # in this order: it may be reaped between the two calls
            status = proc.wait_status(pidfd)
        if status is not None or not proc.status_known() or loop.time() >= deadline:
            return status
        # the kernel does not notify us when another program reaps it; only a lost monitor leads here
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.05)


class OciProcess:
    """One process of a container. Each subclass learns the end in its own `_watch`; the task is owned here."""

    def __init__(self, container_id: str, name: str, identity: ProcessToken, cgroup: Cgroup) -> None:
        self.container_id = container_id
        self.name = name
        self.identity = identity
        self.streams = Streams()
        self.failure: LongshoreError | None = None  # set if the command never ran
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
        """Return the exit record of a raw wait status (wait(2))."""
        if os.WIFSIGNALED(raw):
            return self._signalled(os.WTERMSIG(raw), at)
        code = os.WEXITSTATUS(raw)
        return self.from_code(code, at) if self.identity.wrapped else self._exited(code, at)

    def from_code(self, code: int, at: datetime) -> Exit:
        """Return the exit record of a code from a runtime, a monitor or a small init: 128 + n stands for signal n."""
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
        """Start the task that waits for the end."""
        self._task = asyncio.create_task(self._run(), name=f"watch {self.container_id}/{self.name}")

    async def _run(self) -> None:
        try:
            exit = await self._watch()
        except asyncio.CancelledError:
            if not self._exit.done() and not is_lost():
                self._exit.set_exception(EngineClosed())
                self._exit.exception()  # mark it as retrieved: there may be no waiter
            raise
        except Exception as error:  # every waiter must get it
            self._exit.set_exception(error)
            self._exit.exception()
        else:
            self._exit.set_result(exit)
        finally:
            self._close_pidfd()

    async def _watch(self) -> Exit:
        raise NotImplementedError  # each subclass has its own

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
        """Wait until the process runs the user's program.

        The runtime reports the pid a moment earlier, when the process still runs the runtime's own code. That code
        handles signals in its own way: a signal would be lost, or end the process with an exit code of runc's.
        """
        deadline = asyncio.get_running_loop().time() + BEGIN_LIMIT
        while not self._has_begun and proc.is_runtime(self._pid):
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.001)  # execve(2) notifies no other process
        self._has_begun = True  # final: a process may change its name later

    async def signal(self, signal: int) -> None:
        if signal != KILL:
            await self.begun()
        self.send(signal)
        if signal == KILL and self._cgroup.frozen():
            await in_thread(lambda: killing.let_die(self._pid, self._start, self._cgroup))

    def send(self, number: int) -> None:
        """Send a signal to this process, never to another one that was given its pid."""
        if self._pidfd is not None and not self._exit.done():
            with suppress(ProcessLookupError):
                try:
                    signal.pidfd_send_signal(self._pidfd, number)
                except PermissionError as error:
                    raise ServiceError(
                        f"send signal {number} to process `{self.name}` of",
                        self.container_id,
                        "the kernel does not permit it",
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
            raise InvalidState(
                "resize the terminal of",
                self.container_id,
                "without a terminal",
                reason="its process has no terminal",
                hint="start the process with terminal=True (`-t`)",
            )

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.streams.stdin is not None:
            self.streams.stdin.close()
        self._close_pidfd()


class ForeignProcess(OciProcess):
    """A process that another program started. Its status is known only where the kernel gives it to non-parents."""

    async def _watch(self) -> Exit:
        if self._pidfd is None:
            return Exit(code=None, cause=Cause.SYSTEM_GONE, pid=self._pid)
        await ended(self._pidfd)
        at = now()
        raw = await status_of(self._pidfd, self.identity)
        if raw is None:
            return Exit(code=None, cause=Cause.MONITOR_LOST, at=at, pid=self._pid)
        return self.from_status(raw, at)
