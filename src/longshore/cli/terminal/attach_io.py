"""Connect a process with this program's streams until it ends: for run, exec, start --attach and attach."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from ...aio.tasks import in_thread
from ...compute.values import PIPE, STDOUT
from ...errors import LongshoreError
from ...exit_record import Cause, Exit
from ..arguments.parser import UsageError
from . import terminal
from .exit_codes import ENGINE_FAILED
from .output import complain
from .own_signals import end_program, passed_on
from .streams import check_written, own_streams

if TYPE_CHECKING:
    from ...engine.container import Attachment, Container, Process

INSIST = 3  # so many requests to end, and it is killed
A_MOMENT = 1.0  # seconds that a signal waits for what is being started
CHUNK = 1 << 16


class Detached(Exception):
    """Raised when the detach keys were typed."""


class HungUp(Exception):
    """Raised when our terminal is gone."""


def check_terminal(*, interactive: bool, tty: bool) -> None:
    """Refuse `-it` without a terminal, as docker does: the command would wait for keys that cannot come."""
    if interactive and tty and not terminal.is_terminal(0):
        raise UsageError("standard input is not a terminal", hint="leave -t out: -i alone passes the input")


def exit_code(exit: Exit, what: str, process: Process | None = None) -> int:
    """Return the exit code that a record means, and print a line if the end was not an ordinary one."""
    if exit.cause is Cause.NEVER_STARTED:
        failure = None if process is None else process.failure
        raise failure or LongshoreError(f"{what} never started")
    if exit.cause is Cause.TIME_LIMIT:
        return 124
    if exit.cause is Cause.OOM:
        complain(f"{what} was killed: out of memory", hint="raise the limit with --memory")
    if exit.code is None:
        complain(
            f"the exit code of {what} is unknown ({exit.cause})", hint="run `longshore inspect` and `longshore events`"
        )
        return ENGINE_FAILED
    return exit.code


class Forwarding:
    """Passes signals on to a process; repeated ones kill it. A context manager.

    Until `to` names the process, a signal waits, because the process may be running already. If that takes longer than
    a moment, the signal ends this program's work instead.
    """

    def __init__(self) -> None:
        self._target: Process | Container | None = None
        self._waiting: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._asked = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = ExitStack()

    async def __aenter__(self) -> Forwarding:
        self._stack.enter_context(passed_on(self._arrived))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stack.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def to(self, target: Process | Container) -> None:
        """Pass all signals to the process from now on, and those that waited: it runs."""
        self._target = target
        if self._timer is not None:
            self._timer.cancel()
        for number in self._waiting:
            self._arrived(number)
        self._waiting.clear()

    def _arrived(self, number: int) -> None:
        if self._target is None:
            self._waiting.append(number)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(A_MOMENT, end_program, number)
            return
        if number in (signal.SIGINT, signal.SIGTERM):
            self._asked += 1
        task = asyncio.ensure_future(self._pass_on(self._target, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, target: Process | Container, number: int) -> None:
        with suppress(LongshoreError):  # it has ended meanwhile
            await (target.kill() if self._asked >= INSIST else target.signal(number))


@asynccontextmanager
async def _signals(*, proxy: bool) -> AsyncIterator[Callable[[Process | Container], None]]:
    """Pass signals on, if that is wanted, to the process that the yielded function is given."""
    if not proxy:
        yield lambda target: None
        return
    async with Forwarding() as forwarding:
        yield forwarding.to


async def plain(
    start: Callable[..., Awaitable[Process]],
    *,
    stdin: bool,
    timeout: float | None,
    sig_proxy: bool = True,
) -> tuple[Process, Exit]:
    """Start a process without a terminal, with our streams, and wait for its end.

    `start` is given stdin=, stdout= and stderr=. TimeLimit after `timeout` seconds; the process is then dead.
    """
    stdio = own_streams(stdin=stdin)
    async with _signals(proxy=sig_proxy) as to:
        process = await start(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr)
        to(process)
        if timeout is not None:
            await process.communicate(timeout=timeout)
        exit = await process.wait()
    check_written(process.unwritten)
    return process, exit


async def with_terminal(
    start: Callable[..., Awaitable[Process]], *, stdin: bool, timeout: float | None = None, sig_proxy: bool = True
) -> tuple[Process, Exit]:
    """Start a process with a terminal of its own, and connect ours to it until the process ends."""
    async with _signals(proxy=sig_proxy) as to:
        process = await start(stdin=PIPE, stdout=PIPE, stderr=STDOUT)
        to(process)
        conversation = Conversation(
            stdin=process.stdin if stdin else None, outputs=[(process.stdout, 1)], resize=process.resize
        )
        try:
            async with conversation:
                return process, await conversation.until(_within(process.wait(), timeout, process.kill))
        except HungUp:
            await process.kill()
            return process, await process.wait()


async def with_attachment(
    container: Container,
    attachment: Attachment,
    *,
    tty: bool,
    keys: bytes,
    start: Callable[[], Awaitable[object]] | None = None,
    timeout: float | None = None,
    sig_proxy: bool = True,
) -> Exit:
    """Connect our streams to a kept container until it ends.

    Raises: Detached if the detach keys are typed.
    """
    conversation = Conversation(
        stdin=attachment.stdin,
        outputs=[(attachment.stdout, 1)] if tty else [(attachment.stdout, 1), (attachment.stderr, 2)],
        resize=container.resize if tty else None,
        keys=keys,
        close_stdin=None if tty or attachment.stdin is None else attachment.stdin.close,
    )
    try:
        async with _signals(proxy=sig_proxy) as to, conversation:
            if start is not None:
                await start()
            to(container)
            await conversation.send_size()
            exit = await conversation.until(_within(container.wait(), timeout, container.kill))
    finally:
        await attachment.close()
    for gap in (*attachment.gaps["stdout"], *attachment.gaps["stderr"]):
        complain(f"some of the output is missing: {gap.reason}")
    return exit


async def _within(end: Awaitable[Exit], timeout: float | None, kill: Callable[[], Awaitable[None]]) -> Exit:
    """Wait for the end. After `timeout` seconds, stop the process."""
    task = asyncio.ensure_future(end)
    try:
        done, _ = await asyncio.wait((task,), timeout=timeout)
        if done:
            return task.result()
        await kill()
        import msgspec

        return msgspec.structs.replace(await task, cause=Cause.TIME_LIMIT)
    finally:
        task.cancel()


class Conversation:
    """Copies between our streams and those of a process, and its terminal's size. Leaving it waits for the output."""

    def __init__(
        self,
        *,
        stdin: asyncio.StreamWriter | None,
        outputs: Sequence[tuple[asyncio.StreamReader | None, int]],
        resize: Callable[[int, int], Awaitable[None]] | None,
        keys: bytes = b"",
        close_stdin: Callable[[], None] | None = None,
    ) -> None:
        self._stdin = stdin
        self._outputs = [(reader, fd) for reader, fd in outputs if reader is not None]
        self._resize = resize
        self._keys = keys
        self._close_stdin = close_stdin
        self._stack = ExitStack()
        self._raw = False
        self._copies: list[asyncio.Task[None]] = []
        self._input: asyncio.Task[None] | None = None
        self._resizing: set[asyncio.Task[None]] = set()
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # Detached, HungUp

    async def __aenter__(self) -> Conversation:
        if self._resize is not None:
            self._stack.enter_context(terminal.resizes(self._size_changed))
            if self._stdin is not None and terminal.is_terminal(0):
                self._stack.enter_context(terminal.raw(0))
                self._raw = True
        self._copies = [asyncio.create_task(_copy_out(reader, fd)) for reader, fd in self._outputs]
        if self._stdin is not None:
            self._input = asyncio.create_task(self._copy_in(self._stdin))
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            for task in (self._input, *self._resizing):
                if task is not None:
                    task.cancel()
            if kind is not None:
                for task in self._copies:
                    task.cancel()
            results = await asyncio.gather(*self._copies, return_exceptions=kind is not None)
            del results
        finally:
            self._stack.close()
            self._left.cancel()

    async def until(self, end: Awaitable[Exit]) -> Exit:
        """Wait for the end. Raises Detached or HungUp if that comes first."""
        task = asyncio.ensure_future(end)
        try:
            await asyncio.wait((task, self._left), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._left.result()
            return await task
        finally:
            task.cancel()

    async def send_size(self) -> None:
        """Give the terminal of the process the size of ours."""
        size = terminal.size()
        if self._resize is not None and size is not None:
            with suppress(LongshoreError):
                await self._resize(*size)

    def _size_changed(self, rows: int, columns: int) -> None:
        async def resize() -> None:
            assert self._resize is not None
            with suppress(LongshoreError):  # it has ended meanwhile
                await self._resize(rows, columns)

        task = asyncio.ensure_future(resize())
        self._resizing.add(task)
        task.add_done_callback(self._resizing.discard)

    async def _copy_in(self, writer: asyncio.StreamWriter) -> None:
        watch = terminal.KeyWatch(self._keys)
        with suppress(ConnectionError):  # it reads no more
            async for data in terminal.typed(0):
                passed, detach = watch.feed(data)
                if passed:
                    writer.write(passed)
                    await writer.drain()
                if detach:
                    self._left.set_exception(Detached())
                    return
            if self._raw:  # a raw terminal has no end of input
                self._left.set_exception(HungUp())
            elif self._close_stdin is not None:
                self._close_stdin()


async def _copy_out(reader: asyncio.StreamReader, fd: int) -> None:
    while data := await reader.read(CHUNK):
        # in a thread: a terminal whose output is stopped must not stop us, too
        await in_thread(lambda data=data: terminal.show(fd, data), "output")  # type: ignore[misc]
