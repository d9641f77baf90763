"""A process and this program's streams, until it ends: for run, exec, start --attach and attach."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from ..compute import DEVNULL, PIPE, STDOUT, Cause, Exit
from ..errors import LongshoreError
from ..tasks import in_thread
from . import ENGINE_FAILED, terminal
from .output import complain, note
from .parser import UsageError
from .signals import passed_on
from .streams import Plumbing, write_all

if TYPE_CHECKING:
    from ..container import Attachment, Container, Process

INSIST = 3  # so many requests to end, and it is killed
CHUNK = 1 << 16


class Detached(Exception):
    """The detach keys were typed."""


def check_terminal(*, interactive: bool, tty: bool) -> None:
    """Refuse `-it` without a terminal, as docker does: the command would wait for keys that nobody can press."""
    if interactive and tty and not os.isatty(0):
        raise UsageError("standard input is not a terminal", hint="leave -t away: `-i` alone passes the input on")


def exit_code(exit: Exit, what: str, process: Process | None = None) -> int:
    """The exit code that a record means; what is not an ordinary end is told."""
    if exit.cause is Cause.NEVER_STARTED:
        failure = None if process is None else process.failure
        raise failure or LongshoreError(f"{what} never started")
    if exit.cause is Cause.TIME_LIMIT:
        return 124
    if exit.cause is Cause.OOM:
        complain(f"{what} was killed: out of memory", hint="give it more with --memory")
    if exit.code is None:
        complain(f"nobody saw how {what} ended ({exit.cause})", hint="see `longshore inspect` and `longshore events`")
        return ENGINE_FAILED
    return exit.code


class Forwarding:
    """Passes signals on to a process; who insists kills it."""

    def __init__(self, send: Callable[[int], Awaitable[None]], kill: Callable[[], Awaitable[None]]) -> None:
        self._send = send
        self._kill = kill
        self._asked = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, number: int) -> None:
        if number in (signal.SIGINT, signal.SIGTERM):
            self._asked += 1
        self._do(self._kill() if self._asked >= INSIST else self._send(number))

    def _do(self, work: Awaitable[None]) -> None:
        async def quietly() -> None:
            with suppress(LongshoreError):  # it has ended meanwhile
                await work

        task = asyncio.ensure_future(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def plain(
    start: Callable[..., Awaitable[Process]],
    *,
    stdin: bool,
    share: bool,
    timeout: float | None,
    sig_proxy: bool = True,
) -> tuple[Process, Exit]:
    """Start a process without a terminal, with our streams, and wait for its end.

    `start` is given stdin=, stdout= and stderr=. TimeLimit after `timeout` seconds; the process is then dead.
    """
    plumbing = Plumbing(stdin=stdin, share=share)
    try:
        stdio = plumbing.stdio
        process = await start(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr)
    except BaseException:
        plumbing.abandon()
        raise
    plumbing.started()
    forwarding = Forwarding(process.signal, process.kill)
    try:
        with ExitStack() as stack:
            if sig_proxy:
                stack.enter_context(passed_on(forwarding))
            if timeout is not None:
                await process.communicate(timeout=timeout)
            exit = await process.wait()
    finally:
        await forwarding.close()
        await plumbing.finish()
    return process, exit


async def with_terminal(process: Process, *, stdin: bool, timeout: float | None = None) -> Exit:
    """Our terminal is that of a process which has one of its own, until it ends."""
    forwarding = Forwarding(process.signal, process.kill)
    conversation = Conversation(
        stdin=process.stdin if stdin else None,
        outputs=[(process.stdout, 1)],
        resize=process.resize,
        keys=b"",
        close_stdin=None,
    )
    try:
        with passed_on(forwarding):
            async with conversation:
                return await _within(process.wait(), timeout, process.kill)
    finally:
        await forwarding.close()


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
    """Our streams are those of a kept container, until it ends. Detached if the keys are typed."""
    forwarding = Forwarding(container.signal, container.kill)
    outputs = [(attachment.stdout, 1)] if tty else [(attachment.stdout, 1), (attachment.stderr, 2)]
    conversation = Conversation(
        stdin=attachment.stdin,
        outputs=outputs,
        resize=container.resize if tty else None,
        keys=keys,
        close_stdin=None if tty or attachment.stdin is None else attachment.stdin.close,
    )
    try:
        with ExitStack() as stack:
            if sig_proxy:
                stack.enter_context(passed_on(forwarding))
            async with conversation:
                if start is not None:
                    await start()
                    await conversation.tell_size()
                return await conversation.until(_within(container.wait(), timeout, container.kill))
    finally:
        await forwarding.close()
        await attachment.close()


async def _within(end: Awaitable[Exit], timeout: float | None, kill: Callable[[], Awaitable[None]]) -> Exit:
    """Wait for the end; after `timeout` seconds bring it about."""
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
        keys: bytes,
        close_stdin: Callable[[], None] | None,
    ) -> None:
        self._stdin = stdin
        self._outputs = [(reader, fd) for reader, fd in outputs if reader is not None]
        self._resize = resize
        self._keys = keys
        self._close_stdin = close_stdin
        self._stack = ExitStack()
        self._copies: list[asyncio.Task[None]] = []
        self._input: asyncio.Task[None] | None = None
        self._resizing: set[asyncio.Task[None]] = set()
        self._detached = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Conversation:
        if self._resize is not None:
            self._stack.enter_context(terminal.resizes(self._size_changed))
            if self._stdin is not None and os.isatty(0):
                self._stack.enter_context(terminal.raw(0))
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
            if not self._detached.done():
                self._detached.cancel()

    async def until(self, end: Awaitable[Exit]) -> Exit:
        """Wait for the end. Raises Detached if the keys are typed first."""
        task = asyncio.ensure_future(end)
        try:
            await asyncio.wait((task, self._detached), return_when=asyncio.FIRST_COMPLETED)
            if self._detached.done() and not task.done():
                raise Detached
            return await task
        finally:
            task.cancel()

    async def tell_size(self) -> None:
        """Give the process's terminal the size of ours."""
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
                    self._detached.set_result(None)
                    return
            if self._close_stdin is not None:
                self._close_stdin()


async def _copy_out(reader: asyncio.StreamReader, fd: int) -> None:
    while data := await reader.read(CHUNK):
        # in a thread: a terminal whose output is stopped must not stop us, too
        await in_thread(lambda data=data: write_all(fd, data), "output")  # type: ignore[misc]


__all__ = ["DEVNULL", "PIPE", "STDOUT", "Detached", "check_terminal", "exit_code", "note", "plain"]
