"""An OCI document that somebody else wrote: what it says stands, except for what the spec says above it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import msgspec

from ...errors import InvalidSpec
from ...spec import Resources, Security, Spec
from ...spec.runtime_spec import HOOKS, check_config, is_bind, without_nulls
from .. import documents as oci
from ..rootfs.mounts import masks_below
from ..rootfs.roots import RootPlan
from ..rootfs.store_masking import mount_points
from ..rootfs.users import check_ids
from . import seccomp, translate
from .ignored import ANY_RUNTIME, Known, ignored, version_for


def check(document: dict[str, Any]) -> None:
    """Check the types of a document, and that it has what a container needs. InvalidSpec names the field."""
    check_config(document)
    for name in ("ociVersion", "process"):
        if document.get(name) is None:
            raise InvalidSpec(f"oci.{name}", "is missing")
    if document["process"].get("cwd") is None:
        raise InvalidSpec("oci.process.cwd", "is missing")
    root = document.get("root")
    if root is not None and root.get("path") is None:
        raise InvalidSpec("oci.root.path", "is missing")
    for kind, hooks in (document.get("hooks") or {}).items():
        for index, hook in enumerate(hooks if kind in HOOKS else ()):
            if not hook["path"].startswith("/"):  # config.md, "POSIX-platform Hooks"
                raise InvalidSpec(f"oci.hooks.{kind}[{index}].path", f"{hook['path']!r} is not an absolute path")
    _check_linux(document.get("linux") or {})
    translate.check_given_process(document["process"], "oci.process")


def _check_linux(linux: dict[str, Any]) -> None:
    """Check values of which one runtime makes something, and the other nothing."""
    for name in ("maskedPaths", "readonlyPaths"):
        for index, path in enumerate(linux.get(name) or []):
            if not path.startswith("/"):
                raise InvalidSpec(f"oci.linux.{name}[{index}]", f"{path!r} is not an absolute path")
    for index, device in enumerate(linux.get("devices") or []):
        if not device["path"].startswith("/"):
            raise InvalidSpec(f"oci.linux.devices[{index}].path", f"{device['path']!r} is not an absolute path")
    kinds: set[str] = set()
    for index, namespace in enumerate(linux.get("namespaces") or []):
        if namespace["type"] in kinds:
            raise InvalidSpec(f"oci.linux.namespaces[{index}].type", f"{namespace['type']!r} is given twice")
        kinds.add(namespace["type"])
    for index, rule in enumerate((linux.get("resources") or {}).get("devices") or []):
        if set(rule.get("access") or "") - set("rwm"):
            raise InvalidSpec(
                f"oci.linux.resources.devices[{index}].access", f"{rule['access']!r:.60} is not made of r, w and m"
            )


class Built(NamedTuple):
    """A config.json, why it differs from the document that was given, and what the runtime ignores of that."""

    config: dict[str, Any]
    reasons: dict[str, str]
    ignored: list[str]


def build(
    spec: Spec, root: RootPlan, mounts: list[oci.MountEntry], cgroup_path: str, runtime: Known = ANY_RUNTIME
) -> Built:
    """The document with what must be set, and what the spec says: a field of it that is not the default one."""
    assert spec.oci is not None
    given: dict[str, Any] = without_nulls(spec.oci)
    check(given)
    config = copy.deepcopy(given)
    reasons = {"config.json": "as given, except for what is set above it"}
    config["ociVersion"], lowered = version_for(given, runtime)
    if lowered:
        reasons["oci.ociVersion"] = lowered
    dropped = ignored(given, runtime)
    reasons |= dropped
    _make_absolute(config, reasons)
    _write_no_limits(config, reasons)
    process = config["process"]
    linux = config.setdefault("linux", {})

    root_document = config.get("root") or {}
    config["root"] = {**root_document, "path": root.path}
    linux["cgroupsPath"] = cgroup_path
    reasons["linux.cgroupsPath"] = "set by longshore, which measures and limits the container there"

    process["args"] = spec.command
    if spec.env:
        process["env"] = translate.merged_environment(process.get("env") or [], spec.env)
    if spec.cwd is not None:
        process["cwd"] = spec.cwd
    process["user"] = translate.given_user(process)
    if spec.user is not None:
        found, _ = translate.account(spec.user, root.inside, root.kind)
        process["user"] = translate.user_over(process["user"], found)
    check_ids(process["user"], "oci.process.user")
    # streams are wired by longshore, so it is the spec that says whether there is a terminal
    if bool(process.get("terminal")) != spec.terminal:
        reasons["oci.process.terminal"] = "set by longshore, which wires the streams: see `terminal` (--tty)"
    process["terminal"] = spec.terminal
    if spec.terminal:
        rows, columns = spec.size or (24, 80)
        process["consoleSize"] = {"height": rows, "width": columns}
    else:
        process.pop("consoleSize", None)
    if spec.hostname is not None:
        config["hostname"] = spec.hostname
    if spec.read_only:
        config["root"]["readonly"] = True
    if spec.network == "host":
        linux["namespaces"] = [entry for entry in linux.get("namespaces") or [] if entry["type"] != "network"]
    theirs = _hide_store(config, root)
    added = msgspec.to_builtins([*root.mounts, *mounts, *theirs])
    if added:
        taken = {entry["destination"] for entry in added}
        kept = [entry for entry in config.get("mounts") or [] if entry["destination"] not in taken]
        config["mounts"] = kept + added
    if spec.labels:
        config["annotations"] = {**(config.get("annotations") or {}), **translate.label_annotations(spec.labels)}
    if spec.resources != Resources():
        limits = msgspec.to_builtins(translate.resources(spec.resources))
        linux["resources"] = _merged(linux.get("resources") or {}, limits)
    if spec.security != Security():
        _secure(config, spec)
    return Built(config, reasons, list(dropped))


def _write_no_limits(config: dict[str, Any], reasons: dict[str, str]) -> None:
    """Write "no limit" so that every runtime takes it for that.

    crun 1.8 writes a -1 of pids as it is, which the kernel refuses; and a 0 of memory, in which nothing starts, where
    to runc it is a field that is absent.
    """
    resources = (config.get("linux") or {}).get("resources") or {}
    pids, memory = resources.get("pids") or {}, resources.get("memory") or {}
    if pids.get("limit") == -1:
        pids["limit"] = translate.PIDS_LIMIT
        reasons["oci.linux.resources.pids.limit"] = f"{translate.PIDS_LIMIT}, the kernel's own limit, for -1"
    for name in ("limit", "reservation", "swap"):
        if memory.get(name) == 0:
            del memory[name]
            reasons[f"oci.linux.resources.memory.{name}"] = "left out: 0 is no limit"


def _make_absolute(config: dict[str, Any], reasons: dict[str, str]) -> None:
    """Write relative destinations of mounts as runtimes of later specifications read them: from the container's root.

    Older runtimes refuse them. (config.md of 1.2, "Mounts")
    """
    for index, mount in enumerate(config.get("mounts") or []):
        if not mount["destination"].startswith("/"):
            field = f"oci.mounts[{index}].destination"
            if not mount["destination"]:
                raise InvalidSpec(field, "is empty")
            reasons[field] = f"{mount['destination']!r} is taken relative to the container's root"
            mount["destination"] = "/" + mount["destination"]


def _hide_store(config: dict[str, Any], root: RootPlan) -> list[oci.MountEntry]:
    """What keeps the store out of the document's own bind mounts. InvalidSpec for one that is of the store itself."""
    masks = []
    for index, mount in enumerate(config.get("mounts") or []):
        source = mount.get("source") or ""
        if is_bind(mount):
            if not source.startswith("/"):  # to a runtime it would be relative to the bundle, which is in the store
                raise InvalidSpec(
                    f"oci.mounts[{index}].source",
                    f"{source!r} is relative, and a document alone has no folder",
                    hint="make it absolute, or give the bundle's path: Spec.from_oci('./bundle')",
                )
            root.hidden.check(source, f"oci.mounts[{index}].source")
            masks += masks_below(source, mount["destination"], root.hidden, mount_points())
    return masks


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            found[name] = _merged(found[name], value)
        else:
            found[name] = value
    return found


def _secure(config: dict[str, Any], spec: Spec) -> None:
    """Security settings that differ from the defaults, over the document's."""
    security, usual = spec.security, Security()
    process, linux = config["process"], config["linux"]
    if security.no_new_privileges != usual.no_new_privileges:
        process["noNewPrivileges"] = security.no_new_privileges
    if security.cap_add or security.cap_drop:
        sets = process.get("capabilities") or {}
        names = set(sets.get("bounding") or [])
        if "ALL" in security.cap_drop:
            names = set()
        explicit = set(translate.ALL_CAPABILITIES if "ALL" in security.cap_add else security.cap_add)
        names = (names - set(security.cap_drop)) | explicit
        uid = int((process.get("user") or {}).get("uid", 0))
        process["capabilities"] = msgspec.to_builtins(translate.capability_sets(names, explicit, uid))
    if security.seccomp != usual.seccomp:
        bounding = (process.get("capabilities") or {}).get("bounding") or []
        profile = seccomp.load(security.seccomp, bounding)
        if profile is None:
            linux.pop("seccomp", None)
        else:
            linux["seccomp"] = msgspec.json.decode(profile)
    if security.masked_paths is not None:
        linux["maskedPaths"] = security.masked_paths
    if security.readonly_paths is not None:
        linux["readonlyPaths"] = security.readonly_paths
    if security.userns is not None:
        raise InvalidSpec(
            "security.userns", "cannot be combined with an OCI document", hint="write linux.uidMappings in the document"
        )
