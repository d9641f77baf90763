"""A container's cgroup of version 1, made and limited by longshore: what a runtime does elsewhere.

The kernel's Documentation/admin-guide/cgroup-v1: cpusets.rst, devices.rst, memory.rst, pids.rst; and
Documentation/scheduler/sched-bwc.rst. `entering.py` tells when.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from ...errors import InvalidSpec
from ..documents import Cpu, DeviceRule, Memory, Resources
from .cgroup import Cgroup
from .hierarchies import ROOT, hierarchies

# what every container may use beside what its rules allow, as crun and runc have it: to make any node, and to use the
# harmless devices (null, zero, full, random, urandom, tty, console, ptmx, pts)
USUAL_DEVICES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
)
CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")


@cache
def bases(root: Path = ROOT) -> tuple[str, ...]:
    """Where each hierarchy of version 1 is, once; the freezer's comes last: whoever enters a frozen group stops there.

    A hierarchy of several controllers has a name for each, as a symbolic link.
    """
    found = {os.path.realpath(path): None for name, path in sorted(hierarchies(root).items()) if name}
    freezer = hierarchies(root).get("freezer")
    last = None if freezer is None else os.path.realpath(freezer)
    return tuple(sorted(found, key=lambda path: path == last))


def folders(group: Cgroup) -> list[str]:
    """The group's directory in each hierarchy of version 1."""
    return [base + group.path for base in bases(group.root)]


def make(group: Cgroup) -> None:
    """Make it, and what is above it, in every hierarchy of version 1. Made already is fine. Raises OSError. Blocks."""
    cpuset = hierarchies(group.root).get("cpuset")
    with_processors = None if cpuset is None else os.path.realpath(cpuset)
    for base in bases(group.root):
        _make(base, group.path, processors=base == with_processors)


def _make(base: str, path: str, *, processors: bool) -> None:
    folder = base + path
    try:
        os.mkdir(folder)
    except FileExistsError:
        pass
    except FileNotFoundError:
        above = os.path.dirname(path)
        if above in ("", "/"):
            raise  # the hierarchy itself is gone
        _make(base, above, processors=processors)
        with suppress(FileExistsError):  # of another program, just now
            os.mkdir(folder)
    if processors:
        _inherit_processors(base, path)


def _inherit_processors(base: str, path: str) -> None:
    """Give a group the processors and memory nodes of its parent: a new one has none, and no process can enter it."""
    for name in CPUSET_FILES:
        _inherit(base, path, name)


def _inherit(base: str, path: str, name: str) -> bytes:
    value = _read(f"{base}{path}/{name}")
    if not value and path != "/":
        value = _inherit(base, os.path.dirname(path), name)
        _write(f"{base}{path}/{name}", value)
    return value


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).strip()
    finally:
        os.close(fd)


def _write(path: str, value: bytes | str | int) -> None:
    """Write to a file of the kernel's, in one write(2). Raises OSError that names it."""
    data = value if isinstance(value, bytes) else str(value).encode("ascii")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def limit(group: Cgroup, wanted: Resources) -> None:
    """Write limits to a group of version 1; what is not named stays as it is.

    Raises OSError that names the file, InvalidSpec for a limit whose controller this machine does not have. Blocks.
    """
    if wanted.devices:
        _limit_devices(group, wanted.devices)
    if wanted.memory is not None:
        _limit_memory(_folder(group, "memory", "memory"), wanted.memory)
    if wanted.cpu is not None:
        _limit_processors(group, wanted.cpu)
    if wanted.pids is not None:
        _write(f"{_folder(group, 'pids', 'pids')}/pids.max", wanted.pids.limit)


def _folder(group: Cgroup, controller: str, field: str) -> str:
    found = group.directory(controller)
    if found is None:
        raise InvalidSpec(field, f"this machine has no {controller} controller to limit it")
    return str(found)


def _limit_devices(group: Cgroup, rules: Sequence[DeviceRule]) -> None:
    folder = group.directory("devices")
    if folder is None:
        return  # as runtimes do: capabilities and the missing nodes are the wall then
    for rule in rules:
        _write(f"{folder}/devices.{'allow' if rule.allow else 'deny'}", _rule(rule))
    for usual in USUAL_DEVICES:
        _write(f"{folder}/devices.allow", usual)


def _rule(rule: DeviceRule) -> str:
    kind = rule.type or "a"
    if kind == "a" and rule.major is None and rule.minor is None:
        return "a"
    numbers = ("*" if number is None or number < 0 else str(number) for number in (rule.major, rule.minor))
    return f"{kind} {':'.join(numbers)} {rule.access}"


def _limit_memory(folder: str, wanted: Memory) -> None:
    memory, both = f"{folder}/memory.limit_in_bytes", f"{folder}/memory.memsw.limit_in_bytes"
    if wanted.limit is not None and wanted.swap is not None:
        try:
            _write(memory, wanted.limit)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _write(both, wanted.swap)  # memory alone is never above both: so both are raised first
            _write(memory, wanted.limit)
        else:
            _write(both, wanted.swap)
    elif wanted.limit is not None:
        _write(memory, wanted.limit)
    elif wanted.swap is not None:
        _write(both, wanted.swap)
    if wanted.reservation is not None:
        _write(f"{folder}/memory.soft_limit_in_bytes", wanted.reservation)


def _limit_processors(group: Cgroup, wanted: Cpu) -> None:
    if wanted.shares is not None:
        _write(f"{_folder(group, 'cpu', 'cpu_weight')}/cpu.shares", wanted.shares)
    if wanted.period is not None:
        _write(f"{_folder(group, 'cpu', 'cpus')}/cpu.cfs_period_us", wanted.period)
    if wanted.quota is not None:
        _write(f"{_folder(group, 'cpu', 'cpus')}/cpu.cfs_quota_us", wanted.quota)
    if wanted.cpus:
        _write(f"{_folder(group, 'cpuset', 'cpuset')}/cpuset.cpus", wanted.cpus)


def forget_used(group: Cgroup) -> None:
    """Begin to count anew: what made a container in the group is not the container's. Blocks."""
    for controller, name in (("cpuacct", "cpuacct.usage"), ("memory", "memory.max_usage_in_bytes")):
        folder = group.directory(controller)
        if folder is not None:
            with suppress(OSError):  # a counter that cannot be set back tells a little more
                _write(f"{folder}/{name}", 0)
