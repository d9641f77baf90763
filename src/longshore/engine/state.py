"""The state of one engine: store, service and lease, what it has open of each container, its tasks and calls."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ..aio import fork_safety
from ..compute.events import Event
from ..compute.limits import USUAL, Limits
from ..compute.protocols import ComputeService, ComputeSystem
from ..compute.values import Owner, SystemEnd
from ..errors import EngineClosed, LongshoreError, StoreError
from ..exit_record import Exit
from ..fs.files import next_step
from ..fs.standard_descriptors import Placeholders
from ..store.container_dir import ContainerDir
from ..store.journal import NewEvent, Position
from ..store.leases import OwnerLease
from ..store.records import Record
from ..store.state_directory import Store
from ..store.trash import empty_trash
from .descriptor_budget import Descriptors

if TYPE_CHECKING:
    from .process import Process

T = TypeVar("T")

RECORD_AGAIN = (1.0, 5.0)  # seconds between two tries to record what could not be: at first, and at most

log = logging.getLogger("longshore.engine")
logging.getLogger("longshore").addHandler(logging.NullHandler())


class ContainerRef(msgspec.Struct, frozen=True):
    """Which container a function works on: the engine that does it, the container's directory, and its uid.

    Nearly every function of the engine takes one as its first argument. The uid tells two containers apart that had
    the same id one after the other. It is empty for a container with a damaged record.
    """

    engine: EngineState
    directory: ContainerDir
    uid: str

    @property
    def id(self) -> str:
        """Return the id of the container."""
        return self.directory.id

    @property
    def opened(self) -> OpenContainer | None:
        """Return what this engine has open of this container; None if it has not opened it."""
        opened = self.engine.open_containers.get(self.id)
        return opened if opened is not None and opened.container.uid == self.uid else None

    def read_current(self) -> Record:
        """Read the record. Raises ContainerNotFound if the container is deleted, also if its id has another owner."""
        return self.directory.read_own(self.uid) if self.uid else self.directory.read()

    def of(self, record: Record) -> ContainerRef:
        """Return a reference to the container that this record is of."""
        return self if record.uid == self.uid else ContainerRef(self.engine, self.directory, record.uid)

    async def change(self, change: Callable[[Record], None]) -> Record:
        """Read, change and replace the record under its lock, and return it. Raises ContainerNotFound."""
        return await self.directory.change(self.uid, change)

    def publish(self, *events: NewEvent, unless_since: Position | None = None) -> None:
        """Append events to the journal, as `Journal.append` describes. Raises StoreError."""
        self.engine.store.journal.append(self.id, self.uid, *events, unless_since=unless_since)

    def published(self, since: Position) -> Iterator[Event]:
        """Return the events of this container that stand in the journal after `since`."""
        return self.engine.store.journal.about(self.uid, since)


class OpenContainer:
    """What the engine has open of one container. Owned by `EngineState.open_containers`."""

    def __init__(self, container: ContainerRef, system: ComputeSystem, since: Position) -> None:
        self.container = container
        self.system = system
        self.since = since  # in the journal, the end of a container that had not ended yet stands after this
        self.ours = False  # started by this engine, which is the first to know of its end
        self.seen = False  # the end of init was seen, and is being settled and recorded
        self.unrecorded: SystemEnd | None = None  # its end, while that cannot be recorded
        self.start_published = False  # by this engine; the record may not say so yet
        self.starting: asyncio.Future[None] | None = None  # while we start it
        self.watcher: asyncio.Task[Exit] | None = None
        self.output: asyncio.Task[None] | None = None  # writes its log, where the service does not
        self.process: Process | None = None  # init, as users hold it


class Operation:
    """A call that is running. Closing the engine cancels it, and it raises EngineClosed then."""

    def __init__(self, engine: EngineState) -> None:
        self._state = engine
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._ended = False
        self.done = asyncio.Event()

    async def __aenter__(self) -> ComputeService:
        service = await self._state.open()
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._state.operations.add(self)
        return service

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state.operations.discard(self)
        self.done.set()
        if isinstance(error, OSError) and not isinstance(error, (LongshoreError, TimeoutError)):
            # any call on a file may fail; this is for those that the code nearer to it gives no words
            where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, (str, bytes)) else ""
            raise StoreError(
                f"cannot use the state directory: {error.strerror or error}{where}", hint=next_step(error)
            ) from error
        if self._ended:
            assert self._task is not None
            # as asyncio.timeout does: a cancellation by other code stays one
            if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise EngineClosed from None

    def end(self) -> None:
        """The engine is being closed."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._ended = True
            self._task.cancel()


class EngineState:
    """The state of one engine. The other modules of this folder work on it."""

    def __init__(
        self,
        store: Store,
        make_service: Callable[[], ComputeService],
        on_open: Callable[[EngineState], Awaitable[None]],
        limits: Limits = USUAL,
    ) -> None:
        self.store = store
        self.limits = limits
        self._make_service = make_service
        self._on_open = on_open
        self._service: ComputeService | None = None
        self._opening: asyncio.Future[None] | None = None
        self._ready = False
        self._pid = os.getpid()
        self.standard = Placeholders()  # from `open` to the end of `close`
        self.closed = False
        self.lease: OwnerLease | None = None
        self.open_containers: dict[str, OpenContainer] = {}
        self.being_opened: dict[str, asyncio.Task[OpenContainer]] = {}
        # by uid: finding out the end of a container that cannot be opened
        self.gone: dict[str, asyncio.Task[Exit]] = {}
        # by uid: publishing what dead programs have done and not published
        self.publishing: dict[str, asyncio.Task[None]] = {}
        self.owned: dict[str, tuple[ContainerRef, Owner]] = {}  # by uid: the containers that are ended with this engine
        self.half_made: list[ContainerDir] = []  # their creation failed, and could not be undone either
        self.processes: set[Process] = set()  # execs that this engine started, and that have not ended
        self.followed: set[Process] = set()  # all processes that a task gives their result to
        # exits that could not be written yet: what records each
        self.unrecorded: dict[str, Callable[[], Awaitable[object]]] = {}
        self.operations: set[Operation] = set()
        self.descriptors = Descriptors(lambda: len(self.open_containers))
        self.subscriptions: set[Callable[[], None]] = set()  # what ends each
        self.trash_left = False  # a deletion failed after the container was gone: the rest is for the next occasion
        self._tasks: set[asyncio.Task[Any]] = set()

    async def empty_trash(self, *, again: bool = False) -> None:
        """Complete deletions that were interrupted or failed, as `store.trash.empty_trash` describes."""
        self.trash_left = False  # before the work: a deletion that fails meanwhile sets it again
        if await empty_trash(self.store, again=again):
            self.trash_left = True

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made the engine."""
        return self._pid != os.getpid()

    @property
    def ready(self) -> bool:
        """Whether the store is open."""
        return self._ready

    @property
    def service(self) -> ComputeService:
        """The service, once `open` has returned."""
        assert self._service is not None
        return self._service

    @property
    def has_service(self) -> bool:
        return self._service is not None

    async def open(self) -> ComputeService:
        """Open the store, clean up after dead owners, and return the service. Every call begins here."""
        if self.forked:
            raise EngineClosed("this engine belongs to another process: it must not be used after a fork")
        if self.closed:
            raise EngineClosed
        self.standard.hold()  # each time: the program may make itself a daemon between two calls
        while not self._ready:
            if self._opening is not None:
                await asyncio.wait((self._opening,))
                continue
            fork_safety.works_in(asyncio.get_running_loop())
            self._opening = asyncio.get_running_loop().create_future()
            try:
                self.store.open()
                if self._service is None:
                    self._service = self._make_service()
                await self._on_open(self)
                self._ready = True
            finally:
                self._opening.set_result(None)
                self._opening = None
        return self.service

    def operation(self) -> Operation:
        """`async with engine.operation() as service:` around everything that a user can call."""
        return Operation(self)

    async def hold_lease(self) -> OwnerLease:
        """Put the lease of this engine in force, and return it."""
        if self.lease is None:
            self.lease = OwnerLease(self.store, self.service)
        return await self.lease.hold()

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task that this engine owns. It is ended by `end_tasks` at the latest."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def record_later(self, what: str, record: Callable[[], Awaitable[object]]) -> None:
        """Record an exit later that could not be recorded when it was seen, because the disk is full.

        `record` raises StoreError or OSError while that does not work. It is called now and then, since no event tells
        that there is room again, and a last time when the engine is closed.
        """
        if not self.unrecorded:
            self.spawn(self._record_later(), "record ends that could not be recorded")
        self.unrecorded[what] = record

    async def _record_later(self) -> None:
        pause, longest = RECORD_AGAIN
        while self.unrecorded:
            await asyncio.sleep(pause)
            await self.record_now()
            pause = min(2 * pause, longest)

    async def record_now(self) -> None:
        """Try once more to record the exits that could not be. Those that still cannot stay in `unrecorded`."""
        for what, record in list(self.unrecorded.items()):
            with suppress(StoreError, OSError):
                await record()
                self.unrecorded.pop(what, None)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: callers that wait get it, and often there are none

    async def end_tasks(self) -> None:
        """Cancel the tasks of this engine, and wait for them."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def end_operations(self) -> None:
        """Cancel every call that is running, and wait until each has undone what it has to."""
        pending = list(self.operations)
        for operation in pending:
            operation.end()
        for operation in pending:
            try:
                async with asyncio.timeout(self.limits.end):
                    if operation in self.operations:
                        await operation.done.wait()
            except TimeoutError:
                log.warning("closing the engine: a call did not end within %g s", self.limits.end)
