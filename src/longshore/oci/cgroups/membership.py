"""Which cgroups a process is in."""

from __future__ import annotations

from ...machine.linux_viewpoint import read_stat
from ..processes.proc import PF_EXITING


def cgroups(pid: int) -> list[tuple[str, str]] | None:
    """The controllers (or name) of each hierarchy, and the path of the process's group in it, as the kernel shows it:
    cgroups(7), /proc/pid/cgroup. None if there is no such process."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace", newline="\n") as file:
            fields = [line.removesuffix("\n").split(":", 2) for line in file]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return [(controllers, path) for _, controllers, path in fields]


def is_in(pid: int, cgroup: str) -> bool | None:
    """Whether a process is in a cgroup, given by its path, or below it; None if it has ended, or is ending.

    In a container without a cgroup namespace the kernel's paths begin with those of that container.
    """
    groups = cgroups(pid)
    if groups is None:
        return None
    if any(f"{cgroup}/" in f"{path}/" for _, path in groups):
        return True
    fields = read_stat(pid)  # of who is ending, version 1 tells the root (kernel/cgroup/cgroup.c, proc_cgroup_show)
    return None if fields is None or fields[0] in (b"Z", b"X") or int(fields[6]) & PF_EXITING else False
