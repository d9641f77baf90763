"""The compute service of Linux: an OCI runtime, and conmon for what may outlive its caller."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..aio.tasks import in_thread, shielded, uninterrupted
from ..compute.limits import USUAL, Limits
from ..compute.protocols import ComputeSystem, SystemGone, SystemHidden
from ..compute.values import DEVNULL, LOG, Features, Lease, Place, Plan, State, Stdio
from ..errors import NotSupported, ServiceError, TimeLimit
from ..fs.files import make_private
from ..spec import Spec
from ..typed_json import decode_json
from . import abandon, checkpoint, leases, probe
from .bundle import Bundle, draft_bundle, last_step, make_bundle, plan_bundle
from .cgroups import entering, making
from .cgroups.cgroup import Cgroup
from .cgroups.entering import Entrance
from .cgroups.hierarchies import ROOT
from .processes import proc
from .processes.launch import Helpers
from .processes.stdio import check_stdio
from .rootfs.layers import remove_work
from .rootfs.resolve_in_root import look
from .runtimes import choice, conmon
from .runtimes.foreground import check_pid, read_pid, run_direct
from .runtimes.kept_process import KeptProcess
from .runtimes.runtime import Runtime, delete_state
from .runtimes.status import Channel, is_first
from .runtimes.watch import ForeignProcess, OciProcess, identify
from .system import LEAF, OciSystem, SystemToken, group_of_monitor

log = logging.getLogger("longshore.oci")

ABANDON_LIMIT = 10.0  # seconds that a runtime may take to end what it was doing
BOX = "box~"  # begins the name of a container's cgroup; no id has a `~`, so none is taken for another
GROUP_HIDDEN = f"its control group is not below {ROOT} here"
TOP_CGROUP = "/longshore"  # of this machine's longshore, as others have theirs: it stays


class OciService:
    """Containers of this Linux machine.

    `store_id` names our cgroups, `run` is the store's place for what ends with the boot, `data` for the rest;
    `runtime` is `crun`, `runc` or a path, and None lets the probe choose.
    """

    name = "oci"

    def __init__(
        self, store_id: str, run: Path, data: Path, *, runtime: str | None = None, limits: Limits = USUAL
    ) -> None:
        self.store_id = store_id
        self.run = run
        self.data = data
        self._wanted = runtime
        self._limits = limits
        self._runtime: Runtime | None = None
        self._conmon: str | None = None
        self._versions: dict[str, str] = {}
        self._cgroups = ROOT

    # parts

    async def runtime(self) -> Runtime:
        """Return the runtime that works here. A trial container chooses it once for each boot and binary."""
        if self._runtime is None:
            if os.geteuid() != 0:
                raise NotSupported(
                    "running as an ordinary user", "longshore needs root for now", hint="run longshore as root"
                )
            chosen = await choice.choose_runtime(self._wanted, cache=self.data / "probe.json")
            checkpoints = choice.can_checkpoint(chosen.commands)
            self._runtime = self._known(chosen.path, chosen.version, checkpoints=checkpoints)
        return self._runtime

    def _known(self, path: str, version: str = "", *, checkpoints: bool = False) -> Runtime:
        root = self.run / "runtime" / os.path.basename(path)
        hide = choice.must_hide_unified(path)
        if path not in self._versions:
            self._versions[path] = version or choice.known_version(path, self.data / "probe.json")
        version = version or self._versions[path]
        return Runtime(path, root, hide_unified=hide, limits=self._limits, version=version, checkpoints=checkpoints)

    def _monitor(self) -> str:
        if self._conmon is None:
            self._conmon = choice.find("conmon")
            if self._conmon is None:
                raise NotSupported("a kept container", "conmon is not installed", hint="run `apt-get install conmon`")
        return self._conmon

    def cgroup_path(self, id: str, lease: str | None) -> str:
        """Return the cgroup of a container. The runtime uses a child of it, so that counters outlive the container.

        An id may be the name of a file that the kernel has in every group (`tasks`, `cgroup.procs`): no name of a group
        is an id alone.
        """
        if lease is None:
            return f"{TOP_CGROUP}/{self.store_id}.kept.{id}"
        return f"{self._owner_cgroup(lease)}/{BOX}{id}"

    def _owner_cgroup(self, lease: str) -> str:
        """Return the cgroup that holds all containers of a lease.

        Leases share no group below the top: removing one while a runtime makes another in it would fail the runtime.
        """
        return f"{TOP_CGROUP}/{self.store_id}.{lease}"

    # the protocol

    async def probe(self) -> Features:
        return await probe.probe(self._wanted, cache=self.data / "probe.json")

    def plan(self, id: str, spec: Spec, place: Place) -> Plan:
        cgroup = f"{self.cgroup_path(id, place.lease.id if place.lease else None)}/{LEAF}"
        runtime = self._runtime or self._planned()
        document, steps, reasons = plan_bundle(place, id, spec, cgroup_path=cgroup, runtime=runtime.known)
        first = is_first(document["process"]["args"])
        own, own_direct = (
            entering.choose(runtime.known, first=first, document=spec.oci is not None, kept=kept).own
            for kept in (True, False)
        )
        if known := probe.describe_holes(runtime.known.name, runtime.known.version):
            reasons["runtime"] = f"{runtime.known}: {known}"
        kept = conmon.command(
            self._conmon or "conmon",
            runtime.leaving_cgroups() if own else runtime,
            id,
            place.run / "bundle",
            place,
            terminal=spec.terminal,
            stdin=False,
            log_size=spec.log_size,
            first=first,
            enters=entering.flags() if own else "",
        )
        pidfile = ["--pid-file", str(place.run / "pid")]
        runs = runtime.leaving_cgroups() if own_direct else runtime
        direct = runs.argv(place.run / "run.log", "run", *pidfile, *self._run_arguments(id, place))
        return Plan(
            documents={"config.json": document},
            commands=[kept, runtime.argv(place.run / "start.log", "start", id), direct],
            mounts=[f"{step.fstype or 'bind'} {step.source} on {step.target} ({step.data})" for step in steps],
            reasons=reasons,
        )

    def _planned(self) -> Runtime:
        """Return the runtime that would be chosen if it works. It is only asked for its version, as any user may."""
        paths = (choice.find(name) for name in ((self._wanted,) if self._wanted else choice.PREFERENCE))
        path = next((path for path in paths if path is not None), None)
        if path is None:
            return self._known(self._wanted or choice.PREFERENCE[0])
        return self._known(path, choice.version_of(path), checkpoints=choice.can_checkpoint(choice.commands_of(path)))

    @staticmethod
    def _run_arguments(id: str, place: Place) -> list[str]:
        return ["--bundle", str(place.run / "bundle"), id]

    async def _prepare(
        self, id: str, spec: Spec, place: Place, *, kept: bool = True, runtime: Runtime | None = None
    ) -> tuple[Runtime, Bundle, str]:
        again = runtime is not None  # it goes on from a checkpoint
        runtime = runtime or await self.runtime()
        make_private(runtime.root)
        cgroup = self.cgroup_path(id, place.lease.id if place.lease else None)
        draft = await look(
            id,
            lambda: draft_bundle(
                place, id, spec, cgroup_path=f"{cgroup}/{LEAF}", kept=kept, again=again, runtime=runtime.known
            ),
            self._limits.verb,
        )

        def work() -> Bundle:
            made = make_bundle(place, id, draft, again=again, runtime=runtime.known)
            if made.own_cgroup:  # of a kept container the limits come when its runtime has left it
                group = Cgroup(f"{cgroup}/{LEAF}", root=self._cgroups)
                making.make(id, group, None if kept else made.config)
            return made

        bundle = await uninterrupted(in_thread(work))  # whoever undoes this must not meet it still at work
        return runtime, bundle, cgroup

    async def create(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> OciSystem:
        self._monitor()  # NotSupported before anything is made
        prepared = await self._prepare(id, spec, place)
        with Helpers() as helpers:
            try:
                return await self._create(id, spec, stdio, place, prepared, helpers)
            except BaseException:
                helpers.release()
                await shielded(self._abandon(id, place, helpers))
                raise

    async def _create(
        self,
        id: str,
        spec: Spec,
        stdio: Stdio,
        place: Place,
        prepared: tuple[Runtime, Bundle, str],
        helpers: Helpers,
        *,
        images: Path | None = None,
        options: Sequence[str] = (),
    ) -> OciSystem:
        """Have the monitor create the container, or restore it from `images`."""
        runtime, bundle, cgroup = prepared
        for name in ("exits", "persist"):
            (place.run / name).mkdir(mode=0o700)
        stdin = stdio.stdin not in (DEVNULL, LOG)
        first = bundle.first and images is None
        own = bundle.own_cgroup
        group = Cgroup(f"{cgroup}/{LEAF}", root=self._cgroups)
        argv = conmon.command(
            self._monitor(),
            runtime.leaving_cgroups() if own else runtime,
            id,
            bundle.path,
            place,
            terminal=spec.terminal,
            stdin=stdin,
            log_size=spec.log_size,
            first=first,
            enters=entering.flags() if own else "",
            images=images,
            options=options,
        )
        channel = Channel(place.run, kept=True) if first else None
        entrance: Entrance | None = None
        try:
            entrance = Entrance(group) if own else None
            places = [*(channel.places if channel is not None else ()), *(entrance.places if entrance else ())]
            pid = await conmon.create(
                argv,
                runtime,
                id,
                place,
                command_name=None if first else spec.command[0],
                steps=bundle.steps,
                alive=helpers.theirs,
                places=places,
            )
        finally:
            if channel is not None:
                channel.close()
            if entrance is not None:
                entrance.close()
        monitor = read_pid(place.run / "monitor.pid")
        if monitor is None:
            raise ServiceError("create", id, "the monitor wrote no pid file", hint="run `longshore doctor`")
        token = identify(monitor)
        check_pid("create", id, pid, group)
        if own:
            await making.limit_made(id, group, bundle.config)
        if place.lease is None:
            init = pid if own else None
            await uninterrupted(in_thread(lambda: self._keep(id, place, monitor, cgroup, init), or_here=True))
        process = KeptProcess(
            id,
            "init",
            identify(pid, wrapped=spec.init),
            group,
            run=place.run,
            monitor=token,
            terminal=spec.terminal,
        )
        if spec.terminal and spec.size is not None:
            try:
                await conmon.resize(place.run, *spec.size)
            except BaseException:
                await process.close()
                raise
        process.watch()
        return OciSystem(
            id,
            place,
            runtime,
            cgroup,
            root=self._cgroups,
            config=bundle.config,
            process=process,
            terminal=spec.terminal,
            stdin=stdin,
            monitor=token,
            own_cgroup=own,
        )

    def _keep(self, id: str, place: Place, monitor: int, cgroup: str, init: int | None) -> None:
        """Make the monitor outlive the systemd service in which its container was made; and `init`, if no runtime has
        moved it out of there."""
        try:
            if init is not None:
                Cgroup(f"{cgroup}/{LEAF}", root=self._cgroups).take_out_of_its_service(init)
            if os.fsencode(place.run) in Path(f"/proc/{monitor}/cmdline").read_bytes():  # not a stranger's pid
                group_of_monitor(cgroup, self._cgroups).take_out_of_its_service(monitor)
        except (FileNotFoundError, ProcessLookupError):
            return  # it has ended, with its container
        except OSError as error:
            log.warning("container `%s` will end with the service that it was made in: %s", id, error)

    async def checkpoint(self, system: ComputeSystem, directory: Path, lock_fd: int, *, connections: bool) -> None:
        assert isinstance(system, OciSystem)
        await checkpoint.write(system, directory, lock_fd, connections=connections)

    async def restore(self, id: str, spec: Spec, stdio: Stdio, place: Place, directory: Path) -> OciSystem:
        notes = checkpoint.read_notes(directory)
        own = await self.runtime()
        if own.name != notes.runtime:
            found = await choice.choose_runtime(notes.runtime, cache=self.data / "probe.json")
            own = self._known(found.path, found.version)
        with Helpers() as helpers:
            try:
                return await self._restore(id, spec, stdio, place, directory, own, helpers)
            except BaseException as error:
                helpers.release()
                await shielded(self._abandon(id, place, helpers))
                explained: BaseException = error
                if isinstance(error, ServiceError):
                    log_path = place.run / "bundle" / "restore.log"
                    explained = checkpoint.explain(own.name, "restore", id, error, log_path)
                await shielded(in_thread(lambda: checkpoint.put_back(place)))
                if explained is error:
                    raise
                raise explained from error

    async def _restore(
        self, id: str, spec: Spec, stdio: Stdio, place: Place, directory: Path, known: Runtime, helpers: Helpers
    ) -> OciSystem:
        self._monitor()  # NotSupported before anything is touched
        await uninterrupted(in_thread(lambda: checkpoint.set_aside(place)))
        await uninterrupted(in_thread(lambda: checkpoint.unpack(directory, place)))
        prepared = await self._prepare(id, spec, place, runtime=known)
        group = Cgroup(f"{prepared[2]}/{LEAF}", root=self._cgroups)
        await uninterrupted(in_thread(lambda: checkpoint.lead_into(group, known, prepared[1])))
        connections = checkpoint.read_notes(directory).connections
        options = await checkpoint.options_for(known, prepared[1].config, connections=connections)
        images = directory / checkpoint.IMAGES
        system = await self._create(id, spec, stdio, place, prepared, helpers, images=images, options=options)
        await system.connect_stdin()
        return system

    async def undo_restore(self, id: str, place: Place) -> None:
        await self._abandon(id, place, None)
        await in_thread(lambda: checkpoint.put_back(place))

    async def keep_restored(self, place: Place) -> None:
        await in_thread(lambda: checkpoint.forget_before(place))

    async def launch(self, id: str, spec: Spec, stdio: Stdio, place: Place) -> tuple[OciSystem, OciProcess]:
        if LOG in (stdio.stdout, stdio.stderr):
            system = await self.create(id, spec, stdio, place)
            try:
                return system, await system.start()
            except BaseException:
                await shielded(self._discard(system))
                raise
        check_stdio(stdio)
        runtime, bundle, cgroup = await self._prepare(id, spec, place, kept=False)
        system = OciSystem(
            id,
            place,
            runtime,
            cgroup,
            root=self._cgroups,
            config=bundle.config,
            terminal=spec.terminal,
            own_cgroup=bundle.own_cgroup,
        )
        pass_fds = [] if place.lease is None else [place.lease.lock_fd]
        if place.lock_fd is not None:
            pass_fds.append(place.lock_fd)
        try:
            if spec.resources.memory is not None:
                system.watch_oom()
            process = await run_direct(
                system.runtime,
                "run",
                self._run_arguments(id, place),
                container_id=id,
                name="init",
                command=spec.command[0],
                directory=place.run,
                cgroup=system.cgroup,
                stdio=stdio,
                terminal=spec.terminal,
                size=spec.size or ((24, 80) if spec.terminal else None),
                pass_fds=pass_fds,
                steps=bundle.steps,
                wrapped=spec.init,
                first=bundle.first,
                enters=bundle.own_cgroup,
                last_step=last_step(bundle.config),
            )
        except BaseException:
            await shielded(self._clear(system))
            raise
        system.init = process
        return system, process

    async def _clear(self, system: OciSystem) -> None:
        await system.close()
        await in_thread(system.cgroup.kill, or_here=True)
        await delete_state(system.runtime, system.id, system.place.run / "delete.log")
        await in_thread(system.parent.remove, or_here=True)
        remove_work(system.place.run)

    async def _discard(self, system: OciSystem) -> None:
        await system.terminate()
        await system.delete()
        await system.close()

    async def open(self, id: str, token: bytes, place: Place) -> OciSystem:
        try:
            known = decode_json(token, SystemToken)
        except ValueError:
            raise SystemGone from None
        try:
            proc.alive(known.init.pid, known.init.start)
        except proc.Hidden as error:
            raise SystemHidden(error.strerror) from None
        runtime = self._known(known.runtime)
        group = Cgroup(f"{known.cgroup}/{LEAF}", root=self._cgroups)
        if not group.exists() and not proc.is_ending(known.init.pid, known.init.start):
            raise SystemHidden(GROUP_HIDDEN)
        process: OciProcess
        if known.monitor is not None:
            process = KeptProcess(
                id,
                "init",
                known.init,
                group,
                run=place.run,
                monitor=known.monitor,
                terminal=known.terminal,
            )
        else:
            process = ForeignProcess(id, "init", known.init, group)
        process.watch()
        return OciSystem(
            id,
            place,
            runtime,
            known.cgroup,
            root=self._cgroups,
            process=process,
            terminal=known.terminal,
            stdin=known.stdin,
            monitor=known.monitor,
            own_cgroup=known.own_cgroup,
        )

    async def state(self, token: bytes) -> State:
        try:
            known = decode_json(token, SystemToken)
        except ValueError:
            return State.STOPPED
        try:
            if not proc.alive(known.init.pid, known.init.start):
                return State.STOPPED
        except proc.Hidden as error:
            raise SystemHidden(error.strerror) from None
        paused = Cgroup(f"{known.cgroup}/{LEAF}", root=self._cgroups).paused()
        # without a view of the group nobody knows whether it is paused, nor can thaw it to end it
        if paused is None and not proc.is_ending(known.init.pid, known.init.start):
            raise SystemHidden(GROUP_HIDDEN)
        return State.PAUSED if paused else State.RUNNING

    async def abandon(self, id: str, place: Place) -> None:
        """Undo a container whose maker failed or died. The maker's helpers may still be at work."""
        await self._abandon(id, place, None)

    async def _abandon(self, id: str, place: Place, helpers: Helpers | None) -> None:
        groups = [Cgroup(self.cgroup_path(id, None), root=self._cgroups)]
        if place.lease is not None:
            groups.append(Cgroup(self.cgroup_path(id, place.lease.id), root=self._cgroups))
            # as an earlier longshore named it
            groups.append(Cgroup(f"{self._owner_cgroup(place.lease.id)}/{id}", root=self._cgroups))
        runtimes = [self._made_by(base) for base in self._runtime_roots()]
        limit = min(ABANDON_LIMIT, self._limits.verb)
        await abandon.abandon(id, place, groups, runtimes, helpers, root=self._cgroups, limit=limit)

    def _made_by(self, base: Path) -> Runtime:
        """Return a runtime by the folder of its state."""
        hide = choice.must_hide_unified(base.name)
        return Runtime(choice.find(base.name) or base.name, base, hide_unified=hide, limits=self._limits)

    def _runtime_roots(self) -> list[Path]:
        try:
            return list((self.run / "runtime").iterdir())
        except FileNotFoundError:
            return []

    def keeper(self, lease: Lease, directory: Path) -> Sequence[str]:
        state = f"{self.run}:{self.data}"
        return [*leases.keeper(), str(directory), self._owner_cgroup(lease.id), state, *leases.interpreter()]

    async def end_lease(self, lease: Lease | str, directory: Path, limit: float | None = None) -> None:
        id = lease if isinstance(lease, str) else lease.id
        group = Cgroup(self._owner_cgroup(id), root=self._cgroups)
        seconds = leases.LIMIT if limit is None else limit
        if not await in_thread(lambda: leases.end_lease(group, directory, root=self._cgroups, limit=seconds)):
            raise TimeLimit(
                f"the processes of lease {id}",
                seconds,
                hint="look for a process in state D (`ps`): it hangs in the kernel",
            )

    async def end_stopped_keeper(self, directory: Path) -> None:
        await in_thread(lambda: leases.end_stopped_keeper(directory))

    async def leftovers(self, owner: str) -> list[str]:
        found: set[str] = set()
        for base in self._runtime_roots():
            found.update(path.name for path in base.iterdir() if path.is_dir() and path.name != ".cache")  # crun 1.9's
        return sorted(found)

    async def version(self) -> Mapping[str, str]:
        runtime = await self.runtime()
        return await choice.versions([runtime.path, self._monitor()])

    async def close(self) -> None:
        """Do nothing: nothing is held between calls."""
