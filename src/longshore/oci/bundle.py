"""The bundle: `config.json` and the root file system that a runtime is given. Checked whole before anything is made."""

from __future__ import annotations

import logging
import os
import posixpath
from pathlib import Path
from typing import Any

import msgspec

from ..compute.values import Place
from ..errors import InvalidSpec, NotSupported
from ..fs.files import store_error
from ..spec import Rlimit, Spec
from ..spec.parts import UNLIMITED
from . import documents as oci
from .cgroups import entering
from .config import seccomp, translate
from .config.container_paths import ContainerPaths, destinations
from .config.ignored import ANY_RUNTIME, Known
from .rootfs.executable import check_sizes
from .rootfs.layers import MS_NOSUID, Step
from .rootfs.mounts import defaults, user_mounts
from .rootfs.resolve_in_root import Inside
from .rootfs.roots import KERNELS_FOLDERS, RootPlan, keep_flags, plan_root
from .rootfs.users import Account
from .runtimes import status

log = logging.getLogger("longshore.oci")

INIT_REASON = "catatonit is pid 1: it passes signals on and reaps what is orphaned"
INIT_PATH = "/dev/longshore-init"  # /dev is the container's own tmpfs: a mount point there writes to no root


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime is given: the folder, and the mount calls that come before it."""

    path: Path
    steps: list[Step]
    config: dict[str, Any]
    first: bool  # whether the first program executes the command, and reports
    own_cgroup: bool = False  # made by longshore: the runtime is told to leave cgroups alone


def last_step(config: dict[str, Any]) -> str:
    """What a runtime does in the container after it has reported that it runs; empty if there is nothing."""
    hooks = config.get("hooks") or {}
    return "a `startContainer` hook failed" if hooks.get("startContainer") else ""


class Draft(msgspec.Struct, kw_only=True):
    """What a bundle will be, checked."""

    config: dict[str, Any]
    root: RootPlan
    files: dict[str, str]
    reasons: dict[str, str]
    ignored: list[str] = []  # fields of the caller's document, by their paths
    first: bool = False
    own_cgroup: bool = False


def plan_bundle(
    place: Place, id: str, spec: Spec, *, cgroup_path: str, runtime: Known = ANY_RUNTIME
) -> tuple[dict[str, Any], list[Step], dict[str, str]]:
    """What `prepare` would make: the document, the mount calls, and why each default is what it is.

    Makes nothing. Raises what `prepare` raises for a spec that cannot be met.
    """
    draft = draft_bundle(place, id, spec, cgroup_path=cgroup_path, kept=True, runtime=runtime)
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(draft.config))
    return document, draft.root.steps, draft.reasons


def prepare(
    place: Place,
    id: str,
    spec: Spec,
    *,
    cgroup_path: str,
    kept: bool = False,
    again: bool = False,
    runtime: Known = ANY_RUNTIME,
) -> Bundle:
    """Check everything that needs this machine, then make the bundle: `draft_bundle` and `make_bundle`."""
    draft = draft_bundle(place, id, spec, cgroup_path=cgroup_path, kept=kept, again=again, runtime=runtime)
    return make_bundle(place, id, draft, again=again, runtime=runtime)


def draft_bundle(
    place: Place,
    id: str,
    spec: Spec,
    *,
    cgroup_path: str,
    kept: bool = False,
    again: bool = False,
    runtime: Known = ANY_RUNTIME,
) -> Draft:
    """Check everything that needs this machine; make nothing.

    Raises InvalidSpec (naming the field), NotSupported, CommandNotFound. Blocks, for as long as the file system of the
    root does.
    """
    draft = _draft(place, id, spec, cgroup_path, runtime, kept=kept, again=again)
    draft.root.inside.close()
    return draft


def make_bundle(place: Place, id: str, draft: Draft, *, again: bool = False, runtime: Known = ANY_RUNTIME) -> Bundle:
    """Make the bundle in `place.run`, and scratch in `place.data`.

    With `again`, for a container that goes on from a checkpoint: what it had written to its root is there, and stays.

    Raises StoreError when the making fails (the caller removes the place). Blocks: it writes files.
    """
    if draft.ignored:
        log.warning("container `%s`: %s ignores %s of its OCI document", id, runtime, ", ".join(draft.ignored))
    path = place.run / "bundle"
    try:
        path.mkdir(mode=0o700)
        (path / "rootfs").mkdir(mode=0o755)
        draft.root.make(place, {} if again else draft.files)
        fd = os.open(path / "config.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(draft.config))
    except OSError as error:
        raise store_error(f"make the bundle {path}", error) from error
    return Bundle(
        path=path, steps=draft.root.steps, config=draft.config, first=draft.first, own_cgroup=draft.own_cgroup
    )


def _draft(place: Place, id: str, spec: Spec, cgroup_path: str, runtime: Known, *, kept: bool, again: bool) -> Draft:
    translate.check_platform(spec)
    root = plan_root(place, spec)
    try:
        if spec.oci is not None:
            draft = _from_document(id, spec, cgroup_path, root, runtime)
        else:
            draft = _from_spec(id, spec, cgroup_path, root)
        if not root.of_the_machine:
            _check_targets(draft.config, root)
        keep_flags(draft.config, root, runtime.name)
        draft.config["process"].setdefault("oomScoreAdj", 0)  # else the caller's: it may be exempt from the OOM killer
        _put_first(draft, spec, kept=kept)
        way = entering.choose(runtime, first=draft.first, document=spec.oci is not None, kept=kept, again=again)
        draft.own_cgroup, draft.reasons["cgroup"] = way
        if way.own and not kept:  # of a kept container, `create` itself enters
            draft.config["process"]["args"][1] += entering.flags()
    except BaseException:
        root.inside.close()
        raise
    return draft


def _put_first(draft: Draft, spec: Spec, *, kept: bool) -> None:
    """Have the command executed by the first program, which is also the init; or, without it, by catatonit."""
    config, reasons = draft.config, draft.reasons
    process = config["process"]
    why = status.why_not(config, init=spec.init, kept=kept)
    if why is not None:
        reasons["process.args"] = f"the runtime executes the command itself, without the first program: {why}"
        if spec.init:
            path, mount = _catatonit(draft.root)
            config["mounts"] = [*(config.get("mounts") or []), *mount]
            process["args"] = [path, "--", *process["args"]]
            reasons["init"] = INIT_REASON
        return
    draft.first = True
    path, flags = status.PATH, status.FLAGS
    reasons["process.args"] = "longshore's first program executes the command, and reports if the kernel refuses it"
    if spec.init:
        flags += "i"
        reasons["init"] = "the first program stays as pid 1: it passes signals on and reaps what is orphaned"
        source = status.image_file()
        if kept and source is not None and _may_mount_init(config):
            path = INIT_PATH  # a checkpoint has to find it
            config["mounts"] = [*(config.get("mounts") or []), _init_mount(source)]
    process["args"] = [path, flags, *process["args"]]


def _may_mount_init(config: dict[str, Any]) -> bool:
    """Whether `/dev` is the container's own, so that a mount point there writes to no root, and its runtime can reach
    this program's files."""
    found = False
    for mount in config.get("mounts") or []:
        at = posixpath.normpath(mount["destination"])
        if at == "/dev":
            found = mount.get("type") == "tmpfs"
        elif at in ("/", INIT_PATH):
            found = False
    namespaces = (config.get("linux") or {}).get("namespaces") or []
    return found and not any(each.get("type") == "user" for each in namespaces)


def _init_mount(source: str) -> dict[str, Any]:
    options = ["bind", "private", "ro", "nosuid", "nodev"]
    entry = oci.MountEntry(destination=INIT_PATH, type="bind", source=source, options=options)
    found: dict[str, Any] = msgspec.to_builtins(entry)
    return found


def _check_targets(config: dict[str, Any], root: RootPlan) -> None:
    """InvalidSpec for a mount that a link in the root leads to the kernel's folders: crun makes it there.

    It would cover what the runtime itself writes to (CVE-2019-16884), or what is to be masked.
    """
    view = ContainerPaths(root.inside, [])
    for mount in config.get("mounts") or []:
        path = posixpath.normpath(mount["destination"])
        at = None if _of_the_kernel(path) else view.follow(path)
        if at is not None and _of_the_kernel(at):
            hint = "use that path as the target, or change the link"
            raise InvalidSpec("mounts", f"a symbolic link in the root leads the target {path} to {at!r}", hint=hint)


def _of_the_kernel(path: str) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in KERNELS_FOLDERS)


def _from_spec(id: str, spec: Spec, cgroup_path: str, root: RootPlan) -> Draft:
    reasons = dict(root.reasons)
    inside = root.inside
    account, reasons["user"] = translate.account(spec.user, inside, root.kind)
    sets, reasons["capabilities"] = translate.capabilities(spec.security, account, of_the_machine=root.of_the_machine)
    name = translate.hostname(id, spec)
    if spec.hostname is None:
        reasons["hostname"] = "the container's id"

    asked = user_mounts(spec.mounts, root.hidden, nosuid=bool(root.flags & MS_NOSUID))
    unified = translate.is_unified()
    taken = {mount.destination for mount in asked}
    mounts = [
        mount
        for mount in defaults(
            cgroup=unified,
            tty_group=_maps(spec, 5),
            own_sys=spec.security.userns is None or spec.network == "none",
        )
        if mount.destination not in taken
    ]
    mounts += [*root.mounts, *asked]
    if spec.network == "host" and not root.of_the_machine:
        mounts += _resolver(root, [mount.destination for mount in mounts])
        reasons["network"] = "the host's, as asked; its resolv.conf and hosts are bound where the root has such files"
    view = ContainerPaths(inside, destinations(mounts))  # without `root.binds`: what is in those, `inside` shows

    home = "/root" if root.kind == "host" and account.uid == 0 else account.home or "/"
    if root.kind == "host" and account.uid != 0:
        home = "/tmp"
        reasons["env.HOME"] = "no home folder of this machine is seen in the container"
    env = translate.environment(spec.env, account, home=home, terminal=spec.terminal)
    cwd = spec.cwd or "/"
    if spec.cwd is not None:
        view.check_folder(cwd)
    args = spec.command
    check_sizes(args, env, stack_limit=_stack_limit(spec))
    command = view.find_command(args[0], env=env, cwd=cwd)
    view.check_command(id, args[0], command)
    without = _not_run(command.path, inside, mounts) if spec.security.seccomp == "default" else []
    profile = seccomp.load(spec.security.seccomp, sets.bounding, without)
    _, reasons["seccomp"] = seccomp.source(spec.security.seccomp)
    if without:
        names = ", ".join(name.removeprefix("SCMP_ARCH_") for name in without)
        reasons["seccomp"] += f"; without {names}, for whose programs the root has no loader"
    security = spec.security
    namespaces = ["pid", "mount", "ipc", "uts"]
    if spec.network == "none":
        namespaces.append("network")
        reasons["network"] = "none: only the loopback interface, unless the host's network is asked for"
    if unified:
        namespaces.append("cgroup")
    mappings = []
    if security.userns is not None:
        inner, outer, count = security.userns
        mappings = [oci.IdMapping(container_id=inner, host_id=outer, size=count)]
        namespaces.insert(0, "user")
        _check_mapped(account, security.userns)
    asked_limits = spec.resources
    if asked_limits.pids is None:
        asked_limits = msgspec.structs.replace(asked_limits, pids=translate.DEFAULT_PIDS)
        reasons["pids"] = f"{translate.DEFAULT_PIDS}, so that a fork bomb is the container's own; -1 for no limit"
    limits = translate.resources(asked_limits, unified=unified)
    if spec.resources.memory is not None and spec.resources.memory_swap is None:
        reasons["memory_swap"] = (
            "no swap beyond the memory limit, so that the limit is what it says"
            if limits.memory is not None and limits.memory.swap is not None
            else "not limited: this machine does not account swap"
        )
    limits.devices = [oci.DeviceRule(allow=False, access="rwm")]  # the runtime adds /dev/null and its like
    reasons["devices"] = "only the usual harmless ones (null, zero, full, random, urandom, tty, ptmx, pts)"
    if security.no_new_privileges:
        reasons["no_new_privileges"] = "on unless switched off: setuid programs gain nothing"

    size = spec.size or (24, 80)
    config = oci.Config(
        oci_version="1.0.2",
        process=oci.Process(
            terminal=spec.terminal,
            console_size=oci.ConsoleSize(height=size[0], width=size[1]) if spec.terminal else None,
            user=oci.User(uid=account.uid, gid=account.gid, additional_gids=account.groups),
            args=args,
            env=env,
            cwd=cwd,
            capabilities=sets,
            rlimits=_rlimits(spec.rlimits),
            no_new_privileges=security.no_new_privileges,
        ),
        root=oci.Root(path=root.path, readonly=spec.read_only),
        hostname=name,
        mounts=[*root.binds, *mounts],
        linux=oci.Linux(
            namespaces=[oci.Namespace(type=kind) for kind in namespaces],
            uid_mappings=mappings,
            gid_mappings=mappings,
            cgroups_path=cgroup_path,
            resources=limits,
            seccomp=profile,
            masked_paths=translate.masked_paths() if security.masked_paths is None else security.masked_paths,
            readonly_paths=translate.READONLY_PATHS if security.readonly_paths is None else security.readonly_paths,
        ),
        annotations={translate.ROOT_KIND: root.kind, **translate.label_annotations(spec.labels)},
    )
    return Draft(
        config=_as_dict(config),
        root=root,
        files=_files(name, spec.network) if root.kind == "host" else {},
        reasons=reasons,
    )


def _stack_limit(spec: Spec) -> int | None:
    return next((int(limit.soft) for limit in spec.rlimits if limit.name == "stack"), None)


def _as_dict(config: oci.Config) -> dict[str, Any]:
    profile, config.linux.seccomp = config.linux.seccomp, None
    document: dict[str, Any] = msgspec.to_builtins(config)
    if profile is not None:
        document["linux"]["seccomp"] = profile  # encoded already, once for all containers of this kind
    return document


def _from_document(id: str, spec: Spec, cgroup_path: str, root: RootPlan, runtime: Known) -> Draft:
    from .config import foreign_document  # seldom needed, and a dozen classes

    asked = user_mounts(spec.mounts, root.hidden, nosuid=bool(root.flags & MS_NOSUID))
    config, reasons, ignored = foreign_document.build(spec, root, asked, cgroup_path, runtime)
    process = config["process"]
    args, env = process["args"], process.get("env") or []
    check_sizes(args, env, stack_limit=_stack_limit(spec))
    if not config.get("hooks"):  # which may change what is in the root
        view = ContainerPaths(root.inside, destinations(config.get("mounts") or []))
        view.check_command(id, args[0], view.find_command(args[0], env=env, cwd=process.get("cwd") or "/"))
    config["mounts"] = [*msgspec.to_builtins(root.binds), *(config.get("mounts") or [])]
    if spec.rlimits:
        config["process"]["rlimits"] = msgspec.to_builtins(_rlimits(spec.rlimits))
    files = _files(config.get("hostname") or id[:63], spec.network) if root.kind == "host" else {}
    return Draft(config=config, root=root, files=files, reasons=reasons, ignored=ignored)


# parts


def _files(name: str, network: str) -> dict[str, str]:
    """What is made up in the `/etc` of the `host` root."""
    hosts = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name}\n"
    if network == "host":
        hosts = _host_file("/etc/hosts") or hosts
        return {"hostname": f"{name}\n", "hosts": hosts, "resolv.conf": _host_file("/etc/resolv.conf")}
    return {"hostname": f"{name}\n", "hosts": hosts}


def _resolver(root: RootPlan, covered: list[str]) -> list[oci.MountEntry]:
    """The host's resolv.conf and hosts over the root's. A folder used in place is not written to for a mount point."""
    options = ["bind", "private", "ro", "nosuid", "nodev", "noexec"]
    return [
        oci.MountEntry(destination=path, type="bind", source=path, options=options)
        for path in ("/etc/resolv.conf", "/etc/hosts")
        if os.path.isfile(path)
        and not _under(path, covered)
        and (root.kind == "layers" or root.inside.stat(path) is not None)
    ]


def _host_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _under(path: str, folders: list[str]) -> bool:
    """Whether a path is in a mount, so that the root itself does not tell what is there."""
    normal = posixpath.normpath(path)
    return any(normal == folder or normal.startswith(folder + "/") for folder in folders)


def _not_run(command: str | None, inside: Inside, mounts: list[oci.MountEntry]) -> list[str]:
    """Other instruction sets of this processor whose programs a root does not run, as libseccomp calls them.

    It runs those whose loader it has, itself or in a mount; and all if its command is of 32 bits, as such programs
    may need no loader.
    """
    if command and inside.read(command, 5) == b"\x7fELF\x01":
        return []
    binds = [mount for mount in mounts if mount.type == "bind"]

    def there(path: str) -> bool:
        return inside.stat(path) is not None or any(
            path.startswith(mount.destination + "/") and os.path.exists(mount.source + path[len(mount.destination) :])
            for mount in binds
        )

    others = seccomp.LOADERS.get(os.uname().machine, {})
    return [name for name, loaders in others.items() if not any(there(p) or there(f"/usr{p}") for p in loaders)]


def _catatonit(root: RootPlan) -> tuple[str, list[dict[str, Any]]]:
    """The path of catatonit in the container, and the mount that brings it there if need be."""
    candidates = (f"{folder}/catatonit" for folder in translate.PATH.split(":"))
    found = next((path for path in candidates if os.access(path, os.X_OK)), None)
    if found is None:
        raise NotSupported(
            "init", "catatonit is not installed", hint="run `apt-get install catatonit`, or use init=False"
        )
    real = os.path.realpath(found)
    if root.of_the_machine and root.inside.stat(real) is not None:
        return real, []
    return INIT_PATH, [_init_mount(real)]


def _rlimits(asked: list[Rlimit]) -> list[oci.RlimitEntry]:
    """Limits for the process; InvalidSpec for one that this program may not give."""
    found = []
    for limit in asked:
        _check_rlimit(limit)
        soft, hard = int(limit.soft), int(limit.hard)  # `Rlimit` has read the text
        found.append(oci.RlimitEntry(type=f"RLIMIT_{limit.name.upper()}", soft=soft, hard=hard))
    return found


def _check_rlimit(limit: Rlimit) -> None:
    import resource

    number = getattr(resource, f"RLIMIT_{limit.name.upper()}", None)
    if number is None:  # Python does not know RLIMIT_LOCKS, which the kernel ignores
        return
    asked, hard = int(limit.hard), resource.getrlimit(number)[1]
    shown = "unlimited" if asked == UNLIMITED else str(asked)
    most = _most_files() if limit.name == "nofile" else UNLIMITED
    if asked > most:
        raise InvalidSpec(
            f"rlimits[{limit.name}]",
            f"the hard limit {shown} is above the kernel's maximum of {most} (fs.nr_open)",
            hint=f"ask for at most {most}, or raise it: sysctl -w fs.nr_open=...",
        )
    if hard != resource.RLIM_INFINITY and asked > hard and not _may_raise_limits():
        raise InvalidSpec(
            f"rlimits[{limit.name}]",
            f"the hard limit {shown} is above this program's own ({hard}), and raising that needs CAP_SYS_RESOURCE",
            hint=f"ask for at most {hard}, or start longshore with a higher limit",
        )


def _most_files() -> int:
    try:
        return int(Path("/proc/sys/fs/nr_open").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return UNLIMITED


def _may_raise_limits() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                number = translate.ALL_CAPABILITIES.index("CAP_SYS_RESOURCE")
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _maps(spec: Spec, number: int) -> bool:
    """Whether an id of the container exists on the machine."""
    if spec.security.userns is None:
        return True
    inner, _, count = spec.security.userns
    return inner <= number < inner + count


def _check_mapped(account: Account, userns: tuple[int, int, int]) -> None:
    inner, _, count = userns
    for number in (account.uid, account.gid):
        if not inner <= number < inner + count:
            raise InvalidSpec("security.userns", f"does not map id {number}, which the container's process has")
