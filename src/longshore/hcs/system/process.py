"""Hold one process of a compute system: its streams, its end, signals.

The path of an exit code: a thread of the service reports ProcessExited (notifications.py). `_end` asks once for the
status document. `publish_exit` sets `_exit` before any waiter wakes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from ...aio.tasks import shielded
from ...compute.values import Streams, now
from ...errors import EngineClosed, InvalidSpec, InvalidState, LongshoreError, NotSupported, ProcessNotFound, TimeLimit
from ...exit_record import Cause, Exit
from ..dll.calls import Handle
from ..dll.hresults import (
    ACCESS_DENIED,
    ELEMENT_NOT_FOUND,
    INPUT_GONE,
    INVALID_STATE,
    NO_ANSWER,
    PROCESS_ALREADY_STOPPED,
    UNKNOWN_REQUEST,
    HcsError,
    same,
)
from ..dll.vmcompute import Process, Vmcompute
from ..schema1 import documents
from ..streams.stdio import Wiring
from .notifications import OF_PROCESSES, End, Type, Watch

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger("longshore.hcs")

KILL, INTERRUPT, TERM = 9, 2, 15
DEAD = (ELEMENT_NOT_FOUND, PROCESS_ALREADY_STOPPED)
CONTROL = {INTERRUPT: "CtrlC", TERM: "CtrlShutdown"}
"""Windows' console events for signals (HcsSignalProcess, from build 17763): for one process and its children."""

NO_SIGNALS = "Windows has no signals"
USE_KILL = "use `kill` for a process, `stop` for a container"
ANSWER_LIMIT = 1.0  # seconds to wait for the answer to a request; the service may wait for the end of the process


class ProcessToken(msgspec.Struct, frozen=True):
    """Identify a process by its pid and the time span in which it was created, since pids are reused."""

    pid: int
    started_at: datetime  # before the request
    returned_at: datetime | None = None  # after the request


class HcsProcess:
    """One process. `handle` is None if it ended before it could be opened."""

    failure: LongshoreError | None = None

    def __init__(
        self,
        session: Session,
        container_id: str,
        token: ProcessToken,
        *,
        wiring: Wiring | None = None,
        terminal: bool = False,
        keep_open: bool = False,
    ) -> None:
        self.container_id = container_id
        self.identity = token
        self.streams = Streams() if wiring is None else wiring.streams
        self.handle: Handle[Process] | None = None
        self.on_end: list[Callable[[HcsProcess], None]] = []
        self.on_over: Callable[[HcsProcess], None] | None = None  # called when it and its streams have ended
        self._session = session
        self._wiring = wiring
        self._terminal = terminal
        self._keep_open = keep_open  # for init: its handle is closed after that of its system
        self.is_waited_for: Callable[[], bool] = lambda: False  # whether a request on its system's handle is open
        self._watch = Watch(asyncio.get_running_loop(), OF_PROCESSES)
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._ending: asyncio.Task[None] | None = None
        self._ending_input: asyncio.Task[None] | None = None  # tells the service that the input has ended
        self._late: asyncio.TimerHandle | None = None
        self._is_published = False
        self._killed = False
        self._closed = False
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watch.ended.add_done_callback(self._on_end)

    # what it is

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def token(self) -> bytes:
        return msgspec.json.encode(self.identity)

    @property
    def ended(self) -> asyncio.Future[Exit]:
        """The exit, once it is known."""
        return self._exit

    @property
    def over(self) -> bool:
        """Whether the exit is known."""
        return self._exit.done()

    @property
    def ending(self) -> bool:
        """Whether the service has reported the end."""
        return self._ending is not None or self._is_published

    @property
    def killed(self) -> bool:
        """Whether it was killed, alone or with its system."""
        return self._killed

    # taking it over

    async def watch(self, process: Process, *, ours: bool) -> None:
        """Take over a handle, and watch for the end.

        Raises: HcsError; the handle is then closed, and the process killed if it is `ours`.
        """
        undo = self._session.vmcompute.terminate_process if ours else None
        self.handle = await self._session.watch_process(process, self._watch, self.container_id, undo=undo)
        if self._wiring is None:
            self._ready.set_result(None)

    async def open(self, handles: tuple[int, int, int]) -> None:
        """Take over the pipes.

        Raises: HcsError if one is not a pipe.
        """
        wiring = self._wiring
        if wiring is None:
            return
        try:
            await wiring.open(handles)
        except OSError as error:
            code = getattr(error, "winerror", None) or 6
            raise HcsError("open the streams of a process in", self.container_id, code) from error
        finally:
            self._ready.set_result(None)
        if wiring.input is not None:
            wiring.input.closed = self._input_closed
            if wiring.ends_input:
                wiring.input.close()

    # its end

    def _on_end(self, ended: asyncio.Future[End]) -> None:
        end = ended.result()
        if end.type is not None and self._ending is None:
            self._ending = asyncio.create_task(self._end(end), name=f"end of process {self.pid}")

    def system_ended(self) -> None:
        """Note that the system has exited, or that the service was lost: our own notification comes soon, or never."""
        if self._wiring is not None:
            self._wiring.system_ended()
        if not self.ending and self._late is None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(self._session.limits.late_exit, self._missed)

    def _missed(self) -> None:
        if not self.ending:
            log.warning("container `%s`: no notification of the end of process %d came", self.container_id, self.pid)
            self._ending = asyncio.create_task(self._end(End(Type.SERVICE_DISCONNECT)), name=f"end of {self.pid}")

    async def _end(self, end: End) -> None:
        at = now()
        if self._late is not None:
            self._late.cancel()
        await self._ready  # the notification may arrive before the registering call has returned
        wiring = self._wiring
        if wiring is not None:
            limits = self._session.limits
            wiring.process_ended(limits.late_exit, limits.late_output)
        code = await self._exit_code()
        cause = Cause.KILLED if self._killed else Cause.EXITED
        if end.type is Type.SERVICE_DISCONNECT and code is None:
            cause = Cause.SYSTEM_GONE
        if wiring is not None and not await wiring.copied():
            log.warning("container `%s`: not all output of process %d could be copied", self.container_id, self.pid)
        if not self._keep_open and self.handle is not None:
            await self.handle.close()
        self.publish_exit(Exit(code=code, cause=cause, started_at=self.identity.started_at, at=at, pid=self.pid))

    async def _exit_code(self) -> int | None:
        """Return the exit code in the status document; None if it is not there. It is never taken for success."""
        if self.handle is None or self.handle.closing:
            return None
        session, operation = self._session, "read the exit code of a process in"
        try:
            call = self.handle.call(operation, session.vmcompute.get_process_properties)
            text = await session.answer(operation, self.container_id, call)
            status = documents.decode(text or "", documents.ProcessStatus)
        except (HcsError, NotSupported, TimeLimit, msgspec.MsgspecError) as error:
            log.warning(
                "container `%s`: the exit code of process %d is not known: %s", self.container_id, self.pid, error
            )
            return None
        return status.exit_code if status.exited and status.last_wait_result == 0 else None

    def publish_exit(self, exit: Exit) -> None:
        """Set the exit, and wake all waiters."""
        if not self._exit.done():
            self._is_published = True
            self._exit.set_result(exit)
            for call in self.on_end:
                call(self)
            if self.finished:
                self._over()
            elif self._wiring is not None:
                self._wiring.when_over = self._over

    @property
    def finished(self) -> bool:
        """Whether the process and its streams have ended, so that nothing is held any more."""
        return self._is_published and (self._wiring is None or self._wiring.over)

    def _over(self) -> None:
        if self.on_over is not None:
            self.on_over(self)

    def gone(self) -> None:
        """Set an unknown exit: the process ended while no handle of it was open."""
        started_at = self.identity.started_at
        self.publish_exit(Exit(code=None, cause=Cause.SYSTEM_GONE, started_at=started_at, at=None, pid=self.pid))

    async def look(self) -> None:
        """Find out whether it ended before it was watched, since no notification comes then.

        If it fails or is cancelled: the process is closed.
        """
        try:
            exited = await self._has_exited()
        except BaseException:
            await shielded(self.close())
            raise
        if exited:
            self._watch.deliver(Type.PROCESS_EXITED, 0)

    async def _has_exited(self) -> bool | None:
        """Return whether the status document says that it exited; None if there is no document."""
        assert self.handle is not None
        session, operation = self._session, "read the state of a process in"
        with suppress(HcsError, msgspec.MsgspecError):
            call = self.handle.call(operation, session.vmcompute.get_process_properties)
            text = await session.answer(operation, self.container_id, call)
            return documents.decode(text or "", documents.ProcessStatus).exited
        return None

    async def _exit_is_unpublished(self, *, gone: bool) -> bool:
        """Return whether it has ended without a notification. `gone`: the service has just said that there is none."""
        try:
            exited = await self._has_exited()
        except TimeLimit:
            return False
        return gone if exited is None else exited

    async def gone_within(self, limit: float) -> None:
        """Wait for the exit of a process that was killed.

        Raises: TimeLimit after `limit` seconds.
        """
        await asyncio.wait((self._exit,), timeout=limit)
        if not self._exit.done():
            raise TimeLimit(f"killed process {self.pid} of container `{self.container_id}`", limit, hint=NO_ANSWER)

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    # signals

    async def signal(self, signal: int) -> None:
        if signal == KILL:
            await self.kill()
            return
        word = CONTROL.get(signal)
        if word is None or not self._session.vmcompute.has("HcsSignalProcess"):
            raise NotSupported("signals", NO_SIGNALS, hint=USE_KILL)
        if self.ending or self.handle is None:
            raise ProcessNotFound(self.container_id, f"pid {self.pid}")
        await self.control(word)

    async def control(self, word: str) -> None:
        """Send a console event. Servercore answers only when the process has ended, so the wait is short."""
        assert self.handle is not None
        options = documents.encode(documents.SignalRequest(signal=word))
        call = self.handle.request(f"send {word} to a process in", self._session.vmcompute.signal_process, options)
        await self._session.ask(call, ANSWER_LIMIT)

    async def kill(self) -> None:
        """Kill it. A process that has ended already is fine."""
        self.hurry()
        if self.ending or self._closed or self.handle is None:
            return
        session, operation = self._session, "kill a process in"
        before, self._killed = self._killed, True
        try:
            if self.handle.has_open_request or self.is_waited_for():
                call = session.threads.call(_terminate_apart, session.vmcompute, self.container_id, self.pid)
            else:
                call = self.handle.call(operation, session.vmcompute.terminate_process)
            await session.answer(operation, self.container_id, call, session.limits.terminate)
        except HcsError as failure:
            error = failure.about(operation, self.container_id)
            # the code is the same for a process that has just ended (found by hcsshim): its notification then follows
            if same(error.code or 0, (ACCESS_DENIED, *DEAD)):
                await asyncio.wait((self._watch.ended,), timeout=ANSWER_LIMIT)
                if not self.ending and await self._exit_is_unpublished(gone=same(error.code or 0, DEAD)):
                    self._killed = before
                    self._missed()
            if not self.ending:
                self._killed = before
                raise error from failure

    def hurry(self) -> None:
        """Do not wait long for copying its output: it is being killed."""
        if self._wiring is not None:
            self._wiring.hurry()

    async def output_copied(self) -> None:
        """Wait until the output was copied to the caller's descriptors. For a process whose system is down."""
        if self._wiring is not None:
            await self._wiring.copied()

    def killed_with_system(self, killed: bool) -> None:
        """Note that its system is being terminated, or after all is not."""
        if not self.ending:
            self._killed = killed

    async def kill_tree(self) -> None:
        """Kill the process alone, since HCS does not say who started whom. The rest ends with the container."""
        await self.kill()

    # its input and its terminal

    def _input_closed(self) -> None:
        if self.ending or self._closed:  # nothing to report; and the garbage collector may be the one that closes it
            return
        if self._ending_input is None or self._ending_input.done():
            self._ending_input = self._session.spawn(self._end_input(), f"end of input of {self.pid}")

    async def _end_input(self) -> None:
        """End the input: close our pipe after all is written, then send the request to the service. HCS needs both."""
        if self._wiring is not None and self._wiring.input is not None:
            with suppress(OSError):
                await self._wiring.input.wait_closed()
        if self.ending or self.handle is None or self.handle.closing:
            return
        request = documents.encode(documents.CLOSE_STDIN)
        try:
            await self.handle.request("closing the input of a process", self._session.vmcompute.modify_process, request)
        except HcsError as error:
            if not same(error.code or 0, INPUT_GONE):
                raise

    async def close_stdin(self) -> None:
        wiring = self._wiring
        if self.ending or self._closed:
            if wiring is not None and wiring.input is not None:
                wiring.input.close_pipe()
            return
        if self._ending_input is None or self._ending_input.done():
            if wiring is not None and wiring.input is not None:
                wiring.input.close_pipe()
            self._input_closed()
        assert self._ending_input is not None
        # the task waits for what is still to be written, and the service may wait for the process; this call does not
        done, _ = await asyncio.wait((self._ending_input,), timeout=ANSWER_LIMIT)
        if done:
            self._ending_input.result()

    async def resize(self, rows: int, columns: int) -> None:
        for name, value in (("rows", rows), ("columns", columns)):
            if not 1 <= value <= 0xFFFF:
                raise InvalidSpec(name, f"{value} is not between 1 and {0xFFFF}")
        if self.ending or self.handle is None:
            raise InvalidState("resize the terminal of", self.container_id, "stopped", hint="start another process")
        request = documents.encode(documents.resize(rows, columns))
        operation = "resizing the terminal of a process"
        try:
            call = self.handle.request(operation, self._session.vmcompute.modify_process, request)
            await self._session.answer(operation, self.container_id, call)
        except HcsError as error:
            if not self._terminal and same(error.code or 0, (INVALID_STATE, *UNKNOWN_REQUEST)):
                raise InvalidState(
                    "resize the terminal of",
                    self.container_id,
                    "without a terminal",
                    reason="its process has no terminal",
                    hint="start the process with terminal=True (`-t`)",
                ) from error
            raise

    # closing

    def drop_streams(self) -> None:
        """Close our ends of the pipes."""
        if self._wiring is not None:
            self._wiring.close()

    async def close(self) -> None:
        self._closed = True
        if self._late is not None:
            self._late.cancel()
        self._watch.close()
        if self._ending is not None and not self._exit.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_LIMIT):
                    await asyncio.shield(self._exit)  # the exit code is just being read
        if self._ending is not None:
            self._ending.cancel()
        self.drop_streams()
        if not self._exit.done():
            self._exit.set_exception(EngineClosed())
            self._exit.exception()  # mark it as retrieved: there may be no waiter
        if self.handle is not None:
            await self.handle.close()


def _terminate_apart(vmcompute: Vmcompute, container_id: str, pid: int) -> None:
    """Kill a process by new handles. Blocks.

    Requests on one handle wait for each other. Servercore answers a console event only when the process has ended
    (hcsshim `internal/hcs/process.go`, hcsshim#1416), and a kill must not wait behind it.
    """
    system = vmcompute.open_compute_system(container_id)
    try:
        process = vmcompute.open_process(system, pid)
        try:
            vmcompute.terminate_process(process)
        finally:
            vmcompute.close_process(process)
    finally:
        vmcompute.close_compute_system(system)
