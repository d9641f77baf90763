"""One container of an OCI runtime: its verbs, after it was made."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ..aio.fork_safety import is_lost
from ..aio.tasks import in_thread, shielded
from ..compute.limits import Limits
from ..compute.values import Place, ProcessInfo, Stats, Stdio, SystemEnd, now
from ..errors import InvalidState
from ..exit_record import Cause, Exit
from ..spec import ProcessSpec, Resources
from ..typed_json import decode_json
from .bundle import last_step
from .cgroups import counters, entering, killing, making
from .cgroups.cgroup import Cgroup
from .config import translate
from .config.container_paths import ContainerPaths
from .config.ignored import ignored_of_exec
from .processes import proc
from .processes.launch import UMASK
from .processes.stdio import check_stdio
from .rootfs.executable import check_sizes
from .rootfs.layers import remove_work
from .rootfs.resolve_in_root import Folder, look
from .runtimes import conmon
from .runtimes.direct_process import DirectProcess
from .runtimes.foreground import run_direct, within
from .runtimes.kept_process import KeptProcess
from .runtimes.runtime import Runtime, delete_state
from .runtimes.status import FLAGS, PATH, open_begin, refusal, wait_record, why_not
from .runtimes.watch import ForeignProcess, OciProcess, ProcessToken, ended

log = logging.getLogger("longshore.oci")

OOM_LIMIT = 2.0  # seconds in which a process that was killed for lack of memory is gone
EXECS_OOM = "execs-out-of-memory"
LEAF = "box"  # the container's cgroup is a child of one of its own: its counters outlive it


class SystemToken(msgspec.Struct):
    """What finds a container again."""

    runtime: str
    cgroup: str  # the parent; the container's own is its child LEAF
    init: ProcessToken
    monitor: ProcessToken | None = None
    terminal: bool = False
    stdin: bool = False
    own_cgroup: bool = False  # made by longshore: the runtime does not know it


def group_of_monitor(cgroup: str, root: Path) -> Cgroup:
    """Return the cgroup of a monitor that had to leave the systemd service of its maker.

    `cgroup` is the container's parent group. The monitor is beside it, so that its use does not count there.
    """
    return Cgroup(f"{cgroup}~monitor", root=root)  # no id has a `~`


class OciSystem:
    """One container of an OCI runtime."""

    def __init__(
        self,
        id: str,
        place: Place,
        runtime: Runtime,
        cgroup: str,
        *,
        root: Path,
        config: dict[str, Any] | None = None,
        process: OciProcess | None = None,
        terminal: bool = False,
        stdin: bool = False,
        monitor: ProcessToken | None = None,
        own_cgroup: bool = False,
    ) -> None:
        self.id = id
        self.place = place
        self.own_cgroup = own_cgroup
        self.runtime = runtime.leaving_cgroups() if own_cgroup else runtime
        self.parent = Cgroup(cgroup, root=root)
        self.cgroup = Cgroup(f"{cgroup}/{LEAF}", root=root)
        self.init = process
        self.monitor = monitor
        self._config = config
        self._terminal = terminal
        self._stdin = stdin
        self._execs: set[OciProcess] = set()
        self._left: set[Cgroup] = set()  # of execs that have ended, with somebody in them
        self._oom_watch: Any = None

    @property
    def token(self) -> bytes:
        init = self.init
        assert init is not None
        return msgspec.json.encode(
            SystemToken(
                runtime=self.runtime.path,
                cgroup=self.parent.path,
                init=init.identity,
                monitor=self.monitor,
                terminal=self._terminal,
                stdin=self._stdin,
                own_cgroup=self.own_cgroup,
            )
        )

    @property
    def config(self) -> dict[str, Any]:
        """The document that the container was made from."""
        if self._config is None:
            self._config = msgspec.json.decode((self.place.run / "bundle" / "config.json").read_bytes())
        return self._config

    def _log(self, verb: str) -> Path:
        return self.place.run / f"{verb}.log"

    async def connect_stdin(self) -> None:
        """Connect init's input, if it has one, by the monitor's attach socket."""
        if self.init is not None and (self._stdin or self._terminal):
            self.init.streams.stdin = await conmon.connect_stdin(self.place.run)

    async def start(self) -> OciProcess:
        init = self.init
        assert init is not None
        pidfd: int | None = None
        try:
            await self.connect_stdin()
            with suppress(OSError):  # without it a start that hangs does so for its whole limit
                pidfd = proc.open_pidfd(init.pid, init.identity.start)
            init.started_at = now()  # before: it may end before the runtime has
            begin = open_begin(self.place.run)
            try:
                await self.runtime.verb(self._log("start"), "start", self.id, container_id=self.id, init=pidfd)
                if begin is not None:
                    await self._begin(init, begin, pidfd)
            finally:
                if begin is not None:
                    os.close(begin)
        except BaseException:
            if init.streams.stdin is not None:
                init.streams.stdin.close()
                init.streams.stdin = None
            raise
        finally:
            if pidfd is not None:
                os.close(pidfd)
        return init

    async def _begin(self, init: OciProcess, begin: int, pidfd: int | None) -> None:
        """Wait until the command was executed, or raise why it was not."""
        ending: asyncio.Future[None] = asyncio.ensure_future(ended(pidfd)) if pidfd is not None else _done()
        try:
            async with within(self.runtime.limits.start, "start", self.id):
                outcome = await wait_record(self.place.run, begin, ending)
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
        if outcome.error is not None:
            raise refusal(self.id, (self.config.get("process") or {}).get("args", [""] * 3)[2], outcome)
        if not outcome.begun:
            raise self.runtime.never_ran("start", self._log("start"), self.id, None, last_step(self.config))

    async def exec(self, process: ProcessSpec, stdio: Stdio, name: str, place: Place) -> OciProcess:
        if await self.paused():
            raise InvalidState("exec in", self.id, "paused", hint="resume it first")
        check_stdio(stdio)
        document, first = await look(self.id, lambda: self._document(process), self.runtime.limits.verb)
        command = document["args"][0]
        if first:
            flags = FLAGS + entering.flags() if self.own_cgroup else FLAGS
            document["args"] = [PATH, flags, *document["args"]]
        dropped = [] if process.oci is None else ignored_of_exec(process.oci, self.runtime.known)
        if dropped:
            log.warning("exec in container `%s`: %s ignores %s", self.id, self.runtime.known, ", ".join(dropped))
        path = place.run / "process.json"
        path.write_bytes(msgspec.json.encode(document))
        path.chmod(0o600)
        pass_fds = []
        entry: Path | None = None
        if place.lease is not None:
            pass_fds.append(place.lease.lock_fd)
            # for the keeper (keeper.sh): whose pid, and in which cgroup it must be
            entry = place.run.parents[3] / "leases" / place.lease.id / "execs" / os.urandom(8).hex()
            entry.write_text(f"{place.run / 'pid'}\n{self.cgroup.path}\n")
        kills = self.cgroup.oom_kills()
        self._left = {group for group in self._left if not group.remove(0)}
        own = self.cgroup.make_for_exec()
        within = [] if own is None else ["--cgroup", own.name]
        try:
            anteroom = await making.anteroom(self.id, self.cgroup, self.config) if self.own_cgroup else None
            started = await run_direct(
                self.runtime,
                "exec",
                ["--process", str(path), *within, self.id],
                container_id=self.id,
                name=name,
                command=command,
                directory=place.run,
                cgroup=self.cgroup,
                stdio=stdio,
                terminal=process.terminal,
                size=process.size or ((24, 80) if process.terminal else None),
                pass_fds=pass_fds,
                umask=document["user"].get("umask", UMASK),
                first=first,
                enters=self.own_cgroup,
                anteroom=anteroom,
            )
        except BaseException:
            if entry is not None and not is_lost():  # else it is a forked child's parent's
                entry.unlink(missing_ok=True)
            if own is not None:
                await shielded(in_thread(own.kill, or_here=True))
                own.remove()
            raise
        if own is not None:
            group = own
            started._exit.add_done_callback(lambda _: self._remove(group))
        if entry is not None:
            noted = entry
            with suppress(OSError), noted.open("a") as file:  # without it the pid alone has to do
                file.write(f"{started.identity.start or ''}\n")
            started._exit.add_done_callback(lambda _: noted.unlink(missing_ok=True))
        started.kills_before = kills
        started._exit.add_done_callback(self._note_oom)
        self._execs.add(started)
        started._exit.add_done_callback(lambda _: self._execs.discard(started))
        return started

    def _note_oom(self, ending: asyncio.Future[Exit]) -> None:
        """Add one byte for each exec that was killed for lack of memory, since the kernel's count has them, too."""
        if self.is_ending():  # it may have died of init's end, and the kernel may have meant init
            return
        if not ending.cancelled() and ending.exception() is None and ending.result().cause is Cause.OOM:
            with suppress(OSError):  # without it the monitor's time has to do
                fd = os.open(self.place.run / EXECS_OOM, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                try:
                    os.write(fd, b".")
                finally:
                    os.close(fd)

    def _remove(self, group: Cgroup) -> None:
        """Remove the group of an exec that has ended; later, if it left processes behind."""
        if not group.remove(0):
            self._left.add(group)

    def _document(self, process: ProcessSpec) -> tuple[dict[str, Any], bool]:
        """Return the document for the runtime, checked in the present root, and whether a first program can be used.

        Blocks as long as reading the root does.
        """
        document = translate.process(self.config, process, pid=self.init.pid if self.init else None)
        check_sizes(document["args"], document["env"])
        first = self._has_first(document)
        if not first:
            self._check_command(document)
        return document, first

    def _has_first(self, document: dict[str, Any]) -> bool:
        """Return whether the first program can execute the command of an exec: it needs a /proc, which may be gone."""
        if why_not(self.config, process=document) is not None:
            return False
        try:
            inside = Folder(f"/proc/{self.init.pid}/root" if self.init else "")
        except OSError:
            return True  # it has ended: the runtime will say so
        try:
            return inside.stat("/proc/uptime") is not None
        finally:
            inside.close()

    def _check_command(self, document: dict[str, Any]) -> None:
        """Check the command in the present root: a runtime would report only an exit code."""
        with suppress(OSError):  # it has ended: the runtime will say so
            inside = Folder(f"/proc/{self.init.pid}/root" if self.init else "")
            try:
                command: str = document["args"][0]
                view = ContainerPaths(inside, [])
                found = view.find_command(command, env=document["env"], cwd=document["cwd"])
                if found.path is not None:
                    view.check_command(self.id, command, found)
            finally:
                inside.close()

    async def attach_stdin(self) -> asyncio.StreamWriter:
        try:
            return await conmon.connect_stdin(self.place.run)
        except OSError:
            raise InvalidState(
                "attach to the input of", self.id, "stopped", hint="create another container: each starts once"
            ) from None

    async def open_process(self, token: bytes) -> OciProcess:
        found = decode_json(token, ProcessToken)
        if self.init is not None and found.pid == self.init.pid:
            return self.init
        process = ForeignProcess(self.id, "", found, self.cgroup)
        process.watch()
        return process

    async def shutdown(self, signal: int | None = None) -> None:
        if self.init is not None:
            await self.init.begun()
            with suppress(LookupError):
                self.init.send(15 if signal is None else signal)

    async def terminate(self) -> None:
        if self.init is not None:
            self.init.send(signal.SIGKILL)
        await in_thread(self._thaw, or_here=True)  # cgroup v1: a frozen process dies only when it is thawed

    async def can_receive(self, number: int) -> bool:
        """Return whether init gets this signal: as pid 1, it gets only those that it handles (pid_namespaces(7))."""
        if self.init is None:
            return False
        await self.init.begun()
        return proc.can_receive(self.init.pid, number)

    def is_ending(self) -> bool:
        """Return whether init is dead, dying or killed. No process can join while the kernel ends what it leaves."""
        return self.init is None or proc.is_ending(self.init.pid, self.init.identity.start)

    async def urge(self) -> None:
        """Do nothing: the next step is to kill."""

    def settle_limit(self, limits: Limits) -> float:
        return limits.settle

    async def settle(self, init: Exit, limit: float) -> SystemEnd:
        if isinstance(self.init, KeptProcess):
            # its own counters stay until `delete`; nothing can be left in a pid namespace, but a spec may have none
            await in_thread(self.cgroup.kill, or_here=True)
        counted = self.cgroup if self.own_cgroup else self.parent  # which is there when the runtime's is gone
        peak, cpu = counted.peak_memory(), counted.cpu_time()
        oom = self._oom(init)
        cause = init.cause
        if oom and init.signal == signal.SIGKILL and cause is Cause.SIGNALLED and not self._meant_others(init):
            cause = Cause.OOM
        exit = msgspec.structs.replace(init, peak_memory=peak, cpu_time=cpu, cause=cause)
        return SystemEnd(exit=exit, oom=oom)

    def _oom(self, init: Exit) -> bool:
        if self._oom_watch is not None:
            killed = bool(self._oom_watch.killed())
            self._oom_watch.close()
            self._oom_watch = None
            return killed
        return bool(self.cgroup.oom_kills() or self.parent.oom_kills()) or (self.place.run / "persist" / "oom").exists()

    def _meant_others(self, init: Exit) -> bool:
        """Whether all that were killed for lack of memory were others than init, which lived on.

        Which ones they were the kernel does not tell. Of execs their owners have noted it; of another process the
        monitor notes the time, if it is the first.
        """
        killed = max(self.cgroup.oom_kills() or 0, self.parent.oom_kills() or 0)
        with suppress(OSError):
            if 0 < killed <= os.stat(self.place.run / EXECS_OOM).st_size:
                return True
        if killed != 1 or init.at is None:
            return False
        try:
            noted = os.stat(self.place.run / "persist" / "oom").st_mtime
        except OSError:
            return False
        return init.at.timestamp() - noted > OOM_LIMIT

    def watch_oom(self) -> None:
        """Count out-of-memory kills, also if the runtime removes the container's cgroup at once."""
        if not self.own_cgroup:
            self._oom_watch = self.cgroup.oom_watch()

    async def delete(self) -> None:
        if isinstance(self.init, DirectProcess):
            if not self.init.child.ended:
                self.init.send(signal.SIGKILL)
                await in_thread(self._thaw, or_here=True)
                try:
                    async with asyncio.timeout(self.runtime.limits.verb):
                        await self.init.child.wait()
                except TimeoutError:
                    self.init.child.kill()
                    await self.init.child.wait()
            if (self.runtime.root / self.id).exists():  # the runtime was killed: it could not clear up
                await in_thread(self.cgroup.kill, or_here=True)
                await delete_state(self.runtime, self.id, self._log("delete"))
        else:
            await self._delete_kept()
        if self._oom_watch is not None:
            self._oom_watch.close()
            self._oom_watch = None
        for group in (self.parent, group_of_monitor(self.parent.path, self.parent.root)):
            await in_thread(group.remove, or_here=True)
        remove_work(self.place.run)

    async def _delete_kept(self) -> None:
        monitor = None
        if self.monitor is not None:
            monitor = proc.open_pidfd(self.monitor.pid, self.monitor.start)
        try:
            await in_thread(self.cgroup.remove_below, or_here=True)
            await delete_state(self.runtime, self.id, self._log("delete"))
            if monitor is not None:
                try:
                    async with asyncio.timeout(self.runtime.limits.verb):
                        await ended(monitor)
                except TimeoutError:
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(monitor, signal.SIGKILL)
        finally:
            if monitor is not None:
                os.close(monitor)

    async def pause(self) -> None:
        try:
            await shielded(in_thread(self._freeze))  # a thread that goes on alone could freeze it after we thawed it
        except BaseException:
            await shielded(in_thread(self._thaw, or_here=True))
            raise

    async def resume(self) -> None:
        await shielded(in_thread(self._thaw, or_here=True))  # a thread that goes on alone would thaw a later pause

    def _freeze(self) -> None:
        with self.cgroup.freezing_alone():
            self.cgroup.freeze()

    def _thaw(self) -> None:
        try:
            with self.cgroup.freezing_alone(killing.KILL_PATIENCE):
                self.cgroup.thaw()
        except TimeoutError:  # a program that is stopped amid freezing it must not keep it alive
            self.cgroup.thaw()

    async def paused(self) -> bool:
        return bool(self.cgroup.paused())

    async def stats(self) -> Stats:
        return counters.stats(self.cgroup, pid=self.init.pid if self.init is not None else None)

    async def processes(self) -> list[ProcessInfo]:
        def look() -> list[ProcessInfo]:  # at thousands of processes, whose command lines a container chooses
            found = (proc.info(pid) for pid in self.cgroup.pids())
            return [info for info in found if info is not None]

        return await in_thread(look)

    async def update(self, change: Resources) -> None:
        if not change:
            return
        if change.memory is not None and change.memory_swap is None:
            total = self.cgroup.swap_beside(int(change.memory))
            change = msgspec.structs.replace(change, memory_swap=total)
        if self.own_cgroup:
            await making.update(self.id, self.cgroup, translate.resources(change))
            return
        document = translate.resources_update(change)
        name = f"update.{os.urandom(4).hex()}"  # another program may change it at this moment
        path, log = self.place.run / f"{name}.json", self._log(name)
        path.write_bytes(msgspec.json.encode(document))
        try:
            await self.runtime.verb(log, "update", "--resources", str(path), self.id, container_id=self.id)
        finally:
            if not is_lost():
                path.unlink(missing_ok=True)
                log.unlink(missing_ok=True)

    async def close(self) -> None:
        for process in [*self._execs, *([self.init] if self.init is not None else [])]:
            await process.close()
        if self._oom_watch is not None:
            self._oom_watch.close()
            self._oom_watch = None


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
