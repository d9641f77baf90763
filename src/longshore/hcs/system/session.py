"""Share what the parts of one HcsService need: the binding, threads, notifications, limits, handles and tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from ...aio.tasks import shielded, uninterrupted
from ...compute.limits import HcsLimits
from ...errors import EngineClosed, NotSupported, TimeLimit
from ..dll.calls import Handle, Threads
from ..dll.hresults import NO_ANSWER, HcsError
from ..dll.vmcompute import Process, Registration, System, Vmcompute
from ..streams.pipes import Pipes
from .notifications import NOTIFICATIONS, Watch

log = logging.getLogger("longshore.hcs")

T = TypeVar("T")


class Session:
    """The binding and what belongs to it. It owns the tasks of one service."""

    def __init__(self, vmcompute: Vmcompute, pipes: Pipes, limits: HcsLimits) -> None:
        self.vmcompute = vmcompute
        self.pipes = pipes
        self.limits = limits
        self.threads = Threads()
        self.notifications = NOTIFICATIONS
        self._tasks: set[asyncio.Task[Any]] = set()

    # handles

    async def watch_system(
        self, system: System, watch: Watch, container_id: str, *, undo: Callable[[System], object] | None = None
    ) -> Handle[System]:
        """Take over the handle of a system, and deliver its notifications to `watch`.

        If it fails: `undo` is called, then the handle is closed.
        """
        vm = self.vmcompute
        return await self._watch(
            system,
            watch,
            container_id,
            vm.register_compute_system_callback,
            vm.unregister_compute_system_callback,
            vm.close_compute_system,
            undo,
        )

    async def watch_process(
        self, process: Process, watch: Watch, container_id: str, *, undo: Callable[[Process], object] | None = None
    ) -> Handle[Process]:
        """Take over the handle of a process, as `watch_system` does."""
        vm = self.vmcompute
        return await self._watch(
            process,
            watch,
            container_id,
            vm.register_process_callback,
            vm.unregister_process_callback,
            vm.close_process,
            undo,
        )

    async def _watch(
        self,
        value: T,
        watch: Watch,
        container_id: str,
        register: Callable[[T, Any, int], Registration],
        unregister: Callable[[Registration], None],
        close: Callable[[T], None],
        undo: Callable[[T], object] | None,
    ) -> Handle[Any]:
        notifications = self.notifications
        number = notifications.add(watch)

        def shut() -> None:
            try:
                close(value)
            except (HcsError, NotSupported) as error:
                log.warning("container `%s`: closing a handle: %s", container_id, error)

        def undo_all() -> None:
            try:
                if undo is not None:
                    undo(value)
            except (HcsError, NotSupported) as error:
                log.warning("container `%s`: undoing: %s", container_id, error)
            shut()

        def discard(_: None = None) -> None:
            notifications.unregister(number)
            notifications.remove(number)
            undo_all()

        try:
            await self.make(
                "registering for notifications",
                container_id,
                self.threads.call(notifications.register, number, partial(register, value), unregister),
                discard,
                failed=discard,
            )
        except TimeLimit:
            raise  # the call continues: its result is discarded when it returns
        except (HcsError, NotSupported, EngineClosed, OSError) as error:
            notifications.remove(number)
            await uninterrupted(self.threads.call(undo_all, or_here=True))
            if isinstance(error, HcsError):
                raise error.about("registering for notifications", container_id) from error
            raise

        def release() -> None:
            try:
                notifications.unregister(number)  # returns when no notification is under way
            except (HcsError, NotSupported) as error:
                # the service may still call back, so nothing that it uses is closed
                log.warning("container `%s`: a handle stays open: %s", container_id, error)
                return
            finally:
                notifications.remove(number)
            shut()

        handle: Handle[Any] = Handle(self.threads, value, container_id, release)
        notifications.close_at_exit(number, handle.close_now)
        return handle

    # calls that make something

    async def make(
        self,
        operation: str,
        container_id: str,
        call: Awaitable[T],
        discard: Callable[[T], object],
        *,
        failed: Callable[[], object] | None = None,
    ) -> T:
        """Return what a call makes. The caller then owns it.

        Raises: TimeLimit if the service does not answer. What it makes later is discarded; if it makes nothing then,
        `failed` is called in a thread.
        If cancelled: the result is awaited for a while and returned first; the cancellation follows at the caller's
        next await.
        """
        task = asyncio.ensure_future(call)
        current = asyncio.current_task()
        assert current is not None
        try:
            await asyncio.wait((task,), timeout=self.limits.default)
        except asyncio.CancelledError:
            await self._wait_despite_cancellation(task)
            if not task.done():
                self._discard_later(task, discard, failed)
                raise
            current.uncancel()  # so that an enclosing asyncio.timeout still counts right
            current.cancel()  # delivered at the caller's next await
        if not task.done():
            self._discard_later(task, discard, failed)
            raise TimeLimit(
                f"the request to {operation} container `{container_id}`", self.limits.default, hint=NO_ANSWER
            )
        return task.result()

    async def answer(
        self, operation: str, container_id: str | None, call: Awaitable[T], limit: float | None = None
    ) -> T:
        """Return the result of a call that makes nothing. The limit is `limits.default` unless given.

        Raises: TimeLimit. The call then continues in its thread, with its arguments and its handle.
        """
        limit = self.limits.default if limit is None else limit
        try:
            async with asyncio.timeout(limit):
                return await call
        except TimeoutError as error:
            if isinstance(error, TimeLimit):
                raise
            what = f"the request to {operation}{f' container `{container_id}`' if container_id else ''}"
            raise TimeLimit(what, limit, hint=NO_ANSWER) from None

    async def _wait_despite_cancellation(self, task: asyncio.Future[T]) -> None:
        """Wait for a call up to a limit, though its caller was cancelled."""

        async def wait() -> None:
            await asyncio.wait((task,), timeout=self.limits.terminate)

        with suppress(asyncio.CancelledError):
            await shielded(wait())

    def _discard_later(
        self, task: asyncio.Future[T], discard: Callable[[T], object], failed: Callable[[], object] | None
    ) -> None:
        def quietly(discard: Callable[[], object]) -> None:
            try:
                discard()
            except (HcsError, NotSupported) as error:
                log.warning("discarding what was made too late: %s", error)

        def done(task: asyncio.Future[T]) -> None:
            if task.cancelled():
                return
            late = partial(discard, task.result()) if task.exception() is None else failed
            if late is not None:
                self.threads.submit(partial(quietly, late), or_here=True)

        task.add_done_callback(done)

    # tasks

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task that is owned here. What it raises is logged."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("%s: %s", task.get_name(), error)

    async def ask(self, request: Awaitable[object], limit: float) -> None:
        """Send a request to the service, and wait up to `limit` seconds. An error within that time is raised."""

        async def give() -> None:
            await request

        task = self.spawn(give(), "a request to the service")
        done, _ = await asyncio.wait((task,), timeout=limit)
        if done:
            task.result()

    async def close(self) -> None:
        """Cancel the tasks, and wait for them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
