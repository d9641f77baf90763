"""`Process`: a process in a container as users hold it, its streams as in `asyncio.subprocess`; and `Completed`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..compute.limits import USUAL
from ..compute.protocols import ComputeProcess
from ..compute.values import Streams
from ..errors import LongshoreError, OutputLimit, ProcessNotFound, TimeLimit
from ..exit_record import Cause, Completed, Exit
from ..spec import parse_signal
from .arguments import check_bound, check_input, check_seconds

MAX_OUTPUT = 64 << 20
CHUNK = 1 << 18


class Process:
    """A process in a container: its streams, as in `asyncio.subprocess`, and its end."""

    def __init__(
        self,
        container_id: str,
        name: str,
        args: list[str],
        compute: ComputeProcess,
        kill: Callable[[Cause], Awaitable[None]],
        *,
        streams: Streams | None = None,
        end_limit: float = USUAL.end,
    ) -> None:
        self.container_id = container_id
        self.name = name
        self.args = args
        self.exit: Exit | None = None
        self._compute = compute
        self._kill = kill
        self._end_limit = end_limit  # seconds until it is gone once it was killed
        self._streams = compute.streams if streams is None else streams
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._cause: Cause | None = None  # why we kill it, once we do
        self._seconds: float | None = None  # its own time limit
        self._is_passed_on = self._streams.passed_on is None  # all that it wrote

    def __repr__(self) -> str:
        return f"<Process {self.name} of {self.container_id}, pid {self.pid}>"

    @property
    def pid(self) -> int:
        """The pid on this machine."""
        return self._compute.pid

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """Its standard input; None if it is not a pipe of ours."""
        return self._streams.stdin

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """Its standard output; None if it is not a pipe of ours."""
        return self._streams.stdout

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """Its standard error; None if it is not a pipe of ours, or goes with standard output."""
        return self._streams.stderr

    @property
    def returncode(self) -> int | None:
        """The exit code, 128 + n for signal n; None while it runs, or if nobody saw it."""
        return None if self.exit is None else self.exit.code

    @property
    def failure(self) -> LongshoreError | None:
        """Why it never ran, where its exit record says `never_started`."""
        return self._compute.failure

    @property
    def unwritten(self) -> dict[str, OSError]:
        """Which of the descriptors that were given as its outputs did not take all, and why: a full disk. By the name
        of the stream, once `wait` has returned; the process had a broken pipe from then on."""
        return dict(self._streams.unwritten)

    def _finish(self, exit: Exit) -> None:
        if not self._ended.done():
            self.exit = exit
            self._ended.set_result(exit)

    def _fail(self, error: BaseException) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # retrieved: nobody has to wait for it

    async def wait(self) -> Exit:
        """Wait for its end; any number of waiters get the same record. Cancelling only stops waiting.

        It waits until what was written has reached a descriptor that was given as a stream, but for no grandchild.
        """
        exit = await asyncio.shield(self._ended)
        await self._passed_on()
        return exit

    async def _passed_on(self) -> None:
        """Once it has ended: wait until what it wrote has reached the descriptors that were given as its outputs."""
        if self._streams.passed_on is not None:
            await self._streams.passed_on()
            self._is_passed_on = True

    async def communicate(
        self, input: bytes | None = None, *, timeout: float | None = None, max_output: int = MAX_OUTPUT
    ) -> tuple[bytes, bytes]:
        """Send `input` and the end of input, read both streams to their end, wait for the process.

        Raises TimeLimit after `timeout` seconds and OutputLimit when a stream grows past `max_output` bytes; the
        process is then killed, with what it started, and the error carries what was read. If it turns out that it
        never ran: CommandNotFound, or what else the reason was. Cancelled: not killed.
        """
        input, timeout = check_input(input), check_seconds(timeout)
        check_bound(max_output)
        stdout, stderr = bytearray(), bytearray()
        work = [
            asyncio.create_task(self._send(input)),
            asyncio.create_task(self._collect(self.stdout, stdout, max_output)),
            asyncio.create_task(self._collect(self.stderr, stderr, max_output)),
        ]
        too_much = late = False
        try:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.gather(*work)
                    exit = await self.wait()
            except (TimeoutError, _TooMuchError) as error:
                too_much = isinstance(error, _TooMuchError)
                late = not too_much
                exit = await self._end_for(Cause.KILLED if too_much else Cause.TIME_LIMIT)
                await asyncio.wait(work, timeout=self._end_limit)  # what it wrote until then
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        if too_much:
            raise OutputLimit(self._what(), max_output, result=self._completed(exit, stdout, stderr))
        if exit.cause is Cause.TIME_LIMIT or (late and not self._is_passed_on):  # or whoever reads its output is late
            seconds = timeout if timeout is not None else self._seconds or 0.0
            raise TimeLimit(self._what(), seconds, result=self._completed(exit, stdout, stderr))
        if exit.cause is Cause.NEVER_STARTED and self.failure is not None:
            raise self.failure
        return bytes(stdout), bytes(stderr)

    def _what(self) -> str:
        return f"`{' '.join(self.args)[:200]}` in container `{self.container_id}`"

    def _completed(self, exit: Exit, stdout: bytearray, stderr: bytearray) -> Completed:
        return Completed(args=self.args, exit=exit, stdout=bytes(stdout), stderr=bytes(stderr))

    async def _end_for(self, cause: Cause) -> Exit:
        """Kill it, and wait for its end: not for ever, for even that may hang (in the kernel)."""
        await self._kill_because(cause)
        try:
            async with asyncio.timeout(self._end_limit):
                return await asyncio.shield(self._ended)
        except TimeoutError:
            return Exit(code=None, cause=cause, pid=self.pid)

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
                raise _TooMuchError

    async def _kill_because(self, cause: Cause) -> None:
        if self.exit is None:
            self._cause = self._cause or cause
            await self._kill(self._cause)

    async def signal(self, signal: str | int) -> None:
        """Deliver a signal: `"TERM"`, `15`. ProcessNotFound if it has ended (not for KILL)."""
        number = parse_signal(signal)
        if number == 9:
            await self.kill()
            return
        if self.exit is not None:
            raise ProcessNotFound(self.container_id, self.name, ended=True)
        try:
            await self._compute.signal(number)
        except ProcessNotFound:  # it has just ended; a service may know no more of it than its pid
            raise ProcessNotFound(self.container_id, self.name, ended=True) from None

    async def kill(self) -> None:
        """End it at once, and what it started; asked, not waited for. Already ended is fine."""
        await self._kill_because(Cause.KILLED)

    async def terminate(self) -> None:
        """Ask it to end, by TERM."""
        await self.signal("TERM")

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal. InvalidState if it has none."""
        await self._compute.resize(rows, columns)

    async def close_stdin(self) -> None:
        """Give it the end of input; at a terminal, by the key that ends it (^D). Already ended is fine."""
        if self.exit is None:
            await self._compute.close_stdin()
        if self.stdin is not None:
            self.stdin.close()


class _TooMuchError(Exception):
    """A stream grew past its bound."""


__all__ = ["CHUNK", "MAX_OUTPUT", "Completed", "Process"]
