"""The seccomp profile: from the form that container engines share to the one that an OCI runtime takes.

The shared form (containers/common, moby) has rules that hold only for some capabilities, architectures or kernels
(`includes`, `excludes`); runtimes know no such conditions, so they are decided here. `seccomp.json` beside this
file is a copy of containers/common's profile (pkg/seccomp/seccomp.json of v0.50.1, Apache-2.0,
https://github.com/containers/common), for hosts that have none of their own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ...errors import InvalidSpec
from ...typed_json import decode_json

NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2))
NEWTIME = 0x80  # for unshare(2) alone: clone has the signal there

# Calls of the shared profile that docker refuses, unless the container has one of these capabilities (moby/profiles,
# seccomp/default.json of 2026-05-06). No capability: refused whatever the container has. Why: docs/security.md.
REFUSED: dict[str, frozenset[str]] = {
    name: frozenset(capabilities.split())
    for capabilities, names in {
        # kernel keyrings have no namespace; the others are calls of old instruction sets that docker does not list
        "": "add_key keyctl request_key userfaultfd readdir sigaction signal sigpending sigsuspend syscall timerfd"
        " io_uring_setup io_uring_enter io_uring_register",
        "CAP_SYS_ADMIN": "clone clone3 unshare setns mount umount umount2 pivot_root fsopen fsconfig fsmount fspick"
        " move_mount open_tree open_tree_attr mount_setattr fanotify_init lookup_dcookie lsm_get_self_attr"
        " lsm_list_modules lsm_set_self_attr quotactl quotactl_fd setdomainname sethostname",
        "CAP_SYS_ADMIN CAP_BPF": "bpf",
        "CAP_SYS_ADMIN CAP_PERFMON": "perf_event_open",
        "CAP_SYS_ADMIN CAP_SYSLOG": "syslog",
        "CAP_SYS_BOOT": "reboot",
        "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
        "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    }.items()
    for name in names.split()
}

SOCKET_CALLS = ("socket", "socketpair")
NO_FAMILIES = (
    38,  # AF_ALG: the kernel's cryptography, which has written to files that were open for reading (CVE-2026-31431)
    40,  # AF_VSOCK: of the machine's hypervisor, whatever the network namespace (vsock(7))
)
AF_NETLINK, NETLINK_AUDIT = 16, 9
FAMILIES, PROTOCOLS = 64, 32  # powers of two, not below AF_MAX and MAX_LINKS of the kernel
INT = 0xFFFFFFFF  # the part of an argument that the kernel takes as an int

DISTRIBUTION = "/usr/share/containers/seccomp.json"
SHIPPED = str(Path(__file__).with_name("seccomp.json"))

# uname -m -> (the name in conditions, libseccomp's name)
_ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "loongarch64": ("loongarch64", "SCMP_ARCH_LOONGARCH64"),
}


# uname -m -> libseccomp's name of another instruction set that it runs -> where a root (or its /usr) has the loader
# that programs of that kind need
LOADERS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "SCMP_ARCH_X86": ("/lib/ld-linux.so.2", "/lib/ld-musl-i386.so.1"),
        "SCMP_ARCH_X32": ("/libx32/ld-linux-x32.so.2", "/lib/ld-musl-x32.so.1"),
    },
    "aarch64": {
        "SCMP_ARCH_ARM": ("/lib/ld-linux-armhf.so.3", "/lib/ld-linux.so.3", "/lib/ld-musl-armhf.so.1"),
    },
}


class Condition(msgspec.Struct, kw_only=True, rename="camel"):
    """Where a rule of a profile holds: with these capabilities, on these machines, from this kernel on."""

    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str | None = None


class Argument(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """What an argument of a system call is compared with."""

    index: int
    value: int
    value_two: int = 0
    op: str


class Rule(msgspec.Struct, kw_only=True, rename="camel"):
    """What a profile does about some system calls, under its conditions."""

    action: str
    names: list[str] | None = None
    name: str | None = None
    args: list[Argument] | None = None
    includes: Condition | None = None
    excludes: Condition | None = None
    errno_ret: int | None = None


class ArchitectureEntry(msgspec.Struct, kw_only=True, rename="camel"):
    """An instruction set, and others that its machines can run."""

    architecture: str
    sub_architectures: list[str] | None = None


class Profile(msgspec.Struct, kw_only=True, rename="camel"):
    """The shared form; also takes a profile in the runtimes' own form, which has `architectures` and no conditions."""

    default_action: str
    default_errno_ret: int | None = None
    arch_map: list[ArchitectureEntry] | None = None
    architectures: list[str] | None = None
    syscalls: list[Rule] | None = None
    flags: list[str] | None = None
    listener_path: str | None = None
    listener_metadata: str | None = None


class RuntimeRule(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """What a runtime is told to do about some system calls: conditions are decided by then."""

    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[Argument] = []


class RuntimeProfile(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """`linux.seccomp` of config.json."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] = []
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: list[RuntimeRule] = []


def source(setting: str) -> tuple[str | None, str]:
    """The file of the profile that a setting means (None for `unconfined`), and why it is that one."""
    if setting == "unconfined":
        return None, "no seccomp filter, as asked"
    if setting != "default":
        return setting, "the profile asked for"
    if os.path.exists(DISTRIBUTION):
        return DISTRIBUTION, f"the distribution's profile for containers, {DISTRIBUTION}"
    return SHIPPED, "the profile that comes with longshore (containers/common): the distribution has none"


def load(setting: str, capabilities: Collection[str], without: Collection[str] = ()) -> Any:
    """`linux.seccomp` for a setting and the container's bounding set, ready encoded; None for `unconfined`.

    `without` are instruction sets that are left out: the kernel then kills their programs. A runtime makes the
    filter of one instruction set in a tenth of the time of three, which is half of a container's start.

    Raises InvalidSpec, naming `security.seccomp`, if the profile cannot be read.
    """
    path, _ = source(setting)
    if path is None:
        return None
    try:
        state = (0, 0) if _is_packed(path) else ((found := os.stat(path)).st_mtime_ns, found.st_ino)
    except OSError as error:
        raise InvalidSpec("security.seccomp", f"cannot read {path}: {error.strerror}") from None
    return _translated(
        path,
        state,
        frozenset(capabilities),
        frozenset(without),
        confined=setting == "default",
    )


def _is_packed(path: str) -> bool:
    """Whether it is the profile of a longshore that was imported from a zip archive: there it is no file."""
    return path == SHIPPED and not os.path.isfile(path)


def _read(path: str) -> bytes:
    if _is_packed(path):
        from importlib import resources  # loads tempfile, random and shutil: milliseconds

        return resources.files(__package__).joinpath(os.path.basename(path)).read_bytes()
    return Path(path).read_bytes()


@lru_cache(maxsize=32)
def _translated(
    path: str,
    _state: tuple[int, int],
    capabilities: frozenset[str],
    without: frozenset[str],
    *,
    confined: bool,
) -> msgspec.Raw:
    try:
        profile = decode_json(_read(path), Profile)
    except OSError as error:
        raise InvalidSpec("security.seccomp", f"cannot read {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidSpec("security.seccomp", f"{path} is not a seccomp profile: {error}") from None
    system = os.uname()
    found = translate(profile, capabilities, system.machine, system.release)
    found.architectures = [name for name in found.architectures if name not in without]
    if confined:
        confine(found, capabilities, system.machine)
    return msgspec.Raw(msgspec.json.encode(found))


def confine(profile: RuntimeProfile, capabilities: Collection[str], machine: str) -> None:
    """Take from the shared profile what docker's refuses, and what makes a process more than it is.

    containers/common's allows new namespaces and mounts, for containers in containers: in a user namespace of its
    own a process has every capability, and with them the kernel's widest surface.
    """
    refused = {name for name, having in REFUSED.items() if not having.intersection(capabilities)}
    own = {*SOCKET_CALLS, "socketcall"}
    for rule in profile.syscalls:
        rule.names = [name for name in rule.names if name not in refused and name not in own]
    profile.syscalls = [rule for rule in profile.syscalls if rule.names]
    for rule in profile.syscalls:
        if rule.names == ["personality"]:
            rule.args = [_as_int(argument) for argument in rule.args]
    if "clone" in refused:
        first = 1 if machine.startswith("s390") else 0  # clone(2): the flags are the second argument there
        profile.syscalls += [
            _allow("clone", _masked(first, NAMESPACES, 0)),
            # docker refuses it; without a new namespace it only parts a process from its siblings' tables
            _allow("unshare", _masked(0, NAMESPACES | NEWTIME, 0)),
            # its flags are in memory, where no filter can look: C libraries then go back to clone
            _refuse("clone3", errno.ENOSYS),
        ]
        refused -= {"clone", "clone3", "unshare"}
    profile.syscalls.append(RuntimeRule(names=sorted(refused), action="SCMP_ACT_ERRNO", errno_ret=errno.EPERM))
    default = errno.EPERM if profile.default_errno_ret is None else profile.default_errno_ret  # as runtimes have it
    profile.syscalls += _sockets(capabilities, default)


def _sockets(capabilities: Collection[str], default: int) -> list[RuntimeRule]:
    """What sockets may be made: of every family but those that no network namespace holds.

    A `not this` is spelled as masks of what is left: a filter compares 64 bits and the kernel takes an int, so with
    any other comparison the upper bits would make another number of the same family.
    """
    # Its arguments are in memory, where no filter can look. libseccomp allows it together with socket(2), unless a rule
    # of its own came first; and runtimes leave a rule out that does what is done by default.
    rules = [_refuse("socketcall", errno.ENOSYS if default == errno.EPERM else errno.EPERM)]
    for name in SOCKET_CALLS:
        rules += [_refuse(name, errno.EPERM, _masked(0, INT, family)) for family in NO_FAMILIES]
    audit = "CAP_AUDIT_WRITE" in capabilities
    plain = _all_but(NO_FAMILIES if audit else (*NO_FAMILIES, AF_NETLINK), FAMILIES)
    rules += [_allow("socket", _masked(0, mask, value)) for mask, value in plain]
    if not audit:  # what the audit library takes for a kernel without it, as containers/common has it
        netlink = _masked(0, INT, AF_NETLINK)
        rules.append(_refuse("socket", errno.EINVAL, netlink, _masked(2, INT, NETLINK_AUDIT)))
        rules += [
            _allow("socket", netlink, _masked(2, mask, value)) for mask, value in _all_but((NETLINK_AUDIT,), PROTOCOLS)
        ]
    rules += [_allow("socketpair", _masked(0, mask, value)) for mask, value in _all_but(NO_FAMILIES, FAMILIES)]
    return rules


def _all_but(numbers: Collection[int], limit: int) -> list[tuple[int, int]]:
    """The ints below `limit`, a power of two, without `numbers`: masks, and what is then left of each of them."""
    found: list[tuple[int, int]] = []
    pending = [(0, limit)]
    while pending:
        start, size = pending.pop()
        if not any(start <= number < start + size for number in numbers):
            found.append((INT & ~(size - 1), start))
        elif size > 1:
            pending += [(start, size // 2), (start + size // 2, size // 2)]
    return sorted(found, key=lambda item: item[1])


def _masked(index: int, mask: int, value: int) -> Argument:
    return Argument(index=index, value=mask, value_two=value, op="SCMP_CMP_MASKED_EQ")


def _as_int(argument: Argument) -> Argument:
    """A comparison for equality of an argument of which the kernel takes an int."""
    return _masked(argument.index, INT, argument.value) if argument.op == "SCMP_CMP_EQ" else argument


def _allow(name: str, *args: Argument) -> RuntimeRule:
    return RuntimeRule(names=[name], action="SCMP_ACT_ALLOW", args=list(args))


def _refuse(name: str, code: int, *args: Argument) -> RuntimeRule:
    return RuntimeRule(names=[name], action="SCMP_ACT_ERRNO", errno_ret=code, args=list(args))


def translate(profile: Profile, capabilities: Collection[str], machine: str, release: str) -> RuntimeProfile:
    """Decide every condition of a profile for these capabilities, this processor and this kernel."""
    short, native = _ARCHITECTURES.get(machine, (machine, ""))
    architectures = list(profile.architectures or [])
    if profile.arch_map:
        architectures = []
        for entry in profile.arch_map:
            if entry.architecture == native:
                architectures = [native, *(entry.sub_architectures or [])]
    rules = []
    for rule in profile.syscalls or []:
        if not _applies(rule, capabilities, short, release):
            continue
        names = list(rule.names or []) + ([rule.name] if rule.name else [])
        rules.append(RuntimeRule(names=names, action=rule.action, errno_ret=rule.errno_ret, args=rule.args or []))
    return RuntimeProfile(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=architectures,
        flags=profile.flags or [],
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=rules,
    )


def _applies(rule: Rule, capabilities: Collection[str], machine: str, release: str) -> bool:
    """As containers/common does: all capabilities that are included, none that is excluded."""
    includes, excludes = rule.includes, rule.excludes
    if excludes is not None:
        if any(name in capabilities for name in excludes.caps or []):
            return False
        if machine in (excludes.arches or []):
            return False
        if excludes.min_kernel and _kernel(release) >= _kernel(excludes.min_kernel):
            return False
    if includes is not None:
        if not all(name in capabilities for name in includes.caps or []):
            return False
        if includes.arches and machine not in includes.arches:
            return False
        if includes.min_kernel and _kernel(release) < _kernel(includes.min_kernel):
            return False
    return True


def _kernel(release: str) -> tuple[int, int]:
    major, _, rest = release.partition(".")
    minor = "".join(character for character in rest.partition(".")[0].partition("-")[0] if character.isdigit())
    return int(major or 0), int(minor or 0)


_PASSING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")


def forbidden(profile: Any, names: Collection[str]) -> list[str]:
    """Return the calls of `names` that a runtime's profile may refuse; None is no profile."""
    if not profile:
        return []
    if isinstance(profile, (bytes, msgspec.Raw)):
        return list(_forbidden_in(bytes(profile), tuple(names)))
    return _forbidden(profile, names)


@lru_cache(maxsize=8)
def _forbidden_in(profile: bytes, names: tuple[str, ...]) -> list[str]:
    return _forbidden(msgspec.json.decode(profile), names)


def _forbidden(profile: Any, names: Collection[str]) -> list[str]:
    open_by_default = profile.get("defaultAction") in _PASSING
    allowed: set[str] = set()
    refused: set[str] = set()
    for rule in profile.get("syscalls") or []:
        passing = rule.get("action") in _PASSING
        for name in set(names).intersection(rule.get("names") or []):
            # conditions of clone are about namespaces, which the first program makes none of
            if passing and (not rule.get("args") or name == "clone"):
                allowed.add(name)
            elif not passing and not (rule.get("args") and name == "clone"):
                refused.add(name)
    return [name for name in names if name in refused or not (open_by_default or name in allowed)]
