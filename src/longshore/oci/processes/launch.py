"""Starting helper programs: in a mount namespace of their own, and watched by pidfd.

A child inherits the namespaces of the *thread* that starts it. So a fresh thread unshares its mount namespace,
makes the container's mounts in it, starts the runtime or monitor, and ends: the mounts live exactly as long as
the last process in that namespace, and no crash can leave one. (clone(2), unshare(2), mount_namespaces(7).)
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import select
import signal
import stat
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

from ...aio.tasks import in_thread, uninterrupted
from ...errors import ServiceError
from ...fs.files import next_step
from ...machine.libc import libc
from .starting import start_program

CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT = 0x20
KEPT_FLAGS = 0x140F  # of statvfs(3): ro, nosuid, nodev, noexec, noatime, relatime
MOUNT_SETATTR = 442  # the same number on every architecture
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MNT_DETACH = 2
PR_SET_TIMERSLACK = 29
TIMER_SLACK = 50_000  # nanoseconds, as the first process has: 0 would be what this thread was given by the caller
PER_LINUX = 0
IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}  # by machine: syscalls(2)
FREE_NUMBER = 40  # the first descriptor that `spawn` never gives another meaning

UNIFIED = "/sys/fs/cgroup/unified"
STAGE = "/sys"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # conmon reads its arguments by GLib, which refuses paths that are none in its character set. Not by LC_ALL: so
    # started, conmon 2.1.6 does not pass on the end of input that comes by its socket (tests/oci/test_life_cycle.py).
    "CHARSET": "UTF-8",
}


UMASK = 0o022  # of a process whose document gives none (crun's container.c)


class MountStep(Protocol):
    """One mount(2) call."""

    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def fstype(self) -> str: ...
    @property
    def flags(self) -> int: ...
    @property
    def data(self) -> str: ...
    @property
    def cwd(self) -> str:
        """The folder that relative paths in it mean; empty if there are none."""
        ...

    @property
    def added(self) -> int:
        """Flags for what was mounted and all below it, beside those that it brings along."""
        ...

    @property
    def points(self) -> Sequence[tuple[str, bool]]:
        """Places of mounts that are made in it, and whether each is a folder."""
        ...

    @property
    def sealed(self) -> bool:
        """Whether it is read-only in the end."""
        ...


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


NO_UPPER = (errno.EINVAL, errno.EOPNOTSUPP, errno.EREMOTE)  # what overlayfs says of a file system that it cannot use
UPPER_HINT = (
    "put the state on ext4, xfs, btrfs or tmpfs ($LONGSHORE_ROOT):"
    " overlayfs cannot write on the file system that it is on, such as another overlay or NFS"
)


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """mount(2); raises OSError that names the target."""
    result = libc().mount(
        os.fsencode(source), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), os.fsencode(data) or None
    )
    _check(result, f"mount {fstype or 'bind'} on {target}")


def execute(step: MountStep) -> None:
    """Make one mount of a container, in this thread's mount namespace. Raises OSError that names the target."""
    if step.cwd:
        os.chdir(step.cwd)  # this thread's alone: CLONE_FS was unshared
    mount(step.source, step.target, step.fstype, step.flags, step.data)
    if step.added:
        _add_flags(step.target, step.added, recursive=True)
    if step.points:
        from ..rootfs.resolve_in_root import make_points  # it imports this module

        make_points(step.target, step.points)
    if step.sealed:
        _add_flags(step.target, MS_RDONLY, recursive=False)


def _add_flags(target: str, flags: int, *, recursive: bool) -> None:
    """Add flags to a mount: mount_setattr(2), whose numbers for these are mount(2)'s own.

    Before Linux 5.12 there is but the mount itself, by a remount that keeps what it has.
    """
    attributes = struct.pack("=QQQQ", flags, 0, 0, 0)
    options = AT_RECURSIVE if recursive else 0
    if libc().syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), options, attributes, len(attributes)) == 0:
        return
    if ctypes.get_errno() != errno.ENOSYS:
        _check(-1, f"restrict the mount {target}")
    mount("", target, "", MS_REMOUNT | MS_BIND | os.statvfs(target).f_flag & KEPT_FLAGS | flags, "")


def enter_private_mounts(*, hide_unified: bool) -> None:
    """Give this thread a mount namespace of its own, which still follows what the host unmounts.

    Slave, not private: a private copy would pin what the host later unmounts. `hide_unified` takes away the
    empty cgroup v2 hierarchy of a hybrid host, with which crun refuses to work (crun's src/libcrun/cgroup.c).
    """
    _check(libc().unshare(CLONE_FS | CLONE_NEWNS), "unshare a mount namespace")
    _own_the_root()
    mount("", "/", "", MS_REC | MS_SLAVE, "")
    _cover_null_device()
    if hide_unified:
        # covered, not unmounted: crun makes a folder for each container where the hierarchy was, which would then be
        # on the file system below, the host's own, and stay
        mount("tmpfs", UNIFIED, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=1m,mode=700")


def _cover_null_device() -> None:
    """Have a null device of its own in this mount namespace.

    A monitor opens it by its name for a container without an input, and crun makes what a container has as a stream
    belong to the container's user (seen with 1.8.1): the machine's must not be what it finds. The node is on a file
    system that is mounted for this moment only, where a folder is for certain and nobody else looks.
    """
    if not os.path.exists(os.devnull):
        return
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=700")
    try:
        node = f"{STAGE}/null"
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chmod(node, 0o666)  # whatever our umask is
        mount(node, os.devnull, "", MS_BIND, "")
    finally:
        _check(libc().umount2(STAGE.encode(), MNT_DETACH), f"unmount {STAGE}")


def _own_the_root() -> None:
    """Make this program's root directory that of the (private) namespace, if it is another: in a chroot(2).

    Whoever later joins the namespace of a container (every `exec` does) begins at the root of the namespace; a
    container made in a chroot would have the machine's own there, outside of all walls (setns(2)).
    """
    with ExitStack() as opened:
        before = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, before)
        own = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, own)
        _check(libc().setns(own, CLONE_NEWNS), "go to the root of the mount namespace")
        after = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, after)
        if _place(before) == _place(after):
            return
        # nothing that happens from here on may reach the machine's own mounts
        mount("", "/", "", MS_REC | MS_SLAVE, "")
        os.fchdir(before)
        path = os.getcwd()  # as the machine's own root sees it
        mount(path, path, "", MS_BIND | MS_REC, "")  # a root must be a mount point, and a chroot need not be one
        os.chdir(path)
        _check(libc().pivot_root(b".", b"."), f"make {path} the root of a mount namespace")
        _check(libc().umount2(b".", MNT_DETACH), "let go of the machine's own root")
        os.chdir("/")


def _place(fd: int) -> tuple[int, int, str]:
    """What tells one directory, seen through one mount, from all others."""
    found = os.fstat(fd)
    with open(f"/proc/thread-self/fdinfo/{fd}", encoding="ascii") as file:
        mount_id = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
    return found.st_dev, found.st_ino, mount_id


class Child:
    """A program that we started: its pidfd tells its end, waitid(P_PIDFD) its status. Owned by whoever started it."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self.name = name
        self._fd = -1
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int | None] = self._loop.create_future()
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended, and somebody has waited for it (see `_reap`)
            self._ended.set_result(None)
        except OSError:  # no descriptor is left: nobody could know of its end
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
            raise
        else:
            self._loop.add_reader(self._fd, self._reap)

    def _reap(self) -> None:
        self._loop.remove_reader(self._fd)
        status: int | None
        try:
            info = os.waitid(os.P_PIDFD, self._fd, os.WEXITED)
            assert info is not None
            status = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
        except ChildProcessError:  # the program ignores SIGCHLD, or waited for children that are not its own
            from .proc import wait_status

            raw = wait_status(self._fd)
            status = None if raw is None else os.waitstatus_to_exitcode(raw)
        os.close(self._fd)
        self._fd = -1
        if not self._ended.done():
            self._ended.set_result(status)

    @property
    def status(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs or when nobody could tell."""
        return self._ended.result() if self._ended.done() else None

    @property
    def ended(self) -> bool:
        return self._ended.done()

    async def wait(self) -> int | None:
        """Wait for its end; any number of waiters. Cancelling only stops waiting."""
        return await asyncio.shield(self._ended)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the program itself; gone is fine."""
        if self._fd >= 0:
            try:
                signal.pidfd_send_signal(self._fd, number)
            except ProcessLookupError:
                pass


class Helpers:
    """Tells whether programs that inherit `theirs` are still alive, however they daemonise: by the end of a pipe."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe()

    def release(self) -> None:
        """Close our copy of what they inherit; nobody can be started with it any more. Idempotent."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def gone(self) -> bool:
        """Whether all have ended."""
        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        return bool(poll.poll(0))

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
        os.close(self._ours)


def _leave_the_callers_settings() -> None:
    """Undo for this fresh thread, and what it starts, what the caller may have set for itself: what a container sees
    depends on its spec alone. Its own from here on are working directory and umask, too.

    The CPUs that the caller may use, its cgroup's and its resource limits stay bounds (docs/security.md, "What a
    container inherits").
    """
    _check(libc().unshare(CLONE_FS), "unshare a working directory")
    ioprio_set = IOPRIO_SET.get(os.uname().machine)
    os.umask(UMASK)
    resets: tuple[Callable[[], object], ...] = (
        lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)),
        lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),  # 0: this thread alone (setpriority(2))
        lambda: libc().syscall(ioprio_set, 1, 0, 0) if ioprio_set else None,
        lambda: libc().prctl(PR_SET_TIMERSLACK, TIMER_SLACK, 0, 0, 0),
        lambda: libc().personality(PER_LINUX),  # addresses are random again
    )
    for reset in resets:
        with suppress(OSError):  # no permission to raise it again: it stays as it is
            reset()


_slots: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}


def _launch_slot() -> asyncio.Semaphore:
    """As many launches at once as processors: each holds the interpreter's lock while its child is forked."""
    loop = asyncio.get_running_loop()
    slot = _slots.get(loop)
    if slot is None:
        for dead in [other for other in _slots if other.is_closed()]:
            del _slots[dead]
        slot = _slots[loop] = asyncio.Semaphore(os.cpu_count() or 1)
    return slot


def out_of_the_way(fd: int) -> int:
    """Return a duplicate of a descriptor above the numbers that `spawn` assigns; or the descriptor itself."""
    import fcntl  # not on Windows, where this module is imported, too

    if fd >= FREE_NUMBER:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FREE_NUMBER)
    finally:
        os.close(fd)


def pipe_to_child() -> tuple[int, int]:
    """A pipe: our end to read, and the end of a program, which is told its number."""
    read, write = os.pipe()
    try:
        return read, out_of_the_way(write)
    except BaseException:
        os.close(read)
        raise


async def spawn(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Iterable[int] = (),
    cwd: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
    steps: Sequence[MountStep] = (),
    hide_unified: bool = False,
    private: bool = False,
    umask: int = UMASK,
    places: Sequence[int] = (),
) -> Child:
    """Start a program in a session of its own, with its streams (None: the null device). With `private` or
    `hide_unified` it is in a private mount namespace, with the mounts of `steps`. It inherits `places`
    (`Channel.places`) as its descriptors 3, 4 and so on.

    It does not return before the program runs, and never loses one: a cancellation meanwhile is delivered at the
    caller's next await, when the caller owns the child. Raises ServiceError if it cannot be started.
    """

    def start() -> int:
        _leave_the_callers_settings()
        if private or hide_unified:
            enter_private_mounts(hide_unified=hide_unified)
            for step in steps:
                execute(step)
        if cwd is not None:
            os.chdir(cwd)
        os.umask(umask)  # runc's exec passes it on: it does not read the document's
        return start_program(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            places=places,
            environment=environment,
        )

    async with _launch_slot():
        try:
            pid = await uninterrupted(in_thread(start, "longshore-launch"))
            return Child(pid, os.path.basename(argv[0]))
        except OSError as error:
            hint = next_step(error)
            if "mount overlay on" in str(error) and error.errno in NO_UPPER:
                hint = UPPER_HINT
            if error.errno == errno.ENOENT and error.filename == argv[0]:
                hint = f"install {os.path.basename(argv[0])}"
            raise ServiceError(
                f"start {os.path.basename(argv[0])}", None, str(error), hint=hint or "run `longshore doctor`"
            ) from error
