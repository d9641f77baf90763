"""Control groups of both versions behind one class: kill, freeze, remove. cgroups(7), and the kernel's
Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.

In version 1 (and on "hybrid" hosts) a group is a directory in each controller's hierarchy; in version 2 it is one.
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
from functools import cache
from pathlib import Path
from typing import Literal

from ...fs.files import read_whole
from .membership import cgroups
from .oom import OomWatch

ROOT = Path("/sys/fs/cgroup")
KILL_LIMIT = 30.0  # seconds; a process in uninterruptible sleep may take its time
FREEZE_LIMIT = 10.0
THAW_AFTER = 20  # looks at a version 1 group that does not freeze
REMOVE_LIMIT = 2.0
MARK = "trusted.longshore.killing"  # an attribute of the group's directory: it goes with it, and leaves no file
EXEC = "longshore-exec."  # the name of a group of one exec begins so (keeper.sh knows it, too)

UNLIMITED = 1 << 60  # version 1 writes "no limit" as a number near the largest

Mode = Literal["v1", "hybrid", "v2"]


@cache
def mode(root: Path = ROOT) -> Mode:
    """How this host's cgroups are mounted."""
    if (root / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (root / "unified" / "cgroup.procs").exists() else "v1"


@cache
def hierarchies(root: Path = ROOT) -> dict[str, Path]:
    """Where each controller's hierarchy is, by the controller's name; version 2's own is ``."""
    if mode(root) == "v2":
        return {"": root}
    found = {}
    with suppress(OSError):
        for name in sorted(os.listdir(root)):
            path = root / name
            if (path / "cgroup.procs").exists():
                for controller in name.split(","):
                    found["" if controller == "unified" else controller] = path
    return found


def read_text(path: Path | str) -> str | None:
    """A file of the kernel's; None if this kernel or this group has none."""
    try:
        return read_whole(path).decode("ascii", errors="replace")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EOPNOTSUPP):
            return None  # not there, removed under us, or not of this kernel
        raise


def read_number(path: Path | str) -> int | None:
    """A file with one number; None if there is none, or no limit."""
    text = read_text(path)
    if text is None or not text.strip().lstrip("-").isdigit():
        return None  # `max` is no number either
    return int(text)


def read_table(path: Path | str) -> dict[str, int]:
    """A file of `name number` lines."""
    found = {}
    for line in (read_text(path) or "").splitlines():
        name, _, number = line.partition(" ")
        if number.strip().isdigit():
            found[name] = int(number)
    return found


class Cgroup:
    """One control group, by its path; it need not exist (yet, or any more)."""

    def __init__(self, path: str, *, root: Path = ROOT) -> None:
        self.path = path
        self.root = root
        self._relative = path.lstrip("/")

    def __repr__(self) -> str:
        return f"<Cgroup {self.path}>"

    @property
    def name(self) -> str:
        """Its own, without those above it."""
        return os.path.basename(self.path)

    def directory(self, controller: str) -> Path | None:
        """The directory of the controller's hierarchy; version 2 has one for all."""
        where = hierarchies(self.root)
        base = where.get(controller) or (where.get("") if mode(self.root) == "v2" else None)
        return None if base is None else base / self._relative

    def directories(self) -> list[Path]:
        """Those that exist."""
        every = {base / self._relative for base in hierarchies(self.root).values()}
        return sorted(path for path in every if path.is_dir())

    def exists(self) -> bool:
        return bool(self.directories())

    @property
    def unified(self) -> bool:
        """Whether it is of version 2."""
        return mode(self.root) == "v2"

    # processes

    def pids(self) -> list[int]:
        """Every process in it and below; a process that ends meanwhile may be missing."""
        found: set[int] = set()
        for directory in self.directories():
            for procs in _walk(directory):
                with suppress(OSError):
                    found.update(int(line) for line in procs.read_text().split())
        return sorted(found - {0})

    def kill(self, limit: float = KILL_LIMIT) -> bool:
        """Kill all in it and below, until nothing is left. Blocks; False if something was left after `limit` s."""
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
            time.sleep(pause)  # nobody tells when a version 1 group is empty
            pause = min(pause * 2, 0.02)

    def remove(self, limit: float = REMOVE_LIMIT) -> bool:
        """Remove it and its children, which must be empty. Blocks only while the last process leaves."""
        deadline = time.monotonic() + limit
        while True:
            every = {base / self._relative for base in hierarchies(self.root).values()}
            busy = [directory for directory in every if not _remove(directory)]
            if not busy or time.monotonic() > deadline:
                return not busy
            time.sleep(0.001)

    # one exec's own

    def make_for_exec(self) -> Cgroup | None:
        """A new group in this one, for one exec: what that starts stays in it, also as a daemon. None in version 1.

        It gets no controllers, so what is in it counts in the container's. None also where this one is gone, or may
        have no more children: the exec is in the container's own then.
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
        """The group in this one that the exec has for itself which `pid` is of; None if it has none."""
        if not self.unified:
            return None
        for _, path in cgroups(pid) or ():
            found = re.search(f"{re.escape(self.path)}/({re.escape(EXEC)}[0-9a-f]+)", path)
            if found is not None:
                return Cgroup(f"{self.path}/{found[1]}", root=self.root)
        return None

    def kill_at_once(self) -> bool:
        """Kill all in it and below, frozen or not, what is being forked included; not waited for.

        False where the kernel cannot: in version 1, and before Linux 5.14.
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
        """Take a process into this group, out of that of the service that started it: systemd kills what is in there
        when the service is stopped, or has failed (systemd.kill(5)).

        Only in the hierarchies by which systemd knows its services, and not where it is in the root: nobody ends that.
        Raises OSError.
        """
        for name, path in cgroups(pid) or ():
            base = hierarchies(self.root).get(name.removeprefix("name="))
            if name in ("", "name=systemd") and path != "/" and base is not None:
                directory = base / self._relative
                directory.mkdir(parents=True, exist_ok=True)
                (directory / "cgroup.procs").write_text(str(pid))

    # freezing

    @contextmanager
    def freezing_alone(self, limit: float = FREEZE_LIMIT + 1) -> Iterator[None]:
        """Keep everybody else, in any program, who asks in this way from freezing or thawing it meanwhile. Blocks.

        A flock(2) on the group's own directory: it leaves no file, and ends with whoever has it. Raises TimeoutError if
        another program has it for `limit` seconds, as one does that is stopped.
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
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has the descriptor, too
            os.close(fd)

    def _open_freezer(self) -> int:
        freezer = self._freezer()
        try:
            return -1 if freezer is None else os.open(freezer[0].parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # it ends just now
            return -1

    @contextmanager
    def freezing_for_a_moment(self, *, paused: bool) -> Iterator[None]:
        """Freeze or thaw it for a moment, within `freezing_alone`; `paused` is what it was, and is to be after that.

        Noted on the group itself: whoever comes after a program that was killed meanwhile brings it back to that.
        """
        freezer = self._freezer()
        with suppress(OSError):  # a kernel that cannot note it: then nobody can mend it
            if freezer is not None:
                os.setxattr(freezer[0].parent, MARK, b"paused" if paused else b"running")
        try:
            yield
        finally:
            with suppress(OSError):
                if freezer is not None:
                    os.removexattr(freezer[0].parent, MARK)

    def paused(self) -> bool:
        """Whether it is frozen because somebody asked for that: not for a moment, by who kills a process in it."""
        if not self._to_be_frozen():
            return False
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
        """Stop all in it; complete when it returns. Blocks. Raises TimeoutError, and thaws, after `limit` seconds."""
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
                # version 1 may stay in FREEZING while new processes appear: ask again; and for ever where one that is
                # frozen holds up another that is not, so let all go on now and then (as runc does: its fs/freezer.go)
                tries += 1
                if tries % THAW_AFTER == 0:
                    file.write_text("THAWED")
                    time.sleep(pause)
                file.write_text(value)

    def thaw(self) -> None:
        """Let it go on; not there is fine."""
        freezer = self._freezer()
        if freezer is not None:
            file, value = freezer
            with suppress(OSError):
                file.write_text("0" if value == "1" else "THAWED")

    def _thaw_all(self) -> None:
        """Let it and all below go on. In version 1 a killed process dies only then, and each group that was frozen by
        itself stays so when the one above it is thawed; in version 2 the frozen die, too."""
        self.thaw()
        directory = None if self.unified else self.directory("freezer")
        if directory is not None:
            for procs in _walk(directory):
                with suppress(OSError):
                    (procs.parent / "freezer.state").write_text("THAWED")

    def frozen(self) -> bool:
        """Whether it is frozen now, completely."""
        base = hierarchies(self.root).get("" if self.unified else "freezer")
        if base is None:
            return False
        directory = f"{base}/{self._relative}"  # a listing asks for thousands: no pathlib here
        if self.unified:
            return read_table(f"{directory}/cgroup.events").get("frozen") == 1
        return (read_text(f"{directory}/freezer.state") or "").strip() == "FROZEN"

    def _to_be_frozen(self) -> bool:
        """Whether it is frozen, or just not completely: what joins it afterwards (an exec) is not frozen at once."""
        base = hierarchies(self.root).get("" if self.unified else "freezer")
        if base is None:
            return False
        directory = f"{base}/{self._relative}"
        if self.unified:
            return (read_text(f"{directory}/cgroup.freeze") or "").strip() == "1"
        return (read_text(f"{directory}/freezer.state") or "").strip() in ("FROZEN", "FREEZING")

    def _freezer(self) -> tuple[Path, str] | None:
        directory = self.directory("freezer")
        if directory is None:
            return None
        file, value = (directory / "cgroup.freeze", "1") if self.unified else (directory / "freezer.state", "FROZEN")
        return (file, value) if file.exists() else None

    # counters

    def peak_memory(self) -> int | None:
        """The most memory it has had, in bytes; its children included."""
        directory = self.directory("memory")
        if directory is None:
            return None
        return read_number(directory / ("memory.peak" if self.unified else "memory.max_usage_in_bytes"))

    def swap_beside(self, memory: int) -> int:
        """Memory and swap together (-1: no limit) beside another limit of memory: what it has of both, if that will do.

        Where there was no swap, or no limit of memory, there is no swap beyond the new one.
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
        """Seconds of processor time, its children included."""
        if self.unified:
            directory = self.directory("")
            usage = None if directory is None else read_table(directory / "cpu.stat").get("usage_usec")
            return None if usage is None else usage / 1e6
        directory = self.directory("cpuacct")
        used = None if directory is None else read_number(directory / "cpuacct.usage")
        return None if used is None else used / 1e9

    def oom_kills(self) -> int | None:
        """How many processes the kernel killed here for lack of memory; in version 1 without the children's."""
        directory = self.directory("memory")
        if directory is None:
            return None
        file = "memory.events" if self.unified else "memory.oom_control"
        return read_table(directory / file).get("oom_kill")

    def oom_watch(self) -> OomWatch | None:
        """Count out-of-memory kills also if the group is removed before anybody can look (version 1 only)."""
        directory = self.directory("memory")
        if directory is None or self.unified:
            return None  # version 2 counts in the parent, too
        directory.mkdir(parents=True, exist_ok=True)  # the runtime takes one that is there
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


def _mark(fd: int) -> bytes | None:
    try:
        return os.getxattr(fd, MARK)
    except OSError:
        return None


def _walk(directory: Path) -> Iterator[Path]:
    """The process lists of a group and its children."""
    yield directory / "cgroup.procs"
    try:
        with os.scandir(directory) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for child in children:
        yield from _walk(Path(child))


def _remove(directory: Path) -> bool:
    """Remove a group and its children; False if one is in use."""
    try:
        os.rmdir(directory)  # mostly there are no children
    except FileNotFoundError:
        return True
    except OSError:
        try:
            with os.scandir(directory) as entries:
                children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return True
        removed = [_remove(Path(child)) for child in children]
        if not removed or not all(removed):
            return False
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return True
