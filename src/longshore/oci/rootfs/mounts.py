"""The mounts that a runtime makes inside the root: the kernel's own, and those that were asked for."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Sequence

from ...errors import InvalidSpec
from ...spec import Mount
from ..documents import MountEntry
from .store_masking import Hidden, MountPoint, mount_points

_FLAGS = frozenset(
    "ro rw suid nosuid dev nodev exec noexec sync async atime noatime relatime strictatime diratime nodiratime".split()
)
_BIND = frozenset(
    "bind rbind private rprivate shared rshared slave rslave unbindable runbindable rro rrw rnosuid rnodev rnoexec"
    " nosymfollow".split()
)
_IGNORED = frozenset("z Z cached delegated consistent".split())  # SELinux labels, and other machines' words
_TMPFS = re.compile(r"(size|nr_inodes|nr_blocks)=[0-9]+[kKmMgG%]?|mode=0?[0-7]{3,4}|(uid|gid)=[0-9]+|huge=[a-z_]+")
READ_ONLY_RECURSIVE = (5, 12)  # mount_setattr(2)


TERMINALS = (
    256  # of one container; all containers of a machine share some 3000 (kernel.pty.max less kernel.pty.reserve)
)


def kernel() -> tuple[int, int]:
    """Version of the running kernel."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def defaults(*, cgroup: bool, tty_group: bool = True, own_sys: bool = True) -> list[MountEntry]:
    """What every container has: /proc, /dev and /sys.

    `tty_group` is whether group 5 (tty) exists in it; `own_sys` whether it may mount sysfs, which the kernel grants
    only to the user namespace that owns the network namespace: otherwise it sees the machine's.
    """
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", f"max={TERMINALS}"]
    pts += ["gid=5"] if tty_group else []
    safe = ["nosuid", "noexec", "nodev"]
    found = [
        MountEntry(destination="/proc", type="proc", source="proc", options=safe),
        MountEntry(
            destination="/dev",
            type="tmpfs",
            source="tmpfs",
            options=["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        MountEntry(destination="/dev/pts", type="devpts", source="devpts", options=pts),
        MountEntry(destination="/dev/shm", type="tmpfs", source="shm", options=[*safe, "mode=1777", "size=65536k"]),
        MountEntry(destination="/dev/mqueue", type="mqueue", source="mqueue", options=safe),
    ]
    if own_sys:
        found.append(MountEntry(destination="/sys", type="sysfs", source="sysfs", options=[*safe, "ro"]))
    else:
        options = ["rbind", "rprivate", *safe]
        _read_only(options, folder=True)
        found.append(MountEntry(destination="/sys", type="bind", source="/sys", options=options))
    if cgroup:
        found.append(
            MountEntry(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=[*safe, "relatime", "ro"])
        )
    return found


def target(path: str, field: str) -> str:
    """The place of a mount inside the root, checked: not the root itself, nothing of /proc."""
    if not path.startswith("/"):
        raise InvalidSpec(field, f"{path!r} is not an absolute path of the container")
    normal = "/" + posixpath.normpath(path).lstrip("/")
    if normal == "/":
        raise InvalidSpec(field, "cannot be the root itself", hint="use root='rootfs:/path'")
    if normal == "/proc" or normal.startswith("/proc/"):
        raise InvalidSpec(field, f"{normal} belongs to the kernel: a container cannot mount there")
    return normal


def _options(mount: Mount, field: str) -> list[str]:
    known = _FLAGS | _BIND if mount.type == "bind" else _FLAGS
    found = []
    for option in mount.options:
        if option in known or (mount.type == "tmpfs" and _TMPFS.fullmatch(option)):
            found.append(option)
        elif not (option in _IGNORED and mount.type == "bind"):
            raise InvalidSpec(f"{field}.options", f"{option!r} is not an option of a {mount.type} mount")
    return found


def _read_only(options: list[str], *, folder: bool) -> None:
    for option in ("rw", "rrw", "ro", "rro"):
        while option in options:
            options.remove(option)
    options.append("ro")
    if folder and kernel() >= READ_ONLY_RECURSIVE:
        options.append("rro")  # `ro` alone leaves what is mounted below it writable


def user_mounts(mounts: Sequence[Mount], hidden: Hidden, *, nosuid: bool) -> list[MountEntry]:
    """The mounts that were asked for, checked, and what hides the store below them. Raises InvalidSpec.

    `nosuid`: setuid programs in what is bound gain nothing, unless the caller says `suid`.
    """
    found: list[MountEntry] = []
    masks = []
    points: list[MountPoint] | None = None
    for index, mount in enumerate(mounts):
        field = f"mounts[{index}]"
        at = target(mount.target, f"{field}.target")
        if any(at == other.destination for other in found):
            raise InvalidSpec(f"{field}.target", f"{at} is mounted twice")
        options = _options(mount, field)
        if mount.type == "tmpfs":
            for flag, opposite in (("nosuid", "suid"), ("nodev", "dev")):
                if opposite not in options and flag not in options:
                    options.append(flag)
            if mount.read_only:
                options.append("ro")
            found.append(MountEntry(destination=at, type="tmpfs", source="tmpfs", options=options))
            continue
        source = check_source(mount.source or "", f"{field}.source", hidden)
        if not {"bind", "rbind"} & set(options):
            options.append("rbind")
        if not {"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable"} & set(options):
            options.append("rprivate")
        folder = os.path.isdir(source)
        options += _restrictions(source, at, options, nosuid=nosuid)
        if mount.read_only or "ro" in options:
            _read_only(options, folder=folder)
        found.append(MountEntry(destination=at, type="bind", source=source, options=options))
        if folder:
            points = mount_points() if points is None else points
            masks += masks_below(source, at, hidden, points)
    # outer ones first, whatever their order was: they would hide the inner ones
    return sorted(found, key=lambda entry: entry.destination.count("/")) + masks


def _restrictions(source: str, at: str, options: Sequence[str], *, nosuid: bool) -> list[str]:
    """nosuid and nodev for a bind mount, but for what it is asked to have, and what it is for."""
    found = []
    if nosuid and not {"suid", "nosuid"} & set(options):
        found.append("nosuid")
    devices = (
        at == "/dev" or at.startswith("/dev/") or stat.S_ISCHR(mode := os.stat(source).st_mode) or stat.S_ISBLK(mode)
    )
    if not devices and not {"dev", "nodev"} & set(options):
        found.append("nodev")
    return found


def shown(paths: Sequence[str], hidden: Hidden) -> list[MountEntry]:
    """`show`: the machine's folders at their own paths, read-only, and what hides the store below them."""
    found, masks = [], []
    points = mount_points() if paths else []
    for index, path in enumerate(paths):
        field = f"show[{index}]"
        source = check_source(path, field, hidden)
        at = target(path, field)
        if at in ("/dev", "/sys") or at.startswith(("/dev/", "/sys/")):
            raise InvalidSpec(field, f"{at} belongs to the container", hint="use a mount")
        options = ["rbind", "rprivate", "nosuid", "nodev"]
        _read_only(options, folder=os.path.isdir(source))
        found.append(MountEntry(destination=at, type="bind", source=source, options=options))
        if os.path.isdir(source):
            masks += masks_below(source, at, hidden, points)
    return found + masks


def check_source(path: str, field: str, hidden: Hidden) -> str:
    """The source of a bind mount: something that is there, and not of the store."""
    try:
        os.stat(path)
    except OSError as error:
        raise InvalidSpec(
            field,
            f"cannot use {path}: {(error.strerror or str(error)).lower()}",
            hint="use a file or folder of this machine",
        ) from None
    hidden.check(path, field)
    return path


def masks_below(source: str, at: str, hidden: Hidden, points: Sequence[MountPoint]) -> list[MountEntry]:
    """Empty folders over each place below a bind mount at `at` where the store would be seen."""
    return [
        MountEntry(
            destination=posixpath.join(at, rest),
            type="tmpfs",
            source="tmpfs",
            options=["ro", "nosuid", "nodev", "noexec", "mode=0", "size=4k"],
        )
        for rest in hidden.below_with_mounts(source, points)
        if os.path.isdir(os.path.join(source, rest))
    ]
