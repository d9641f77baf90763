"""One process of a compute system: its streams, its end, signals.

The path of an exit code: the service's thread says ProcessExited (notifications.py); `_ended` asks for the status
document, once; the exit stands in `_exit` before any waiter wakes.
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
"""What Windows has for signals (HcsSignalProcess, builds from 17763 on): sent to one process and what it started."""

NO_SIGNALS = "Windows has no signals"
USE_KILL = "use `kill` for a process, `stop` for a container"
ANSWER_LIMIT = 1.0  # seconds in which the service says whether it takes a word for a process: it may wait for its end


class ProcessToken(msgspec.Struct, frozen=True):
    """What finds a process again: its pid, and between which moments it was created, since pids are used again."""

    pid: int
    started_at: datetime  # before it was asked for
    returned_at: datetime | None = None  # when it was there


class HcsProcess:
    """A process that we hold, or that has ended before we could (`handle` None)."""

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
        self.on_over: Callable[[HcsProcess], None] | None = None  # ended, and its streams, too
        self._session = session
        self._wiring = wiring
        self._terminal = terminal
        self._keep_open = keep_open  # the handle of init: closed after its system's
        self.is_waited_for: Callable[[], bool] = lambda: False  # whether a word on its system's handle is under way
        self._watch = Watch(asyncio.get_running_loop(), OF_PROCESSES)
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._ending: asyncio.Task[None] | None = None
        self._ending_input: asyncio.Task[None] | None = None  # the service, of the end of input
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
        """Its end, once it is known."""
        return self._exit

    @property
    def over(self) -> bool:
        """Whether its end is known."""
        return self._exit.done()

    @property
    def ending(self) -> bool:
        """Whether the service has told of its end."""
        return self._ending is not None or self._is_published

    @property
    def killed(self) -> bool:
        """Whether it was asked to end, by itself or with its system."""
        return self._killed

    # what the session does with it

    async def watch(self, process: Process, *, ours: bool) -> None:
        """Take a handle, and have its end told. Raises HcsError; the handle is closed then, and `ours` killed."""
        undo = self._session.vmcompute.terminate_process if ours else None
        self.handle = await self._session.watch_process(process, self._watch, self.container_id, undo=undo)
        if self._wiring is None:
            self._ready.set_result(None)

    async def open(self, handles: tuple[int, int, int]) -> None:
        """Take the pipes. HcsError if one is no pipe."""
        wiring = self._wiring
        if wiring is None:
            return
        try:
            await wiring.open(handles)
        except OSError as error:
            code = getattr(error, "winerror", None) or 6
            raise HcsError("opening the streams of a process", self.container_id, code) from error
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
        """The system has exited, or the service was lost: our own notification comes now, or never."""
        if self._wiring is not None:
            self._wiring.system_ended()
        if not self.ending and self._late is None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(self._session.limits.late_exit, self._missed)

    def _missed(self) -> None:
        if not self.ending:
            log.warning("container `%s`: the end of process %d was not told", self.container_id, self.pid)
            self._ending = asyncio.create_task(self._end(End(Type.SERVICE_DISCONNECT)), name=f"end of {self.pid}")

    async def _end(self, end: End) -> None:
        at = now()
        if self._late is not None:
            self._late.cancel()
        await self._ready  # its end may be told before the call that registers has returned to us
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
        """The code as the status document tells it; what it does not tell is unknown, never success."""
        if self.handle is None or self.handle.closing:
            return None
        session, operation = self._session, "reading the exit code"
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
        """Its end is known: all waiters wake with it."""
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
        """Whether it has ended, and its streams, too: nothing of it is held any more."""
        return self._is_published and (self._wiring is None or self._wiring.over)

    def _over(self) -> None:
        if self.on_over is not None:
            self.on_over(self)

    def gone(self) -> None:
        """It ended while nobody who could have been told had it open."""
        started_at = self.identity.started_at
        self.publish_exit(Exit(code=None, cause=Cause.SYSTEM_GONE, started_at=started_at, at=None, pid=self.pid))

    async def look(self) -> None:
        """Whether it had ended before we watched it: nobody tells us then. Failed or cancelled: it is let go of."""
        try:
            exited = await self._has_exited()
        except BaseException:
            await shielded(self.close())
            raise
        if exited:
            self._watch.deliver(Type.PROCESS_EXITED, 0)

    async def _has_exited(self) -> bool | None:
        """Whether its status says so; None if there is none to be read."""
        assert self.handle is not None
        session, operation = self._session, "looking at a process"
        with suppress(HcsError, msgspec.MsgspecError):
            call = self.handle.call(operation, session.vmcompute.get_process_properties)
            text = await session.answer(operation, self.container_id, call)
            return documents.decode(text or "", documents.ProcessStatus).exited
        return None

    async def _exit_is_unpublished(self, *, gone: bool) -> bool:
        """Whether it has ended, and nobody has told us; `gone`: the service has just said that there is none."""
        try:
            exited = await self._has_exited()
        except TimeLimit:
            return False
        return gone if exited is None else exited

    async def gone_within(self, limit: float) -> None:
        """Return when its end is known, or after `limit` seconds: TimeLimit."""
        await asyncio.wait((self._exit,), timeout=limit)
        if not self._exit.done():
            raise TimeLimit(f"process {self.pid} of container `{self.container_id}`, which was killed,", limit)

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
        """Send a console event. Servercore answers only when the process has ended: that is not waited for."""
        assert self.handle is not None
        options = documents.encode(documents.SignalRequest(signal=word))
        call = self.handle.request(f"sending {word} to a process", self._session.vmcompute.signal_process, options)
        await self._session.ask(call, ANSWER_LIMIT)

    async def kill(self) -> None:
        """Have it ended. Already ended is fine."""
        self.hurry()
        if self.ending or self._closed or self.handle is None:
            return
        session, operation = self._session, "killing a process"
        before, self._killed = self._killed, True
        try:
            if self.handle.has_open_request or self.is_waited_for():
                call = session.threads.call(_terminate_apart, session.vmcompute, self.container_id, self.pid)
            else:
                call = self.handle.call(operation, session.vmcompute.terminate_process)
            await session.answer(operation, self.container_id, call, session.limits.terminate)
        except HcsError as failure:
            error = failure.about(operation, self.container_id)
            # so it is for one that is already dead, too (hcsshim's findings): its end is then about to be told
            if same(error.code or 0, (ACCESS_DENIED, *DEAD)):
                await asyncio.wait((self._watch.ended,), timeout=ANSWER_LIMIT)
                if not self.ending and await self._exit_is_unpublished(gone=same(error.code or 0, DEAD)):
                    self._killed = before
                    self._missed()
            if not self.ending:
                self._killed = before
                raise error from failure

    def hurry(self) -> None:
        """It is ended by force: its end is told, whether or not its output can be copied to where it goes."""
        if self._wiring is not None:
            self._wiring.hurry()

    async def output_copied(self) -> None:
        """Return when the output of a process whose system is down was copied to the caller's descriptors."""
        if self._wiring is not None:
            await self._wiring.copied()

    def killed_with_system(self, killed: bool) -> None:
        """Its system is (or, after all, was not) being terminated."""
        if not self.ending:
            self._killed = killed

    async def kill_tree(self) -> None:
        """HCS does not tell who started whom: the process alone is killed; the rest ends with the container."""
        await self.kill()

    # its input and its terminal

    def _input_closed(self) -> None:
        if self.ending or self._closed:  # nobody is to be told; and it may be the collector that closes it
            return
        if self._ending_input is None or self._ending_input.done():
            self._ending_input = self._session.spawn(self._end_input(), f"end of input of {self.pid}")

    async def _end_input(self) -> None:
        """The end of input needs both: our pipe closed, after what was written; then the word to the service."""
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
        # it waits for what is still to be written, and the service may wait for the process: we do not
        done, _ = await asyncio.wait((self._ending_input,), timeout=ANSWER_LIMIT)
        if done:
            self._ending_input.result()

    async def resize(self, rows: int, columns: int) -> None:
        for name, value in (("rows", rows), ("columns", columns)):
            if not 1 <= value <= 0xFFFF:
                raise InvalidSpec(name, f"{value} is not between 1 and {0xFFFF}")
        if self.ending or self.handle is None:
            raise InvalidState("resize the terminal of", self.container_id, "stopped")
        request = documents.encode(documents.resize(rows, columns))
        operation = "resizing the terminal of a process"
        try:
            call = self.handle.request(operation, self._session.vmcompute.modify_process, request)
            await self._session.answer(operation, self.container_id, call)
        except HcsError as error:
            if not self._terminal and same(error.code or 0, (INVALID_STATE, *UNKNOWN_REQUEST)):
                raise InvalidState("resize a terminal of", self.container_id, "one without a terminal") from error
            raise

    # letting go

    def drop_streams(self) -> None:
        """Close our ends of its pipes."""
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
                    await asyncio.shield(self._exit)  # its code is just being read
        if self._ending is not None:
            self._ending.cancel()
        self.drop_streams()
        if not self._exit.done():
            self._exit.set_exception(EngineClosed())
            self._exit.exception()  # retrieved: nobody has to have waited
        if self.handle is not None:
            await self.handle.close()


def _terminate_apart(vmcompute: Vmcompute, container_id: str, pid: int) -> None:
    """Kill a process by handles of its own. Blocks.

    Words on one handle wait for each other, and servercore answers a console event only when the process has ended
    (hcsshim `internal/hcs/process.go`, hcsshim#1416): a kill must not wait behind it.
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
