"""The documents that an OCI runtime reads: config.json, and the process and resources of its verbs.

Only the fields that longshore sets or checks (runtime-spec, config.md and config-linux.md, 1.0.2).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field


class Document(msgspec.Struct, rename="camel", omit_defaults=True):
    """A JSON document of the runtime specification.

    It spells names in camelCase; a name off the rule is written beside its field. An absent field is "not
    configured", so `omit_defaults` drops what nobody asked for. A field that must always be written has no default.
    (`kw_only` is not inherited, so each class says it.)
    """


class User(Document, kw_only=True):
    """Who a process runs as: numbers only, the runtime knows no names."""

    uid: int
    gid: int
    additional_gids: list[int] = []


class ConsoleSize(Document, kw_only=True):
    """The size of a terminal, in characters."""

    height: int
    width: int


class Capabilities(Document, kw_only=True):
    """The five sets of capabilities(7)."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class RlimitEntry(Document, kw_only=True):
    """One limit of setrlimit(2), as RLIMIT_NOFILE."""

    type: str
    soft: int
    hard: int


class Process(Document, kw_only=True):
    """One process: `process` of config.json, and the file that `exec --process` takes."""

    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities | None = None
    rlimits: list[RlimitEntry] = []
    no_new_privileges: bool = False


class Root(Document, kw_only=True):
    """The root file system."""

    path: str
    readonly: bool = False


class MountEntry(Document, kw_only=True):
    """One mount that the runtime makes, in order."""

    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = []


class Namespace(Document, kw_only=True):
    """A namespace of its own, or with `path` one that exists."""

    type: str
    path: str = ""


class IdMapping(Document, kw_only=True):
    """A range of ids of a user namespace."""

    container_id: int = field(name="containerID")
    host_id: int = field(name="hostID")
    size: int


class DeviceRule(Document, kw_only=True):
    """One rule of the device controller."""

    allow: bool
    access: str
    type: str = ""
    major: int | None = None
    minor: int | None = None


class Memory(Document, kw_only=True):
    """Bytes; `swap` is memory and swap together, -1 is no limit."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None


class Cpu(Document, kw_only=True):
    """`quota` of each `period`, both in microseconds; `shares` in the units of cgroup v1 (1024 is the default)."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    cpus: str = ""


class Pids(Document, kw_only=True):
    """Processes and threads; -1 is no limit."""

    limit: int


class Resources(Document, kw_only=True):
    """`linux.resources`, and the file that `update --resources` takes."""

    devices: list[DeviceRule] = []
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    unified: dict[str, str] = {}  # cgroup v2 files by their names; wins over what is converted from above


class Linux(Document, kw_only=True):
    """What is Linux's own in config.json."""

    namespaces: list[Namespace]
    uid_mappings: list[IdMapping] = []
    gid_mappings: list[IdMapping] = []
    cgroups_path: str = ""
    resources: Resources | None = None
    seccomp: Any = None
    masked_paths: list[str] = []
    readonly_paths: list[str] = []


class Config(Document, kw_only=True):
    """config.json, as longshore writes it."""

    oci_version: str = field(name="ociVersion")
    process: Process
    root: Root
    hostname: str = ""
    mounts: list[MountEntry] = []
    linux: Linux
    annotations: dict[str, str] = {}
