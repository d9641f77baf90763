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

from ..decoding import decode_json
from ..errors import InvalidSpec

NAMESPACE_CALLS = frozenset(
    "clone clone3 unshare setns mount umount umount2 pivot_root fsopen fsconfig fsmount fspick move_mount open_tree"
    " mount_setattr".split()
)
NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2))
NEWTIME = 0x80  # for unshare(2) alone: clone has the signal there
AF_VSOCK = 40  # of the machine's hypervisor, whatever the network namespace (vsock(7))

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
        found = os.stat(path)
    except OSError as error:
        raise InvalidSpec("security.seccomp", f"cannot read {path}: {error.strerror}") from None
    return _translated(
        path,
        (found.st_mtime_ns, found.st_ino),
        frozenset(capabilities),
        frozenset(without),
        confined=setting == "default",
    )


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
        profile = decode_json(Path(path).read_bytes(), Profile)
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
    """Take from the shared profile what makes a process more than it is: new namespaces and mounts, and sockets that
    no network namespace holds.

    containers/common's allows them, for containers in containers: in a user namespace of its own a process has every
    capability, and with them the kernel's widest surface. Refused unless the container may have CAP_SYS_ADMIN, as
    docker does (moby's profiles/seccomp/default.json, which the clone rules follow).
    """
    if "CAP_SYS_ADMIN" not in capabilities:
        for rule in profile.syscalls:
            rule.names = [name for name in rule.names if name not in NAMESPACE_CALLS]
        profile.syscalls = [rule for rule in profile.syscalls if rule.names]
        first = 1 if machine.startswith("s390") else 0  # clone(2): the flags are the second argument there
        no_namespace = "SCMP_CMP_MASKED_EQ"
        profile.syscalls += [
            RuntimeRule(
                names=["clone"],
                action="SCMP_ACT_ALLOW",
                args=[Argument(index=first, value=NAMESPACES, value_two=0, op=no_namespace)],
            ),
            RuntimeRule(
                names=["unshare"],
                action="SCMP_ACT_ALLOW",
                args=[Argument(index=0, value=NAMESPACES | NEWTIME, value_two=0, op=no_namespace)],
            ),
            # its flags are in memory, where no filter can look: C libraries then go back to clone
            RuntimeRule(names=["clone3"], action="SCMP_ACT_ERRNO", errno_ret=errno.ENOSYS),
            RuntimeRule(
                names=sorted(NAMESPACE_CALLS - {"clone", "clone3", "unshare"}),
                action="SCMP_ACT_ERRNO",
                errno_ret=errno.EPERM,
            ),
        ]
    profile.syscalls = [narrower for rule in profile.syscalls for narrower in _without_vsock(rule)]


def _without_vsock(rule: RuntimeRule) -> list[RuntimeRule]:
    """A rule that allows sockets, but not of AF_VSOCK. An action of its own for them would not do: whichever rule
    allows is met first. And no rule can look at one argument twice (libseccomp), so a `not this` becomes ranges."""
    if rule.names != ["socket"] or rule.action != "SCMP_ACT_ALLOW":
        return [rule]
    families = [argument for argument in rule.args if argument.index == 0]
    others = [argument for argument in rule.args if argument.index != 0]

    def allow(value: int, op: str) -> RuntimeRule:
        return RuntimeRule(names=["socket"], action=rule.action, args=[Argument(index=0, value=value, op=op), *others])

    if not families:
        return [allow(AF_VSOCK, "SCMP_CMP_NE")]
    if len(families) > 1 or families[0].op != "SCMP_CMP_NE":
        return [rule]
    but = families[0].value
    between = [number for number in range(min(but, AF_VSOCK), max(but, AF_VSOCK)) if number not in (but, AF_VSOCK)]
    return [
        allow(min(but, AF_VSOCK), "SCMP_CMP_LT"),
        *(allow(number, "SCMP_CMP_EQ") for number in between),
        allow(max(but, AF_VSOCK), "SCMP_CMP_GT"),
    ]


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
