"""Values that cross the seam: states, exit records, features, plans, statistics, streams, container descriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any, Literal, Protocol

import msgspec

from ..errors import NotSupported
from ..exit_record import Cause, Completed, Exit

Owner = Literal["keep", "stop", "remove"]
"""What happens to a container when its engine closes or its owner dies."""

INHERIT = -4
"""The caller's own stream of the same name."""


LOG = -5
"""The container's log, written by its monitor: for containers that may outlive their caller."""


INIT = "init"
"""The name of the first process of a container."""


class State(StrEnum):
    """The state of a container, by its init."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class SystemEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `settle`: the exit, completed from the system's counters, and other facts about its end."""

    exit: Exit
    oom: bool = False  # the kernel killed a process in it for lack of memory
    updates_pending: bool = False  # Windows: servicing left updates to apply
    error: str | None = None  # the system itself ended badly


class Feature(msgspec.Struct, frozen=True):
    """One capability of this host: whether it works, or the reason and the next step."""

    name: str
    supported: bool
    reason: str = ""
    hint: str | None = None


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What works on this host, and the reason for the rest."""

    service: str  # "oci", "hcs", "simulator"
    version: str
    items: dict[str, Feature] = {}
    keeps_output: bool = True  # a monitor writes the log; otherwise the engine does, while it lives

    def need(self, name: str) -> None:
        """Raise NotSupported, with the reason, unless `name` works here."""
        feature = self.items.get(name)
        if feature is None:
            raise NotSupported(name, f"the {self.service} service does not have this feature")
        if not feature.supported:
            raise NotSupported(name, feature.reason, hint=feature.hint)


class Streams(msgspec.Struct, kw_only=True):
    """The caller's ends of a process's streams; None where there is none."""

    stdin: asyncio.StreamWriter | None = None
    stdout: asyncio.StreamReader | None = None
    stderr: asyncio.StreamReader | None = None
    passed_on: Callable[[], Awaitable[None]] | None = None
    """After the end, waits until all output has reached the descriptors that the caller gave; None if it gave none."""
    unwritten: dict[str, OSError] = {}
    """The descriptors that did not take all output, with the reason. Complete after `passed_on`."""


class Stdio(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process's streams go: PIPE, DEVNULL, INHERIT, LOG, a file descriptor; STDOUT for stderr."""

    stdin: int = DEVNULL
    stdout: int = PIPE
    stderr: int = PIPE


class Lease(Protocol):
    """What a service needs to know of the owner to whom a container's life is tied."""

    @property
    def id(self) -> str: ...

    @property
    def lock_fd(self) -> int:
        """A shared lock that every helper process of this lease inherits: while one lives, the lock is held."""
        ...


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The directories for the files of one container. The store makes them, and removes them after `delete`."""

    run: Path  # ends with the boot: bundle, sockets, pid files
    data: Path  # lives as long as the container: scratch layer, log
    lease: Lease | None = None  # None: the container outlives its caller
    lock_fd: int | None = None  # helpers that make the container inherit it

    @property
    def log(self) -> Path:
        """The container's output, in the k8s-file format (docs/state.md)."""
        return self.data / "log"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `create` would do: documents, mounts, command lines, and each default with its reason."""

    documents: dict[str, Any]  # file name -> document, as it would be written
    commands: list[list[str]] = []
    mounts: list[str] = []
    reasons: dict[str, str] = {}  # setting -> why it has the value it has


class NetworkStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one network interface or endpoint, since it was made."""

    name: str
    received_bytes: int
    sent_bytes: int
    received_packets: int
    sent_packets: int
    received_dropped: int = 0
    sent_dropped: int = 0
    endpoint_id: str | None = None  # Windows: of the endpoint, and of its instance in the container
    instance_id: str | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What a container uses: bytes and seconds, counted since it was made. None: this host does not know."""

    at: datetime
    started_at: datetime | None = None  # Windows: from the service
    uptime: float | None = None  # seconds
    cpu_time: float | None = None
    cpu_user: float | None = None
    cpu_system: float | None = None
    cpu_throttled: float | None = None  # seconds
    memory: int | None = None  # without the page cache that could be dropped
    memory_cache: int | None = None
    memory_peak: int | None = None
    memory_commit: int | None = None  # Windows: committed memory and page file
    memory_limit: int | None = None
    swap: int | None = None
    oom_kills: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    read_operations: int | None = None
    write_operations: int | None = None
    network: list[NetworkStats] | None = None


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One process that runs in a container, as the host sees it."""

    pid: int
    command: str
    arguments: list[str] | None = None  # on Linux the first 4096 bytes of them
    parent_pid: int | None = None
    user: str | None = None
    started_at: datetime | None = None
    cpu_user: float | None = None
    cpu_system: float | None = None
    memory: int | None = None  # resident; without shared memory if the host counts it apart
    memory_shared: int | None = None  # Windows: resident, and shared with other processes
    memory_commit: int | None = None


def now() -> datetime:
    """Return the current time in UTC, with its time zone: the form of every time stamp here."""
    return datetime.now(UTC)


class ContainerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One container in a listing.

    `state` is creating, created, running, paused or stopped. Two more values describe what this program knows:
    `damaged` (the record cannot be read; only `delete(force=True)` works) and `hidden` (this program cannot see the
    processes, for example from another pid namespace). `exit` of a stopped container is None until it is known.
    """

    id: str
    uid: str
    state: str
    command: list[str]
    root: str
    created_at: datetime
    started_at: datetime | None = None
    pid: int | None = None
    exit: Exit | None = None
    owner: Owner = "keep"
    labels: dict[str, str] = {}


__all__ = [
    "DEVNULL",
    "INHERIT",
    "INIT",
    "LOG",
    "PIPE",
    "STDOUT",
    "Cause",
    "Completed",
    "ContainerInfo",
    "Exit",
    "Feature",
    "Features",
    "Lease",
    "NetworkStats",
    "Owner",
    "Place",
    "Plan",
    "ProcessInfo",
    "State",
    "Stats",
    "Stdio",
    "Streams",
    "SystemEnd",
    "now",
]
