"""The engine: names, reservations, the life cycle, and the end of every process, told exactly once.

No platform code: what is done to a container goes through the protocols of compute.py. What is known of it goes
through the store, so that any number of programs can work on the same containers. docs/architecture.md draws
the life of one container and the path of one exit code.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from datetime import datetime
from typing import Any, Self, Unpack

import msgspec

from . import host
from .compute import (
    DEVNULL,
    INIT,
    LOG,
    PIPE,
    Cause,
    ComputeProcess,
    ComputeService,
    ComputeSystem,
    Exit,
    Features,
    Plan,
    State,
    Stdio,
    SystemEnd,
    SystemGone,
    now,
)
from .container import MAX_OUTPUT, Attachment, Completed, Container, ContainerInfo, Process
from .errors import (
    CommandFailed,
    ContainerNotFound,
    EngineClosed,
    InvalidState,
    LongshoreError,
    ProcessExists,
    ProcessNotFound,
    StoreError,
    TimeLimit,
)
from .events import Event, Gap, JournalReader
from .lease import OwnerLease, end_dead_leases
from .logs import LogGap, LogReader, LogRecord, mark_first
from .spec import ProcessSpec, Spec, SpecFields, check_id
from .store import Entry, Owner, Record, Store, process_record, write_spec
from .tasks import shielded
from .watching import DirectoryWatch

log = logging.getLogger("longshore.engine")
logging.getLogger("longshore").addHandler(logging.NullHandler())

SETTLE_LIMIT = 40.0
FOREIGN_LIMIT = 10.0  # seconds that another program may take to tell an exit that it alone can know


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What `restore` found: ids of containers that run, that ended meanwhile, and half-made ones that were undone."""

    running: list[str] = []
    ended: list[str] = []
    undone: list[str] = []


class _Live(msgspec.Struct):
    """What the engine holds of one container that it has to do with."""

    uid: str
    entry: Entry
    system: ComputeSystem
    watcher: asyncio.Task[Exit] | None = None
    ours: bool = False  # made by this engine: its streams and its end are ours


class Engine:
    """Finds, creates and lists the containers of this machine. `async with` it, or `close` it.

    `service` is the compute service (None: this machine's); `state` the state directory (None: $LONGSHORE_ROOT,
    else the machine's own); `runtime` is for Linux: `crun`, `runc` or a path (None: $LONGSHORE_RUNTIME, else the
    first that works). Leaving it kills what `run` and `exec` started here, does to each container what its owner
    setting says, and ends what still waits with EngineClosed. It must not be used in a forked child.
    """

    def __init__(
        self,
        service: ComputeService | None = None,
        *,
        state: str | os.PathLike[str] | None = None,
        runtime: str | None = None,
        _store: Store | None = None,
    ) -> None:
        self._given = service
        self._private: Any = None
        if service is not None and state is None and _store is None:
            import tempfile

            self._private = tempfile.TemporaryDirectory(prefix="longshore-")
            state = self._private.name
        self._store = _store or Store.at(state)
        self._runtime = runtime or os.environ.get("LONGSHORE_RUNTIME") or None
        self._service_: ComputeService | None = None
        self._pid = os.getpid()
        self._closed = False
        self._lease: OwnerLease | None = None
        self._live: dict[str, _Live] = {}
        self._owned: dict[str, Owner] = {}
        self._processes: set[Process] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._subscriptions: set[DirectoryWatch] = set()

    # opening and closing

    async def __aenter__(self) -> Self:
        await self._service()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _service(self) -> ComputeService:
        """The service, with the store open. Everything begins here."""
        if self._pid != os.getpid():
            raise EngineClosed("this engine belongs to another process: it must not be used after a fork")
        if self._closed:
            raise EngineClosed
        if self._service_ is None:
            self._store.open()
            self._service_ = self._given or host.service(self._store, self._runtime)
            for lease in await end_dead_leases(self._store, self._service_):
                await self.close_lease(lease)
        return self._service_

    def _hold_lease(self) -> OwnerLease:
        if self._lease is None:
            assert self._service_ is not None
            self._lease = OwnerLease(self._store, self._service_)
        return self._lease.hold()

    async def close(self, grace: float = 10) -> None:
        """End what is this engine's to end, within `grace` seconds of asking; shielded, idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            await shielded(self._close(grace))

    async def _close(self, grace: float) -> None:
        processes = [process for process in self._processes if process.exit is None]
        for process in processes:
            with suppress(LongshoreError):
                await self._kill_process(process)
        if processes:
            await asyncio.wait([process._ended for process in processes], timeout=SETTLE_LIMIT)
        endings = [self._end_owned(id, owner, grace) for id, owner in self._owned.items()]
        for error in await asyncio.gather(*endings, return_exceptions=True):
            if isinstance(error, BaseException):
                log.warning("closing the engine: %s", error)
        for watch in list(self._subscriptions):
            watch.close()
        for live in self._live.values():
            if live.watcher is not None:
                live.watcher.cancel()
            await live.system.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in list(self._processes):
            process._fail(EngineClosed())
        if self._lease is not None:
            await self._lease.release()
        if self._service_ is not None and self._given is None:
            await self._service_.close()
        if self._private is not None:
            self._private.cleanup()

    async def _end_owned(self, id: str, owner: Owner, grace: float) -> None:
        with suppress(ContainerNotFound):
            container = await self._get(id)
            if owner == "stop":
                await self._stop(container, grace, None)
            else:
                await self._delete(container, force=True)

    def _spawn(self, coroutine: Any, name: str) -> asyncio.Task[Any]:
        """A task that this engine owns: awaited at the latest by close."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # making containers

    async def create(
        self, id: str, spec: Spec | None = None, *, owner: Owner = "keep", stdin: int = DEVNULL, **fields: Unpack[SpecFields]
    ) -> Container:
        """Make a container; no code of it has run. What it will write goes to its log.

        `owner` says what becomes of it when this engine ends: `keep`, `stop` or `remove`. With `stdin=PIPE` it has
        an input that `attach` reaches. Raises ContainerExists, InvalidSpec, CommandNotFound; failed or cancelled:
        nothing of it is left and the id is free.
        """
        chosen = Spec.of(spec, **fields)
        container, _ = await self._make(id, chosen, owner, Stdio(stdin=stdin, stdout=LOG, stderr=LOG), launch=False)
        return container

    async def launch(
        self,
        id: str,
        spec: Spec | None = None,
        *,
        owner: Owner = "keep",
        stdin: int = DEVNULL,
        stdout: int = LOG,
        stderr: int = LOG,
        **fields: Unpack[SpecFields],
    ) -> Container:
        """Create and start. With streams other than LOG it runs for its caller: they are `container.init`'s."""
        chosen = Spec.of(spec, **fields)
        stdio = Stdio(stdin=stdin, stdout=stdout, stderr=stderr)
        container, process = await self._make(id, chosen, owner, stdio, launch=True)
        assert process is not None
        return container

    async def run(
        self,
        root: str | os.PathLike[str],
        args: Sequence[str],
        *,
        input: bytes | None = None,
        stdin: int = DEVNULL,
        stdout: int = PIPE,
        stderr: int = PIPE,
        timeout: float | None = None,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        name: str | None = None,
        **fields: Unpack[SpecFields],
    ) -> Completed:
        """Run a command in a container of its own, collect what it writes, remove the container.

        Like `subprocess.run`: `input` goes to its standard input; after `timeout` seconds it is killed and TimeLimit
        raised with what there was; `check` raises CommandFailed unless it ended with 0; `max_output` bounds each
        stream (OutputLimit). Cancelled, or when this program dies: the container is killed and removed.
        """
        fields["root"] = root
        fields["args"] = args
        fields.setdefault("init", self._given is None and host.has_init())
        spec = Spec.of(**fields)
        if input is not None:
            stdin = PIPE
        stdio = Stdio(stdin=stdin, stdout=stdout, stderr=stderr)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        container, process = await self._make(name or f"run-{secrets.token_hex(5)}", spec, "remove", stdio, launch=True)
        assert process is not None
        try:
            rest = None if timeout is None else max(0.0, timeout - (loop.time() - begin))
            try:
                out, err = await process.communicate(input, timeout=rest, max_output=max_output)
            except TimeLimit as error:
                raise TimeLimit(error.what, timeout or 0.0, result=error.result) from None
            exit = await self._wait(container)
        finally:
            await shielded(self._delete(container, force=True))
        if exit.cause is Cause.NEVER_STARTED:
            raise getattr(process._process, "failure", None) or LongshoreError("the command never started")
        completed = Completed(args=spec.command, exit=exit, stdout=out, stderr=err)
        if check and exit.code != 0:
            raise CommandFailed(completed)
        return completed

    async def _make(
        self, id: str, spec: Spec, owner: Owner, stdio: Stdio, *, launch: bool
    ) -> tuple[Container, Process | None]:
        check_id(id)
        if owner not in ("keep", "stop", "remove"):
            raise ValueError(f"owner is {owner!r}: it must be keep, stop or remove")
        service = await self._service()
        kept = LOG in (stdio.stdout, stdio.stderr)
        lease = self._hold_lease() if owner != "keep" or not kept else None
        durable = kept and owner != "remove"
        await self._clear_half_made(id)
        async with AsyncExitStack() as undo:
            entry = self._store.reserve(id, durable=durable)
            record = self._store.new_record(
                id, spec, owner, lease.id if lease else None, durable=durable, stdin=stdio.stdin != DEVNULL
            )
            undo.callback(entry.remove, record.uid)
            claim = entry.claim("create")
            undo.callback(claim.release)
            lock_fd = entry.making_lock()
            undo.callback(os.close, lock_fd)
            if lease is not None:
                lease.own(id)
                undo.callback(lease.disown, id)
            write_spec(entry, spec)
            entry.write(record)

            place = entry.place(lease, lock_fd)
            process: ComputeProcess | None = None
            if launch:
                record.starting_at = now()
                system, process = await service.launch(id, spec, stdio, place)
            else:
                system = await service.create(id, spec, stdio, place)
            undo.push_async_callback(self._discard, system)

            record.token = system.token
            record.log_inode = mark_first(place.log)
            if process is not None:
                record.process, record.pid, record.started_at = process.token, process.pid, now()
                self._store.journal.append("start-container", id, record.uid, at=record.started_at)
                record.start_told = True
            entry.write(record)
            undo.pop_all()  # from here on the container owns it all
        claim.release()
        os.close(lock_fd)
        live = _Live(record.uid, entry, system, ours=True)
        self._live[id] = live
        if owner != "keep" or not kept:
            self._owned[id] = "remove" if not kept else owner
        container = Container(self, entry, record.uid)
        if process is None:
            return container, None
        return container, self._begin_watching(container, live, record, process)

    def _begin_watching(self, container: Container, live: _Live, record: Record, process: ComputeProcess) -> Process:
        init = Process(self, container.id, INIT, record.command, process)
        container.init = init
        live.watcher = self._spawn(self._watch(live, process), f"exit of {container.id}")
        self._follow(live.watcher, init)
        return init

    @staticmethod
    def _follow(task: asyncio.Task[Exit], process: Process) -> None:
        """Have the process end as the task does."""

        def done(task: asyncio.Task[Exit]) -> None:
            if task.cancelled():
                process._fail(EngineClosed())
            elif (error := task.exception()) is not None:
                process._fail(error)
            else:
                process._finish(task.result())

        task.add_done_callback(done)

    @staticmethod
    async def _discard(system: ComputeSystem) -> None:
        await system.terminate()
        await system.delete()
        await system.close()

    async def _clear_half_made(self, id: str) -> None:
        """If a maker that died left this id half-made, undo it, so that the id is free."""
        with suppress(ContainerNotFound, InvalidState):
            entry = self._store.entry(id)
            await self._undo_half_made(entry)

    async def _undo_half_made(self, entry: Entry) -> bool:
        """Undo a container that has no token and no living maker. True if it was one."""
        service = await self._service()
        try:
            record: Record | None = entry.read()
        except ContainerNotFound:
            record = None
        if record is not None and record.token:
            return False
        try:
            claim = entry.claim("create")
        except InvalidState:
            return False  # it is being made right now
        try:
            with suppress(ContainerNotFound):
                record = entry.read()
                if record.token:
                    return False
            await service.abandon(entry.id, entry.place(_NamedLease(record.lease) if record and record.lease else None))
            entry.remove(record.uid if record else secrets.token_hex(8))
        finally:
            claim.release()
        log.info("undid container `%s`, whose maker died", entry.id)
        return True

    # the end of a container

    async def _watch(self, live: _Live, process: ComputeProcess) -> Exit:
        """Wait for the end of init, settle, and see that its record is written and told, once."""
        entry = live.entry
        exit = await process.wait()
        if not live.ours:
            record = self._try_read(entry, live.uid)
            if record is None or (record.lease is not None and not record.durable):
                told = await self._foreign_exit(entry, live.uid, record)
                if told is not None:
                    return told
        if exit.cause is Cause.NEVER_STARTED:
            end = SystemEnd(exit=exit)
        else:
            try:
                end = await live.system.settle(exit, SETTLE_LIMIT)
            except LongshoreError as error:
                log.warning("container `%s` could not be settled: %s", entry.id, error)
                end = SystemEnd(exit=exit, error=str(error))
        return await self._record_exit(entry, live.uid, end)

    def _try_read(self, entry: Entry, uid: str) -> Record | None:
        try:
            record = entry.read()
        except LongshoreError:
            return None
        return record if record.uid == uid else None

    async def _foreign_exit(self, entry: Entry, uid: str, record: Record | None) -> Exit | None:
        """The exit of a container that another program runs for itself: that program alone can know it all."""
        reader = JournalReader(self._store.journal, None)
        since = record.journal if record is not None else None
        with DirectoryWatch(self._store.journal.directory) as watch, suppress(TimeoutError):
            async with asyncio.timeout(FOREIGN_LIMIT):
                told = self._told_exit(uid, since)
                while told is None:
                    await watch.changed()
                    for event in reader.read():
                        if isinstance(event, Event) and event.uid == uid and event.type == "exit":
                            return event.exit
                    told = entry.read_exit()
                return told
        return entry.read_exit()

    def _told_exit(self, uid: str, since: Any) -> Exit | None:
        from .events import Position

        for event in self._store.journal._read_from(since or Position()):
            if event.uid == uid and event.type == "exit":
                return event.exit
        return None

    async def _record_exit(self, entry: Entry, uid: str, end: SystemEnd) -> Exit:
        """Link the exit record into place, or take the one that is there; then see that it is told, once."""
        journal = self._store.journal
        position = journal.end()
        exit = end.exit
        record = self._try_read(entry, uid)
        if record is None:
            return exit  # deleted under us: its end was told by whoever did that
        if record.killed and exit.cause in (Cause.SIGNALLED, Cause.OOM) and exit.signal == 9:
            exit = msgspec.structs.replace(exit, cause=Cause.KILLED)
        live = self._live.get(entry.id)
        if live is not None and live.uid == uid and live.watcher is asyncio.current_task():
            cause = self._cause_of(entry.id)
            if cause is not None and exit.cause in (Cause.SIGNALLED, Cause.KILLED):
                exit = msgspec.structs.replace(exit, cause=cause)
        if exit.started_at is None or record.started_at is not None:
            exit = msgspec.structs.replace(exit, started_at=record.started_at or record.starting_at)
        exit = msgspec.structs.replace(exit, at=exit.at or now(), pid=exit.pid or record.pid)
        try:
            ours = entry.link_exit(exit)
            final = exit if ours else (entry.read_exit() or exit)
            await self._tell_exit(entry, uid, final, position if ours else record.journal, oom=end.oom)
        except FileNotFoundError:
            return exit
        except ContainerNotFound:
            return exit
        return final

    def _cause_of(self, id: str) -> Cause | None:
        for process in self._processes:
            if process.container_id == id and process.name == INIT:
                return process._cause
        return None

    async def _tell_exit(self, entry: Entry, uid: str, exit: Exit, since: Any, *, oom: bool = False) -> None:
        """Journal the end, and the start before it, unless that was done."""
        journal = self._store.journal
        async with entry.locked():
            record = entry.read()
            if record.uid != uid or record.exit_told:
                return
            if exit.cause is not Cause.NEVER_STARTED:
                if not record.start_told and record.starting_at is not None:
                    journal.append(
                        "start-container", entry.id, uid, at=record.starting_at, unless_since=record.journal
                    )
                if oom:
                    journal.append("oom", entry.id, uid, at=exit.at, unless_since=since)
                journal.append("exit", entry.id, uid, process=INIT, exit=exit, at=exit.at, unless_since=since)
            record.start_told = record.exit_told = True
            record.paused = False
            entry.write(record)

    async def _adopt(self, entry: Entry, record: Record) -> _Live:
        """The living system of a container, opened if need be, with its end watched for."""
        live = self._live.get(entry.id)
        if live is not None and live.uid == record.uid:
            return live
        service = await self._service()
        try:
            system = await service.open(entry.id, record.token, entry.place(_NamedLease(record.lease)))
            process = await system.open_process(record.process or record.token) if record.process else None
        except SystemGone as gone:
            exit = gone.exit or Exit(code=None, cause=Cause.SYSTEM_GONE)
            await self._record_exit(entry, record.uid, SystemEnd(exit=exit))
            raise InvalidState("open", entry.id, "gone") from None
        other = self._live.get(entry.id)
        if other is not None and other.uid == record.uid:  # two callers at once: one wins
            await system.close()
            return other
        live = _Live(record.uid, entry, system)
        self._live[entry.id] = live
        if process is None and isinstance(getattr(system, "init", None), object):
            process = getattr(system, "init", None)
        if process is not None and entry.read_exit() is None:
            live.watcher = self._spawn(self._watch(live, process), f"exit of {entry.id}")
        return live

    # finding containers

    async def get(self, id: str) -> Container:
        """The container of this id, also one that another program made. ContainerNotFound."""
        return await self._get(check_id(id))

    async def _get(self, id: str) -> Container:
        if not self._closed:
            await self._service()
        entry = self._store.entry(id)
        try:
            record = entry.read()
        except ContainerNotFound:
            await self._undo_half_made(entry)
            raise ContainerNotFound(id) from None
        if not record.token and await self._undo_half_made(entry):
            raise ContainerNotFound(id)
        container = Container(self, entry, record.uid)
        live = self._live.get(id)
        if live is not None and live.uid == record.uid and live.watcher is not None:
            container.init = next(
                (p for p in self._processes if p.container_id == id and p.name == INIT), None
            )
        return container

    async def list(
        self, *, labels: Mapping[str, str] | None = None, states: Collection[str] | None = None
    ) -> list[ContainerInfo]:
        """All containers, oldest first; only those with all of `labels` and one of `states` where given.

        Reads the store; asks no runtime.
        """
        await self._service()
        found = []
        for id in self._store.ids():
            try:
                entry = self._store.entry(id)
                record = entry.read()
            except ContainerNotFound:
                continue
            except StoreError as error:
                log.warning("%s", error)
                continue
            if labels and any(record.labels.get(name) != text for name, text in labels.items()):
                continue
            info = await self._derive(entry, record)
            if states is None or info.state in states:
                found.append(info)
        return sorted(found, key=lambda info: info.created_at)

    async def _info(self, entry: Entry) -> ContainerInfo:
        await self._service()
        return await self._derive(entry, entry.read())

    async def _derive(self, entry: Entry, record: Record) -> ContainerInfo:
        """What a container is now, from its files and its init: no runtime is asked."""
        service = await self._service()
        exit = entry.read_exit()
        if exit is None and record.token and service.state(record.token) is State.STOPPED:
            exit = await self._late_exit(entry, record)
        if exit is not None:
            state = "stopped"
        elif not record.token:
            state = "creating"
        elif record.starting_at is None:
            state = "created"
        else:
            state = str(service.state(record.token))
        return ContainerInfo(
            id=entry.id,
            uid=record.uid,
            state=state,
            command=record.command,
            root=record.root,
            created_at=record.created_at,
            started_at=record.started_at,
            pid=record.pid if state in ("running", "paused") else None,
            exit=exit,
            owner=record.owner,
            labels=record.labels,
        )

    async def _late_exit(self, entry: Entry, record: Record) -> Exit | None:
        """The exit of a container that ended while nobody, or only another program, was watching."""
        if record.boot != self._store.boot:
            return await self._record_exit(
                entry, record.uid, SystemEnd(exit=Exit(code=None, cause=Cause.SYSTEM_GONE, pid=record.pid))
            )
        with suppress(LongshoreError):
            live = await self._adopt(entry, record)
            if live.watcher is not None:
                return await asyncio.shield(live.watcher)
        return entry.read_exit()

    async def _inspect(self, entry: Entry) -> dict[str, Any]:
        info = await self._info(entry)
        record, spec = entry.read(), entry.read_spec()
        document: dict[str, Any] = msgspec.to_builtins(info)
        settings: dict[str, Any] = msgspec.to_builtins(spec)
        settings["env"] = sorted(spec.env)  # names only: values may be secrets
        settings.pop("oci", None)
        document["spec"] = settings
        document["lease"] = record.lease
        document["log"] = str(entry.place().log) if record.log_inode is not None else None
        document["processes"] = {
            name: {
                "args": found.args,
                "pid": found.pid,
                "exit": msgspec.to_builtins(entry.read_process_exit(name)),
            }
            for name in entry.processes()
            if (found := entry.read_process(name)) is not None
        }
        return document

    async def _current(self, container: Container, operation: str) -> Record:
        """The record, if it is still that of this very container."""
        await self._service()
        record = container._entry.read()
        if record.uid != container._uid:
            raise ContainerNotFound(container.id)
        return record

    # the life cycle

    async def _start(self, container: Container) -> Process:
        entry = container._entry
        await self._current(container, "start")
        claim = entry.claim("start")
        try:
            info = await self._info(entry)
            if info.state != "created":
                raise InvalidState("start", entry.id, info.state, hint="create another one: an init runs once")

            def starting(record: Record) -> None:
                record.starting_at = now()

            record = await entry.change(starting)
            live = await self._adopt(entry, record)
            position = self._store.journal.end()
            try:
                process = await live.system.start()
            except BaseException:
                await shielded(self._undo_start(live, record))
                raise

            async with entry.locked():
                record = entry.read()
                record.process, record.pid = process.token, process.pid
                if record.started_at is None:
                    record.started_at = now()
                if not record.start_told:
                    self._store.journal.append(
                        "start-container", entry.id, record.uid, at=record.started_at, unless_since=position
                    )
                    record.start_told = True
                entry.write(record)
        finally:
            claim.release()
        live.ours = True
        if live.watcher is None:
            return self._begin_watching(container, live, record, process)
        init = Process(self, container.id, INIT, record.command, process)
        container.init = init
        self._follow(live.watcher, init)
        return init

    async def _undo_start(self, live: _Live, record: Record) -> None:
        """A start that failed: what there is of it is ended, and nobody is told of a life that was none."""
        exit = Exit(code=None, cause=Cause.NEVER_STARTED, at=now())
        with suppress(LongshoreError):
            live.entry.link_exit(exit)
            await self._tell_exit(live.entry, record.uid, exit, record.journal)
        with suppress(LongshoreError):
            await live.system.terminate()

    async def _wait(self, container: Container) -> Exit:
        live = self._live.get(container.id)
        if live is not None and live.uid == container._uid and live.watcher is not None:
            return await self._shielded_watch(live.watcher)
        record = await self._current(container, "wait for")
        exit = container._entry.read_exit()
        if exit is not None:
            return exit
        if record.starting_at is None:
            raise InvalidState("wait for", container.id, "created, not started", hint="start it first")
        if record.boot != self._store.boot:
            late = await self._late_exit(container._entry, record)
            if late is not None:
                return late
        live = await self._adopt(container._entry, record)
        if live.watcher is None:
            exit = container._entry.read_exit()
            if exit is None:
                raise ContainerNotFound(container.id)
            return exit
        return await self._shielded_watch(live.watcher)

    @staticmethod
    async def _shielded_watch(watcher: asyncio.Task[Exit]) -> Exit:
        try:
            return await asyncio.shield(watcher)
        except asyncio.CancelledError:
            if watcher.cancelled():  # not the caller: the engine was closed
                raise EngineClosed from None
            raise

    async def _running_system(
        self, container: Container, operation: str, *, also_created: bool = False
    ) -> ComputeSystem:
        record = await self._current(container, operation)
        info = await self._derive(container._entry, record)
        allowed = ("running", "paused", "created") if also_created else ("running", "paused")
        if info.state not in allowed:
            raise InvalidState(operation, container.id, info.state)
        return (await self._adopt(container._entry, record)).system

    async def _signal(self, container: Container, number: int) -> None:
        if number == 9:
            await self._kill(container)
            return
        system = await self._running_system(container, "signal")
        await system.shutdown(number)

    async def _kill(self, container: Container, cause: Cause = Cause.KILLED) -> None:
        record = await self._current(container, "kill")
        if container._entry.read_exit() is not None or not record.token:
            return
        if not record.killed:

            def killed(record: Record) -> None:
                record.killed = True

            await container._entry.change(killed)
        with suppress(InvalidState):
            live = await self._adopt(container._entry, record)
            await live.system.terminate()

    async def _stop(self, container: Container, grace: float, number: int | None) -> Exit:
        record = await self._current(container, "stop")
        info = await self._derive(container._entry, record)
        if info.exit is not None:
            return info.exit
        live = await self._adopt(container._entry, record)
        if info.state == "created":
            exit = Exit(code=None, cause=Cause.NEVER_STARTED, at=now())
            container._entry.link_exit(exit)
            await self._tell_exit(container._entry, record.uid, exit, record.journal)
            await live.system.terminate()
            return container._entry.read_exit() or exit
        chosen = number if number is not None else record.stop_signal
        if grace > 0 and chosen != 9 and live.system.can_receive(chosen):
            await live.system.shutdown(chosen)
            if info.state == "paused":
                await self._resume(container)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    return await self._wait(container)
        await self._kill(container)
        return await self._wait(container)

    async def _pause(self, container: Container) -> None:
        record = await self._current(container, "pause")
        info = await self._derive(container._entry, record)
        if info.state != "running":
            raise InvalidState("pause", container.id, info.state)
        system = (await self._adopt(container._entry, record)).system
        await system.pause()
        await self._tell_paused(container, record.uid, "pause")

    async def _resume(self, container: Container) -> None:
        record = await self._current(container, "resume")
        info = await self._derive(container._entry, record)
        if info.state != "paused":
            raise InvalidState("resume", container.id, info.state)
        system = (await self._adopt(container._entry, record)).system
        await system.resume()
        await self._tell_paused(container, record.uid, "resume")

    async def _tell_paused(self, container: Container, uid: str, type: Any) -> None:
        self._store.journal.append(type, container.id, uid)

    async def _resize(self, container: Container, rows: int, columns: int) -> None:
        record = await self._current(container, "resize the terminal of")
        if container.init is not None:
            await container.init.resize(rows, columns)
            return
        live = await self._adopt(container._entry, record)
        if not record.process:
            raise InvalidState("resize the terminal of", container.id, "created, not started")
        process = await live.system.open_process(record.process)
        await process.resize(rows, columns)

    async def _delete(self, container: Container, *, force: bool) -> None:
        entry = container._entry
        try:
            record = entry.read()
        except ContainerNotFound:
            return
        if record.uid != container._uid:
            raise ContainerNotFound(container.id)
        await shielded(self._delete_now(container, record, force=force))

    async def _delete_now(self, container: Container, record: Record, *, force: bool) -> None:
        entry = container._entry
        service = self._service_
        assert service is not None
        exit = entry.read_exit()
        alive = exit is None and bool(record.token) and service.state(record.token) is not State.STOPPED
        if alive and record.starting_at is not None and not force:
            state = str(service.state(record.token))
            raise InvalidState("delete", entry.id, state, hint="stop it first, or use force")
        try:
            claim = entry.claim("delete")
        except ContainerNotFound:
            return
        try:
            live: _Live | None = None
            if record.token and record.boot == self._store.boot:
                with suppress(InvalidState):
                    live = await self._adopt_for_deletion(entry, record)
            if live is not None:
                if record.starting_at is not None and exit is None:
                    await self._kill(container)
                    if live.watcher is not None:
                        with suppress(LongshoreError, asyncio.CancelledError):
                            await asyncio.shield(live.watcher)
                elif exit is None:
                    await live.system.terminate()
                await live.system.delete()
            self._store.journal.append("delete", entry.id, record.uid, unless_since=record.journal)
            entry.remove(record.uid)
            if live is not None:
                if live.watcher is not None and not live.watcher.done():
                    live.watcher.cancel()
                await live.system.close()
                if self._live.get(entry.id) is live:
                    del self._live[entry.id]
        finally:
            claim.release()
        self._owned.pop(entry.id, None)
        if self._lease is not None:
            self._lease.disown(entry.id)

    async def _adopt_for_deletion(self, entry: Entry, record: Record) -> _Live:
        live = self._live.get(entry.id)
        if live is not None and live.uid == record.uid:
            return live
        service = self._service_
        assert service is not None
        try:
            system = await service.open(entry.id, record.token, entry.place(_NamedLease(record.lease)))
        except SystemGone:
            raise InvalidState("open", entry.id, "gone") from None
        live = _Live(record.uid, entry, system)
        process = getattr(system, "init", None)
        if process is not None and record.starting_at is not None and entry.read_exit() is None:
            live.watcher = self._spawn(self._watch(live, process), f"exit of {entry.id}")
        self._live[entry.id] = live
        return live

    async def close_lease(self, lease: str) -> None:
        """Close the records of a lease whose owner died and whose processes were killed: exits, events, files."""
        await self._service()
        for id in list(self._store.ids()):
            with suppress(LongshoreError):
                entry = self._store.entry(id)
                try:
                    record = entry.read()
                except ContainerNotFound:
                    await self._undo_half_made(entry)
                    continue
                if not record.token:
                    await self._undo_half_made(entry)
                    continue
                if record.lease != lease:
                    continue
                container = Container(self, entry, record.uid)

                def killed(record: Record) -> None:
                    record.killed = True
                    record.lease = None  # the owner is dead: nobody else will tell its end

                record = await entry.change(killed)
                if record.starting_at is not None and entry.read_exit() is None:
                    live = await self._adopt_for_deletion(entry, record)
                    if live.watcher is not None:
                        await asyncio.shield(live.watcher)
                if record.owner == "remove" or not record.durable:
                    await self._delete(container, force=True)

    # exec

    async def _exec(
        self, container: Container, process: ProcessSpec, stdio: Stdio, name: str | None, timeout: float | None
    ) -> Process:
        system = await self._running_system(container, "exec in")
        entry = container._entry
        chosen = check_id(name, "name") if name is not None else f"exec-{secrets.token_hex(5)}"
        if chosen == INIT:
            raise ProcessExists(entry.id, INIT)
        lease = self._hold_lease()
        directory = self._reserve_process(entry, chosen)
        place = msgspec.structs.replace(entry.place(lease), run=directory, data=directory)
        async with AsyncExitStack() as undo:
            undo.callback(entry.remove_process, chosen)
            record = process_record(chosen, process, self._store.journal)
            entry.write_process(record)
            started = await system.exec(process, stdio, chosen, place)
            undo.push_async_callback(self._end_process, started)
            record.token, record.pid = started.token, started.pid
            entry.write_process(record)
            undo.pop_all()
        made = Process(self, entry.id, chosen, process.args, started)
        self._processes.add(made)
        task = self._spawn(self._watch_exec(entry, container._uid, made, named=name is not None), f"exec {chosen}")
        self._follow(task, made)
        if timeout is not None:
            made._seconds = timeout
            self._spawn(self._limit(made, timeout), f"time limit of {chosen}")
        return made

    def _reserve_process(self, entry: Entry, name: str) -> Any:
        try:
            return entry.new_process(name)
        except FileExistsError:
            if entry.read_process_exit(name) is None:
                raise ProcessExists(entry.id, name) from None
            entry.remove_process(name)
            try:
                return entry.new_process(name)
            except FileExistsError:
                raise ProcessExists(entry.id, name) from None

    @staticmethod
    async def _end_process(process: ComputeProcess) -> None:
        with suppress(LongshoreError):
            await process.kill_tree()
        await process.wait()
        await process.close()

    async def _watch_exec(self, entry: Entry, uid: str, process: Process, *, named: bool) -> Exit:
        compute = process._process
        exit = await compute.wait()
        if process._cause is not None and exit.signal == 9:
            exit = msgspec.structs.replace(exit, cause=process._cause)
        position = self._store.journal.end()
        try:
            if entry.link_process_exit(process.name, exit):
                self._store.journal.append(
                    "exit-process", entry.id, uid, process=process.name, exit=exit, at=exit.at, unless_since=position
                )
            if not named:
                entry.remove_process(process.name)
        except StoreError as error:
            log.warning("the exit of process `%s` could not be recorded: %s", process.name, error)
        self._processes.discard(process)
        return exit

    async def _limit(self, process: Process, seconds: float) -> None:
        done, _ = await asyncio.wait((process._ended,), timeout=seconds)
        if not done:
            await process._kill_because(Cause.TIME_LIMIT)

    async def _kill_process(self, process: Process) -> None:
        """Kill init or an exec, with what it started."""
        if process.name == INIT:
            self._processes.add(process)  # so that its cause is found when its end is recorded
            with suppress(ContainerNotFound):
                container = await self._get(process.container_id)
                await self._kill(container)
        else:
            await process._process.kill_tree()

    async def _process(self, container: Container, name: str) -> Process:
        record = await self._current(container, "find a process of")
        entry = container._entry
        if name == INIT:
            if container.init is not None:
                return container.init
            live = await self._adopt(entry, record)
            init = Process(
                self, entry.id, INIT, record.command, await live.system.open_process(record.process or record.token)
            )
            exit = entry.read_exit()
            if exit is not None:
                init._finish(exit)
            elif live.watcher is not None:
                self._follow(live.watcher, init)
            return init
        for known in self._processes:
            if (known.container_id, known.name) == (entry.id, name):
                return known
        found = entry.read_process(name)
        if found is None or not found.token:
            raise ProcessNotFound(entry.id, name)
        live = await self._adopt(entry, record)
        compute = await live.system.open_process(found.token)
        process = Process(self, entry.id, name, found.args, compute)
        exit = entry.read_process_exit(name)
        if exit is not None:
            process._finish(exit)
            await compute.close()
        else:
            task = self._spawn(self._watch_foreign_exec(entry, name, compute), f"exec {name}")
            self._follow(task, process)
        return process

    async def _watch_foreign_exec(self, entry: Entry, name: str, process: ComputeProcess) -> Exit:
        """The end of an exec that another program started: its record, or what the kernel tells strangers."""
        try:
            seen = await process.wait()
            directory = entry.process_directory(name)
            try:
                with DirectoryWatch(directory) as watch, suppress(TimeoutError):
                    async with asyncio.timeout(FOREIGN_LIMIT if seen.code is None else 1.0):
                        while entry.read_process_exit(name) is None and directory.exists():
                            await watch.changed()
            except OSError:
                pass  # the directory is gone already
            return entry.read_process_exit(name) or seen
        finally:
            await process.close()

    # output

    async def _ending(self, container: Container) -> None:
        """Returns when the container has ended, or is gone."""
        while True:
            try:
                record = container._entry.read()
                if record.starting_at is None and container._entry.read_exit() is None:
                    # not started yet: its start is an event
                    async with aclosing(self.events(since=None)) as events:
                        if container._entry.read().starting_at is None:
                            async for event in events:
                                if isinstance(event, Event) and event.uid == container._uid:
                                    break
                    continue
                await self._wait(container)
            except (ContainerNotFound, InvalidState):
                pass
            return

    async def _logs(
        self, container: Container, *, follow: bool, tail: int | None, since: datetime | None
    ) -> AsyncIterator[LogRecord | LogGap]:
        record = await self._current(container, "read the log of")
        reader = LogReader(container._entry.place().log, expected_inode=record.log_inode)
        ending = self._spawn(self._ending(container), f"end of {container.id} for its log") if follow else None
        try:
            async for item in reader.records(tail=tail, since=since, until=ending):
                yield item
        finally:
            reader.close()
            if ending is not None:
                ending.cancel()
                with suppress(asyncio.CancelledError):
                    await ending

    async def _attach(self, container: Container, *, stdin: bool, logs: bool) -> Attachment:
        record = await self._current(container, "attach to")
        writer = None
        if stdin:
            if not record.stdin and not record.terminal:
                raise InvalidState(
                    "attach the input of", container.id, "one without", hint="create it with stdin=PIPE (`-i`)"
                )
            live = await self._adopt(container._entry, record)
            if record.process:  # else it is not started yet
                writer = (await live.system.open_process(record.process)).streams.stdin
            writer = writer or await live.system.attach_stdin()
        attachment = Attachment(container, writer)
        records = self._logs(container, follow=True, tail=None if logs else 0, since=None)
        attachment._task = self._spawn(attachment._pump(records), f"attach to {container.id}")
        return attachment

    # events and the rest

    async def events(
        self, *, since: int | None = None, follow: bool = True, container: str | None = None
    ) -> AsyncIterator[Event | Gap]:
        """What happens to containers, in order, each once: from now on, or after the event numbered `since`.

        Without `follow`, ends at the last there is. A Gap tells of events that were dropped by age.
        """
        await self._service()
        watch = DirectoryWatch(self._store.journal.directory)
        self._subscriptions.add(watch)
        try:
            reader = JournalReader(self._store.journal, since)
            adopting = self._spawn(self._watch_all(), "watch all for events") if follow else None
            if not follow:
                await self._watch_all()
            while True:
                for event in reader.read():
                    if container is None or isinstance(event, Gap) or event.container == container:
                        yield event
                if not follow:
                    return
                await watch.changed()
                if self._closed:
                    return
        finally:
            self._subscriptions.discard(watch)
            watch.close()
            if follow and adopting is not None:
                adopting.cancel()

    async def _watch_all(self) -> None:
        """Watch every container that runs, so that its end is told even if its starter is gone."""
        for info in await self.list(states=("running", "paused")):
            with suppress(LongshoreError):
                entry = self._store.entry(info.id)
                await self._adopt(entry, entry.read())

    async def restore(self) -> Restored:
        """Take up all containers again: watch those that run, record how others ended, undo half-made ones.

        Every call does so by itself for the container that it is about.
        """
        await self._service()
        running, ended, undone = [], [], []
        for id in list(self._store.ids()):
            try:
                entry = self._store.entry(id)
                if await self._undo_half_made(entry):
                    undone.append(id)
                    continue
                record = entry.read()
                before = entry.read_exit()
                info = await self._derive(entry, record)
                if info.state in ("running", "paused"):
                    await self._adopt(entry, record)
                    running.append(id)
                elif info.exit is not None and before is None:
                    ended.append(id)
                elif before is not None and not record.exit_told:
                    await self._tell_exit(entry, record.uid, before, record.journal)
            except LongshoreError as error:
                log.warning("restoring container `%s`: %s", id, error)
        return Restored(running=running, ended=ended, undone=undone)

    async def version(self) -> dict[str, str]:
        """Versions of longshore and of the parts that do the work."""
        from importlib.metadata import version

        service = await self._service()
        return {"longshore": version("longshore"), **await service.version()}

    async def features(self) -> Features:
        """What works on this host, and why the rest does not."""
        return await (await self._service()).probe()

    async def plan(self, spec: Spec | None = None, *, id: str = "example", **fields: Unpack[SpecFields]) -> Plan:
        """What `create` or `run` would do: documents, mounts, command lines, defaults with their reasons."""
        service = await self._service()
        chosen = Spec.of(spec, **fields)
        return service.plan(check_id(id), chosen, Entry(self._store, id, self._store.containers / id).place())


class _NamedLease(msgspec.Struct, frozen=True):
    """Another program's lease, by name: enough to find its cgroup."""

    id: str | None
    lock_fd: int = -1


__all__ = ["Completed", "Engine", "Restored"]
