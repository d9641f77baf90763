"""The engine: what a program holds. Here is its surface; what it does stands in the modules that it calls.

    create.py, reserve.py       make a container, or undo it     lookup.py    what a container is now, and its system
    start.py, stop.py, kill.py, wait.py, signal.py, pause.py,    listing.py   all containers, or all about one
    update.py, resize.py        one file for each verb           exits.py     the end: recorded and published once
    exec.py                     further processes                states.py    which verb is allowed in which state
    checkpoints.py, archive.py  to files, and back from them     output.py    logs and attachments
    images.py, image_root.py    images, and roots made of them   subscription.py  events
    recovery.py, half_made.py   clean up after dead programs     state.py     what all of these share

No platform code: what is done to a container goes through `compute/protocols.py`. What is known of it goes through
the store, so that any number of programs can work on the same containers. docs/architecture.md draws the life of one
container and the path of one exit code.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, Unpack

import msgspec

from .. import host
from ..aio.tasks import in_thread, shielded
from ..compute.events import Event, Gap
from ..compute.limits import USUAL, Limits
from ..compute.protocols import ComputeService
from ..compute.values import DEVNULL, LOG, PIPE, Features, Owner, Plan, Stdio
from ..errors import CommandFailed, ContainerNotFound, EngineClosed, LongshoreError, ServiceError, TimeLimit
from ..exit_record import Cause
from ..fs import watching
from ..fs.files import as_store_errors
from ..fs.trees import remove_tree
from ..images.values import PullPolicy
from ..machine import has_init, longshore_version
from ..spec import Spec, SpecFields, SpecSettings, check_id
from ..store.container_dir import ContainerDir
from ..store.journal import JournalReader
from ..store.records import Damaged
from ..store.state_directory import Store
from . import checkpoints, create, delete, half_made, listing, recovery, stop
from .archive import MAX_ARCHIVE
from .arguments import check_bound, check_input, check_input_and_stdin, check_seconds, check_streams
from .container import MAX_OUTPUT, Completed, Container, ContainerInfo, Process
from .image_root import ImageRoot, resolve
from .images import Images
from .recovery import Restored
from .state import ContainerRef, EngineState, log
from .subscription import subscription


class Engine:
    """Finds, creates and lists the containers of this machine. `async with` it, or `close` it.

    `service` is the compute service (None: this machine's); `state` the state directory (None: $LONGSHORE_ROOT,
    else the machine's own); `runtime` is for Linux: `crun`, `runc` or a path (None: $LONGSHORE_RUNTIME, else the
    first that works); `limits` says how long each step may take before it counts as failed.

    Leaving it kills what `run` and `exec` started here, does to each container what its owner setting says, and
    ends what still waits with EngineClosed. It must not be used in a forked child.
    """

    def __init__(
        self,
        service: ComputeService | None = None,
        *,
        state: str | os.PathLike[str] | None = None,
        runtime: str | None = None,
        limits: Limits = USUAL,
        _store: Store | None = None,
    ) -> None:
        self._given = service
        self._private: Any = None
        if service is not None and state is None and _store is None:
            import tempfile
            import weakref

            state = tempfile.mkdtemp(prefix="longshore-")
            self._private = weakref.finalize(self, _remove_private, state, os.getpid())
        store = _store or Store.at(state)
        chosen = runtime or os.environ.get("LONGSHORE_RUNTIME") or None
        store.lock_limit, store.disk_limit = limits.lock, limits.disk
        self._state = EngineState(
            store,
            lambda: service or host.service(store.id, store.run, store.data, chosen, limits),
            recovery.recover_dead_leases,
            limits,
        )
        self._images = Images(self._state)
        self._closing: asyncio.Task[None] | None = None

    @property
    def images(self) -> Images:
        """The images on this machine."""
        return self._images

    # opening and closing

    async def __aenter__(self) -> Self:
        await self._state.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    if not TYPE_CHECKING:  # for a type checker there is no such method, so it tells of the mistake before it is made

        def __enter__(self) -> None:
            raise TypeError(
                "an Engine is opened by `async with longshore.Engine() as engine:`; for plain `with`, without asyncio,"
                " there is longshore.sync.Engine"
            )

        def __exit__(self, *exc: object) -> None:
            """Python looks for it before it calls `__enter__`."""

    async def close(self, grace: float = 10) -> None:
        """End what is this engine's to end, within `grace` seconds of asking; shielded, idempotent."""
        if self._state.forked:
            self._state.closed = True
            return
        if self._closing is None:
            self._state.closed = True
            self._closing = asyncio.create_task(self._close(grace), name="close the engine")
        await shielded(self._until_closed())

    async def _until_closed(self) -> None:
        assert self._closing is not None
        await asyncio.shield(self._closing)

    async def _close(self, grace: float) -> None:
        engine = self._state
        try:
            await engine.end_operations()
            await self._end_processes()
            endings = [self._end_owned(container, owner, grace) for container, owner in engine.owned.values()]
            undoing = [half_made.undo_half_made(engine, directory) for directory in engine.half_made]
            for error in await asyncio.gather(*endings, *undoing, return_exceptions=True):
                if isinstance(error, BaseException):
                    log.warning("closing the engine: %s", error)
            await engine.record_now()
            for what in engine.unrecorded:
                log.warning("closing the engine: %s could not be recorded: it is not known any more", what)
            for end in list(engine.subscriptions):
                end()
            if engine.trash_left:
                await engine.empty_trash()
            await engine.end_tasks()
            for process in list(engine.followed):
                process._fail(EngineClosed())
            for process in list(engine.processes):
                await process._compute.close()
            for opened in list(engine.open_containers.values()):
                with suppress(LongshoreError):
                    await opened.system.close()
            if engine.lease is not None:
                await engine.lease.release()
        finally:
            if engine.has_service and self._given is None:
                await engine.service.close()
            watching.release()
            engine.standard.release()
            if self._private is not None:
                self._private()

    async def _end_processes(self) -> None:
        """Kill the execs that were started here."""
        processes = [process for process in self._state.processes if process.exit is None]
        for process in processes:
            try:
                await process.kill()
            except LongshoreError as error:
                log.warning("closing the engine: process `%s`: %s", process.name, error)
        if processes:
            await asyncio.wait([process._ended for process in processes], timeout=self._state.limits.end)

    async def _end_owned(self, container: ContainerRef, owner: Owner, grace: float) -> None:
        with suppress(ContainerNotFound):
            if owner == "stop":
                await stop.stop(container, grace, None)
            else:
                await delete.delete(container, force=True)

    # making containers

    async def create(
        self,
        id: str,
        spec: Spec | None = None,
        *,
        owner: Owner = "keep",
        stdin: int = DEVNULL,
        pull: PullPolicy = "missing",
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        **fields: Unpack[SpecFields],
    ) -> Container:
        """Make a container; no code of it has run. What it will write goes to its log.

        `owner` says what becomes of it when this engine ends: `keep`, `stop` or `remove`. With `stdin=PIPE` it has
        an input that `attach` reaches. Raises ContainerExists, InvalidSpec, CommandNotFound; failed or cancelled:
        nothing of it is left and the id is free.

        The other keywords are the fields of `Spec`, which `help(longshore.Spec)` lists: `root`, `args`, `env`,
        `memory`, `mounts`, ... They are laid over `spec`, where one is given.

        Where the root is an image, `pull` says when its registry is asked, as for `images.pull`; `platform` is
        `OS/ARCH[/VARIANT]`, if not this machine's; `entrypoint` replaces the image's own, and its command. Then
        ImageNotFound, PlatformNotFound and RegistryError may be raised, too.
        """
        chosen = Spec.of(spec, **fields)
        stdio = Stdio(stdin=stdin, stdout=LOG, stderr=LOG)
        async with self._state.operation():
            chosen, image = await self._resolve(chosen, fields, pull, platform, entrypoint)
            container, _ = await self._make(id, chosen, owner, stdio, image, launch=False)
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
        pull: PullPolicy = "missing",
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        **fields: Unpack[SpecFields],
    ) -> Container:
        """Create and start. With streams other than LOG it runs for its caller: they are `container.init`'s.

        A stream is PIPE, DEVNULL, INHERIT or a file descriptor; `stderr` may be STDOUT, too. Either both outputs go
        to the log, or neither. The other keywords are as for `create`.
        """
        chosen = Spec.of(spec, **fields)
        stdio = Stdio(stdin=stdin, stdout=stdout, stderr=stderr)
        async with self._state.operation():
            chosen, image = await self._resolve(chosen, fields, pull, platform, entrypoint)
            container, _ = await self._make(id, chosen, owner, stdio, image, launch=True)
            return container

    async def run(
        self,
        root: str | os.PathLike[str],
        args: Sequence[str] = (),
        *,
        input: bytes | None = None,
        stdin: int = DEVNULL,
        stdout: int = PIPE,
        stderr: int = PIPE,
        timeout: float | None = None,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        name: str | None = None,
        pull: PullPolicy = "missing",
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        **fields: Unpack[SpecSettings],
    ) -> Completed:
        """Run a command in a container of its own, collect what it writes, remove the container.

        Like `subprocess.run`: `input` goes to its standard input; after `timeout` seconds it is killed and TimeLimit
        raised with what there was; `check` raises CommandFailed unless it ended with 0; `max_output` bounds each
        stream (OutputLimit). Cancelled, or when this program dies: the container is killed and removed.

        What came of the command is returned also if the container cannot be removed then: that is a warning in the log
        of `longshore.engine.engine`, and tried again when the engine is closed.

        Where `root` is an image, it may have a command of its own: then `args` may be left out, and otherwise take the
        place of its default ones. `pull`, `platform` and `entrypoint` are as for `create`; `timeout` counts from when
        the image is here.

        The other keywords are the fields of `Spec`, which `help(longshore.Spec)` lists: `env`, `cwd`, `user`,
        `memory`, `cpus`, `pids`, `mounts`, `network`, ...
        """
        input, timeout = check_input(input), check_seconds(timeout)
        check_bound(max_output)
        fields.setdefault("init", self._given is None and has_init())
        spec = Spec.of(root=root, args=args, **fields)
        stdin = check_input_and_stdin(input, stdin)
        stdio = check_streams(Stdio(stdin=stdin, stdout=stdout, stderr=stderr), log=False)
        async with self._state.operation():
            spec, image = await self._resolve(spec, fields, pull, platform, entrypoint)
            id = name or f"run-{os.urandom(5).hex()}"
            completed = await self._run(id, spec, stdio, image, input=input, timeout=timeout, max_output=max_output)
        if check and completed.exit.code != 0:
            raise CommandFailed(completed)
        return completed

    async def _run(
        self,
        id: str,
        spec: Spec,
        stdio: Stdio,
        image: ImageRoot | None,
        *,
        input: bytes | None,
        timeout: float | None,
        max_output: int,
    ) -> Completed:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        container, process = await create.create(self._state, id, spec, "remove", stdio, launch=True, image=image)
        assert process is not None
        try:
            rest = None if timeout is None else max(0.0, timeout - (loop.time() - begin))
            try:
                out, err = await process.communicate(input, timeout=rest, max_output=max_output)
            except TimeLimit as error:
                raise TimeLimit(error.what, timeout or 0.0, result=error.result) from None
            exit = await process.wait()
            for stream, why in process.unwritten.items():
                log.warning("the output of `%s` to its %s is incomplete: %s", spec.command[0], stream, why.strerror)
        finally:
            await shielded(self._remove(container))
        if exit.cause is Cause.NEVER_STARTED:
            # where the service knows no reason
            raise ServiceError("run", id, "the command never started", hint="run `longshore doctor`")
        return Completed(args=spec.command, exit=exit, stdout=out, stderr=err)

    async def _remove(self, container: ContainerRef) -> None:
        """Remove what `run` made. If that fails it stays this engine's to remove: `close` tries again."""
        try:
            await delete.delete(container, force=True)
        except ContainerNotFound:  # somebody else has removed it, and its id is another's by now
            await delete.forget(container)
        except (LongshoreError, OSError) as error:  # how the command ended is what the caller is to hear of
            log.warning(
                "the `run` of container `%s` has ended, but the container is not removed yet: %s", container.id, error
            )

    async def _make(
        self, id: str, spec: Spec, owner: Owner, stdio: Stdio, image: ImageRoot | None = None, *, launch: bool
    ) -> tuple[Container, Process | None]:
        container, process = await create.create(self._state, id, spec, owner, stdio, launch=launch, image=image)
        return Container(container), process

    async def _resolve(
        self,
        spec: Spec,
        given: Mapping[str, Any],
        pull: PullPolicy,
        platform: str | None,
        entrypoint: Sequence[str] | None,
    ) -> tuple[Spec, ImageRoot | None]:
        return await resolve(self._images, spec, given, pull=pull, platform=platform, entrypoint=entrypoint)

    async def import_checkpoint(
        self,
        path: str | os.PathLike[str],
        id: str | None = None,
        *,
        owner: Owner = "keep",
        max_size: int = MAX_ARCHIVE,
    ) -> Container:
        """Make a container of an exported checkpoint: stopped, and with that checkpoint, to be started from it.

        `id` is that of the container which was exported, unless given. InvalidSpec for a file that is no such archive,
        or holds more than `max_size` bytes; ContainerExists, NotSupported. An archive is a program with all the rights
        that it says it has: import what you trust.
        """
        check_bound(max_size)
        async with self._state.operation():
            container, _ = await checkpoints.import_checkpoint(self._state, self._images, path, id, owner, max_size)
            return Container(container)

    # finding containers

    async def get(self, id: str) -> Container:
        """The container of this id, also one that another program made. ContainerNotFound.

        Of one whose record is damaged, all that can be done is `delete(force=True)`.
        """
        check_id(id)
        async with self._state.operation():
            directory = self._state.store.container_dir(id)
            try:
                return Container(ContainerRef(self._state, directory, directory.read().uid))
            except Damaged as error:
                log.warning("%s", error)
                return Container(ContainerRef(self._state, directory, ""))

    async def list(
        self, *, labels: Mapping[str, str] | None = None, states: Collection[str] | None = None
    ) -> list[ContainerInfo]:
        """All containers, oldest first; only those with all of `labels` and one of `states` where given.

        Reads the store; asks no runtime.
        """
        async with self._state.operation():
            return await listing.listing(self._state, labels, states)

    # events and the rest

    def events(
        self, *, since: int | None = None, follow: bool = True, container: str | None = None
    ) -> AsyncGenerator[Event | Gap, None]:
        """What happens to containers, in order, each once: from now on, or after the event numbered `since`.

        `since=0` begins with the oldest there is. Without `follow`, ends at the last there is. A Gap tells of events
        that are not known any more. Whoever handles an event may call the engine.
        """
        reader = None
        if self._state.ready and not self._state.closed:
            with as_store_errors("read the journal"):
                reader = JournalReader(self._state.store.journal, since)
        return subscription(self._state, reader, since, follow=follow, container=container)

    async def restore(self) -> Restored:
        """Take up all containers again: watch those that run, record how others ended, undo half-made ones.

        Every call does so by itself for the container that it is about.
        """
        async with self._state.operation():
            return await recovery.restore(self._state)

    async def version(self) -> dict[str, str]:
        """Versions of longshore and of the parts that do the work."""

        async with self._state.operation() as service:
            return {"longshore": longshore_version(), **await service.version()}

    async def features(self) -> Features:
        """What works on this host, and why the rest does not."""
        async with self._state.operation() as service:
            found = await service.probe()
            return msgspec.structs.replace(found, items={**found.items, "images": self._images._feature()})

    async def plan(
        self,
        spec: Spec | None = None,
        *,
        id: str = "example",
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        **fields: Unpack[SpecFields],
    ) -> Plan:
        """What `create` or `run` would do: documents, mounts, command lines, defaults with their reasons.

        Nothing is pulled: of an image that is not here, ImageNotFound says so.
        """
        chosen = Spec.of(spec, **fields)
        async with self._state.operation() as service:
            chosen, image = await self._resolve(chosen, fields, "never", platform, entrypoint)
            store = self._state.store
            place = ContainerDir(store, check_id(id), store.containers / id).place()
            plan = await in_thread(lambda: service.plan(id, chosen, place))  # it reads files of the root
            return plan if image is None else msgspec.structs.replace(plan, reasons=plan.reasons | image.reasons)


def _remove_private(state: str, pid: int) -> None:
    """Remove the state directory of an engine that was given a service and none; not at the end of a forked child."""
    if pid == os.getpid():
        with suppress(LongshoreError, OSError):
            remove_tree(state)


async def close_dead_lease(store: Store, lease: str) -> bool:
    """Close the records of a lease whose owner died: what its keeper does at last. False if something is left open."""
    async with Engine(_store=store) as engine:
        return await recovery.close_lease(engine._state, lease)


__all__ = ["Completed", "ContainerInfo", "Engine", "Restored", "close_dead_lease"]
