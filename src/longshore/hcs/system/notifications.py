"""Bring notifications from the threads of the service to the event loop and its waiters.

The service calls back on threads of its own, at any time, also while we unregister. Such a thread only looks up the
number that it was given, and passes type and status to the loop. It never calls the service, and no exception may leave
it. Numbers that are gone and unknown types are ignored.

A `Watch` belongs to one handle. Several callers may wait for one notification. They also wake when the system exits,
when the service is lost, and when the handle is closed.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import itertools
import logging
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

from ...aio.tasks import close_engines
from ...errors import EngineClosed, LongshoreError, TimeLimit
from ..dll.hresults import NO_ANSWER, SERVICE_DISCONNECT, UNEXPECTED_EXIT, HcsError, failed, normal
from ..dll.vmcompute import NotificationCallback

log = logging.getLogger("longshore.hcs")

T = TypeVar("T")

REGISTER_LIMIT = 2.0  # seconds that the interpreter's end waits for registrations that are just being made


class Type(IntEnum):
    """The notifications that longshore waits for. There are more."""

    SYSTEM_EXITED = 0x00000001
    SYSTEM_CREATE_COMPLETED = 0x00000002
    SYSTEM_START_COMPLETED = 0x00000003
    SYSTEM_PAUSE_COMPLETED = 0x00000004
    SYSTEM_RESUME_COMPLETED = 0x00000005
    PROCESS_EXITED = 0x00010000
    SERVICE_DISCONNECT = 0x01000000


OF_SYSTEMS = frozenset(type for type in Type if type is not Type.PROCESS_EXITED)
OF_PROCESSES = frozenset({Type.PROCESS_EXITED, Type.SERVICE_DISCONNECT})
"""The notifications of each kind of handle. Notifications of the other kind are ignored."""

_ENDS = {Type.SYSTEM_EXITED, Type.PROCESS_EXITED, Type.SERVICE_DISCONNECT}


class End(NamedTuple):
    """How the watching of a handle ended: its system or process exited, the service was lost, or it was closed."""

    type: Type | None  # None: closed
    status: int = 0  # from the service: an HRESULT, 32 unsigned bits

    @property
    def error(self) -> LongshoreError | None:
        """The error for callers that waited for another notification. `about` adds their operation."""
        if self.type is None:
            return EngineClosed("the handle was closed during the call")
        if self.type is Type.SERVICE_DISCONNECT:
            return HcsError("wait for a notification", None, SERVICE_DISCONNECT)
        return HcsError("wait for a notification", None, UNEXPECTED_EXIT)


class Watch:
    """The notifications of one handle: only the types of its kind. Lives on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, types: Collection[int]) -> None:
        self.loop = loop
        self._types = types
        self.ended: asyncio.Future[End] = loop.create_future()
        self._expected: dict[int, list[asyncio.Future[int]]] = {}
        self._listeners: dict[int, Callable[[int], None]] = {}

    def on(self, type: Type, call: Callable[[int], None]) -> None:
        """Call `call` with the status of each notification of a type, in addition to its waiters."""
        self._listeners[type] = call

    def deliver(self, type: int, status: int) -> None:
        """Deliver a notification, on the loop. Ignore one of a type that this kind of handle does not have."""
        if type not in self._types:
            log.info(
                "a notification of type 0x%X is unknown, or belongs to another kind of handle; it is ignored", type
            )
            return
        for future in self._expected.pop(type, ()):
            if not future.done():
                future.set_result(status)
        listener = self._listeners.get(type)
        if listener is not None:
            listener(status)
        if type in _ENDS:
            self._end(End(Type(type), status))

    def close(self) -> None:
        """Wake all waiters: no notification will come any more."""
        self._end(End(None))

    def _end(self, end: End) -> None:
        if not self.ended.done():
            self.ended.set_result(end)
        # a completion that came before has woken its waiters already
        expected, self._expected = self._expected, {}
        for futures in expected.values():
            for future in futures:
                if not future.done():
                    error = end.error
                    assert error is not None
                    future.set_exception(error)
                    future.exception()  # mark it as retrieved: there may be no waiter

    def expect(self, type: Type) -> asyncio.Future[int]:
        """Return the future of the next notification's status. Call it before the call that causes the notification."""
        future: asyncio.Future[int] = self.loop.create_future()
        if self.ended.done():
            error = self.ended.result().error
            assert error is not None
            future.set_exception(error)
            future.exception()
        else:
            self._expected.setdefault(type, []).append(future)
        return future


async def completed(expected: asyncio.Future[int], operation: str, container_id: str, limit: float) -> None:
    """Wait for a completion.

    Raises: HcsError if it failed, the system exited, or the service was lost; TimeLimit after `limit` seconds.
    """
    done, _ = await asyncio.wait((expected,), timeout=limit)
    if not done:
        expected.cancel()
        raise TimeLimit(f"the request to {operation} container `{container_id}`", limit, hint=NO_ANSWER)
    try:
        status = expected.result()
    except HcsError as error:
        raise error.about(operation, container_id) from None
    if failed(status):
        raise HcsError(operation, container_id, normal(status))


async def wait_for_exit(watch: Watch, operation: str, container_id: str, limit: float) -> None:
    """Wait until the system of a watch has exited.

    Raises: HcsError if it exited with an error; TimeLimit after `limit` seconds.
    """
    await asyncio.wait((watch.ended,), timeout=limit)
    if not watch.ended.done():
        raise TimeLimit(f"the request to {operation} container `{container_id}`", limit, hint=NO_ANSWER)
    end = watch.ended.result()
    if end.type is not Type.SYSTEM_EXITED:
        error = end.error
        assert error is not None
        raise error.about(operation, container_id) if isinstance(error, HcsError) else error
    if failed(end.status):
        raise HcsError(operation, container_id, normal(end.status))


class _Registration:
    """One registration, which is undone once."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo = undo
        self._lock = threading.Lock()
        self._undone = False

    def undo(self) -> None:
        """Undo it, or wait for the thread that does."""
        with self._lock:
            if not self._undone:
                self._undo()
                self._undone = True


class Notifications:
    """The callback of this program, and the watches by number.

    One program has one, `NOTIFICATIONS`. The service may call back as long as a registration is left, for example that
    of an engine that was never closed. So the callback must not be freed.
    """

    def __init__(self) -> None:
        self._watches: dict[int, Watch] = {}
        self._numbers = itertools.count(1)
        self._registrations: dict[int, _Registration] = {}
        self._closers: dict[int, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._registering = 0  # registering calls that are under way
        self._ending = False
        self.callback = NotificationCallback(self._on_notification)

    def add(self, watch: Watch) -> int:
        """Return a number for a watch: the context of its registration."""
        number = next(self._numbers)
        self._watches[number] = watch
        return number

    def register(self, number: int, register: Callable[[Any, int], T], unregister: Callable[[T], None]) -> None:
        """Register a number with the service, by `register(callback, number)`. Blocks.

        The registration is stored by this thread, because the program may end before the loop gets the result.

        Raises: EngineClosed once the program ends.
        """
        with self._changed:
            if self._ending:
                raise EngineClosed("this program is ending")
            self._registering += 1
        try:
            registration = register(self.callback, number)
            self._registrations[number] = _Registration(lambda: unregister(registration))
        finally:
            with self._changed:
                self._registering -= 1
                self._changed.notify_all()

    def unregister(self, number: int) -> None:
        """Unregister a number; no notification of it is under way afterwards. Idempotent. Blocks."""
        registration = self._registrations.get(number)
        if registration is not None:
            registration.undo()
            self._registrations.pop(number, None)

    def close_at_exit(self, number: int, close: Callable[[], None]) -> None:
        """Call `close` at the interpreter's end, unless `remove` comes first."""
        self._closers[number] = close

    def remove(self, number: int) -> None:
        """Forget a number whose registration was undone. Before that, notifications may still come."""
        self._watches.pop(number, None)
        self._closers.pop(number, None)

    def _on_notification(self, type: int, context: int | None, status: int, data: int | None) -> None:
        """Handle a notification, on a thread of the service."""
        try:
            watch = self._watches.get(context or 0)
            if watch is None:
                return
            if data and log.isEnabledFor(logging.DEBUG):  # a crash report, for example; freed when we return
                log.debug("notification 0x%X says: %s", type, ctypes.wstring_at(data))
            watch.loop.call_soon_threadsafe(watch.deliver, type, status & 0xFFFFFFFF)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more
        except Exception:  # no exception may reach the thread of the service
            log.exception("a notification was lost")

    def close_all(self) -> None:
        """Undo every registration: threads of the service must not call an interpreter that is gone.

        A handle that a call still uses is unregistered, too, and is closed by the end of the process.
        """
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: not self._registering, REGISTER_LIMIT)
        for number in list(self._registrations):
            with suppress(Exception):
                self.unregister(number)
        for close in list(self._closers.values()):
            with suppress(Exception):
                close()


NOTIFICATIONS = Notifications()


@atexit.register
def _at_exit() -> None:
    try:
        close_engines()
    finally:
        NOTIFICATIONS.close_all()
