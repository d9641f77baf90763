"""From the words of longshore's specs to the documents of an OCI runtime."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec

from ...errors import InvalidSpec, NotSupported
from ...spec import ProcessSpec, Resources, Security, Spec
from ...spec.runtime_spec import check_process, without_nulls
from ...typed_json import convert
from .. import documents as oci
from ..rootfs.resolve_in_root import Folder, Inside
from ..rootfs.users import NOBODY, Account, check_ids, look_up

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PERIOD = 100_000  # microseconds
DEFAULT_PIDS = 2048  # as podman
PIDS_LIMIT = 1 << 22  # PID_MAX_LIMIT of the kernel: there can be no more in the whole machine

# what container engines let a container's root do; docker's list
USUAL_CAPABILITIES = (
    "CAP_AUDIT_WRITE CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD CAP_NET_BIND_SERVICE"
    " CAP_NET_RAW CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_CHROOT"
).split()

# in the kernel's order: the number of a capability is its place
ALL_CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP"
    " CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER"
    " CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE"
    " CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL"
    " CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON"
    " CAP_BPF CAP_CHECKPOINT_RESTORE"
).split()

# docker's and podman's; beside them `masked_paths`
MASKED_PATHS = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/fs/selinux",
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@cache
def masked_paths() -> list[str]:
    """What is hidden of /proc and /sys by default, on this machine.

    What tells how often a processor was interrupted or slowed down tells what others do on it (GHSA-6fw5-f8r9-fgfm).
    """
    return MASKED_PATHS + sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"))


# capabilities


def capability_sets(names: Iterable[str], explicit: Iterable[str], uid: int) -> oci.Capabilities:
    """The five sets for a user. Root has all of its bounding set; others only what was asked for by name.

    A user that is not root loses its capabilities at exec unless they are ambient, so an explicit wish is made so.
    """
    bounding = sorted(names)
    if uid == 0:
        return oci.Capabilities(bounding=bounding, effective=bounding, inheritable=[], permitted=bounding, ambient=[])
    own = sorted(set(explicit) & set(bounding))
    return oci.Capabilities(bounding=bounding, effective=own, inheritable=own, permitted=own, ambient=own)


def capabilities(security: Security, account: Account, *, of_the_machine: bool) -> tuple[oci.Capabilities, str]:
    """The container's capabilities, and why. InvalidSpec if one is asked for that this program has not itself."""
    usual = [] if of_the_machine and account.uid != 0 else USUAL_CAPABILITIES
    why = (
        "none: a user that is not root, on a view of this machine"
        if not usual
        else "the usual set of container engines"
    )
    known = _known_capabilities()
    for field, wanted in (("cap_add", security.cap_add), ("cap_drop", security.cap_drop)):
        for index, name in enumerate(wanted):
            if name != "ALL" and name not in ALL_CAPABILITIES:
                raise InvalidSpec(f"security.{field}[{index}]", f"there is no capability {name}")
            if field == "cap_add" and name != "ALL" and name not in known:
                raise InvalidSpec(
                    f"security.{field}[{index}]", f"{name} cannot be given: longshore does not have it here"
                )
    explicit = set(security.cap_add) - {"ALL"}
    if "ALL" in security.cap_drop:
        names = set()
    elif "ALL" in security.cap_add:
        names = set(known)
    else:
        names = set(usual) & set(known)  # what this program has not, it cannot pass on
    names = (names - set(security.cap_drop)) | explicit
    if "ALL" in security.cap_add:
        explicit = names
    if security.cap_add or security.cap_drop:
        why += ", changed as asked"
    return capability_sets(names, explicit, account.uid), why


def _known_capabilities() -> list[str]:
    """What this program may pass on: its own bounding set."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapBnd:"):
                mask = int(line.split()[1], 16)
                return [name for number, name in enumerate(ALL_CAPABILITIES) if mask >> number & 1]
    return list(ALL_CAPABILITIES)


# users and environment


def account(user: str | None, inside: Inside, kind: str) -> tuple[Account, str]:
    """Who the container runs as, and why. `kind` is that of the root."""
    if user is not None:
        return look_up(user, inside), "as asked, looked up inside the root"
    if kind == "host":
        return NOBODY, "nobody: on a view of this machine the command has no privileges unless you set a user"
    return look_up("0", inside), "root, as usual for every root but `host`"


def environment(given: Mapping[str, str], account: Account, *, home: str, terminal: bool) -> list[str]:
    """The environment of init: a small sane one, then what was asked for."""
    values = {"PATH": PATH, "HOME": home, "LANG": "C.UTF-8"}
    if terminal:
        values["TERM"] = "xterm"
    if account.name:
        values["USER"] = account.name
    return [f"{name}={value}" for name, value in {**values, **given}.items()]


def merged_environment(base: Iterable[str], added: Mapping[str, str]) -> list[str]:
    """An environment with more set; what was there keeps its place."""
    values: dict[str, str] = {}
    for item in base:
        name, _, value = item.partition("=")
        values[name] = value
    values.update(added)
    return [f"{name}={value}" for name, value in values.items()]


# resources


def resources(
    asked: Resources, *, unified: bool | None = None, swap: bool | None = None, prefix: str = ""
) -> oci.Resources:
    """Limits as runtimes take them. `unified` is whether this is cgroup v2, `swap` whether swap can be limited.

    `memory` without `memory_swap` means no swap beyond it: the limit is what it says. A weight is in the units of
    cgroup v2 (1 to 10000, 100 is usual); for v1 it becomes shares, where 1024 is usual.
    """
    unified = is_unified() if unified is None else unified
    swap = limits_swap(unified) if swap is None else swap
    if asked.memory_swap is not None and asked.memory is None:
        raise InvalidSpec(f"{prefix}memory_swap", "is the sum of memory and swap, so it needs `memory`")
    found = oci.Resources()
    if asked.memory is not None or asked.memory_reservation is not None:
        found.memory = oci.Memory(limit=_int(asked.memory), reservation=_int(asked.memory_reservation))
        if asked.memory is not None and swap:
            found.memory.swap = _int(asked.memory if asked.memory_swap is None else asked.memory_swap)
    cpu = oci.Cpu()
    if asked.cpus is not None:
        cpu.quota, cpu.period = max(1000, round(asked.cpus * PERIOD)), PERIOD
    if asked.cpu_weight is not None:
        cpu.shares = shares(asked.cpu_weight, unified=unified)
        if unified:
            # runtimes disagree on how shares become a weight, and changed it: this is exact
            found.unified = {"cpu.weight": str(asked.cpu_weight)}
    if asked.cpuset is not None:
        cpu.cpus = asked.cpuset
    if cpu != oci.Cpu():
        found.cpu = cpu
    if asked.pids is not None:
        # -1 would mean "no limit", but crun 1.8 writes it as a number, which the kernel refuses
        found.pids = oci.Pids(limit=PIDS_LIMIT if asked.pids == -1 else asked.pids)
    return found


def _int(value: int | str | None) -> int | None:
    return None if value is None else int(value)  # `Resources` has parsed the text


def shares(weight: int, *, unified: bool) -> int:
    """cgroup v1 shares for a weight: on v1 with 100 being 1024, on v2 what runtimes turn back into the weight."""
    if unified:
        return 2 + -(-(weight - 1) * 262142 // 9999)  # the inverse of weight = 1 + (shares - 2) * 9999 / 262142
    return min(262144, max(2, round(weight * 1024 / 100)))


def resources_update(change: Resources) -> dict[str, Any]:
    """The document of `runtime update --resources` for a change; what is None stays as it is."""
    document: dict[str, Any] = msgspec.to_builtins(resources(change))
    return document


def is_unified() -> bool:
    """Whether this host has cgroup v2 alone."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def limits_swap(unified: bool) -> bool:
    """Whether swap is accounted, so that it can be limited."""
    if not unified:
        return os.path.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
    for group in os.scandir("/sys/fs/cgroup"):  # the root group itself has no such files
        if os.path.exists(f"{group.path}/memory.current"):
            return os.path.exists(f"{group.path}/memory.swap.max")
    return True


# processes


def process(config: Mapping[str, Any], process: ProcessSpec, pid: int | None) -> dict[str, Any]:
    """The process that `exec --process` starts in a container: the container's own circumstances, then the asked.

    `pid` is a process of the container: its root is where users are looked up. Raises InvalidSpec for an unknown one.
    """
    check_command_line(process)
    if process.oci is not None:
        check_process(process.oci)
        check_given_process(process.oci, "oci")
    base = (config.get("process") or {}) if process.oci is None else without_nulls(process.oci)
    user = given_user(base)
    check_ids(user, "oci.user")
    env = merged_environment(base.get("env") or [], process.env)
    if process.user is not None:
        found = _in_container(process.user, pid)
        user = user_over(user, found)
        own = {"HOME": _home(found, config)}
        if found.name:
            own["USER"] = found.name
        env = merged_environment(env, {name: text for name, text in own.items() if name not in process.env})
    if process.terminal and not any(item.startswith("TERM=") for item in env):
        env.append("TERM=xterm")
    document: dict[str, Any] = {
        **base,  # limits, labels, what later specifications have: unharmed
        "terminal": process.terminal,
        "user": user,
        "args": process.args or list(base.get("args") or []),
        "env": env,
        "cwd": process.cwd or base.get("cwd") or (config.get("process") or {}).get("cwd") or "/",
    }
    document.pop("consoleSize", None)
    if process.terminal:
        rows, columns = process.size or (24, 80)
        document["consoleSize"] = {"height": rows, "width": columns}
    sets = _exec_capabilities(base, process, int(user.get("uid", 0)))
    if sets is not None:
        document["capabilities"] = msgspec.to_builtins(sets)
    return document


def check_given_process(process: Mapping[str, Any], path: str) -> None:
    """Check what runtimes differ in: a variable without a value (crun unsets it), and a relative working directory."""
    for index, entry in enumerate(process.get("env") or []):
        if "=" not in entry or entry.startswith("="):
            raise InvalidSpec(f"{path}.env[{index}]", f"{entry[:80]!r} is not NAME=value")
    cwd = process.get("cwd")
    if cwd and not cwd.startswith("/"):
        raise InvalidSpec(f"{path}.cwd", f"{cwd!r} is not an absolute path")


def given_user(process: Mapping[str, Any]) -> dict[str, Any]:
    """The `user` of a document's process: root where it gives none."""
    given = process.get("user") or {}
    return {"uid": 0, "gid": 0} | {name: value for name, value in given.items() if value is not None}


def user_over(base: Mapping[str, Any], found: Account) -> dict[str, Any]:
    """A document's `user` for an account. The umask is not the account's: it stays."""
    user: dict[str, Any] = msgspec.to_builtins(oci.User(uid=found.uid, gid=found.gid, additional_gids=found.groups))
    return user | {"umask": base["umask"]} if "umask" in base else user


def check_platform(spec: Spec) -> None:
    """NotSupported for what only Windows has: never a silent success.

    A document may be for both platforms: it has an object for each, and the other one's passes unseen, as the OCI
    specification has it. Options beside it are meant for this container.
    """
    if spec.windows is not None:
        raise NotSupported(
            "windows", "only Windows containers have these options", hint="leave `windows` out on this machine"
        )
    document = spec.oci or {}
    if document.get("windows") is not None and document.get("linux") is None:
        raise NotSupported(
            "oci.windows",
            "the document is for a Windows container: it has no `linux` object",
            hint="run it on Windows, or add a `linux` object to use it on both ({} is enough)",
        )
    check_command_line(spec)


def check_command_line(asked: Spec | ProcessSpec) -> None:
    """NotSupported for a command that is one string: what runs here takes a list."""
    document = asked.oci or {}
    given = document.get("process") or {} if isinstance(asked, Spec) else document
    if asked.command_line is not None or not (asked.args or given.get("args")):
        raise NotSupported("command_line", "only Windows has commands as one string", hint="give `args`, a list")


def _exec_capabilities(base: Mapping[str, Any], process: ProcessSpec, uid: int) -> oci.Capabilities | None:
    given = base.get("capabilities")
    bounding = list((given or {}).get("bounding") or [])
    if process.privileged:
        return capability_sets(bounding, bounding, uid)
    added = []
    for index, text in enumerate(process.cap_add):
        name = text.upper() if text.upper().startswith("CAP_") else f"CAP_{text.upper()}"
        if name == "CAP_ALL":
            added += bounding
        elif name in bounding:
            added.append(name)
        else:
            raise InvalidSpec(
                f"cap_add[{index}]",
                f"the container does not have {name}",
                hint="create the container with it: an exec cannot have more than its container",
            )
    if given is None and not added:
        return None
    own_uid = int((base.get("user") or {}).get("uid", 0))
    if uid == own_uid and not added:
        return convert(
            {name: (given or {}).get(name) or [] for name in oci.Capabilities.__struct_fields__}, oci.Capabilities
        )
    return capability_sets(bounding, added, uid)


def _in_container(user: str, pid: int | None) -> Account:
    if pid is None:
        raise InvalidSpec("user", "cannot be looked up: no process runs in the container")
    try:
        inside = Folder(f"/proc/{pid}/root")
    except OSError:
        raise InvalidSpec("user", "cannot be looked up: the container has ended") from None
    try:
        return look_up(user, inside)
    finally:
        inside.close()


def _home(found: Account, config: Mapping[str, Any]) -> str:
    annotations = config.get("annotations") or {}
    if annotations.get(ROOT_KIND) == "host":  # no homes are seen there
        return "/root" if found.uid == 0 else "/tmp"
    return found.home or "/"


ROOT_KIND = "org.longshore.root"  # an annotation of ours: what kind of root the container has


# labels


def label_annotations(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels as annotations. Those that a runtime takes for orders are refused: labels only describe."""
    for name in labels:
        if name.startswith(
            ("run.oci.", "org.criu.", "org.opencontainers.runc.", "org.systemd.property.", "org.longshore.")
        ):
            raise InvalidSpec(
                f"labels[{name}]",
                "is an annotation that the runtime obeys, not a label",
                hint="set annotations in an OCI document",
            )
    return dict(labels)


def hostname(id: str, spec: Spec) -> str:
    """The container's host name: as asked, or its id as far as the kernel takes it."""
    return spec.hostname or posixpath.basename(id)[:63]
