"""One container of HCS: its verbs, after it was made. What makes and finds it stands in service.py."""

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
    ENDED,
    GONE,
    INVALID_HANDLE,
    SERVICE_DISCONNECT,
    STOPPED,
    HcsError,
    failed,
    meaning,
    normal,
    same,
)
from ..dll.vmcompute import System, Vmcompute
from ..schema1 import documents, translate
from . import launch, layers, properties
from .lease_records import CreationRecord, LeaseRecords
from .notifications import OF_SYSTEMS, End, Type, Watch, completed
from .process import ANSWER_LIMIT, CONTROL, HcsProcess, ProcessToken
from .session import Session

log = logging.getLogger("longshore.hcs")

NO_UPDATE = "Windows cannot change the limits of a running container (schema 1)"
NO_PAUSE = "it is isolated by process, and Windows pauses only utility VMs"
NO_INPUT = "the streams of a container end with the program that started it"
USE_HYPERV = "create it with Hyper-V isolation, or use `stop`"
NEW_LIMITS = "set limits when it is created"


class SystemToken(msgspec.Struct, kw_only=True):
    """What finds a container again, and what must be known of it then."""

    id: str
    hyperv: bool = False
    scratch: layers.Scratch | None = None  # a layer that was made for it
    init: ProcessToken | None = None  # once it was started


class HcsSystem:
    """One container."""

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
        self._paused = False
        self._unwanted_pause = False  # one that was given up, and may still come
        self._may_be_paused = False  # and was not taken back
        self._taking_back: asyncio.Task[None] | None = None
        self._started = token.init is not None
        self._terminating = False
        self._stopped = False  # the service says so; the loss of the service says nothing
        self._settled: SystemEnd | None = None
        self._down = False  # the system is gone, or is to be taken for gone
        self._deleted = False
        self.watch.on(Type.SYSTEM_PAUSE_COMPLETED, self._on_paused)
        self.watch.on(Type.SYSTEM_RESUME_COMPLETED, self._on_resumed)
        self.watch.on(Type.SYSTEM_EXITED, self._on_exited)
        self.watch.ended.add_done_callback(self._on_end)

    # what it is

    @property
    def token(self) -> bytes:
        return msgspec.json.encode(self._identity)

    @property
    def is_paused(self) -> bool:
        """Whether it was paused, as far as we were told."""
        return self._paused

    @property
    def over(self) -> bool:
        """Whether init, or all of it, has ended."""
        init = self.init
        return self._down or self._exited or (init is not None and init.ending)

    @property
    def terminating(self) -> bool:
        """Whether it was asked to terminate."""
        return self._terminating

    @property
    def hyperv(self) -> bool:
        """Whether it has a utility VM, with a clock and pids of its own."""
        return self._identity.hyperv

    @property
    def _exited(self) -> bool:
        return self.watch.ended.done() and self.watch.ended.result().type is not None

    def _on_exited(self, status: int) -> None:
        self._stopped = True

    def _on_paused(self, status: int) -> None:
        self._paused = self._paused or not failed(status)
        if self._unwanted_pause and not failed(status):
            self._unwanted_pause = False
            self._session.spawn(self._resume(self._session.limits.terminate), f"resuming container `{self.id}`")

    def _on_resumed(self, status: int) -> None:
        self._paused = self._paused and failed(status)

    def _on_end(self, ended: asyncio.Future[End]) -> None:
        if ended.result().type is not None:
            self._paused = False
            for process in self._all():
                process.system_ended()

    def _all(self) -> list[HcsProcess]:
        return [*self._processes, *([self.init] if self.init is not None else [])]

    def has_open_request(self) -> bool:
        """Whether a word to it, or to a process in it, is under way: others would wait for its answer."""
        handles = [self.handle, *(process.handle for process in self._all())]
        return any(handle is not None and handle.has_open_request for handle in handles)

    def _open(self, operation: str) -> Handle[System]:
        """The handle, to do something with it. InvalidState once there is nothing left."""
        if self.handle is None or self.handle.closing:
            raise InvalidState(operation, self.id, "stopped")
        return self.handle

    async def _verb(self, operation: str, type: Type, verb: Callable[[System], bool], limit: float) -> None:
        """A call that may be pending, and its completion."""
        handle = self._open(operation)
        expected = self.watch.expect(type)
        try:
            async with asyncio.timeout(limit):
                if not await handle.call(operation, verb):
                    await completed(expected, operation, self.id, limit)
        except TimeoutError as error:
            if isinstance(error, TimeLimit):
                raise
            raise TimeLimit(f"{operation} of container `{self.id}`", limit, hint="the service did not answer") from None
        finally:
            expected.cancel()

    # starting

    async def start(self) -> HcsProcess:
        handle = self._open("start")
        if self._started:
            raise InvalidState("start", self.id, "started already")
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
        if self._exited:
            init.system_ended()
        return init

    async def _undo_start(self) -> None:
        """A start that failed: terminated, waited for, closed."""
        try:
            await self._terminate_and_wait(self._session.limits.terminate)
        except LongshoreError as error:
            log.warning("container `%s`, whose start failed, could not be terminated: %s", self.id, error)
        await self._release()

    async def _terminate_and_wait(self, limit: float) -> None:
        """TimeLimit after `limit` seconds, HcsError if it is refused; as `_wait_for_exit` if not."""

        async def terminate() -> None:
            try:
                done = await self._open("terminate").call("terminate", self._session.vmcompute.terminate_compute_system)
            except HcsError as error:
                if not await self._says_ended(error):
                    raise
                self._is_stopped()
                return
            self._terminating = True
            if not done:
                await self._wait_for_exit("terminate", limit)

        await self._session.answer("terminate", self.id, terminate(), limit)

    async def _wait_for_exit(self, operation: str, limit: float, watch: Watch | None = None) -> None:
        """Return when the system has exited. HcsError if it did so badly, TimeLimit after `limit` seconds."""
        watch = watch or self.watch
        await asyncio.wait((watch.ended,), timeout=limit)
        if not watch.ended.done():
            raise TimeLimit(f"{operation} of container `{self.id}`", limit, hint="the service did not complete it")
        end = watch.ended.result()
        if end.type is not Type.SYSTEM_EXITED:
            error = end.error
            assert error is not None
            raise error.about(operation, self.id) if isinstance(error, HcsError) else error
        if failed(end.status):
            raise HcsError(operation, self.id, normal(end.status))

    async def _serviced(self, init: HcsProcess) -> None:
        """A servicing container has done its work when its process has ended well, and the system by itself."""
        self.init = init
        exit = await init.wait()
        if exit.code != 0:
            code = "is not known" if exit.code is None else f"is {exit.code}"
            raise ServiceError("servicing", self.id, f"the exit code of its process {code}")
        await self._wait_for_exit("servicing", self._session.limits.servicing)
        await self._release()

    def lost(self) -> None:
        """The service has no such system any more."""
        self._down = self._stopped = True

    async def _says_ended(self, refusal: HcsError) -> bool:
        """Return whether what the service refused means that there is nothing to end: it stopped, or is gone.

        A handle that is not valid any more says nothing by itself: the system is then looked for by its id.
        """
        if not same(refusal.code or 0, (INVALID_HANDLE,)):
            return same(refusal.code or 0, ENDED)
        session, vm = self._session, self._session.vmcompute
        try:
            opening = session.threads.call(vm.open_compute_system, self.id)
            value = await session.make("open", self.id, opening, vm.close_compute_system)
        except LongshoreError as error:
            return isinstance(error, HcsError) and same(error.code or 0, GONE)
        await shielded(session.threads.call(vm.close_compute_system, value, or_here=True))
        return False

    def _is_stopped(self) -> None:
        """The service says that it has ended: the ends of its processes are told now, or never."""
        self._stopped = True
        for process in self._all():
            process.system_ended()

    async def _close_handle(self) -> None:
        self._down = True
        if self.handle is not None:
            await self.handle.close()
        for process in self._all():
            process.system_ended()

    # further processes

    async def exec(self, process: ProcessSpec, stdio: Stdio, name: str, place: Place) -> HcsProcess:
        handle = self._open("exec in")
        if self._paused:
            raise InvalidState("exec in", self.id, "paused", hint="resume it first")
        if not self._started or self.over:
            raise InvalidState("exec in", self.id, "stopped" if self._started else "created, not started")
        config = translate.exec_process(process, self._spec())
        made = await launch.create(self._session, self, handle, config, stdio, keep_open=False)
        self._keep(made)
        if place.lease is not None and not made.over:
            lease, id, pid = place.lease.id, self.id, made.pid
            self._records.add_process(lease, id, pid, made.token)
            made.on_end.append(lambda _: self._records.remove_process(lease, id, pid))
        if self._exited or self._down:
            made.system_ended()
        return made

    async def open_process(self, token: bytes) -> HcsProcess:
        """A process by its token; one that ended unseen is told so by `wait`."""
        found = decode_json(token, ProcessToken)
        if self.init is not None and found.pid == self.init.pid:
            return self.init
        made = await self.find_process(found)
        self._keep(made)
        return made

    def _keep(self, process: HcsProcess) -> None:
        if not process.finished:
            if self._terminating:  # it was being started then
                process.killed_with_system(True)
            self._processes.add(process)
            process.on_over = self._processes.discard

    async def find_process(self, token: ProcessToken, *, keep_open: bool = False) -> HcsProcess:
        """A process that somebody started."""
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
        """Ask the system as a whole, and wait for its answer so long."""
        if self.over or self.handle is None or self.handle.closing:
            return
        session = self._session
        call = self.handle.request("shutdown", session.vmcompute.shutdown_compute_system)
        try:
            await session.ask(call, limit)
        except HcsError as error:
            if not await self._says_ended(error):
                raise
            self._is_stopped()

    def is_ending(self) -> bool:
        """Whether the service told its end."""
        return self.over

    async def can_receive(self, signal: int) -> bool:
        """A system can always be asked to shut down."""
        return not self.over

    async def terminate(self) -> None:
        for process in self._all():
            process.hurry()
        if self._down or self._exited or self.handle is None or self.handle.closing:
            return
        session = self._session
        before, self._terminating = self._terminating, True
        killed = {process: process.killed for process in self._all()}
        for process in killed:
            process.killed_with_system(True)
        try:
            call = self._terminating_call(self.handle)
            await session.answer("terminate", self.id, call, session.limits.terminate)
        except TimeLimit:  # it was asked for all the same
            raise
        except LongshoreError as error:
            for process, was in killed.items():
                process.killed_with_system(was)
            if isinstance(error, HcsError) and await self._says_ended(error):
                self._is_stopped()
                return
            self._terminating = before
            raise

    async def _terminating_call(self, handle: Handle[System]) -> bool:
        """Terminate it: by a handle of its own where a word on ours may last as long as the system does."""
        session = self._session
        if not self.has_open_request():
            return await handle.call("terminate", session.vmcompute.terminate_compute_system)
        try:
            return await session.threads.call(_terminate_apart, session.vmcompute, self.id)
        except HcsError as error:
            raise error.about("terminate", self.id) from error

    def settle_limit(self, limits: Limits) -> float:
        own = self._session.limits
        return own.shutdown + 2 * own.terminate  # to ask what is pending, to shut down, and else to terminate

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
            error = await self._bring_down(round(end_by - loop.time(), 1))
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
        """What servicing left to be applied; to be told, never acted upon."""
        try:
            return (await self._ask(self._open("ask about"), "PendingUpdates", limit=limit)).are_updates_pending
        except LongshoreError as error:
            log.info("container `%s`: whether updates are pending is not known: %s", self.id, error)
            return False

    async def _bring_down(self, limit: float) -> str | None:
        """Shut the system down, or else terminate it, within `limit` seconds. What went wrong, in words."""
        limits = self._session.limits
        for_terminate = min(limits.terminate, limit / 2)
        for_shutdown = min(limits.shutdown, limit - for_terminate)

        async def shut_down() -> None:
            if not await self._open("shut down").call("shutdown", self._session.vmcompute.shutdown_compute_system):
                await self._wait_for_exit("shutdown", for_shutdown)

        try:
            await self._session.answer("shutdown", self.id, shut_down(), for_shutdown)
            return None
        except LongshoreError as error:
            if isinstance(error, HcsError) and same(error.code or 0, STOPPED):
                self._is_stopped()
                return self._bad_exit()
            first = error
        try:
            await self._terminate_and_wait(for_terminate)
        except LongshoreError as error:
            log.warning("container `%s` could not be terminated: %s", self.id, error)
            return f"{first}; then {error}"
        if isinstance(first, HcsError) and same(first.code or 0, ENDED):
            return self._bad_exit()  # it was gone, and there was nothing to shut down
        return str(first)

    def _bad_exit(self) -> str | None:
        """What a system that was down already said when it exited, if that was a failure."""
        if self.watch.ended.done():
            end = self.watch.ended.result()
            if end.type is Type.SYSTEM_EXITED and failed(end.status):
                return f"it exited with {meaning(normal(end.status)).name} (0x{end.status:08X})"
        return None

    async def delete(self) -> None:
        if self._deleted:
            return
        session = self._session
        handle = self.handle
        if handle is not None and not handle.closing:
            if not self._exited:
                await self._terminate_for_deletion()
            await self._release()
        if not self._stopped:
            await self._end_by_id()
        waiting = [process.ended for process in self._all() if not process.over]
        if waiting:  # each is about to be told
            await asyncio.wait(waiting, timeout=session.limits.late_exit + ANSWER_LIMIT)
        if self._identity.scratch is not None:
            await layers.remove(session, self._identity.scratch, self.id)
        self._records.forget_system(self.id)
        self._deleted = True

    async def _terminate_for_deletion(self) -> None:
        """End it, and wait for that. HcsError or TimeLimit if it fails: what may still run is not forgotten."""
        if not self._terminating:
            try:
                await self.terminate()
            except TimeLimit:
                self._terminating = False  # the next try asks again
                raise
            except HcsError as error:
                if same(error.code or 0, (SERVICE_DISCONNECT, INVALID_HANDLE)):
                    return  # of no use any more: it is the caller's to look for the system by its id
                raise
        if self._stopped:
            return
        try:
            await self._wait_for_exit("terminate", self._session.limits.terminate)
        except HcsError:  # it has ended, badly; or the service is lost: that is for the caller to see
            pass
        except TimeLimit:
            self._terminating = False  # the next try asks again
            raise

    async def _end_by_id(self) -> None:
        """End a system whose end nobody has told, and whose handle is closed or was one of a service that was lost.

        Gone is only what cannot be found by its id. HcsError or TimeLimit: it may still run.
        """
        session, vm = self._session, self._session.vmcompute
        try:
            opening = session.threads.call(vm.open_compute_system, self.id)
            value = await session.make("open", self.id, opening, vm.close_compute_system)
        except HcsError as error:
            if not same(error.code or 0, GONE):
                raise error.about("delete", self.id) from error
            self._stopped = True
            return
        watch = Watch(asyncio.get_running_loop(), OF_SYSTEMS)
        handle = await session.watch_system(value, watch, self.id)
        try:
            if await self._is_ours(handle):
                await self._terminate_found(handle, watch)
        finally:
            await shielded(handle.close())
        self._stopped = True

    async def _is_ours(self, handle: Handle[System]) -> bool:
        """Whether a system that has our id has our owner, too: once ours has ended, somebody else may have made it."""
        try:
            owner = CreationRecord.read(self.place).owner
        except (OSError, msgspec.MsgspecError):
            return True  # nothing says that it has another one
        found = (await self._ask(handle)).owner
        return not found or found == owner

    async def _terminate_found(self, handle: Handle[System], watch: Watch) -> None:
        limit = self._session.limits.terminate

        async def terminate() -> None:
            if not await handle.call("terminate", self._session.vmcompute.terminate_compute_system):
                await self._wait_for_exit("terminate", limit, watch)

        try:
            await self._session.answer("terminate", self.id, terminate(), limit)
        except HcsError as error:
            exited = watch.ended.done() and watch.ended.result().type is Type.SYSTEM_EXITED  # though badly
            if not exited and not same(error.code or 0, ENDED):
                raise

    # the rest

    async def pause(self) -> None:
        self._need_vm("pause")
        session = self._session
        verb, limit = session.vmcompute.pause_compute_system, session.limits.default
        work = asyncio.ensure_future(self._pause(verb, limit))
        try:
            await asyncio.shield(work)
        except TimeLimit:
            self._unwanted_pause = self._may_be_paused = True
            if self._taking_back is None or self._taking_back.done():
                name = f"undoing the pause of container `{self.id}`"
                self._taking_back = session.spawn(self._take_pause_back(), name)
            raise
        except asyncio.CancelledError:
            await shielded(self._undo_pause(work))
            raise
        self._paused = True

    async def _pause(self, verb: Callable[[System], bool], limit: float) -> None:
        begin = asyncio.get_running_loop().time()
        await self._taken_back(limit)  # else that would resume what is to be paused now
        self._unwanted_pause = False
        left = max(0.0, begin + limit - asyncio.get_running_loop().time())
        await self._verb("pause", Type.SYSTEM_PAUSE_COMPLETED, verb, left)

    async def _taken_back(self, limit: float) -> bool:
        """Wait so long for an earlier pause to be taken back, if it is being. Whether it was, and succeeded."""
        if self._taking_back is None or self._taking_back.done():
            return False
        await asyncio.wait((self._taking_back,), timeout=limit)
        return not self._may_be_paused

    async def _undo_pause(self, work: asyncio.Future[None]) -> None:
        """What was asked for cannot be taken back: it is waited for, and undone; also if it comes after that."""
        await asyncio.wait((work,), timeout=self._session.limits.terminate)
        self._unwanted_pause = not work.done() or isinstance(work.exception(), TimeLimit)
        self._may_be_paused = self._unwanted_pause
        work.cancel()
        await self._take_pause_back()

    async def _take_pause_back(self) -> None:
        """Resume what may have been paused. Where the service refuses, it stays unknown whether it is paused."""
        try:
            await self._resume(self._session.limits.terminate)
        except LongshoreError as error:
            log.warning("container `%s`: its pause could not be undone: %s", self.id, error)

    async def resume(self) -> None:
        self._need_vm("resume")
        limit = self._session.limits.default
        if not await self._taken_back(limit):
            await self._resume(limit)

    async def _resume(self, limit: float) -> None:
        verb = self._session.vmcompute.resume_compute_system
        await self._verb("resume", Type.SYSTEM_RESUME_COMPLETED, verb, limit)
        self._paused = self._may_be_paused = False

    def _need_vm(self, operation: str) -> None:
        if not self._identity.hyperv:
            raise NotSupported(operation, NO_PAUSE, hint=USE_HYPERV)

    async def paused(self) -> bool:
        return self._paused or self._may_be_paused

    async def properties(self, *types: str) -> documents.ContainerProperties:
        """The properties of some types, of the living system."""
        return await self._ask(self._open("ask about"), *types)

    async def _ask(
        self, handle: Handle[System], *types: str, limit: float | None = None
    ) -> documents.ContainerProperties:
        query = documents.property_query(*types)
        operation = f"asking for {' and '.join(types) or 'the properties'}"
        call = handle.call(operation, self._session.vmcompute.get_compute_system_properties, query)
        text = await self._session.answer(operation, self.id, call, limit)
        return properties.properties(text, ", ".join(types), self.id)

    async def stats(self) -> Stats:
        return properties.stats((await self.properties("Statistics")).statistics)

    async def processes(self) -> list[ProcessInfo]:
        found = await self.properties("ProcessList")
        return [properties.process_info(item) for item in found.process_list or []]

    async def update(self, change: Resources) -> None:
        raise NotSupported("update", NO_UPDATE, hint=NEW_LIMITS)

    def drop_streams(self) -> None:
        """Close the pipes of its processes."""
        for process in self._all():
            process.drop_streams()

    async def connect(self, endpoint: str) -> None:
        await self._change_endpoint("Add", endpoint)

    async def disconnect(self, endpoint: str) -> None:
        await self._change_endpoint("Remove", endpoint)

    async def _change_endpoint(self, request_type: str, endpoint: str) -> None:
        if not endpoint or "\0" in endpoint:
            raise InvalidSpec("endpoint", f"{endpoint!r} is not the id of one")
        request = documents.ModifyRequest(resource_type="Network", request_type=request_type, settings=endpoint)
        modify = self._session.vmcompute.modify_compute_system
        operation = f"{request_type.lower()} the endpoint {endpoint}"
        call = self._open(operation).call(operation, modify, documents.encode(request))
        await self._session.answer(operation, self.id, call)

    async def close(self) -> None:
        self._on_close(self)
        self.watch.close()
        for process in self._all():
            await process.close()
        if self.handle is not None:
            await self.handle.close()


def _terminate_apart(vmcompute: Vmcompute, id: str) -> bool:
    """Terminate a system by a handle of its own. Blocks."""
    system = vmcompute.open_compute_system(id)
    try:
        return vmcompute.terminate_compute_system(system)
    finally:
        vmcompute.close_compute_system(system)


__all__ = ["INIT", "HcsSystem", "SystemToken"]
