"""Processes as the kernel shows them: identity (pid and start time), end, wait status, signals, trees. proc(5)."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import struct
import termios
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache

from ...compute.values import ProcessInfo
from ...machine.linux_viewpoint import is_zombie, read_stat
from .relay import waiting

# linux/pidfd.h, since Linux 6.13; the exit status since 6.15
PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info of 64 bytes)
PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")

NO_PROCESS = (errno.ESRCH, errno.ENOENT, errno.EINVAL)
"""What pidfd_open(2) says where a pid is nobody's, or now a thread's (ENOENT since Linux 6.16, EINVAL before)."""
PTS_MAJORS = range(136, 144)  # UNIX98 terminals (Documentation/admin-guide/devices.txt)
PF_EXITING = 0x4  # among the flags of proc_pid_stat(5); include/linux/sched.h
ARGUMENTS_LIMIT = 4096  # bytes of a command line that are read: the kernel takes megabytes of it, of every process


class Hidden(PermissionError):
    """There is a process, and /proc does not show it (hidepid, or no /proc at all): nothing can be said of it."""


def _seen(pid: int) -> list[bytes] | None:
    """As `read_stat`, but None only if the kernel itself knows no such process. Raises Hidden."""
    for _ in range(2):  # twice: the pid may have been given to a new process between the two questions
        try:
            fields = read_stat(pid)
        except PermissionError as error:
            raise Hidden(error.errno, f"/proc does not show process {pid}") from None
        if fields is not None:
            return fields
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
    raise Hidden(errno.EACCES, f"/proc does not show process {pid}")


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot: with its pid it names the process. None if there is none."""
    fields = _seen(pid)
    return None if fields is None else int(fields[19])


def alive(pid: int, start: int | None) -> bool:
    """Whether the very process runs. A zombie does if its first thread alone has ended. Raises Hidden."""
    fields = _seen(pid)
    if fields is None or is_zombie(fields):
        return False
    return int(fields[19]) == start  # without a start time it was gone before it could be looked at


def is_stopped(pid: int) -> bool:
    """Whether a process stands still by a signal, as after SIGSTOP."""
    fields = read_stat(pid)
    return fields is not None and fields[0] == b"T"


def is_ending(pid: int, start: int | None) -> bool:
    """Whether the very process has ended, is ending, or has a SIGKILL that it did not come to yet (proc(5))."""
    if not alive(pid, start):
        return True
    fields, status = read_stat(pid), _status(pid)
    if fields is None or status is None or (fields[0] != b"Z" and int(fields[6]) & PF_EXITING):
        return True
    pending = int(status.get("SigPnd", "0"), 16) | int(status.get("ShdPnd", "0"), 16)
    return bool(pending & 1 << signal.SIGKILL - 1)


def open_pidfd(pid: int, start: int | None) -> int | None:
    """A descriptor of the very process, also if it is a zombie; None if it is gone or its pid is another's now."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in NO_PROCESS:
            return None
        raise
    try:
        if start is None or start_time(pid) == start:
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def has_ended(pidfd: int) -> bool:
    """Return whether the process behind a descriptor has ended (pidfd_open(2): it polls as readable)."""
    poll = select.poll()  # select(2) takes no descriptor above 1023
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _get_info(pidfd: int, wanted: int) -> tuple[int, int] | None:
    """What was answered, and the exit status; None where the kernel does not know the question."""
    request = bytearray(_PIDFD_INFO.size)
    struct.pack_into("=Q", request, 0, wanted)
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, request)
    except OSError:
        return None
    fields = _PIDFD_INFO.unpack(request)
    return fields[0], fields[-1]


def _linux_is(major: int, minor: int) -> bool:
    """Whether this kernel is that version or later; so it is if its version cannot be read."""
    release = os.uname().release.split(".")
    with suppress(ValueError, IndexError):
        return (int(release[0]), int(release[1].split("-")[0])) >= (major, minor)
    return True


@cache
def status_known() -> bool:
    """Whether this kernel tells the wait status of a process that is not our child (Linux 6.15)."""
    if not _linux_is(6, 15):
        return False
    own = os.pidfd_open(os.getpid())
    try:
        return _get_info(own, PIDFD_INFO_EXIT) is not None
    finally:
        os.close(own)


def wait_status(pidfd: int) -> int | None:
    """The raw wait status of an ended process, once somebody has reaped it; None until then or where unknown."""
    if not status_known():
        return None
    answer = _get_info(pidfd, PIDFD_INFO_EXIT)
    if answer is None or not answer[0] & PIDFD_INFO_EXIT:
        return None
    return answer[1]


def status_of_zombie(pid: int, start: int | None) -> int | None:
    """The raw wait status of the very process, once it has ended and until somebody reaps it; None where unknown.

    proc_pid_stat(5), exit_code. What is told is true: not a 0 in its place, nor the code of its first thread alone.
    """
    if not _linux_is(5, 17):  # "exit: Use the correct exit_code in /proc/<pid>/stat": before, it is the first thread's
        return None
    try:
        # who may not trace it reads a 0; this link asks for the same permission, and says so (proc_pid_ns(5))
        os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
    fields = read_stat(pid)
    # with other threads alive it has not ended; none at all are told where it was reaped amid the reading
    if fields is None or fields[0] != b"Z" or fields[17] != b"1" or int(fields[19]) != start:
        return None
    return int(fields[49])


def _status(pid: int) -> dict[str, str] | None:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def is_runtime(pid: int) -> bool:
    """Whether a process is still the runtime's own code, or the first program's, which becomes the user's program."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read()
    except OSError:
        return False
    return name.startswith(b"runc:[") or name in (b"runc\n", b"crun\n", b"longshore-first\n")


def can_receive(pid: int, number: int) -> bool:
    """Whether a signal would do anything to a process.

    The first process of a pid namespace gets only what it handles or blocks (pid_namespaces(7)); any other gets what
    it does not ignore. True where it cannot be known.
    """
    found = _status(pid)
    if found is None:
        return True
    bit = 1 << (number - 1)
    if found.get("NSpid", "").split()[-1:] == ["1"]:
        # what it blocks is kept for it (kernel/signal.c, sig_ignored): catatonit reads its signals from a signalfd
        return bool((int(found.get("SigCgt", "0"), 16) | int(found.get("SigBlk", "0"), 16)) & bit)
    return not int(found.get("SigIgn", "0"), 16) & bit


def info(pid: int) -> ProcessInfo | None:
    """What is known of a process; None if it is gone."""
    fields = read_stat(pid)
    status = _status(pid)
    if fields is None or status is None:
        return None
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            words = file.read(ARGUMENTS_LIMIT).removesuffix(b"\0").split(b"\0")
    except OSError:
        words = []
    ticks = os.sysconf("SC_CLK_TCK")
    return ProcessInfo(
        pid=pid,
        command=status.get("Name", ""),
        arguments=[word.decode("utf-8", "replace") for word in words] if any(words) else None,
        parent_pid=int(fields[1]),
        user=status.get("Uid", "").split("\t")[0] or None,
        started_at=datetime.fromtimestamp(_boot_time() + int(fields[19]) / ticks, UTC),
        cpu_user=int(fields[11]) / ticks,
        cpu_system=int(fields[12]) / ticks,
        memory=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process is another one's child, or a child of one of its children."""
    for _ in range(3):
        fields = read_stat(pid)
        if fields is None:
            return False
        pid = int(fields[1])
        if pid == ancestor:
            return True
    return False


def tree(root: int, among: Iterable[int]) -> Iterator[int]:
    """`root`, what descends from it, and the members of its session, as far as they are `among` the given pids."""
    facts: dict[int, tuple[int, int]] = {}
    for pid in among:
        fields = read_stat(pid)
        if fields is not None:
            facts[pid] = (int(fields[1]), int(fields[3]))
    wanted = {root}
    session = facts.get(root, (0, 0))[1]
    # its own, or that of the runtime which started it and nothing else (crun's exec does not lead it): never init's
    if session == root or (session and session not in facts):
        wanted |= {pid for pid, (_, its) in facts.items() if its == session}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in facts.items() if parent in wanted and pid not in wanted}
        grown = bool(more)
        wanted |= more
    yield from (pid for pid in facts if pid in wanted)


def resize_terminal(pid: int, start: int | None, rows: int, columns: int) -> bool:
    """Set the size of the terminal that a process has as one of its standard streams (tty_ioctl(4)); the kernel tells
    those in its foreground. False if it has none, or is gone."""
    fd = _open_terminal(pid, start)
    if fd is None:
        return False
    try:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def end_of_input(pid: int, start: int | None) -> bytes:
    """What to type so that a process meets the end of its input, if its terminal gives it whole lines (termios(3):
    ICANON, VEOF). Twice, for a line that is not ended swallows the first."""
    fd = _open_terminal(pid, start)
    if fd is None:
        return b""
    try:
        settings = termios.tcgetattr(fd)
    except termios.error:
        return b""
    finally:
        os.close(fd)
    return bytes(settings[6][termios.VEOF] * 2) if settings[3] & termios.ICANON else b""


def _open_terminal(pid: int, start: int | None) -> int | None:
    """The terminal that a process has as one of its standard streams; None if it has none, or is gone."""
    if not alive(pid, start):
        return None
    for stream in (0, 1, 2):
        path = f"/proc/{pid}/fd/{stream}"
        with suppress(OSError):
            found = os.stat(path)
            if stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in PTS_MAJORS:
                return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def has_passed_on_everything(pid: int, ours: Collection[int]) -> bool:
    """Whether a runtime that copies a process's output has nothing left to copy: what it can read from is empty,
    and no thread of it is at work. `ours` are the inodes of the pipes that we read; they must be empty, too."""
    try:
        for name, inode, reading in _pipes(pid):
            if name == "0" or (not reading and inode not in ours):  # what its process did not read, it does not copy
                continue
            fd = os.open(f"/proc/{pid}/fd/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                left = waiting(fd)
            finally:
                os.close(fd)
            if left:
                return False
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                data = file.read()
            if data[data.rfind(b")") + 2 :][:1] in (b"R", b"D"):
                return False
    except (FileNotFoundError, ProcessLookupError):
        return False  # it is ending, or changing: look again
    return True


def disturb_copying(pid: int) -> None:
    """Give a copying runtime one byte to copy, where nobody takes it any more: the error ends its copying, and then
    the runtime, with its process's own status."""
    with suppress(OSError):
        own = {inode for _, inode, reading in _pipes(pid) if not reading}
        for name, inode, reading in _pipes(pid):
            if reading and inode not in own:  # not the pipe that it wakes itself with
                fd = os.open(f"/proc/{pid}/fd/{name}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    os.write(fd, b"\n")
                finally:
                    os.close(fd)


def _pipes(pid: int) -> Iterator[tuple[str, int, bool]]:
    """The pipes of a process: descriptor, inode, and whether it is an end to read from."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        link = os.readlink(f"/proc/{pid}/fd/{name}")
        if link.startswith("pipe:"):
            with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as file:
                flags = next((line.split()[1] for line in file if line.startswith("flags:")), "0")
            yield name, int(link[6:-1]), int(flags, 8) & os.O_ACCMODE == os.O_RDONLY
