"""The types of the OCI runtime specification, and the check of documents of other programs against them.

Runtimes differ with a value of the wrong type: runc refuses the document, and crun treats the field as absent. So every
field of the specification is checked here, on both platforms, before anything is made. Unknown fields pass unchanged.

Sources: config.md, config-linux.md and config-windows.md of version 1.3, and its Go types.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..errors import InvalidSpec
from .checks import below, check_tree

# plain classes: every verb loads them, and a dataclass costs half a millisecond


class Whole:
    """A whole number in a range: JSON does not tell 1 from 1.0, but the specification's readers do."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most


class ListOf:
    """A list whose elements are all of one kind."""

    def __init__(self, of: Any) -> None:
        self.of = of


class MapOf:
    """An object whose names are free."""

    def __init__(self, of: Any) -> None:
        self.of = of


class Fields:
    """An object whose names the specification gives."""

    def __init__(self, fields: Mapping[str, Any], required: tuple[str, ...] = ()) -> None:
        self.fields, self.required = fields, required


class OneOf:
    """One of a few words. A runtime treats an unknown one as absent."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words


class Anything:
    """A value whose type the specification leaves open."""


class Line:
    """A text that becomes a line of a file."""


U16, U32, U64 = (Whole(0, (1 << bits) - 1) for bits in (16, 32, 64))
I32, I64 = (Whole(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (32, 64))
TEXTS = ListOf(str)


def _id_mapping() -> ListOf:
    names = ("containerID", "hostID", "size")
    return ListOf(Fields(dict.fromkeys(names, U32), names))


SIZE = Fields({"height": U32, "width": U32}, ("height", "width"))
USER = Fields({"uid": U32, "gid": U32, "umask": U32, "additionalGids": ListOf(U32), "username": str})
CAPABILITIES = Fields(dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), TEXTS))
RLIMIT = Fields({"type": str, "hard": U64, "soft": U64}, ("type", "hard", "soft"))
SCHEDULER = Fields(
    {
        "policy": str,
        "nice": I32,
        "priority": I32,
        "flags": TEXTS,
        "runtime": U64,
        "deadline": U64,
        "period": U64,
    },
    ("policy",),
)
PROCESS_FIELDS: Mapping[str, Any] = {
    "terminal": bool,
    "consoleSize": SIZE,
    "user": USER,
    "args": TEXTS,
    "commandLine": str,
    "env": TEXTS,
    "cwd": str,
    "capabilities": CAPABILITIES,
    "rlimits": ListOf(RLIMIT),
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "oomScoreAdj": I32,
    "scheduler": SCHEDULER,
    "selinuxLabel": str,
    "ioPriority": Fields({"class": str, "priority": I32}, ("class",)),
    "execCPUAffinity": Fields({"initial": str, "final": str}),
}
PROCESS = Fields(PROCESS_FIELDS)

MOUNT = Fields(
    {
        "destination": str,
        "type": str,
        "source": str,
        "options": TEXTS,
        "uidMappings": _id_mapping(),
        "gidMappings": _id_mapping(),
    },
    ("destination",),
)
HOOK = ListOf(Fields({"path": str, "args": TEXTS, "env": TEXTS, "timeout": I32}, ("path",)))
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

_DEVICE_NUMBERS: dict[str, Any] = {"major": I64, "minor": I64}
_WEIGHTS = ListOf(Fields({**_DEVICE_NUMBERS, "weight": U16, "leafWeight": U16}, ("major", "minor")))
_THROTTLE = ListOf(Fields({**_DEVICE_NUMBERS, "rate": U64}, ("major", "minor", "rate")))
RESOURCES = Fields(
    {
        "devices": ListOf(Fields({"allow": bool, "type": str, **_DEVICE_NUMBERS, "access": str}, ("allow",))),
        "memory": Fields(
            {
                **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP"), I64),
                "swappiness": U64,
                **dict.fromkeys(("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"), bool),
            }
        ),
        "cpu": Fields(
            {
                **dict.fromkeys(("shares", "burst", "period", "realtimePeriod"), U64),
                **dict.fromkeys(("quota", "realtimeRuntime", "idle"), I64),
                "cpus": str,
                "mems": str,
            }
        ),
        "pids": Fields({"limit": I64}),
        "blockIO": Fields(
            {
                "weight": U16,
                "leafWeight": U16,
                "weightDevice": _WEIGHTS,
                "throttleReadBpsDevice": _THROTTLE,
                "throttleWriteBpsDevice": _THROTTLE,
                "throttleReadIOPSDevice": _THROTTLE,
                "throttleWriteIOPSDevice": _THROTTLE,
            }
        ),
        "hugepageLimits": ListOf(Fields({"pageSize": str, "limit": U64}, ("pageSize", "limit"))),
        "network": Fields(
            {
                "classID": U32,
                "priorities": ListOf(Fields({"name": str, "priority": U32}, ("name", "priority"))),
            }
        ),
        "rdma": MapOf(Fields({"hcaHandles": U32, "hcaObjects": U32})),
        "unified": MapOf(str),
    }
)
_SYSCALL_ARGUMENT = Fields({"index": U32, "value": U64, "valueTwo": U64, "op": str}, ("index", "value", "op"))
SECCOMP = Fields(
    {
        "defaultAction": str,
        "defaultErrnoRet": U32,
        "architectures": TEXTS,
        "flags": TEXTS,
        "listenerPath": str,
        "listenerMetadata": str,
        "syscalls": ListOf(
            Fields(
                {"names": TEXTS, "action": str, "errnoRet": U32, "args": ListOf(_SYSCALL_ARGUMENT)}, ("names", "action")
            )
        ),
    },
    ("defaultAction",),
)
PROPAGATIONS = tuple(each + kind for each in ("", "r") for kind in ("shared", "slave", "private", "unbindable"))
LINUX = Fields(
    {
        "uidMappings": _id_mapping(),
        "gidMappings": _id_mapping(),
        "sysctl": MapOf(str),
        "resources": RESOURCES,
        "cgroupsPath": str,
        "namespaces": ListOf(Fields({"type": str, "path": str}, ("type",))),
        "devices": ListOf(
            Fields(
                {
                    "path": str,
                    "type": OneOf(("c", "b", "u", "p")),
                    **_DEVICE_NUMBERS,
                    "fileMode": U32,
                    "uid": U32,
                    "gid": U32,
                },
                ("path", "type"),
            )
        ),
        "netDevices": MapOf(Fields({"name": str})),
        "seccomp": SECCOMP,
        "rootfsPropagation": OneOf(PROPAGATIONS),
        "maskedPaths": TEXTS,
        "readonlyPaths": TEXTS,
        "mountLabel": str,
        "intelRdt": Fields(
            {
                **dict.fromkeys(("closID", "l3CacheSchema", "memBwSchema"), str),
                "schemata": TEXTS,
                **dict.fromkeys(("enableCMT", "enableMBM", "enableMonitoring"), bool),
            }
        ),
        "memoryPolicy": Fields({"mode": str, "nodes": str, "flags": TEXTS}, ("mode",)),
        "personality": Fields({"domain": OneOf(("LINUX", "LINUX32")), "flags": TEXTS}, ("domain",)),
        "timeOffsets": MapOf(Fields({"secs": I64, "nanosecs": U32})),
    }
)
WINDOWS = Fields(
    {
        "layerFolders": TEXTS,
        "devices": ListOf(Fields({"id": str, "idType": str}, ("id",))),
        "resources": Fields(
            {
                "memory": Fields({"limit": U64}),
                "cpu": Fields(
                    {
                        "count": U64,
                        **dict.fromkeys(("shares", "maximum", "percent"), U16),  # `percent` is of 2017
                        "affinity": ListOf(Fields({"mask": U64, "group": U32})),
                    }
                ),
                "storage": Fields(dict.fromkeys(("iops", "bps", "sandboxSize"), U64)),
            }
        ),
        "network": Fields(
            {
                "endpointList": TEXTS,
                "allowUnqualifiedDNSQuery": bool,
                "DNSSearchList": TEXTS,
                "networkSharedContainerName": str,
                "networkNamespace": str,
            }
        ),
        "credentialSpec": Anything,
        "servicing": bool,
        "ignoreFlushesDuringBoot": bool,
        "hyperv": Fields({"utilityVMPath": str}),
    }
)
CONFIG = Fields(
    {
        "ociVersion": str,
        "process": PROCESS,
        "root": Fields({"path": str, "readonly": bool}),
        "hostname": Line,
        "domainname": Line,
        "mounts": ListOf(MOUNT),
        "hooks": Fields(dict.fromkeys(HOOKS, HOOK)),
        "annotations": MapOf(str),
        "linux": LINUX,
        "windows": WINDOWS,
        **dict.fromkeys(("solaris", "vm", "zos", "freebsd"), MapOf(Anything)),  # other platforms' own
    }
)


def read_document(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a config.json, given by its own path or that of its bundle; and what was made absolute in it, with reasons.

    Raises InvalidSpec for a file that cannot be read, or is none.
    """
    file = os.path.join(path, "config.json") if os.path.isdir(path) else os.fspath(path)
    try:
        with open(file, "rb") as opened:
            document = msgspec.json.decode(opened.read())
    except (OSError, ValueError) as error:  # ValueError: of a path with a NUL, and of what is not JSON
        if isinstance(error, OSError):
            raise InvalidSpec("oci", f"cannot read {file}: {error.strerror}") from None
        raise InvalidSpec("oci", f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidSpec("oci", f"{file} is not an OCI runtime specification: it is not a JSON object")
    check_config(document)
    return document, _make_absolute(document, os.path.dirname(os.path.abspath(file)))


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Whether an entry of `mounts` shows something of the machine: then its source is a path."""
    return mount.get("type") == "bind" or bool({"bind", "rbind"} & set(mount.get("options") or []))


def _make_absolute(document: dict[str, Any], folder: str) -> dict[str, str]:
    """Make paths absolute that are meant from the bundle's folder: the root's, and the sources of bind mounts."""
    reasons = {}
    places = [("oci.root.path", document.get("root") or {}, "path")]
    for index, mount in enumerate(document.get("mounts") or []):
        if is_bind(mount):
            places.append((f"oci.mounts[{index}].source", mount, "source"))
    for field, holder, name in places:
        given = holder.get(name)
        if given and not os.path.isabs(given):
            holder[name] = os.path.join(folder, given.removeprefix("./"))
            reasons[field] = f"{given!r} is relative to the bundle's folder, {folder}"
    return reasons


def check_config(document: Mapping[str, Any], path: str = "oci") -> None:
    """Check a config.json. Raises InvalidSpec, which names the field by its path."""
    check_tree(document, path)
    _check(document, CONFIG, path)


def check_process(process: Mapping[str, Any], path: str = "oci") -> None:
    """Check the `process` of a config.json, as an exec takes it. Raises InvalidSpec, which names the field."""
    check_tree(process, path)
    _check(process, PROCESS, path)


def without_nulls(value: Any) -> Any:
    """Return a copy without the members that are null: to every reader of the specification they are absent."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, (list, tuple)) else value


def unknown_fields(document: Mapping[str, Any], path: str = "oci", kind: Fields = CONFIG) -> Iterator[str]:
    """Yield the paths of fields that the specification does not know."""
    for name, value in document.items():
        known = kind.fields.get(name)
        if known is None:
            yield below(path, name)
        else:
            yield from _unknown_below(value, known, below(path, name))


def ignored_as_unknown(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the unknown fields of a document, each with the reason why every runtime ignores it."""
    return dict.fromkeys(unknown_fields(document), "ignored: the OCI runtime specification has no such field")


def _unknown_below(value: Any, kind: Any, path: str) -> Iterator[str]:
    if value is None:
        return
    if isinstance(kind, Fields):
        yield from unknown_fields(value, path, kind)
    elif isinstance(kind, ListOf):
        for index, item in enumerate(value):
            yield from _unknown_below(item, kind.of, f"{path}[{index}]")
    elif isinstance(kind, MapOf):
        for name, item in value.items():
            yield from _unknown_below(item, kind.of, below(path, name))


def _check(value: Any, kind: Any, path: str) -> None:
    """Check one value. A null is a field that is absent, to every reader of the specification."""
    if value is None or kind is Anything:
        return
    if isinstance(kind, Whole):
        _check_whole(value, kind, path)
    elif kind is Line:
        _check(value, str, path)
        if not value.isprintable():
            raise InvalidSpec(path, f"{value[:80]!r} holds a line break or a control character")
    elif kind is str or kind is bool:
        if type(value) is not kind:
            raise InvalidSpec(path, f"must be {'text' if kind is str else 'true or false'}, not {_shown(value)}")
    elif isinstance(kind, OneOf):
        _check(value, str, path)
        if value not in kind.words:
            raise InvalidSpec(path, f"{value!r:.60} is not one of {', '.join(kind.words)}")
    elif isinstance(kind, ListOf):
        if not isinstance(value, (list, tuple)):
            raise InvalidSpec(path, f"must be a list, not {_shown(value)}")
        for index, item in enumerate(value):
            if item is None:
                raise InvalidSpec(f"{path}[{index}]", "is null")
            _check(item, kind.of, f"{path}[{index}]")
    else:
        if not isinstance(value, Mapping):
            raise InvalidSpec(path, f"must be an object, not {_shown(value)}")
        _check_object(value, kind, path)


def _check_object(value: Mapping[str, Any], kind: MapOf | Fields, path: str) -> None:
    if isinstance(kind, MapOf):
        for name, item in value.items():
            if item is None:
                raise InvalidSpec(below(path, name), "is null")
            _check(item, kind.of, below(path, name))
        return
    for name in kind.required:
        if value.get(name) is None:
            raise InvalidSpec(f"{path}.{name}", "is missing")
    folded = {name.lower(): name for name in kind.fields}
    for name, item in value.items():
        known = folded.get(name.lower(), name)
        if known != name:  # runc takes it for that field, crun does not: they would make two different containers
            raise InvalidSpec(below(path, name), f"is not a field: write `{known}`")
        _check(item, kind.fields.get(name, Anything), below(path, name))


def _check_whole(value: Any, kind: Whole, path: str) -> None:
    if type(value) is not int:
        raise InvalidSpec(path, f"must be a whole number, not {_shown(value)}")
    if not kind.least <= value <= kind.most:
        raise InvalidSpec(path, f"{value} is not between {kind.least} and {kind.most}")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else f"{value!r:.60}"
