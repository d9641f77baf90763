"""The compute service of Windows: HCS, through vmcompute.dll."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ..aio.tasks import shielded
from ..compute.limits import USUAL, HcsLimits
from ..compute.protocols import NotUndone, SystemGone
from ..compute.values import Features, Lease, Place, Plan, State, Stdio
from ..errors import InvalidSpec, LongshoreError, NotSupported, TimeLimit
from ..spec import Spec
from ..typed_json import decode_json
from . import probe
from .dll.hresults import ENDED, NO_ANSWER, NO_COMMAND, HcsError, same
from .dll.vmcompute import System, Vmcompute, load
from .schema1 import documents, foreign_document, translate
from .streams.pipes import Pipes, WindowsPipes
from .system import by_id, layers, properties
from .system.lease_records import CreationRecord, LeaseRecords
from .system.notifications import Type, completed
from .system.process import HcsProcess, ProcessToken
from .system.query_state import ask_state, look_whether_paused
from .system.session import Session
from .system.system import HcsSystem, SystemToken

log = logging.getLogger("longshore.hcs")

OWNER = "longshore"


class HcsService:
    """Containers of this Windows machine.

    `run` is the store's place for what ends with the boot. `build` decides on the members of documents; None asks this
    Windows, and 0 is an old one. `vmcompute` None loads the machine's; a double of it comes
    with `pipes` of its own. With `end_with_handles`, what belongs to a lease is made to end with the last handle of
    it, that is with its owner.
    """

    name = "hcs"

    def __init__(
        self,
        run: Path,
        *,
        vmcompute: Vmcompute | None = None,
        pipes: Pipes | None = None,
        limits: HcsLimits = USUAL.hcs,
        cpus: int | None = None,
        build: int | None = None,
        exists: Callable[[str], bool] = translate.exists,
        end_with_handles: bool = True,
    ) -> None:
        self.run = run
        self._given = vmcompute
        self._pipes = pipes
        self._limits = limits
        self._cpus = cpus
        self._build = probe.build() if build is None else build
        self._exists = exists
        self._end_with_handles = end_with_handles
        self._records = LeaseRecords(run)
        self._made: Session | None = None
        self._systems: dict[str, HcsSystem] = {}

    # parts

    @property
    def session(self) -> Session:
        """The binding and what belongs to it. Raises NotSupported where there is no vmcompute.dll."""
        if self._made is None:
            self._made = Session(self._given or load(), self._pipes or WindowsPipes(), self._limits)
        return self._made

    def _host(self) -> translate.Host:
        vm = self.session.vmcompute
        cpus = self._cpus or os.cpu_count() or 1
        return translate.Host(cpus=cpus, name_to_guid=lambda name: str(vm.name_to_guid(name)), exists=self._exists)

    def _system(self, token: SystemToken, place: Place, spec: Callable[[], Spec], stdio: Stdio | None) -> HcsSystem:
        return HcsSystem(self.session, token, place, spec, records=self._records, stdio=stdio, on_close=self._forget)

    def _forget(self, system: HcsSystem) -> None:
        if self._systems.get(system.id) is system:
            del self._systems[system.id]

    # the protocol

    async def probe(self) -> Features:
        try:
            session = self.session
        except NotSupported as error:
            return probe.probe(error)
        return await session.threads.call(probe.probe, session.vmcompute, self._exists)

    def plan(self, id: str, spec: Spec, place: Place) -> Plan:
        try:
            host = self._host()
        except NotSupported:  # not Windows: what can be said without asking
            host = translate.Host(self._cpus or os.cpu_count() or 1, lambda name: f"(NameToGuid of {name})")
        container = translate.container_config(id, spec, host)
        process = translate.init_process(spec)
        reasons = {"EndpointList": "a Windows container has the network endpoints that it is given"}
        reasons |= foreign_document.ignored(spec.oci)
        if translate.makes_scratch(spec, container):
            reasons["VolumePath"] = f"a scratch layer is made at {self._scratch(container, place)} and mounted"
        return Plan(
            documents={
                "HcsCreateComputeSystem": documents.shown(container, self._build),
                "HcsCreateProcess": documents.shown(process),
            },
            reasons=reasons,
        )

    # making

    async def create(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> HcsSystem:
        session = self.session
        try:
            config = await session.threads.call(translate.container_config, id, spec, self._host())
            if dropped := foreign_document.ignored(spec.oci):
                log.warning("container `%s`: Windows ignores %s of its OCI document", id, ", ".join(dropped))
        except HcsError as error:
            raise error.about("create", id, call=error.call) from error
        translate.init_process(spec)  # what cannot be meant is refused before anything is made
        made = CreationRecord(owner=config.owner, spec=spec)
        begun: layers.Scratch | None = None  # to be taken away again, as far as it comes
        system: HcsSystem | None = None
        try:
            if translate.makes_scratch(spec, config):
                path = self._scratch(config, place)
                made.scratch = await layers.plan(session, id, path, mounted=not config.hv_partition)
                if not made.scratch.made and spec.windows is not None and spec.windows.storage_size:
                    raise InvalidSpec(
                        "windows.storage_size",
                        f"is the size of a scratch layer that longshore makes, and {path} exists already",
                        hint="leave it out, or name another folder",
                    )
                made.write(place)
                begun = made.scratch if made.scratch.made else None
                volume = await self._add_scratch(id, spec, config, made.scratch)
                begun = made.scratch
                config.layer_folder_path = path
                if not config.hv_partition:
                    config.volume_path = volume
            else:
                made.write(place)
            if place.lease is not None:
                self._records.add_system(place.lease.id, id, config.owner)
                config.terminate_on_last_handle_closed = self._end_with_handles
            token = SystemToken(id=id, hyperv=config.hv_partition, scratch=made.scratch)
            system = self._system(token, place, lambda: spec, stdio)
            await self._create(system, documents.encode_for(config, self._build))
        except BaseException as error:
            try:
                await shielded(self._undo_create(id, place, system, begun, error))
            except LongshoreError as left:
                raise NotUndone(error, left) from error
            raise
        self._systems[id] = system
        return system

    async def _create(self, system: HcsSystem, document: str) -> None:
        """Create the system, and watch its notifications. If it fails: no system exists, and nothing is held."""
        session, id = self.session, system.id
        vm, limit = session.vmcompute, session.limits.default
        try:
            making = session.threads.call(vm.create_compute_system, id, document)
            value, done = await session.make("create", id, making, lambda made: _end_late(vm, made[0]))
        except HcsError as error:
            missing = same(error.code or 0, NO_COMMAND)
            hint = "check that the folders of the layers exist, and the paths of mounts" if missing else None
            raise error.about("create", id, hint=hint) from error
        expected = system.watch.expect(Type.SYSTEM_CREATE_COMPLETED)
        try:
            # before its completion is waited for: the service keeps that until somebody is there to be told
            system.handle = await session.watch_system(value, system.watch, id, undo=vm.terminate_compute_system)
            if not done:
                await completed(expected, "create", id, limit)
        finally:
            expected.cancel()

    async def _undo_create(
        self, id: str, place: Place, system: HcsSystem | None, scratch: layers.Scratch | None, error: BaseException
    ) -> None:
        """Undo what was made before `error`.

        Raises: LongshoreError if something is left. Its records are left, too.
        """
        if system is not None:
            await self._undo_system(system, error)
        if place.lease is not None:
            self._records.remove_system(place.lease.id, id)
        if scratch is not None:
            await layers.remove(self.session, scratch, id)
        CreationRecord.forget(place)

    async def _undo_system(self, system: HcsSystem, error: BaseException) -> None:
        if system.handle is None:
            return  # terminated and closed already
        try:
            if not isinstance(error, HcsError):  # else its creation failed, it exited, or the service is lost
                await self._terminate_fresh(system)
        finally:
            await system.close()

    async def _terminate_fresh(self, system: HcsSystem) -> None:
        vm, limit = self.session.vmcompute, self.session.limits.terminate
        assert system.handle is not None
        try:
            call = system.handle.call("terminate", vm.terminate_compute_system)
            await self.session.answer("terminate", system.id, call, limit)
        except HcsError as error:
            if not same(error.code or 0, ENDED):
                raise
            return
        await asyncio.wait((system.watch.ended,), timeout=limit)
        if not system.watch.ended.done():
            raise TimeLimit(f"the request to terminate container `{system.id}`", limit, hint=NO_ANSWER)

    @staticmethod
    def _scratch(config: documents.ContainerConfig, place: Place) -> str:
        return config.layer_folder_path or str(place.data / "scratch")

    async def _add_scratch(
        self, id: str, spec: Spec, config: documents.ContainerConfig, scratch: layers.Scratch
    ) -> str:
        parents = [layer.path for layer in config.layers or []]
        size = int(translate.options(spec).storage_size or 0)
        return await layers.add(self.session, id, scratch, parents, size=size)

    async def launch(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> tuple[HcsSystem, HcsProcess]:
        system = await self.create(id, spec, stdio, place)
        try:
            process = await system.start()
        except BaseException as error:
            try:
                await shielded(self._discard(system))
            except LongshoreError as left:
                raise NotUndone(error, left) from error
            raise
        return system, process

    @staticmethod
    async def _discard(system: HcsSystem) -> None:
        try:
            with suppress(LongshoreError):  # `delete` says it, if it matters
                await system.terminate()
            await system.delete()
        finally:
            await system.close()

    # finding

    async def open(self, id: str, token: bytes, place: Place) -> HcsSystem:
        try:
            known = decode_json(token, SystemToken)
        except msgspec.MsgspecError:
            raise SystemGone from None
        system = self._system(known, place, lambda: CreationRecord.read(place).spec, None)
        if await self._open(system) is None:
            if known.scratch is None:
                raise SystemGone
            system.note_lost()  # its layer is still there, to be taken away by `delete`
        try:
            if known.hyperv and system.handle is not None:
                await look_whether_paused(system)
            if known.init is not None:
                system.init = await system.find_process(known.init, keep_open=True)
        except BaseException:
            await system.close()
            raise
        if system.handle is not None:
            self._systems[id] = system
        return system

    async def _open(self, system: HcsSystem) -> System | None:
        """Open a system by its id; None if there is none."""
        value = await by_id.open_system(self.session, system.id)
        if value is not None:
            system.handle = await self.session.watch_system(value, system.watch, system.id)
        return value

    async def state(self, token: bytes) -> State:
        """Return the state: known for systems that are open here, else from the service."""
        try:
            known = decode_json(token, SystemToken)
        except msgspec.MsgspecError:
            return State.STOPPED
        system = self._systems.get(known.id)
        if system is None:
            session = self.session
            asking = session.threads.call(ask_state, session.vmcompute, known)
            return await session.answer("read the state of", known.id, asking)
        if system.over:
            return State.STOPPED
        return State.PAUSED if system.is_paused else State.RUNNING

    async def leftovers(self, owner: str) -> list[str]:
        session = self.session
        query = documents.encode(documents.ComputeSystemQuery(owners=[owner]))
        listing = session.threads.call(session.vmcompute.enumerate_compute_systems, query)
        text = await session.answer("list the compute systems", None, listing)
        return sorted(system.id for system in properties.listed(text) if system.owner in ("", owner))

    # ending what others left

    async def abandon(self, id: str, place: Place) -> None:
        made: CreationRecord | None = None
        with suppress(OSError, msgspec.MsgspecError):
            made = CreationRecord.read(place)
        await self._end(id, made.owner if made is not None else OWNER, place)
        if made is not None and made.scratch is not None:
            await layers.remove(self.session, made.scratch, id)
        CreationRecord.forget(place)
        self._records.forget_system(id)

    async def _end(self, id: str, owner: str | None, place: Place) -> None:
        """Terminate a system that another program made, if it has this owner."""
        system = self._system(SystemToken(id=id), place, _no_spec, None)
        if await self._open(system) is None:
            return
        try:
            if owner is not None:
                found = (await system.properties()).owner
                if found and found != owner:
                    return
            await system.terminate()
            await system.delete()
        finally:
            await system.close()

    def keeper(self, lease: Lease, directory: Path) -> Sequence[str] | None:
        """Return None: HCS itself ends systems that are to end with their last handle."""
        return None

    async def end_lease(self, lease: Lease | str, directory: Path, limit: float | None = None) -> None:
        """End what a lease has. What fails is tried again by the next call; the first error is raised at the end."""
        name = lease if isinstance(lease, str) else lease.id
        failure: LongshoreError | None = None
        for record in self._records.of(name):
            try:
                if record.process is None:
                    await self._end(record.id, record.owner, self._nowhere)
                else:
                    await self._end_process(record.id, record.process)
            except LongshoreError as error:
                log.warning("ending lease %s: %s", name, error)
                failure = failure or error
            else:
                self._records.remove(name, record)
        self._records.forget_lease(name)
        if failure is not None:
            raise failure

    async def _end_process(self, id: str, token: bytes) -> None:
        """Kill a process that another program started, in a system that continues."""
        try:
            decode_json(token, ProcessToken)
        except msgspec.MsgspecError:
            return  # the note was being written when its owner died: nothing says which process it was to be
        system = self._system(SystemToken(id=id), self._nowhere, _no_spec, None)
        if await self._open(system) is None:
            return
        try:
            process = await system.open_process(token)
            await process.kill()
        finally:
            await system.close()

    @property
    def _nowhere(self) -> Place:
        return Place(run=self.run, data=self.run)

    async def version(self) -> Mapping[str, str]:
        session = self.session
        asking = session.threads.call(probe.schema_versions, session.vmcompute)
        schema = await session.answer("read the versions of the service", None, asking)
        return {"windows": probe.windows_version() or "unknown", "hcs schema": schema}

    def drop_streams(self) -> None:
        """Close the pipes of all processes, and nothing else, as the end of a program does."""
        for system in self._systems.values():
            system.drop_streams()

    async def close(self) -> None:
        """Release everything. Systems continue, except those that end with their last handle."""
        for system in list(self._systems.values()):
            await system.close()
        if self._made is not None:
            await self._made.close()


def _end_late(vmcompute: Vmcompute, system: System) -> None:
    """End a system that the service created after its caller had stopped waiting."""
    try:
        vmcompute.terminate_compute_system(system)
    finally:
        vmcompute.close_compute_system(system)


def _no_spec() -> Spec:
    raise AssertionError("nothing is started in a system that is only to be ended")
