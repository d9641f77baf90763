"""What a control group has counted, in both versions: processor time, memory, processes, reads and writes.

The kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...compute.values import Stats, now
from .cgroup import UNLIMITED, Cgroup
from .hierarchies import read_number, read_table, read_text
from .net_counters import network_stats

PIDS_MOST = 1 << 22  # PID_MAX_LIMIT


def stats(group: Cgroup, *, pid: int | None = None) -> Stats:
    """All counters that this host has; `pid` is a process in it, by whose network namespace the rest is read."""
    values = _version_2(group) if group.unified else _version_1(group)
    return Stats(at=now(), network=None if pid is None else network_stats(pid), **values)  # type: ignore[arg-type]


def _version_2(group: Cgroup) -> dict[str, int | float | None]:
    directory = group.directory("")
    assert directory is not None
    cpu = read_table(directory / "cpu.stat")
    detail = read_table(directory / "memory.stat")
    used = read_number(directory / "memory.current")
    read, written, reads, writes = 0, 0, 0, 0
    io = read_text(directory / "io.stat")
    for line in (io or "").splitlines():
        pairs = dict(pair.split("=", 1) for pair in line.split()[1:] if "=" in pair)
        read += int(pairs.get("rbytes", 0))
        written += int(pairs.get("wbytes", 0))
        reads += int(pairs.get("rios", 0))
        writes += int(pairs.get("wios", 0))
    return {
        "cpu_time": _seconds(cpu.get("usage_usec"), 1e6),
        "cpu_user": _seconds(cpu.get("user_usec"), 1e6),
        "cpu_system": _seconds(cpu.get("system_usec"), 1e6),
        "cpu_throttled": _seconds(cpu.get("throttled_usec"), 1e6),
        "memory": None if used is None else max(0, used - detail.get("inactive_file", 0)),
        "memory_cache": detail.get("file"),
        "memory_peak": read_number(directory / "memory.peak"),
        "memory_limit": read_number(directory / "memory.max"),
        "swap": read_number(directory / "memory.swap.current"),
        "oom_kills": group.oom_kills(),
        "pids": read_number(directory / "pids.current"),
        "pids_limit": _pids_limit(directory),
        "read_bytes": None if io is None else read,
        "written_bytes": None if io is None else written,
        "read_operations": None if io is None else reads,
        "write_operations": None if io is None else writes,
    }


def _version_1(group: Cgroup) -> dict[str, int | float | None]:
    nowhere = Path("/nonexistent")
    memory = group.directory("memory") or nowhere
    cpuacct = group.directory("cpuacct") or nowhere
    pids = group.directory("pids") or nowhere
    times = read_table(cpuacct / "cpuacct.stat")
    ticks = os.sysconf("SC_CLK_TCK")
    detail = read_table(memory / "memory.stat")
    used = read_number(memory / "memory.usage_in_bytes")
    both = read_number(memory / "memory.memsw.usage_in_bytes")
    limit = read_number(memory / "memory.limit_in_bytes")
    size = _blkio(group, "blkio.throttle.io_service_bytes")
    count = _blkio(group, "blkio.throttle.io_serviced")
    return {
        "cpu_time": group.cpu_time(),
        "cpu_user": _seconds(times.get("user"), ticks),
        "cpu_system": _seconds(times.get("system"), ticks),
        "cpu_throttled": _seconds(
            read_table((group.directory("cpu") or nowhere) / "cpu.stat").get("throttled_time"), 1e9
        ),
        "memory": None if used is None else max(0, used - detail.get("total_inactive_file", 0)),
        "memory_cache": detail.get("total_cache"),
        "memory_peak": group.peak_memory(),
        "memory_limit": None if limit is None or limit > UNLIMITED else limit,
        "swap": None if both is None or used is None else max(0, both - used),
        "oom_kills": group.oom_kills(),
        "pids": read_number(pids / "pids.current"),
        "pids_limit": _pids_limit(pids),
        "read_bytes": size[0],
        "written_bytes": size[1],
        "read_operations": count[0],
        "write_operations": count[1],
    }


def _blkio(group: Cgroup, name: str) -> tuple[int | None, int | None]:
    directory = group.directory("blkio")
    text = None
    if directory is not None:
        text = read_text(directory / f"{name}_recursive")
        text = read_text(directory / name) if text is None else text
    if text is None:
        return None, None
    totals = {"Read": 0, "Write": 0}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in totals:
            totals[words[1]] += int(words[2])
    return totals["Read"], totals["Write"]


def _pids_limit(directory: Path) -> int | None:
    """None where there is none: longshore then asks for the most that a kernel can have (config/translate.py)."""
    limit = read_number(directory / "pids.max")
    return None if limit is None or limit >= PIDS_MOST else limit


def _seconds(value: int | None, per_second: float) -> float | None:
    return None if value is None else value / per_second
