"""An OCI document that somebody else wrote: what it says stands, except for what the spec says above it."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
from msgspec import field as renamed

from ..decoding import convert
from ..errors import InvalidSpec
from ..spec import Resources, Security, Spec
from . import documents as oci
from . import seccomp, translate
from .hidden import mount_points
from .mounts import masks_below
from .roots import RootPlan

# What is checked of a document that somebody else wrote. Fields that are not named here pass unseen and unharmed.


class _GivenUser(oci.Document, kw_only=True):
    uid: int = 0
    gid: int = 0
    additional_gids: list[int] = []


class _GivenCapabilities(oci.Document, kw_only=True):
    bounding: list[str] | None = None
    effective: list[str] | None = None
    inheritable: list[str] | None = None
    permitted: list[str] | None = None
    ambient: list[str] | None = None


class _GivenProcess(oci.Document, kw_only=True):
    terminal: bool = False
    user: _GivenUser | None = None
    args: list[str] | None = None
    env: list[str] | None = None
    cwd: str
    capabilities: _GivenCapabilities | None = None
    no_new_privileges: bool = False


class _GivenRoot(oci.Document, kw_only=True):
    path: str
    readonly: bool = False


class _GivenMount(oci.Document, kw_only=True):
    destination: str
    type: str | None = None
    source: str | None = None
    options: list[str] | None = None


class _GivenNamespace(oci.Document, kw_only=True):
    type: str
    path: str | None = None


class _GivenLinux(oci.Document, kw_only=True):
    namespaces: list[_GivenNamespace] | None = None
    resources: dict[str, Any] | None = None
    seccomp: dict[str, Any] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    cgroups_path: str | None = None


class _GivenConfig(oci.Document, kw_only=True):
    oci_version: str = renamed(name="ociVersion")
    process: _GivenProcess
    root: _GivenRoot | None = None
    hostname: str | None = None
    mounts: list[_GivenMount] | None = None
    linux: _GivenLinux | None = None
    annotations: dict[str, str] | None = None


def check(document: dict[str, Any]) -> None:
    """InvalidSpec, naming the field by its path, where a field that longshore reads has the wrong type."""
    try:
        convert(document, _GivenConfig)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        field = "oci" + path.rstrip("`")
        if text.startswith("Object missing required field"):
            name = text.partition("`")[2].rstrip("`")
            raise InvalidSpec(f"{field}.{name}", "is missing") from None
        raise InvalidSpec(field, text[:1].lower() + text[1:]) from None


def build(
    spec: Spec, root: RootPlan, mounts: list[oci.MountEntry], cgroup_path: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The document with what must be set, and what the spec says: a field of it that is not the default one."""
    given = spec.oci
    assert given is not None
    check(given)
    config: dict[str, Any] = copy.deepcopy(given)
    reasons = {"config.json": "as given, except for what is set above it"}
    process = config["process"]
    linux = config.setdefault("linux", {})
    if linux is None:
        linux = config["linux"] = {}

    root_document = config.get("root") or {}
    config["root"] = {**root_document, "path": root.path}
    linux["cgroupsPath"] = cgroup_path
    reasons["linux.cgroupsPath"] = "set by longshore, which measures and limits the container there"

    process["args"] = spec.command
    if spec.env:
        process["env"] = translate.merged_environment(process.get("env") or [], spec.env)
    if spec.cwd is not None:
        process["cwd"] = spec.cwd
    if spec.user is not None:
        found, _ = translate.account(spec.user, root.inside, root.kind)
        user = oci.User(uid=found.uid, gid=found.gid, additional_gids=found.groups)
        process["user"] = msgspec.to_builtins(user)
    process.setdefault("user", {"uid": 0, "gid": 0})
    # streams are wired by longshore, so it is the spec that says whether there is a terminal
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
    return config, reasons


def _hide_store(config: dict[str, Any], root: RootPlan) -> list[oci.MountEntry]:
    """What keeps the store out of the document's own bind mounts. InvalidSpec for one that is of the store itself."""
    masks = []
    for index, mount in enumerate(config.get("mounts") or []):
        source = mount.get("source") or ""
        bind = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options") or [])
        if bind:
            if not source.startswith("/"):  # to a runtime it would be relative to the bundle, which is in the store
                raise InvalidSpec(
                    f"oci.mounts[{index}].source",
                    f"{source!r} is relative, and a document alone has no folder",
                    hint="make it absolute",
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
        raise InvalidSpec("security.userns", "cannot be put over an OCI document", hint="write linux.uidMappings there")
