"""Control groups of both versions behind one class: kill, freeze, remove.

A control group (cgroup) is a directory in a file system of the kernel. Its files list its processes, limit what they
use, and count it. A child process starts in the group of its parent, and cannot leave it without rights. So the group
of a container holds all of its processes, whatever they do. longshore kills, freezes and counts by the group.

*Version 2* has one hierarchy: a group is one directory. *Version 1* has one hierarchy for each controller (memory, cpu,
freezer, ...): a group is a directory of the same name in each. A *hybrid* machine has version 1 with a version 2
hierarchy beside it, mostly without controllers; longshore treats it as version 1. The versions differ in what matters
here:

- Kill. Version 2 has `cgroup.kill` (Linux 5.14): the kernel kills every process in the group and below, also one that
  is just being forked. Otherwise the list of processes is read and each is killed, again and again until it is empty.
- Freeze. Version 2 has `cgroup.freeze`, and `cgroup.events` says when the group is frozen. Version 1 has
  `freezer.state`: it may stay in FREEZING while new processes appear, so FROZEN is written again until it holds.
- Death. In version 2, a frozen process that is killed dies at once. In version 1 it dies only when it is thawed.
- Counters. In version 2, a group counts what its children used, also after they are gone. In version 1, some counters
  do not include the children.

A user pauses a container by freezing its group. longshore also freezes it for a moment to kill the process tree of one
exec in version 1, so that no process is started between the look at the list and the kill; and it thaws a paused
container for a moment to let a killed process die. Other programs must not take that moment for a pause, and must not
freeze or thaw in between. Two things on the group's own directory prevent it. Both leave no file:

- A flock(2), held for that time (`freezing_alone`). It ends with its holder.
- An extended attribute (`MARK`) with the state that the user asked for (`freezing_for_a_moment`). If its writer is
  killed, the next program that takes the lock finds the mark and restores that state.

Sources: cgroups(7); Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import nested
from .hierarchies import ROOT, hierarchies, mode, read_number, read_table, read_text
from .membership import cgroups
from .oom import OomWatch

KILL_LIMIT = 30.0  # seconds; a process in uninterruptible sleep may need them
FREEZE_LIMIT = 10.0  # seconds
THAW_AFTER = 20  # attempts to freeze a version 1 group, before it is thawed for a moment
REMOVE_LIMIT = 2.0  # seconds
MARK = "trusted.longshore.killing"  # an attribute of the group's directory, removed with it
EXEC = "longshore-exec."  # prefix of the group of one exec (keeper.sh has it, too)

UNLIMITED = 1 << 60  # version 1 writes "no limit" as a number near the largest


class Cgroup:
    """One control group, by its path. It may not exist yet, or no longer."""

    def __init__(self, path: str, *, root: Path = ROOT) -> None:
        self.path = path
        self.root = root
        self._relative = path.lstrip("/")

    def __repr__(self) -> str:
        return f"<Cgroup {self.path}>"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)

    def directory(self, controller: str) -> Path | None:
        """Return the group's directory in a controller's hierarchy; version 2 has one directory for all."""
        where = hierarchies(self.root)
        base = where.get(controller) or (where.get("") if mode(self.root) == "v2" else None)
        return None if base is None else base / self._relative

    def directories(self) -> list[Path]:
        """Return the directories of the group that exist."""
        every = {base / self._relative for base in hierarchies(self.root).values()}
        return sorted(path for path in every if path.is_dir())

    def exists(self) -> bool:
        return bool(self.directories())

    @property
    def unified(self) -> bool:
        """Whether the group is of version 2."""
        return mode(self.root) == "v2"

    # processes

    def pids(self) -> list[int]:
        """Return every process in the group and below. One that ends meanwhile may be missing."""
        found: set[int] = set()
        for directory in self.directories():
            for group in nested.walk(directory):
                with suppress(OSError):
                    found.update(map(int, _read_at(group, "cgroup.procs").split()))
        return sorted(found - {0})

    def kill(self, limit: float = KILL_LIMIT) -> bool:
        """Kill all processes in the group and below, until none is left. Blocks.

        Returns False if a process was left after `limit` seconds.
        """
        deadline = time.monotonic() + limit
        pause = 0.0002
        while True:
            for directory in self.directories():
                with suppress(OSError):
                    (directory / "cgroup.kill").write_text("1")
            pids = self.pids()
            if not pids:
                return True
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._thaw_all()
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)  # version 1 does not notify when a group is empty
            pause = min(pause * 2, 0.02)

    def remove(self, limit: float = REMOVE_LIMIT) -> bool:
        """Remove the group and its children, which must be empty. Blocks while the last process leaves.

        Returns False if one is still in use after `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while True:
            every = {base / self._relative for base in hierarchies(self.root).values()}
            busy = [directory for directory in every if not nested.remove(directory)]
            if not busy or time.monotonic() > deadline:
                return not busy
            time.sleep(0.001)

    def remove_below(self) -> None:
        """Remove the groups that were made below it, as far as they are empty: a runtime would, by recursion."""
        for directory in self.directories():
            if nested.has_children(directory):
                nested.remove_below(directory)

    # one exec's own

    def make_for_exec(self) -> Cgroup | None:
        """Make a group in this one for one exec. All that the exec starts stays in it, also a daemon.

        The new group gets no controllers, so its processes count in the container's group. Returns None in version 1,
        and where this group is gone or may have no more children. Then the exec is in the container's own group.
        """
        if not self.unified:
            return None
        made = Cgroup(f"{self.path}/{EXEC}{os.urandom(8).hex()}", root=self.root)
        try:
            os.mkdir(self.root / made._relative)
        except OSError:
            return None
        return made

    def of_exec(self, pid: int) -> Cgroup | None:
        """Return the group of the exec that `pid` belongs to; None if that exec has no group of its own."""
        if not self.unified:
            return None
        for _, path in cgroups(pid) or ():
            found = re.search(f"{re.escape(self.path)}/({re.escape(EXEC)}[0-9a-f]+)", path)
            if found is not None:
                return Cgroup(f"{self.path}/{found[1]}", root=self.root)
        return None

    def kill_at_once(self) -> bool:
        """Have the kernel kill all processes in the group and below, also frozen ones and new forks; do not wait.

        Returns False where the kernel cannot: in version 1, and before Linux 5.14.
        """
        if not self.unified:
            return False
        try:
            (self.root / self._relative / "cgroup.kill").write_text("1")
        except OSError:
            return not self.exists()
        return True

    # what outlives its caller

    def take_out_of_its_service(self, pid: int) -> None:
        """Move a process from the group of a systemd service into this one.

        systemd kills what is in the service's group when the service stops or fails (systemd.kill(5)). The move
        happens only in the hierarchies by which systemd knows its services. A process in a root group stays there,
        because no service ends it.

        Raises: OSError.
        """
        for name, path in cgroups(pid) or ():
            base = hierarchies(self.root).get(name.removeprefix("name="))
            inside = path == self.path or path.startswith(f"{self.path}/")
            if name in ("", "name=systemd") and path != "/" and not inside and base is not None:
                directory = base / self._relative
                directory.mkdir(parents=True, exist_ok=True)
                (directory / "cgroup.procs").write_text(str(pid))

    # freezing

    @contextmanager
    def freezing_alone(self, limit: float = FREEZE_LIMIT + 1) -> Iterator[None]:
        """Hold the lock for freezing and thawing the group, and restore what a killed holder left. Blocks.

        Raises: TimeoutError if another program, for example a stopped one, holds the lock for `limit` seconds.
        """
        fd = self._open_freezer()
        if fd < 0:
            yield
            return
        try:
            _lock_within(fd, limit, self.path)
            self._restore_marked(fd)
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile inherits the descriptor
            os.close(fd)

    def _open_freezer(self) -> int:
        freezer = self._freezer()
        try:
            return -1 if freezer is None else os.open(freezer[0].parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # it was just removed
            return -1

    @contextmanager
    def freezing_for_a_moment(self, *, paused: bool) -> Iterator[None]:
        """Mark the group as frozen or thawed for a moment only. Call it within `freezing_alone`.

        `paused` is the state before, and the state to restore.
        """
        freezer = self._freezer()
        with suppress(OSError):  # a kernel without such attributes: then no other program can restore the state
            if freezer is not None:
                os.setxattr(freezer[0].parent, MARK, b"paused" if paused else b"running")
        try:
            yield
        finally:
            with suppress(OSError):
                if freezer is not None:
                    os.removexattr(freezer[0].parent, MARK)

    def paused(self) -> bool | None:
        """Return whether a user paused the container: not whether a program freezes it for a moment.

        None if there is no such group: it is gone, or this program cannot see it.
        """
        if not (asked := self._to_be_frozen()):
            return asked
        fd = self._open_freezer()
        if fd < 0:
            return False
        try:
            mark = _mark(fd)
            if mark is None:
                return True
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return mark == b"paused"
            try:
                self._restore_marked(fd)
                return self._to_be_frozen()
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def _restore_marked(self, fd: int) -> None:
        mark = _mark(fd)
        if mark is None:
            return
        with suppress(OSError):
            if mark == b"paused":
                self.freeze()
            else:
                self.thaw()
            os.removexattr(fd, MARK)

    def freeze(self, limit: float = FREEZE_LIMIT) -> None:
        """Freeze the group; all of its processes have stopped when the call returns. Blocks.

        Raises: TimeoutError after `limit` seconds; the group is thawed then.
        """
        deadline = time.monotonic() + limit
        freezer = self._freezer()
        if freezer is None:
            raise FileNotFoundError(errno.ENOENT, "the cgroup has no freezer", self.path)
        file, value = freezer
        pause = 0.0002
        tries = 0
        file.write_text(value)
        while not self.frozen():
            if time.monotonic() > deadline:
                self.thaw()
                raise TimeoutError(f"the cgroup {self.path} did not freeze within {limit:g} s")
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
            if value == "FROZEN":
                # version 1 may stay in FREEZING while new processes appear, so write again. It may stay there for ever
                # if a frozen process blocks another one, so thaw now and then (as runc does in its fs/freezer.go)
                tries += 1
                if tries % THAW_AFTER == 0:
                    file.write_text("THAWED")
                    time.sleep(pause)
                file.write_text(value)

    def thaw(self) -> None:
        """Thaw the group, if it is there."""
        freezer = self._freezer()
        if freezer is not None:
            file, value = freezer
            with suppress(OSError):
                file.write_text("0" if value == "1" else "THAWED")

    def _thaw_all(self) -> None:
        """Thaw the group and all below it, so that killed processes can die.

        In version 1, a child that was frozen by itself stays frozen when its parent is thawed.
        """
        self.thaw()
        directory = None if self.unified else self.directory("freezer")
        if directory is not None:
            for group in nested.walk(directory):
                with suppress(OSError):
                    _write_at(group, "freezer.state", b"THAWED")

    def frozen(self) -> bool:
        """Return whether all processes of the group are frozen now."""
        base = hierarchies(self.root).get("" if self.unified else "freezer")
        if base is None:
            return False
        directory = f"{base}/{self._relative}"  # a listing asks for thousands, and pathlib is slow
        if self.unified:
            return read_table(f"{directory}/cgroup.events").get("frozen") == 1
        return (read_text(f"{directory}/freezer.state") or "").strip() == "FROZEN"

    def _to_be_frozen(self) -> bool | None:
        """Return whether the group is to be frozen, also before all have stopped (a new exec, for example).

        None if there is no such group.
        """
        base = hierarchies(self.root).get("" if self.unified else "freezer")
        text = None
        if base is not None:
            text = read_text(f"{base}/{self._relative}/{'cgroup.freeze' if self.unified else 'freezer.state'}")
        if text is None:
            return False if self.exists() else None
        return text.strip() in ("1", "FROZEN", "FREEZING")

    def _freezer(self) -> tuple[Path, str] | None:
        directory = self.directory("freezer")
        if directory is None:
            return None
        file, value = (directory / "cgroup.freeze", "1") if self.unified else (directory / "freezer.state", "FROZEN")
        return (file, value) if file.exists() else None

    # counters

    def peak_memory(self) -> int | None:
        """Return the highest memory use, in bytes, children included."""
        directory = self.directory("memory")
        if directory is None:
            return None
        return read_number(directory / ("memory.peak" if self.unified else "memory.max_usage_in_bytes"))

    def swap_beside(self, memory: int) -> int:
        """Return a limit of memory and swap together, to go with a new limit of memory; -1 is no limit.

        It is the present one, if that is large enough. Without swap, or without a limit of memory, the new limit allows
        no swap.
        """
        directory = self.directory("memory") or Path("/nonexistent")
        if self.unified:
            old, swap = read_number(directory / "memory.max"), read_number(directory / "memory.swap.max")
            both = None if old is None or swap is None else old + swap
        else:
            old, both = (read_number(directory / f"memory.{name}limit_in_bytes") for name in ("", "memsw."))
        if old is None or old > UNLIMITED or both == old:
            return memory
        return -1 if both is None or both > UNLIMITED else max(memory, both)

    def cpu_time(self) -> float | None:
        """Return the processor time in seconds, children included."""
        if self.unified:
            directory = self.directory("")
            usage = None if directory is None else read_table(directory / "cpu.stat").get("usage_usec")
            return None if usage is None else usage / 1e6
        directory = self.directory("cpuacct")
        used = None if directory is None else read_number(directory / "cpuacct.usage")
        return None if used is None else used / 1e9

    def oom_kills(self) -> int | None:
        """Return how many processes the kernel killed for lack of memory; in version 1 without those of children."""
        directory = self.directory("memory")
        if directory is None:
            return None
        file = "memory.events" if self.unified else "memory.oom_control"
        return read_table(directory / file).get("oom_kill")

    def oom_watch(self) -> OomWatch | None:
        """Count out-of-memory kills, also if the group is removed before they are read. None in version 2."""
        directory = self.directory("memory")
        if directory is None or self.unified:
            return None  # version 2 counts in the parent, too
        directory.mkdir(parents=True, exist_ok=True)  # the runtime accepts an existing one
        return OomWatch(directory)


def _lock_within(fd: int, limit: float, path: str) -> None:
    deadline = time.monotonic() + limit
    pause = 0.0002
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another program has been freezing the cgroup {path} for {limit:g} s") from None
        else:
            return
        time.sleep(pause)  # flock(2) has no time limit
        pause = min(pause * 2, 0.01)


def _read_at(group: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=group)
    with open(fd, "rb") as file:
        return file.read()


def _write_at(group: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=group)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _mark(fd: int) -> bytes | None:
    try:
        return os.getxattr(fd, MARK)
    except OSError:
        return None
