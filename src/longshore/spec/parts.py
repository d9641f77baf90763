"""What specs are made of: mounts, limits, security, layers, and what only Windows knows. Each checks itself."""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..errors import InvalidSpec
from .checks import check_list, check_path, check_type, parse_size

_CAPABILITY = re.compile(r"(?:CAP_)?([A-Z_]+)", re.IGNORECASE)

MEMORY_FLOOR = 4 << 20  # runc's own init needs about this much to start at all


class Mount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file system that the container sees at `target`: a `bind` of the host's `source`, or a fresh `tmpfs`.

    `Mount("/srv/www", "/www", read_only=True)`; `Mount(target="/tmp", type="tmpfs", options=["size=64m"])`. Paths
    are absolute. `options` are passed to the runtime as they are (`nosuid`, `size=64m`, ...).
    """

    source: str | None = None
    target: str = ""
    type: Literal["bind", "tmpfs"] = "bind"
    read_only: bool = False
    options: list[str] = []

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                msgspec.structs.force_setattr(self, name, os.fspath(value))
            elif not isinstance(value, (str, type(None))):
                raise InvalidSpec(f"mount.{name}", f"must be a path, not {builtins.type(value).__name__}")
        if not self.target:
            raise InvalidSpec("mount.target", "is missing", hint="write Mount(source, target)")
        if not re.fullmatch("[A-Za-z]:", self.target):  # a whole drive, on Windows
            check_path(self.target, "mount.target", inside=True)
        if self.type == "bind":
            if self.source is None:
                raise InvalidSpec(
                    "mount.source", "is missing: a bind mount needs a source", hint="write Mount(source, target)"
                )
            check_path(self.source, "mount.source")
        elif self.source is not None:
            raise InvalidSpec("mount.source", "must be empty: a tmpfs has no source")

    @classmethod
    def parse(cls, text: str) -> Mount:
        """A mount as docker's `-v` writes it: `SOURCE:TARGET[:ro|rw]`; or as `--mount`: `type=tmpfs,target=/x`.

        Only a word of `--mount` before the first `=` begins the second form: a folder may have a `=` in its name.
        """
        if text.partition(",")[0].partition("=")[0].strip('"').lower() in _MOUNT_WORDS and "=" in text:
            return cls.parse_words(text)
        # a Windows drive letter has a colon of its own; elsewhere `a:/x` is the folder `a`
        drive = r"[A-Za-z]:[\\/]" if os.name == "nt" else r"[A-Za-z]:\\"
        match = re.fullmatch(rf"((?:{drive})?[^:]+):((?:{drive})?[^:]+|[A-Za-z]:)(?::([^:]+))?", text)
        if match is None:
            raise InvalidSpec(
                "mount", f"{text!r} is not SOURCE:TARGET[:ro]", hint="use --mount, or Mount(...), for a name with a `:`"
            )
        options = match[3].split(",") if match[3] else []
        rest = [option for option in options if option not in ("ro", "rw")]
        return cls(source=os.path.abspath(match[1]), target=match[2], read_only="ro" in options, options=rest)

    @classmethod
    def parse_words(cls, text: str) -> Mount:
        """A mount as docker's `--mount` writes it: words with commas between them, quoted as in a CSV file."""
        values: dict[str, Any] = {}
        options: list[str] = []
        for pair in _comma_separated(text):
            name, equals, value = pair.partition("=")
            name = name.strip().lower()
            meant = _MOUNT_WORDS.get(name)
            if meant is None:
                raise InvalidSpec(
                    "mount", f"{name!r} is not a field of --mount", hint="use type, source, target and readonly"
                )
            if meant == "read_only":
                values[meant] = not equals or _true(name, value)
            elif meant == "options":
                options += _mount_option(name, value)
            elif not equals or not value:
                raise InvalidSpec("mount", f"{name!r} has no value", hint=f"write {name}=...")
            else:
                values[meant] = value
        if values.get("type") not in (None, "bind", "tmpfs"):
            raise InvalidSpec("mount.type", f"{values['type']!r} is neither bind nor tmpfs")
        if "target" not in values:
            raise InvalidSpec("mount.target", "is missing")
        return cls(**values, options=options)


_MOUNT_WORDS: Mapping[str, str] = {
    "type": "type",
    **dict.fromkeys(("source", "src"), "source"),
    **dict.fromkeys(("target", "dst", "destination"), "target"),
    **dict.fromkeys(("readonly", "ro"), "read_only"),
    **dict.fromkeys(
        ("bind-propagation", "bind-nonrecursive", "bind-recursive", "consistency", "tmpfs-size", "tmpfs-mode"),
        "options",
    ),
}
"""The words of docker's --mount, and the field that each is for."""


def _comma_separated(text: str) -> list[str]:
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidSpec("mount", f"{text!r:.100} is not a comma-separated list ({error})") from None
    return rows[0] if rows else []


def _true(name: str, value: str) -> bool:
    if value.lower() not in ("true", "1", "false", "0"):
        raise InvalidSpec("mount", f"{name}={value!r:.60} is neither true nor false")
    return value.lower() in ("true", "1")


def _mount_option(name: str, value: str) -> list[str]:
    """The options of mount(8) that a word of --mount means."""
    if name == "consistency":  # of docker on other machines
        return []
    if name == "bind-nonrecursive":
        return ["bind"] if _true(name, value or "true") else []
    if name == "bind-recursive":
        known = {"enabled": [], "disabled": ["bind"], "readonly": ["rro"]}
        if value not in known:
            raise InvalidSpec("mount", f"{name}={value!r:.60} is unknown", hint=f"use one of: {', '.join(known)}")
        return known[value]
    if name == "tmpfs-size":
        return [f"size={value if value.endswith('%') else parse_size(value, 'mount.tmpfs-size')}"]
    return [f"mode={value}" if name == "tmpfs-mode" else value]


class Resources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits; None leaves what there is. Sizes in bytes, or text such as `512m`.

    `memory_swap` is memory and swap together (-1: unlimited), as runtimes take it; `cpus` is processors' worth of
    time (1.5); `cpu_weight` is 1 to 10000, 100 is the default share; `pids` counts processes and threads.
    """

    memory: int | str | None = None
    memory_swap: int | str | None = None
    memory_reservation: int | str | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    pids: int | None = None

    def __post_init__(self) -> None:
        set_ = msgspec.structs.force_setattr
        for name in ("memory", "memory_reservation"):
            value = getattr(self, name)
            if value is not None:
                set_(self, name, parse_size(value, name))
        if self.memory is not None and self.memory < MEMORY_FLOOR:  # type: ignore[operator]  # parsed above
            raise InvalidSpec("memory", f"{self.memory} bytes are too few to start a process", hint="give at least 4m")
        if self.memory_swap is not None and self.memory_swap != -1:
            set_(self, "memory_swap", parse_size(self.memory_swap, "memory_swap"))
            if self.memory is not None and self.memory_swap < self.memory:  # type: ignore[operator]
                raise InvalidSpec("memory_swap", "is memory and swap together, so it cannot be less than `memory`")
        for name in ("cpu_weight", "pids"):
            check_type(getattr(self, name), name, int, "a whole number")
        check_type(self.cpus, "cpus", (int, float), "a number")
        check_type(self.cpuset, "cpuset", str, "text")
        if self.cpus is not None and not 0.01 <= self.cpus <= 1024:
            raise InvalidSpec("cpus", f"{self.cpus} is not between 0.01 and 1024")
        if self.cpu_weight is not None and not 1 <= self.cpu_weight <= 10000:
            raise InvalidSpec("cpu_weight", f"{self.cpu_weight} is not between 1 and 10000")
        if self.cpuset is not None and not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", self.cpuset):
            raise InvalidSpec("cpuset", f"{self.cpuset!r} is not a list such as '0-1,3'")
        if self.pids is not None and not (self.pids == -1 or 1 <= self.pids <= 1 << 22):
            raise InvalidSpec("pids", f"{self.pids} is not between 1 and {1 << 22}, nor -1 for no limit")

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__struct_fields__)


UNLIMITED = (1 << 64) - 1
"""RLIM_INFINITY of getrlimit(2)."""


class Rlimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One resource limit of processes, as setrlimit(2): `name` as `nofile` or `RLIMIT_NOFILE`.

    -1 and `unlimited` are no limit.
    """

    name: str
    soft: int | str
    hard: int | str

    def __post_init__(self) -> None:
        set_ = msgspec.structs.force_setattr
        known = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
        check_type(self.name, "rlimits", str, "text")
        set_(self, "name", self.name.lower().removeprefix("rlimit_"))
        if self.name not in known.split():
            raise InvalidSpec("rlimits", f"there is no limit {self.name!r}", hint=f"use one of: {known}")
        for which in ("soft", "hard"):
            set_(self, which, _limit(getattr(self, which), f"rlimits[{self.name}]"))
        if self.soft > self.hard:  # type: ignore[operator]  # both are numbers now
            raise InvalidSpec(f"rlimits[{self.name}]", "the soft limit is above the hard one")


def _limit(value: Any, field: str) -> int:
    """A limit as a number; UNLIMITED for -1 and `unlimited`."""
    number = value
    if isinstance(value, str):
        number = -1 if value.lower() == "unlimited" else int(value) if re.fullmatch("-?[0-9]{1,20}", value) else None
    if isinstance(number, bool) or not isinstance(number, int) or not -1 <= number <= UNLIMITED:
        raise InvalidSpec(
            field, f"{value!r:.60} is not a limit", hint="write a number from 0 on, or -1 or 'unlimited' for no limit"
        )
    return UNLIMITED if number == -1 else number


class Security(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the container's processes may do. The defaults are safe; each field loosens or tightens one thing.

    `seccomp` is `default` (the distribution's profile, or ours), `unconfined`, or the path of a profile.
    `masked_paths` and `readonly_paths` replace the usual lists where given. `userns` is a mapping of ids as
    (container's first, host's first, count); None shares the host's user namespace.
    """

    cap_add: list[str] = []
    cap_drop: list[str] = []
    no_new_privileges: bool = True
    seccomp: str = "default"
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    userns: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("cap_add", "cap_drop"):
            normal = []
            for text in getattr(self, name):
                match = _CAPABILITY.fullmatch(text)
                if match is None:
                    raise InvalidSpec(f"security.{name}", f"{text!r} is not a capability", hint="write it as NET_ADMIN")
                normal.append("ALL" if match[1].upper() == "ALL" else f"CAP_{match[1].upper()}")
            msgspec.structs.force_setattr(self, name, normal)


class Layers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A root file system made of folders: `parents`, nearest first and read-only, under the container's own `scratch`.

    `scratch` None lets the container have one that goes with it.
    """

    parents: list[str]
    scratch: str | None = None

    def __post_init__(self) -> None:
        given = check_list(self.parents, "layers.parents", "folders")
        parents = [os.fspath(path) if isinstance(path, os.PathLike) else path for path in given]
        msgspec.structs.force_setattr(self, "parents", parents)
        if not parents:
            raise InvalidSpec(
                "layers.parents", "is empty: a root needs at least one folder", hint="name it: parents=['/srv/base']"
            )
        for index, path in enumerate(parents):
            check_type(path, f"layers.parents[{index}]", str, "a path")
            check_path(path, f"layers.parents[{index}]")


class HyperV(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyper-V isolation, as the original's HyperVIsolationOption: the container has a kernel of its own.

    `utility_vm_path` None looks for the upper-most `UtilityVM` among the parent layers. `sandbox_path` is what builds
    of 2016 asked for; none needs it now. With `enabled` False the container is process-isolated all the same.
    """

    enabled: bool = True
    sandbox_path: str = ""
    utility_vm_path: str = ""


class Endpoints(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Network endpoints, as the original's NetworkEndpointsOption: ids of endpoints that HNS has made.

    `dns_search_list` are domains; `shared_container` is the id of a container whose network this one shares (process
    isolation only).
    """

    ids: list[str] | None = None
    allow_unqualified_dns_query: bool = False
    dns_search_list: list[str] | None = None
    shared_container: str = ""

    def __post_init__(self) -> None:
        for index, domain in enumerate(self.dns_search_list or []):
            if "," in domain:
                raise InvalidSpec(f"endpoints.dns_search_list[{index}]", f"{domain!r} is more than one domain")


class WindowsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the original passed beside the spec, in one typed object; NotSupported on Linux.

    `owner` is the tag by which HCS tells the container's makers apart. `layer_paths` are the parent layers, nearest
    first, and `layer_folder` the container's own (`layers` of the spec says the same); `credentials` is the JSON text
    of a credential spec. `servicing` runs a container that installs updates into its layer: it has no streams. Of
    `servicing` and `ignore_flushes_during_boot`, None is what an OCI document says, and False without one.
    `cpu_count` is cut to what the host has; `cpu_percent` is 1 to 100 of all processors, `cpu_maximum` the same in
    hundredths of a percent, `cpu_shares` 1 to 10000. Storage: bytes and operations a second; `storage_size` is that
    of a scratch layer that is made for the container, and refused where none is. 0 is "not configured" throughout.
    `devices` are GUIDs of device interface classes, for process isolation.
    """

    owner: str = "longshore"
    hyperv: HyperV | None = None
    endpoints: Endpoints | None = None
    credentials: str = ""
    servicing: bool | None = None
    ignore_flushes_during_boot: bool | None = None
    layer_folder: str = ""
    layer_paths: list[str] | None = None
    cpu_count: int | None = None
    cpu_percent: int | None = None
    cpu_maximum: int | None = None
    cpu_shares: int | None = None
    storage_bps: int | None = None
    storage_iops: int | None = None
    storage_size: int | str | None = None
    devices: list[str] = []

    def __post_init__(self) -> None:
        for name, most in _WINDOWS_MOST.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise InvalidSpec(f"windows.{name}", f"{value} is not between 0 and {most}")
        if self.cpu_percent and self.cpu_maximum:
            raise InvalidSpec("windows.cpu_maximum", "is the same limit as `cpu_percent`: give one of them")
        if self.storage_size is not None:
            msgspec.structs.force_setattr(self, "storage_size", parse_size(self.storage_size, "windows.storage_size"))

    @property
    def isolated(self) -> bool:
        """Whether this is Hyper-V isolation."""
        return self.hyperv is not None and self.hyperv.enabled


_WINDOWS_MOST = {  # what the members of HCS's document hold
    "cpu_count": (1 << 64) - 1,
    "cpu_percent": 100,
    "cpu_maximum": 10_000,
    "cpu_shares": 10_000,
    "storage_bps": (1 << 64) - 1,
    "storage_iops": (1 << 64) - 1,
}


__all__ = [
    "MEMORY_FLOOR",
    "Endpoints",
    "HyperV",
    "Layers",
    "Mount",
    "Resources",
    "Rlimit",
    "Security",
    "WindowsOptions",
]
