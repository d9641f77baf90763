"""The viewpoint of this program: its pid and time namespaces, its boot, and whether its /proc shows their processes.

namespaces(7), time_namespaces(7), proc(5). The numbers of the first namespaces are fixed: include/linux/proc_ns.h.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress

from .visibility import APART, Viewpoint

FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO
FIRST_TIME_NAMESPACE = "time:[4026531834]"  # PROC_TIME_INIT_INO
LOOK_AGAIN = 0.1  # seconds that an answer holds
BOOT_ID = "/proc/sys/kernel/random/boot_id"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FIRST = f"{FIRST_PID_NAMESPACE} {FIRST_TIME_NAMESPACE}"


def viewpoint() -> Viewpoint:
    """Return the viewpoint of this program. Costs a few system calls."""
    blind = _problem_of_proc()
    namespaces = _namespaces()
    if not blind and not namespaces:
        blind = "/proc does not show this program's pid namespace"
    boot = boot_id()
    if not blind and not boot:
        blind = f"{BOOT_ID} cannot be read, so this boot cannot be identified"
    return Viewpoint(boot, namespaces, blind, are_gone)


def _problem_of_proc() -> str:
    """Why /proc does not show the processes of this program's own pid namespace; empty if it does."""
    try:
        own = os.readlink("/proc/self")
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            inside = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [own])
    except OSError:
        return "/proc is not mounted, or shows no processes"
    if not os.path.exists("/proc/1/stat"):
        return "/proc hides processes from this program (hidepid)"
    if own != str(os.getpid()) or len(inside) != 1:
        return "/proc shows the processes of another pid namespace than this program's"
    return ""


def _namespaces() -> str:
    try:
        pid = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    clock = FIRST_TIME_NAMESPACE  # before Linux 5.6 there is no other
    with suppress(OSError):
        clock = os.readlink("/proc/self/ns/time")
    return f"{pid} {clock}"


def boot_id() -> str:
    """The kernel's id of this boot; with `APART` if what stands there is not the kernel's; empty if unreadable."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            found = file.read(64).strip()
            own = os.fstat(file.fileno()).st_dev == os.stat("/proc").st_dev and not _is_mounted_over(file.fileno())
        with open(BOOT_ID, encoding="ascii") as file:
            same = file.read(64).strip() == found  # /proc/sys/kernel/random/uuid in its place gives another each time
    except (OSError, ValueError):
        return ""
    if not found:
        return ""
    return found if own and same and _UUID.fullmatch(found) else f"{APART}{found}"


def _is_mounted_over(fd: int) -> bool:
    """Whether a file is mounted over `BOOT_ID`: it may be one of /proc, too, that looks like an id (hostname)."""
    folder = os.open(os.path.dirname(BOOT_ID), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _mount_of(fd) != _mount_of(folder)
    finally:
        os.close(folder)


def _mount_of(fd: int) -> str:
    """The kernel's number of the mount that a descriptor is of: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next((line for line in file if line.startswith("mnt_id:")), "")


def read_stat(pid: int) -> list[bytes] | None:
    """Return the fields of /proc/PID/stat from the third (the state) on; None if there is no such process.

    The second field may hold blanks and brackets.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # a listing asks for thousands
        try:
            data = os.read(fd, 4096)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):  # either of both calls may meet its end
        return None
    return data[data.rfind(b")") + 2 :].split()


def is_zombie(fields: list[bytes]) -> bool:
    """Whether all threads of a process have ended, by its fields of `read_stat`.

    A program whose first thread has ended continues as "Z" with its other threads.
    """
    return fields[0] in (b"Z", b"X") and fields[17] in (b"0", b"1")


def is_dead(pid: int) -> bool:
    """Whether all of a process has ended: it is gone, or waits to be reaped."""
    fields = read_stat(pid)
    return fields is None or is_zombie(fields)


_looked: dict[str, tuple[float, bool]] = {}  # a listing asks of the same namespaces for each container


def are_gone(namespaces: str) -> bool:
    """Whether no process is in a pid namespace any more. Certain only in the first one, which shows all others.

    An answer holds for a moment only, also a positive one: the kernel soon gives the number to another namespace.
    """
    at, gone = _looked.get(namespaces, (-LOOK_AGAIN, False))
    if time.monotonic() - at >= LOOK_AGAIN:
        gone = _are_gone(namespaces)
        _looked[namespaces] = (time.monotonic(), gone)
    return gone


def _are_gone(namespaces: str) -> bool:
    wanted, _, _ = namespaces.partition(" ")
    if not wanted or wanted == FIRST_PID_NAMESPACE or not _namespaces().startswith(FIRST_PID_NAMESPACE):
        return False
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return False
    for pid in pids:
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == wanted and not is_dead(int(pid)):
                return False
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:
            if _is_nested(pid):
                return False  # a process that this program may not look at: it can be in it
    return True


def _is_nested(pid: str) -> bool:
    """Whether a process is in another pid namespace than that of /proc; False for one that has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            found = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [])
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    return len(found) != 1


__all__ = ["BOOT_ID", "FIRST", "are_gone", "boot_id", "is_dead", "is_zombie", "read_stat", "viewpoint"]
