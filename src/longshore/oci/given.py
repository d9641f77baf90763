"""An OCI document that somebody else wrote: what it says stands, except for what the spec says above it."""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from ..errors import InvalidSpec
from ..spec import Resources, Security, Spec
from . import documents as oci
from . import seccomp, translate
from .roots import RootPlan


def check(document: dict[str, Any]) -> None:
    """InvalidSpec, naming the field by its path, where a field that longshore reads has the wrong type."""
    try:
        msgspec.convert(document, oci.GivenConfig)
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
    added = msgspec.to_builtins([*root.mounts, *mounts])
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
