"""The fields of a document that a runtime ignores, and the version of the specification that is written for it.

The specification requires a runtime to ignore unknown fields. So an older runtime silently drops a later field, and
longshore reports it. The `features` verb of runtimes names no fields: the versions here are those of their releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import InvalidSpec, NotSupported
from ...spec.runtime_spec import CAPABILITIES, ignored_as_unknown, is_bind
from .translate import ALL_CAPABILITIES

BASE = "1.0.2"  # of the specification: every runtime takes it
CRUN_TAKES_ANY = (1, 14, 3)  # before, crun refused a version without "1.0" in it (its container.c)

NEVER = (1 << 30,)
Version = tuple[int, ...]


class Known(NamedTuple):
    """A runtime that a document is for; without a version it is taken for one that knows all."""

    name: str = ""
    version: str = ""
    checkpoints: bool = False  # whether it was built to make them

    @property
    def numbers(self) -> Version:
        match = re.match(r"\d+(\.\d+)*", self.version)
        return tuple(int(part) for part in match[0].split(".")) if match else ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip() or "the runtime"


ANY_RUNTIME = Known()


class _Since(NamedTuple):
    spec: str  # the version of the specification that has the field
    crun: Version
    runc: Version
    wall: bool = False  # without it the container would have what is not its own, or not have what it is for


_FIELDS: Mapping[str, _Since] = {
    "domainname": _Since("1.1.0", (1, 7), (1, 2)),
    "process.scheduler": _Since("1.1.0", (1, 8, 4), (1, 2)),
    "process.ioPriority": _Since("1.1.0", (1, 9), (1, 2)),
    "process.execCPUAffinity": _Since("1.2.1", (1, 19), (1, 3)),
    "mounts[].uidMappings": _Since("1.1.0", (1, 9), (1, 2), wall=True),
    "mounts[].gidMappings": _Since("1.1.0", (1, 9), (1, 2), wall=True),
    "linux.timeOffsets": _Since("1.1.0", (1, 8, 4), (1, 2), wall=True),
    "linux.personality": _Since("1.0.2", (0, 12), (1, 2)),
    "linux.netDevices": _Since("1.3.0", (1, 24), (1, 4), wall=True),
    "linux.memoryPolicy": _Since("1.3.0", (1, 24), (1, 4)),
    "linux.intelRdt": _Since("1.0.0", (1, 10), (1, 0)),
    "linux.intelRdt.schemata": _Since("1.3.0", (1, 24), (1, 4)),
    "linux.intelRdt.enableMonitoring": _Since("1.3.0", (1, 24), (1, 4)),
    "linux.resources.cpu.burst": _Since("1.1.0", (1, 11), (1, 2)),
    "linux.resources.cpu.idle": _Since("1.1.0", (1, 5), (1, 2)),
    "linux.resources.memory.checkBeforeUpdate": _Since("1.1.0", (1, 7), (1, 2)),
    "linux.resources.memory.kernel": _Since("1.0.0", (0,), NEVER),
    "linux.resources.memory.kernelTCP": _Since("1.0.0", (0,), NEVER),
    "linux.resources.memory.useHierarchy": _Since("1.0.0", (0,), NEVER),
    "linux.resources.rdma": _Since("1.0.2", NEVER, (1, 1)),
}
_OPTIONS: Mapping[str, _Since] = {
    "idmap": _Since("1.2.0", (1, 4), (1, 2), wall=True),
    "ridmap": _Since("1.2.0", (1, 9), (1, 2), wall=True),
}


_WORDS = "atime diratime dev exec suid symfollow relatime strictatime"
MOUNT_OPTIONS = frozenset(
    [
        *(f"{again}{no}{word}" for word in _WORDS.split() for no in ("", "no") for again in ("", "r")),
        *"acl async bind defaults dirsync iversion lazytime loud mand noacl noiversion nolazytime nomand".split(),
        *"private rbind remount ro rprivate rro rrw rshared rslave runbindable rw shared silent slave sync".split(),
        *"tmpcopyup unbindable copy-symlink src-nofollow dest-nofollow z Z".split(),
    ]
)
"""What runtimes make something of; they hand all else to the file system, and a bind mount has none (mount(2))."""


_DROPPED_BY_EXEC: Mapping[str, Sequence[str]] = {"crun": ("oomScoreAdj", "selinuxLabel"), "runc": ("oomScoreAdj",)}


def version_for(document: Mapping[str, Any], runtime: Known) -> tuple[str, str]:
    """Return the ociVersion to write, and why if it is not the document's own. InvalidSpec for one that is none."""
    asked = document["ociVersion"]
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(?:[-+][0-9A-Za-z.+-]+)?", asked)
    if match is None:
        raise InvalidSpec("oci.ociVersion", f"{asked!r:.80} is not a version", hint=f"write it as {BASE!r}")
    if int(match[1]) != 1:
        raise InvalidSpec(
            "oci.ociVersion",
            f"{asked!r:.80} is another major version: runtimes support version 1 of the OCI runtime specification",
            hint="convert the document to version 1",
        )
    old = runtime.name.startswith("crun") and runtime.numbers < CRUN_TAKES_ANY
    if not old or int(match[2]) == 0:
        return asked, ""
    return BASE, f"{BASE}, in place of the document's {asked}: {runtime} refuses later versions"


def ignored(document: Mapping[str, Any], runtime: Known) -> dict[str, str]:
    """Return the fields that a runtime ignores, each with the reason. NotSupported for one that must not be."""
    asked = document["ociVersion"]
    found = ignored_as_unknown(document)
    for pattern, since in _FIELDS.items():
        for path in _present(document, pattern.split("."), "oci"):
            _note(found, path, since, runtime, asked)
    for index, mount in enumerate(document.get("mounts") or []):
        for option in mount.get("options") or []:
            name = option.partition("=")[0]
            field = f"oci.mounts[{index}].options[{name}]"
            if name in _OPTIONS:
                _note(found, field, _OPTIONS[name], runtime, asked)
            elif is_bind(mount) and name not in MOUNT_OPTIONS:
                found[field] = "ignored: a bind mount has no such option"
    for kind, names in (((document.get("process") or {}).get("capabilities")) or {}).items():
        for index, name in enumerate(names or []):
            if kind in CAPABILITIES.fields and name not in ALL_CAPABILITIES:
                found[f"oci.process.capabilities.{kind}[{index}]"] = f"ignored: there is no capability {name!r:.60}"
    return found


def ignored_of_exec(process: Mapping[str, Any], runtime: Known) -> list[str]:
    """Return the fields of a process of an exec that a runtime ignores."""
    found = ignored({"ociVersion": BASE, "process": process}, runtime)
    dropped = [name for name in _DROPPED_BY_EXEC.get(runtime.name, ()) if process.get(name) is not None]
    return ["oci" + path.removeprefix("oci.process") for path in found] + [f"oci.{name}" for name in dropped]


def _note(found: dict[str, str], path: str, since: _Since, runtime: Known, asked: str) -> None:
    name = next((each for each in ("crun", "runc") if runtime.name.startswith(each)), None)
    if name is None or not runtime.numbers:
        return
    needed: Version = getattr(since, name)
    if runtime.numbers >= needed or any(path.startswith(f"{other}.") for other in found):
        return
    newer = f"{name} {'.'.join(map(str, needed))}"
    rest = f"no {name} takes it" if needed == NEVER else f"{newer} or later takes it"
    if since.wall:
        raise NotSupported(
            path,
            f"{runtime} ignores this field of ociVersion {since.spec} (the document says {asked}); {rest}",
            hint=f"use {newer} or later, or another runtime (`longshore doctor` lists them)",
        )
    found[path] = f"ignored by {runtime}: it is of ociVersion {since.spec}, and {rest}"


def _present(value: Any, parts: list[str], path: str) -> Iterator[str]:
    """Yield the paths at which a document has the field of a pattern, as `mounts[].uidMappings`."""
    if not parts:
        if value not in (None, [], {}):
            yield path
        return
    name, many = parts[0].removesuffix("[]"), parts[0].endswith("[]")
    inner = (value or {}).get(name)
    for index, item in enumerate(inner or []) if many else ():
        yield from _present(item, parts[1:], f"{path}.{name}[{index}]")
    if not many and inner is not None:
        yield from _present(inner, parts[1:], f"{path}.{name}")
