"""The `host` root: an allow-list, copy-on-write view of this machine that needs nothing downloaded.

Its frame is a *skeleton*: a small folder with empty `/home`, `/root`, `/var` and so on, and an `/etc` of copies of
what programs need. It is made once per state of the machine and shared, read-only, by every container. Over it
lies one overlay; `/usr` and `/opt` of the machine are overlays of their own within. What is not listed here is not
there: no shadow, no keys, no sudoers, no home.
"""

from __future__ import annotations

import glob
import hashlib
import os
import posixpath
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..trees import remove_tree
from .hidden import Hidden, MountPoint, is_folder
from .inroot import Folder
from .layers import MS_NODEV, MS_NOSUID, Overlay

VERSION = "1"  # of what a skeleton is made of

SHOWN = ("/usr", "/opt")
# a link into /usr on most machines, a folder of its own on some
BINARIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

FOLDERS = {
    "boot": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "opt": 0o755,
    "proc": 0o555,
    "root": 0o755,
    "run": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/local": 0o755,
    "var/log": 0o755,
    "var/mail": 0o755,
    "var/opt": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
}
LINKS = {"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "/proc/self/mounts"}

# of /etc; patterns. A file that not everybody may read is never copied, whatever its name.
ETC = (
    # the loader
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "ld-musl-*.path",
    # certificates that are public; never ssl/private, pki/tls/private
    "ssl/certs",
    "ssl/cert.pem",
    "ssl/openssl.cnf",
    "ca-certificates",
    "ca-certificates.conf",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "crypto-policies",
    # which program a name means
    "alternatives",
    # names
    "passwd",
    "group",
    "nsswitch.conf",
    "protocols",
    "services",
    "rpc",
    "networks",
    "ethertypes",
    "host.conf",
    "gai.conf",
    # place and language
    "localtime",
    "timezone",
    "locale.alias",
    "locale.conf",
    "default/locale",
    # what the system is
    "os-release",
    "debian_version",
    "lsb-release",
    "redhat-release",
    "fedora-release",
    "system-release",
    "alpine-release",
    "arch-release",
    "issue",
    # shells and terminals
    "profile",
    "bash.bashrc",
    "bashrc",
    "inputrc",
    "shells",
    "terminfo",
    # languages and libraries
    "python3*",
    "perl",
    "java-*",
    "fonts",
    "mime.types",
    "mailcap",
    "magic",
    "magic.mime",
)
_FILE_LIMIT = 16 << 20  # bytes; nothing in the list is near


def _etc_entries() -> list[str]:
    """What of the list is there, relative to /etc."""
    found = []
    for pattern in ETC:
        if "*" in pattern:
            found += [os.path.relpath(path, "/etc") for path in sorted(glob.glob(f"/etc/{pattern}"))]
        elif os.path.lexists(f"/etc/{pattern}"):
            found.append(pattern)
    return found


def _fingerprint() -> str:
    """Changes when something that a skeleton was made from does."""
    digest = hashlib.sha256(VERSION.encode())
    paths = [f"/etc/{name}" for name in _etc_entries()]
    # a folder's time tells of new and removed entries; the one file that is known to be rewritten is looked at, too
    paths += ["/etc/ssl/certs/ca-certificates.crt", *(f"/{name}" for name in BINARIES)]
    for path in paths:
        with suppress(FileNotFoundError):
            found = os.stat(path, follow_symlinks=not path.startswith("/lib") and path not in ("/bin", "/sbin"))
            digest.update(f"{path}\0{found.st_ino}\0{found.st_mtime_ns}\0{found.st_mode}\n".encode())
    return digest.hexdigest()[:16]


def skeleton_path(views: Path) -> Path:
    """Where the skeleton for this state of the machine is, or would be."""
    return views / _fingerprint()


def make_skeleton(path: Path) -> None:
    """Make the skeleton, unless it is there: whole or not at all, whoever else does the same. Raises OSError."""
    if path.is_dir():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        building.mkdir(mode=0o755)
        building.chmod(0o755)
        for name, mode in FOLDERS.items():
            folder = building / name
            folder.mkdir()
            folder.chmod(mode)
        for name, target in LINKS.items():
            (building / name).symlink_to(target)
        for name in BINARIES:
            host = f"/{name}"
            if os.path.islink(host):
                (building / name).symlink_to(os.readlink(host))
            elif os.path.isdir(host):
                (building / name).mkdir()
                (building / name).chmod(0o755)
        for name in _etc_entries():
            _copy(f"/etc/{name}", building / "etc" / name)
        try:
            building.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        remove_tree(building)


def _copy(source: str, target: Path) -> None:
    """Copy what everybody may read; links as they are, but for one that leads out of what is shown."""
    _make_parents(target)
    found = os.lstat(source)
    if stat.S_ISLNK(found.st_mode):
        real = os.path.realpath(source)
        if real.startswith(("/usr/", "/opt/", "/etc/")):
            target.symlink_to(os.readlink(source))
            return
        try:
            found = os.stat(source)
        except OSError:
            return
    if stat.S_ISDIR(found.st_mode):
        if found.st_mode & 0o005 != 0o005:
            return
        target.mkdir(exist_ok=True)
        target.chmod(0o755)
        for entry in os.scandir(source):
            _copy_entry(entry, target / entry.name)
    elif stat.S_ISREG(found.st_mode) and found.st_mode & 0o004 and found.st_size <= _FILE_LIMIT:
        shutil.copyfile(source, target)
        target.chmod(0o755 if found.st_mode & 0o001 else 0o644)


def _make_parents(path: Path) -> None:
    if not path.parent.exists():
        _make_parents(path.parent)
        path.parent.mkdir()
        path.parent.chmod(0o755)  # whatever the caller's umask is


def _copy_entry(entry: os.DirEntry[str], target: Path) -> None:
    if entry.is_symlink():
        target.symlink_to(os.readlink(entry.path))  # what it leads to is judged inside the view
    else:
        _copy(entry.path, target)


def prune(views: Path, containers: Path, current: Path) -> None:
    """Remove skeletons that no container uses. A container names its own by a link, before it looks whether it is
    there; so one that was taken away between the two is missed, and made again."""
    for path in views.iterdir():
        if path == current or path.name.startswith("."):
            continue
        trash = path.with_name(f".old.{path.name}.{secrets.token_hex(4)}")
        if path.name in _used(containers):
            continue
        with suppress(OSError):
            path.rename(trash)
            if path.name in _used(containers):
                trash.rename(path)
            else:
                remove_tree(trash)


def _used(containers: Path) -> set[str]:
    used = set()
    for link in containers.glob("*/bundle/view"):
        with suppress(OSError):
            used.add(os.path.basename(os.readlink(link)))
    return used


def shown_folders() -> list[str]:
    """The machine's folders that the view has copy-on-write, each of one file system."""
    found = [path for path in SHOWN if os.path.isdir(path) and os.listdir(path)]
    return found + [f"/{name}" for name in BINARIES if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]


def overlays(
    rootfs: str, scratch: str, skeleton: str, hidden: Hidden, points: Sequence[MountPoint], *, no_suid: bool
) -> list[Overlay]:
    """The mounts of the view, in order."""
    flags = MS_NODEV | (MS_NOSUID if no_suid else 0)
    found = [Overlay(target=rootfs, lowers=[skeleton], scratch=f"{scratch}/root", flags=flags)]
    found += [
        Overlay(
            target=f"{rootfs}{folder}",
            lowers=[folder],
            scratch=f"{scratch}/{scratch_name(folder)}",
            flags=flags,
            hidden=hidden.below(folder),
        )
        for folder in with_mounts(shown_folders(), points, hidden)
    ]
    return found


def scratch_name(folder: str) -> str:
    """A file name for a folder's path, one for each."""
    return folder.strip("/").replace("%", "%25").replace("/", "%2F") or "root"


# file systems that may be the lower layer of an overlay, and hold files rather than the kernel's own tables
_FILE_SYSTEMS = frozenset("ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs tmpfs nfs nfs4 squashfs erofs".split())


def with_mounts(folders: Sequence[str], points: Sequence[MountPoint], hidden: Hidden) -> Iterator[str]:
    """Folders, each followed by what is mounted below it: an overlay does not show that by itself."""
    for folder in folders:
        yield folder
        prefix = folder.rstrip("/") + "/"
        seen = set()
        for point in points:
            path = point.path
            if (
                path.startswith(prefix)
                and path not in seen
                and point.fstype in _FILE_SYSTEMS
                and not path.startswith(("/proc/", "/sys/", "/dev/"))
                and is_folder(path)
                and not hidden.inside(path)
            ):
                seen.add(path)
                yield path


class HostInside:
    """The view, as checks before the start see it: names from the machine's passwd, paths from its allow-list."""

    def __init__(self, shown: Sequence[str] = ()) -> None:
        self._host = Folder("/")
        self._shown = [*SHOWN, *(f"/{name}" for name in BINARIES), *shown]

    def read(self, path: str) -> bytes | None:
        return self._host.read(path) if path in ("/etc/passwd", "/etc/group") else None

    def stat(self, path: str) -> os.stat_result | None:
        path = posixpath.normpath(path)
        if path == "/" or path[1:] in FOLDERS or path in ("/var/run", "/var/lock"):
            return os.stat("/")
        found = self._host.resolve(path)
        if found is None:
            return None
        if any(found == folder or found.startswith(folder + "/") for folder in self._shown):
            return self._host.stat(path)
        if found.startswith("/etc/") and any(found[5:].startswith(name) for name in _etc_entries()):
            return self._host.stat(path)
        return None

    def close(self) -> None:
        self._host.close()
