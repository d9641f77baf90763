"""What the parts of one HcsService share: the binding, threads, notifications, limits; and its handles."""

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
from ..dll.hresults import HcsError
from ..dll.vmcompute import Process, Registration, System, Vmcompute
from ..streams.pipes import Pipes
from .notifications import NOTIFICATIONS, Watch

log = logging.getLogger("longshore.hcs")

T = TypeVar("T")

NO_ANSWER = "the compute service does not answer: see whether `vmcompute` runs; it may need to be restarted"


class Session:
    """The binding and what goes with it. `owner` of the handles and tasks of one service."""

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
        """Own a system's handle, with its notifications told to `watch`.

        On failure the handle is closed, after `undo` of what was made with it.
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
        """As `watch_system`, of a process."""
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
            raise  # it is still under way: discarded when it returns
        except (HcsError, NotSupported, EngineClosed, OSError) as error:
            notifications.remove(number)
            await uninterrupted(self.threads.call(undo_all, or_here=True))
            if isinstance(error, HcsError):
                raise error.about("registering for notifications", container_id) from error
            raise

        def release() -> None:
            try:
                notifications.unregister(number)  # returns when no notification is under way any more
            except (HcsError, NotSupported) as error:
                # it may still be called back: what the service uses is not closed under it
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
        """What a call makes, which the caller then owns: also one who is cancelled meanwhile hears of it first.

        A service that does not answer is left to itself, and what it may still make is discarded: TimeLimit. `failed`
        is called in a thread if it makes nothing when nobody waits for it any more.
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
            raise TimeLimit(f"{operation} of container `{container_id}`", self.limits.default, hint=NO_ANSWER)
        return task.result()

    async def answer(
        self, operation: str, container_id: str | None, call: Awaitable[T], limit: float | None = None
    ) -> T:
        """What comes of a call that makes nothing. TimeLimit after `limit` seconds, or else those of `limits.default`.

        Only the waiting ends then: the call goes on in its thread, with its arguments and its handle.
        """
        limit = self.limits.default if limit is None else limit
        try:
            async with asyncio.timeout(limit):
                return await call
        except TimeoutError as error:
            if isinstance(error, TimeLimit):
                raise
            what = operation if container_id is None else f"{operation} of container `{container_id}`"
            raise TimeLimit(what, limit, hint=NO_ANSWER) from None

    async def _wait_despite_cancellation(self, task: asyncio.Future[T]) -> None:
        """Wait for a call that is under way, though nobody wants it any more: not for ever."""

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
        """A task that nobody has to wait for: what it raises is logged."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("%s: %s", task.get_name(), error)

    async def ask(self, word: Awaitable[object], limit: float) -> None:
        """Give a word to the service, and wait for its answer only so long; a failure within that is raised."""

        async def give() -> None:
            await word

        task = self.spawn(give(), "a word to the service")
        done, _ = await asyncio.wait((task,), timeout=limit)
        if done:
            task.result()

    async def close(self) -> None:
        """End what runs in the background."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
