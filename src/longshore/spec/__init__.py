"""What a user asks for: `Spec` for a container, `ProcessSpec` for one process, and their checks.

The words are the same on both platforms. A check that needs nothing but the value itself happens here, when
the object is made, and names the field; what needs the host (is there such a folder, such a user) is checked by
the service before anything is changed. What a spec is made of (mounts, limits, ...) stands in parts.py, and is
known by its name here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import msgspec

from ..errors import InvalidSpec
from ..typed_json import convert
from .checks import (
    SIGNALS,
    check_arguments,
    check_command,
    check_environment,
    check_id,
    check_list,
    check_network,
    check_path,
    check_size,
    check_text,
    check_tree,
    check_type,
    command_of,
    empty_command,
    image_of_root,
    parse_signal,
    parse_size,
    unknown_field,
    unknown_root,
)
from .parts import MEMORY_FLOOR, Endpoints, HyperV, Layers, Mount, Resources, Rlimit, Security, WindowsOptions
from .runtime_spec import check_config, check_process, read_document

STOP_SIGNAL = "org.opencontainers.image.stopSignal"
"""The annotation of a document that names the image's stop signal: config.md, "Annotations"."""

_HOSTNAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,62}")


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process is: a command and its circumstances. None takes what the container has.

    `oci` is the `process` of an OCI runtime specification: it stands in the place of the container's own, so that
    nothing but an empty working directory is taken from there; what is said above it counts more.
    """

    args: list[str] = []
    env: dict[str, str] = {}
    cwd: str | None = None
    user: str | None = None
    terminal: bool = False
    size: tuple[int, int] | None = None  # rows, columns
    cap_add: list[str] = []
    privileged: bool = False  # an exec with every capability of the container's bounding set
    command_line: str | None = None  # Windows: one string, passed as it is
    oci: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        set_ = msgspec.structs.force_setattr
        set_(self, "args", check_arguments(self.args, "args"))
        set_(self, "env", check_environment(self.env, "env"))
        if self.oci is not None:
            check_process(self.oci)
        check_command(self.args, self.command_line, self.oci or {})
        if self.args and not self.args[0]:
            raise empty_command()
        if self.cwd is not None:
            check_path(self.cwd, "cwd", inside=True)
        if self.user is not None and (not self.user or "\n" in self.user):
            raise InvalidSpec("user", f"{self.user!r} is not a name or uid[:gid]")
        check_text(self.user or "", "user")
        check_size(self.size)

    @property
    def command(self) -> list[str]:
        """The command as a list; one element where it is a command line."""
        return command_of(self.args, self.command_line, self.oci or {})


class SpecSettings(TypedDict, total=False):
    """The fields of `Spec` but root and command, as keyword arguments of `run`."""

    env: Mapping[str, str]
    cwd: str | None
    user: str | None
    hostname: str | None
    terminal: bool
    size: tuple[int, int] | None
    mounts: Sequence[Mount | str]
    memory: int | str | None
    memory_swap: int | str | None
    memory_reservation: int | str | None
    cpus: float | None
    cpu_weight: int | None
    cpuset: str | None
    pids: int | None
    resources: Resources
    network: Literal["none", "host"]
    security: Security
    read_only: bool
    rlimits: Sequence[Rlimit]
    labels: Mapping[str, str]
    init: bool
    layers: Layers | None
    show: Sequence[str | os.PathLike[str]]
    stop_signal: str | int
    log_size: int | str
    oci: Mapping[str, Any] | None
    windows: WindowsOptions | None


class SpecFields(SpecSettings, total=False):
    """The fields of `Spec` as keyword arguments of `create` and `launch`."""

    root: str | os.PathLike[str]
    args: Sequence[str]
    command_line: str | None


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container as a user asks for it. `Spec.of(...)` also takes the short forms that `create` takes.

    Fields, which are keywords of `create`, `launch` and `run`, too (there, `root` and `args` are parameters):

    root: str           `host` (default: an allow-list, copy-on-write view of this machine), `host:full` (all of it
                        but the store, copy-on-write: for trusted code), `rootfs:/path` (a folder, written to in
                        place), or empty where `layers` or `oci` gives the root; what is no other word is the name of
                        an image (`python:3.12-slim`), `image:NAME` always is. What the image says of command,
                        variables, user, cwd, stop signal and labels holds where nothing is said here
    args: list          the command; a list, never one string
    command_line: str   Windows: the command as one string, passed as it is, in place of `args`
    env: dict           variables, laid over the root's own; default none
    cwd: str            working directory in the container, absolute; default `/`, or what `oci` says
    user: str           name or `uid[:gid]`; default nobody on a `host` root, root elsewhere
    hostname: str       default: the id
    terminal: bool      give the command a terminal; default False
    size: (int, int)    rows and columns of that
    mounts: list        of Mount, or text as `SOURCE:TARGET[:ro]`
    memory: int or str  limit in bytes, or as `512m`; default none
    memory_swap         limit of memory and swap together, the same; -1 is no limit
    memory_reservation  what is kept when the machine is short of it, the same
    cpus: float         processors' worth of time: 1.5; default no limit
    cpu_weight: int     share of time where it is scarce: 1 to 10000; the usual is 100
    cpuset: str         which processors: `0-1,3`; default all
    pids: int           processes and threads; default no limit
    resources           these limits as one object, Resources(...)
    network: str        `none` (default: loopback only) or `host`
    security            capabilities, seccomp and the like: Security(...)
    read_only: bool     the root file system is read-only; default False
    rlimits: list       of Rlimit: setrlimit(2) of its processes
    labels: dict        texts by name, for `list` and people
    init: bool          a small init as pid 1, which reaps and passes signals on; default False, of `run` True
                        where one is installed
    layers              a root made of folders, Layers(...), in place of `root`, which is then left out, or ''
    show: list          on `host`: further folders of the machine that are seen, read-only
    stop_signal         what `stop` sends, by name or number; default TERM, or what `oci` is annotated with
    log_size: int, str  bound in bytes of the log of a kept container, at least 64k; default 64m. At the bound the
                        log begins anew: what was before is dropped, and `logs` tells it by a LogGap
    oci: dict           an OCI runtime specification: what it says stands unless said here. One that has both a
                        `linux` and a `windows` object is meant for both, and each platform takes its own
    windows             what only Windows knows: WindowsOptions(...); NotSupported elsewhere
    """

    root: str = "host"
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: str | None = None
    user: str | None = None
    hostname: str | None = None
    terminal: bool = False
    size: tuple[int, int] | None = None
    mounts: list[Mount] = []
    resources: Resources = Resources()
    network: Literal["none", "host"] = "none"
    security: Security = Security()
    read_only: bool = False
    rlimits: list[Rlimit] = []
    labels: dict[str, str] = {}
    init: bool = False
    layers: Layers | None = None
    show: list[str] = []
    stop_signal: int = 15
    log_size: int = 64 << 20  # bytes that the log of a kept container may have
    oci: dict[str, Any] | None = None  # an OCI runtime specification: what it says stands unless said above
    windows: WindowsOptions | None = None
    command_line: str | None = None  # Windows: the command as one string, passed as it is, in place of `args`

    def __post_init__(self) -> None:
        set_ = msgspec.structs.force_setattr
        set_(self, "args", check_arguments(self.args, "args"))
        set_(self, "env", check_environment(self.env, "env"))
        image = image_of_root(self.root)
        has_own = image is not None and not self.args  # the image's: the engine completes the spec
        if self.command_line is not None or not (has_own or (self.windows and self.windows.servicing)):
            check_command(self.args, self.command_line, self._oci_process())
        if self.args and not self.args[0]:
            raise empty_command()
        if self.layers is not None and self.root and image is None:
            if self.root != "host":  # which a spec has where nothing is said; `of` knows whether it was
                _check_only_root(self.root, "`layers`")
            else:
                set_(self, "root", "")
        kind, _, path = self.root.partition(":")
        if kind == "rootfs":
            check_path(path, "root")
        elif image is None and self.root not in ("", "host", "host:full"):
            raise unknown_root(self.root)
        if not self.root and self.layers is None and self.oci is None and self.windows is None:
            raise InvalidSpec("root", "is empty", hint="use host, host:full, rootfs:/path, or layers")
        check_network(self.network)
        if self.show and self.root != "host":
            raise InvalidSpec("show", "is for the `host` root only", hint="use mounts")
        if self.cwd is not None:
            check_path(self.cwd, "cwd", inside=True)
        if self.user is not None and (not self.user or "\n" in self.user):
            raise InvalidSpec("user", f"{self.user!r} is not a name or uid[:gid]")
        if self.hostname is not None and not _HOSTNAME.fullmatch(self.hostname):
            raise InvalidSpec("hostname", f"{self.hostname!r} is not a host name of at most 63 characters")
        if "" in self.labels:
            raise InvalidSpec("labels", "a label cannot be empty")
        if not 1 << 16 <= self.log_size < 1 << 50:
            raise InvalidSpec("log_size", f"must be at least 64k, not {self.log_size}")
        check_size(self.size)
        seen: set[str] = set()
        for index, mount in enumerate(self.mounts):
            if mount.target in seen:
                raise InvalidSpec(f"mounts[{index}].target", f"{mount.target} is mounted twice")
            seen.add(mount.target)

    def _oci_process(self) -> Mapping[str, Any]:
        process = (self.oci or {}).get("process")
        return process if isinstance(process, Mapping) else {}

    @property
    def command(self) -> list[str]:
        """The command that init runs, also where an OCI document gives it; one element if it is a command line."""
        return command_of(self.args, self.command_line, self._oci_process())

    @classmethod
    def of(cls, spec: Spec | None = None, **fields: Unpack[SpecFields]) -> Spec:
        """A spec from keyword arguments, over `spec` where one is given; the short forms (memory=, cpus=) included."""
        if spec is not None and not isinstance(spec, Spec):
            raise TypeError(f"spec: must be a Spec, not {spec!r:.100}; write root=..., args=[...] for one of your own")
        known = [*cls.__struct_fields__, *Resources.__struct_fields__]
        for name in fields:
            if name not in known:
                raise unknown_field(name, known)
        values: dict[str, Any] = dict(fields)
        for name, value in values.items():
            _check_object(name, value)
        limits = {name: values.pop(name) for name in list(values) if name in Resources.__struct_fields__}
        if limits:
            base = values.get("resources", spec.resources if spec else Resources())
            values["resources"] = msgspec.structs.replace(base, **limits)
        if "root" in values:
            check_type(values["root"], "root", (str, os.PathLike), "text")
            values["root"] = os.fspath(values["root"] or "")
        if "network" in values:
            check_network(values["network"])
        if "args" in values:
            values["args"] = check_arguments(values["args"], "args")
        if "env" in values:
            values["env"] = check_environment(values["env"], "env")
        if "mounts" in values:
            given = check_list(values["mounts"], "mounts", "Mount or 'SOURCE:TARGET[:ro]'")
            values["mounts"] = [Mount.parse(item) if isinstance(item, str) else item for item in given]
        if "show" in values:
            given = check_list(values["show"], "show", "paths")
            values["show"] = [os.path.abspath(os.fspath(item)) for item in given]
        if "stop_signal" in values:
            values["stop_signal"] = parse_signal(values["stop_signal"])
        if "log_size" in values:
            values["log_size"] = parse_size(values["log_size"], "log_size")
        if values.get("oci") is not None:
            check_config(values["oci"])
            values["oci"] = dict(values["oci"])
            annotated = (values["oci"].get("annotations") or {}).get(STOP_SIGNAL)
            if annotated and "stop_signal" not in values:
                values["stop_signal"] = parse_signal(annotated, f"oci.annotations[{STOP_SIGNAL}]")
        cls._choose_root(values, spec)
        try:
            # convert checks the types of what keyword arguments brought, and names the field that is wrong
            made = {name: values[name] if name == "oci" else msgspec.to_builtins(values[name]) for name in values}
            if spec is not None:
                made = msgspec.to_builtins(spec) | made
            for name, value in made.items():
                if name != "oci" or name not in values:  # then it is checked
                    check_tree(value, name)
            return convert(made, cls)
        except msgspec.ValidationError as error:
            raise _translated(error) from None

    @staticmethod
    def _choose_root(values: dict[str, Any], spec: Spec | None) -> None:
        """Nothing for a root where something else gives it; InvalidSpec where both are said."""
        windows = values.get("windows")
        on_windows = isinstance(windows, WindowsOptions) and windows.layer_paths is not None
        if values.get("root"):
            if on_windows or values.get("layers", spec.layers if spec else None) is not None:
                _check_only_root(values["root"], "`layers`")
            elif values["root"] == "host" and _has_layers(values.get("oci", spec.oci if spec else None)):
                _check_only_root(values["root"], "the OCI document's `layerFolders`")
        elif values.get("layers") is not None or (spec is None and (on_windows or values.get("oci") is not None)):
            values["root"] = ""

    @classmethod
    def from_oci(cls, document: Mapping[str, Any] | str | os.PathLike[str], **fields: Unpack[SpecFields]) -> Spec:
        """A spec from an OCI runtime specification (config.md): what we have no word for is kept, unharmed.

        `document` is its content, or the path of a bundle or of its config.json: then relative paths in it (root.path,
        sources of bind mounts) are meant from the bundle's folder. Raises InvalidSpec, which names the field.
        """
        if isinstance(document, (str, os.PathLike)):
            document, _ = read_document(document)
        if not isinstance(document, Mapping):
            raise InvalidSpec("oci", f"must be a mapping, not {type(document).__name__}")
        fields["oci"] = document
        return cls.of(**fields)


_OBJECTS: Mapping[str, str] = {  # fields of which a part is easily given in the place of the whole
    "layers": "Layers(parents={parents})",
    "resources": "Resources(memory='512m')",
    "security": "Security(cap_add=['NET_ADMIN'])",
    "windows": "WindowsOptions(hyperv=HyperV())",
}


def _check_object(field: str, value: Any) -> None:
    """That an object stands where one is meant."""
    if field not in _OBJECTS or value is None or isinstance(value, (msgspec.Struct, Mapping)):
        return
    parents = [value] if isinstance(value, str) else value
    if not (isinstance(parents, list) and parents and all(isinstance(path, str) for path in parents)):
        parents = ["/srv/app", "/srv/base"]
    example = _OBJECTS[field].format(parents=parents)
    kind = example.partition("(")[0]
    raise InvalidSpec(field, f"must be {kind}(...), not {value!r:.100}", hint=f"write {field}={example:.400}")


def _check_only_root(root: str, beside: str) -> None:
    """InvalidSpec unless a root can be given beside layers: as Windows' volume of the scratch layer."""
    if not root.startswith("rootfs:\\\\"):
        raise InvalidSpec(
            "root",
            f"{root!r} cannot be combined with {beside}: each is a whole root file system",
            hint=f"give root='' with {beside}, or `root` alone",
        )


def _has_layers(document: Any) -> bool:
    """Whether an OCI document gives layers, and for Windows alone: one for both platforms may get a root for Linux."""
    if not isinstance(document, Mapping) or document.get("linux") is not None:
        return False
    windows = document.get("windows")
    return isinstance(windows, Mapping) and bool(windows.get("layerFolders"))


def _translated(error: msgspec.ValidationError) -> InvalidSpec:
    """msgspec tells the path as ``- at `$.mounts[0].target` ``; errors of our own checks travel inside it."""
    if isinstance(error.__cause__, InvalidSpec):
        return error.__cause__
    text, _, path = str(error).partition(" - at `$.")
    return InvalidSpec(path.rstrip("`") or "spec", text[:1].lower() + text[1:])


__all__ = [
    "MEMORY_FLOOR",
    "SIGNALS",
    "Endpoints",
    "HyperV",
    "Layers",
    "Mount",
    "ProcessSpec",
    "Resources",
    "Rlimit",
    "Security",
    "Spec",
    "SpecFields",
    "SpecSettings",
    "WindowsOptions",
    "check_arguments",
    "check_environment",
    "check_id",
    "image_of_root",
    "parse_signal",
    "parse_size",
]
