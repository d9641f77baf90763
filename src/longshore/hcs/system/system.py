"""One container on Windows: a compute system of the Host Compute Service (HCS), and its verbs.

HCS is a Windows service. Programs call it through `vmcompute.dll`. A *compute system* is what longshore calls a
container: processes of this machine behind a wall (a silo), or a utility VM with a kernel of its own (Hyper-V
isolation). These facts shape this file:

- A system is created from a JSON document and has a name, the id. A program holds it by a *handle*. Any program with
  enough rights may open another handle by the id. The system lives on when handles are closed, unless its document asks
  to end with the last handle. longshore asks for that where a container belongs to its caller.
- Many verbs are only begun by their call. The call returns "pending", and a *notification* on a thread of the service
  says later how the verb ended. So the notification is expected before the call is made (`_verb`, notifications.py).
  The same callback says that the system exited, or that the connection to the service was lost.
- A started system runs nothing of the user's. `start` therefore starts the system, then creates init in it. A process
  has a handle and notifications of its own (process.py).
- The end of init does not end the system. Windows runs services inside, and the system waits for more processes. When
  init has ended, `settle` asks the service for what is to be told of the end, shuts the system down, and terminates it
  if that takes too long. When the system ends, its processes end with it.
- Shutdown is a request to the programs inside. The service may answer only when the system has ended, or never. Such a
  call is a *request* here: it is awaited for a short time only, and later calls must not wait for it on the same handle
  (dll/calls.py). Terminate kills.
- Calls block. They run in threads. A caller that stops waiting does not stop the call, and a handle is closed only
  after the last call that uses it.
- If the service is restarted, all handles become useless, but the systems may run on. So a useless handle never means
  that a system has ended. Only its id tells (by_id.py). ending.py keeps these facts apart.
- Only utility VMs can be paused (pausing.py). Limits cannot be changed in a running system. Streams are pipes of the
  program that created the process, and no other program can attach to them.

service.py creates and finds systems. launch.py creates and finds their processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from ...aio.tasks import shielded
from ...compute.limits import Limits
from ...compute.values import INIT, Place, ProcessInfo, Stats, Stdio, SystemEnd
from ...errors import InvalidSpec, InvalidState, LongshoreError, NotSupported, ServiceError, TimeLimit
from ...exit_record import Exit
from ...spec import ProcessSpec, Resources, Spec
from ...typed_json import decode_json
from ..dll.calls import Handle
from ..dll.hresults import (
    NO_ANSWER,
    HcsError,
)
from ..dll.vmcompute import System
from ..schema1 import documents, translate
from . import by_id, launch, layers, properties
from .ending import Ending
from .lease_records import LeaseRecords
from .notifications import OF_SYSTEMS, End, Type, Watch, completed, wait_for_exit
from .pausing import Pausing
from .process import ANSWER_LIMIT, CONTROL, HcsProcess, ProcessToken
from .session import Session

log = logging.getLogger("longshore.hcs")

NO_UPDATE = "Windows cannot change the limits of a running container (schema 1)"
NO_PAUSE = "the container has process isolation, and Windows pauses only utility VMs"
NO_INPUT = "the streams of a container end with the program that started it"
USE_HYPERV = "create it with Hyper-V isolation, or use `stop`"
CREATE_ANOTHER = "create another container: each starts once"
NEW_LIMITS = "set limits when it is created"


class SystemToken(msgspec.Struct, kw_only=True):
    """What finds a container again, with the facts that the service does not give."""

    id: str
    hyperv: bool = False
    scratch: layers.Scratch | None = None  # a layer that was made for the container
    init: ProcessToken | None = None  # set by start


class HcsSystem:
    """One container: a compute system."""

    def __init__(
        self,
        session: Session,
        token: SystemToken,
        place: Place,
        spec: Callable[[], Spec],
        *,
        records: LeaseRecords,
        stdio: Stdio | None = None,
        on_close: Callable[[HcsSystem], None],
    ) -> None:
        self.id = token.id
        self.place = place
        self.init: HcsProcess | None = None
        self.watch = Watch(asyncio.get_running_loop(), OF_SYSTEMS)
        self.handle: Handle[System] | None = None
        self._session = session
        self._identity = token
        self._spec = spec
        self._records = records
        self._stdio = stdio
        self._on_close = on_close
        self._processes: set[HcsProcess] = set()
        self._pausing = Pausing(session, self.watch, self.id, self._verb)
        self._started = token.init is not None
        self._ending = Ending(session, self)
        self._settled: SystemEnd | None = None
        self._deleted = False
        self.watch.ended.add_done_callback(self._on_end)

    # what it is

    @property
    def token(self) -> bytes:
        return msgspec.json.encode(self._identity)

    @property
    def is_paused(self) -> bool:
        """Whether the system is paused, as far as the service has told us."""
        return self._pausing.is_paused

    @property
    def over(self) -> bool:
        """Whether init, or the whole system, has ended."""
        init = self.init
        return self._ending.is_down or self._ending.has_exited or (init is not None and init.ending)

    @property
    def terminating(self) -> bool:
        """Whether the service was asked to terminate the system."""
        return self._ending.is_terminating

    @property
    def hyperv(self) -> bool:
        """Whether the system is a utility VM, with a clock and pids of its own."""
        return self._identity.hyperv

    def _on_end(self, ended: asyncio.Future[End]) -> None:
        if ended.result().type is not None:
            self._pausing.is_paused = False
            for process in self.all_processes():
                process.system_ended()

    def note_lost(self) -> None:
        """Note that the service has no such system any more."""
        self._ending.note_lost()

    def all_processes(self) -> list[HcsProcess]:
        """Return the processes that are held here."""
        return [*self._processes, *([self.init] if self.init is not None else [])]

    def has_open_request(self) -> bool:
        """Return whether a request to the system or to one of its processes waits for an answer.

        Other calls on the same handle would wait for that answer, too.
        """
        handles = [self.handle, *(process.handle for process in self.all_processes())]
        return any(handle is not None and handle.has_open_request for handle in handles)

    def open_handle(self, operation: str) -> Handle[System]:
        """Return the handle for an operation.

        Raises: InvalidState if the system is gone.
        """
        if self.handle is None or self.handle.closing:
            raise InvalidState(operation, self.id, "stopped", hint=CREATE_ANOTHER)
        return self.handle

    async def _verb(self, operation: str, type: Type, verb: Callable[[System], bool], limit: float) -> None:
        """Call a verb that may be pending, and wait for its notification."""
        handle = self.open_handle(operation)
        expected = self.watch.expect(type)
        try:
            async with asyncio.timeout(limit):
                if not await handle.call(operation, verb):
                    await completed(expected, operation, self.id, limit)
        except TimeoutError as error:
            if isinstance(error, TimeLimit):
                raise
            raise TimeLimit(f"the request to {operation} container `{self.id}`", limit, hint=NO_ANSWER) from None
        finally:
            expected.cancel()

    # starting

    async def start(self) -> HcsProcess:
        handle = self.open_handle("start")
        if self._started:
            raise InvalidState("start", self.id, "started already", hint=CREATE_ANOTHER)
        self._started = True
        assert self._stdio is not None
        session = self._session
        config = translate.init_process(self._spec())
        try:
            await self._verb(
                "start", Type.SYSTEM_START_COMPLETED, session.vmcompute.start_compute_system, session.limits.default
            )
            init = await launch.create(session, self, handle, config, self._stdio, keep_open=True)
            if translate.options(self._spec()).servicing:
                await self._serviced(init)
        except BaseException:
            await shielded(self._undo_start())
            raise
        self.init = init
        self._identity = msgspec.structs.replace(self._identity, init=init.identity)
        if self._ending.has_exited:
            init.system_ended()
        return init

    async def _undo_start(self) -> None:
        """Terminate the system after a failed start, wait for its end, and close it."""
        try:
            await self._ending.terminate_and_wait(self._session.limits.terminate)
        except LongshoreError as error:
            log.warning("the start of container `%s` failed, and it could not be terminated: %s", self.id, error)
        await self._release()

    async def _serviced(self, init: HcsProcess) -> None:
        """Wait until a servicing container has done its work.

        Its process must exit with 0, and then the system must exit by itself.
        """
        self.init = init
        exit = await init.wait()
        if exit.code != 0:
            how = "with an unknown exit code" if exit.code is None else f"with exit code {exit.code}"
            raise ServiceError("service", self.id, f"its process ended {how}", hint="read its output")
        await wait_for_exit(self.watch, "service", self.id, self._session.limits.servicing)
        await self._release()

    async def _close_handle(self) -> None:
        self._ending.is_down = True
        if self.handle is not None:
            await self.handle.close()
        for process in self.all_processes():
            process.system_ended()

    # further processes

    async def exec(self, process: ProcessSpec, stdio: Stdio, name: str, place: Place) -> HcsProcess:
        handle = self.open_handle("exec in")
        if self.is_paused:
            raise InvalidState("exec in", self.id, "paused", hint="resume it first")
        if not self._started or self.over:
            state, hint = ("stopped", CREATE_ANOTHER) if self._started else ("created, not started", "start it first")
            raise InvalidState("exec in", self.id, state, hint=hint)
        config = translate.exec_process(process, self._spec())
        made = await launch.create(self._session, self, handle, config, stdio, keep_open=False)
        self._keep(made)
        if place.lease is not None and not made.over:
            lease, id, pid = place.lease.id, self.id, made.pid
            self._records.add_process(lease, id, pid, made.token)
            made.on_end.append(lambda _: self._records.remove_process(lease, id, pid))
        if self._ending.has_exited or self._ending.is_down:
            made.system_ended()
        return made

    async def open_process(self, token: bytes) -> HcsProcess:
        """Find a process by its token. If it ended unseen, its `wait` says so."""
        found = decode_json(token, ProcessToken)
        if self.init is not None and found.pid == self.init.pid:
            return self.init
        made = await self.find_process(found)
        self._keep(made)
        return made

    def _keep(self, process: HcsProcess) -> None:
        if not process.finished:
            if self.terminating:  # the request came while the process was being started
                process.killed_with_system(True)
            self._processes.add(process)
            process.on_over = self._processes.discard

    async def find_process(self, token: ProcessToken, *, keep_open: bool = False) -> HcsProcess:
        """Find a process that another program started."""
        return await launch.find(self._session, self, token, keep_open=keep_open)

    async def attach_stdin(self) -> asyncio.StreamWriter:
        raise NotSupported("attach-stdin", NO_INPUT, hint="use `launch` with stdin=PIPE, or `exec`")

    # ending

    async def shutdown(self, signal: int | None = None) -> None:
        if self.over or self.handle is None or self.handle.closing:
            return
        session, init = self._session, self.init
        word = CONTROL.get(signal) if signal is not None else None
        if word is not None and init is not None and session.vmcompute.has("HcsSignalProcess"):
            try:
                await init.control(word)
                return
            except HcsError as error:
                log.info("container `%s` is asked to shut down: %s", self.id, error)
        await self._ask_to_shut_down(max(ANSWER_LIMIT, session.limits.terminate))

    async def urge(self) -> None:
        await self._ask_to_shut_down(ANSWER_LIMIT)

    async def _ask_to_shut_down(self, limit: float) -> None:
        """Ask the whole system to shut down, and wait up to `limit` seconds for an answer."""
        if self.over or self.handle is None or self.handle.closing:
            return
        await self._ending.ask_to_shut_down(self.handle, limit)

    def is_ending(self) -> bool:
        """Return whether the service has told the end."""
        return self.over

    async def can_receive(self, signal: int) -> bool:
        """Return whether a signal has a receiver: a system that runs can be asked to shut down."""
        return not self.over

    async def terminate(self) -> None:
        for process in self.all_processes():
            process.hurry()
        if self._ending.is_down or self._ending.has_exited or self.handle is None or self.handle.closing:
            return
        await self._ending.terminate(self.handle)

    def settle_limit(self, limits: Limits) -> float:
        own = self._session.limits
        return own.shutdown + 2 * own.terminate  # to ask for pending updates, to shut down, and else to terminate

    async def settle(self, init: Exit, limit: float) -> SystemEnd:
        if self._settled is not None:
            return msgspec.structs.replace(self._settled, exit=init)
        if self.handle is None or self.handle.closing:
            return SystemEnd(exit=init)
        for process in self._processes:
            process.hurry()
        loop = asyncio.get_running_loop()
        end_by = loop.time() + limit
        try:
            pending = await self._updates_pending(min(limit / 4, self._session.limits.terminate))
            error = await self._ending.bring_down(round(end_by - loop.time(), 1))
        finally:
            await shielded(self._release())
        if self.init is not None:
            await self.init.output_copied()
        end = SystemEnd(exit=init, updates_pending=pending, error=error)
        self._settled = end
        return end

    async def _release(self) -> None:
        await self._close_handle()
        if self.init is not None and self.init.handle is not None:
            await self.init.handle.close()

    async def _updates_pending(self, limit: float) -> bool:
        """Return whether servicing left updates to apply. They are reported, never applied."""
        try:
            handle = self.open_handle("read the properties of")
            found = await properties.ask(self._session, handle, self.id, "PendingUpdates", limit=limit)
            return found.are_updates_pending
        except LongshoreError as error:
            log.info("container `%s`: whether updates are pending is not known: %s", self.id, error)
            return False

    async def delete(self) -> None:
        if self._deleted:
            return
        session = self._session
        handle = self.handle
        if handle is not None and not handle.closing:
            if not self._ending.has_exited:
                await self._ending.terminate_for_deletion()
            await self._release()
        if not self._ending.is_stopped:
            await by_id.end(session, self.id, self.place)
            self._ending.is_stopped = True
        waiting = [process.ended for process in self.all_processes() if not process.over]
        if waiting:  # their exits are about to arrive
            await asyncio.wait(waiting, timeout=session.limits.late_exit + ANSWER_LIMIT)
        if self._identity.scratch is not None:
            await layers.remove(session, self._identity.scratch, self.id)
        self._records.forget_system(self.id)
        self._deleted = True

    # the rest

    async def pause(self) -> None:
        self._need_vm("pause")
        await self._pausing.pause()

    async def resume(self) -> None:
        self._need_vm("resume")
        await self._pausing.resume()

    def _need_vm(self, operation: str) -> None:
        if not self._identity.hyperv:
            raise NotSupported(operation, NO_PAUSE, hint=USE_HYPERV)

    async def paused(self) -> bool:
        return self._pausing.may_be

    async def properties(self, *types: str) -> documents.ContainerProperties:
        """Return properties of some types, of a system that runs."""
        return await properties.ask(self._session, self.open_handle("read the properties of"), self.id, *types)

    async def stats(self) -> Stats:
        return properties.stats((await self.properties("Statistics")).statistics)

    async def processes(self) -> list[ProcessInfo]:
        found = await self.properties("ProcessList")
        return [properties.process_info(item) for item in found.process_list or []]

    async def update(self, change: Resources) -> None:
        raise NotSupported("update", NO_UPDATE, hint=NEW_LIMITS)

    def drop_streams(self) -> None:
        """Close the pipes of its processes."""
        for process in self.all_processes():
            process.drop_streams()

    async def connect(self, endpoint: str) -> None:
        await self._change_endpoint("Add", endpoint)

    async def disconnect(self, endpoint: str) -> None:
        await self._change_endpoint("Remove", endpoint)

    async def _change_endpoint(self, request_type: str, endpoint: str) -> None:
        if not endpoint or "\0" in endpoint:
            raise InvalidSpec("endpoint", f"{endpoint!r} is not the id of an endpoint")
        request = documents.ModifyRequest(resource_type="Network", request_type=request_type, settings=endpoint)
        modify = self._session.vmcompute.modify_compute_system
        operation = f"{request_type.lower()} the endpoint {endpoint} of"
        call = self.open_handle(operation).call(operation, modify, documents.encode(request))
        await self._session.answer(operation, self.id, call)

    async def close(self) -> None:
        self._on_close(self)
        self.watch.close()
        for process in self.all_processes():
            await process.close()
        if self.handle is not None:
            await self.handle.close()


__all__ = ["INIT", "HcsSystem", "SystemToken"]
