"""The `host` root: an allow-list, copy-on-write view of this machine that needs nothing downloaded.

Its frame is a *skeleton*: a small folder with empty `/home`, `/root`, `/var` and so on, and an `/etc` of copies of
what programs need. It is made once per state of the machine and shared, read-only, by every container, under an
overlay. `/usr`, `/opt` and their like come from a second overlay, of the machine's `/`, mounted where the container
cannot see it; only these folders of it are bound into the view. (One overlay for each would cost a dozen files per
container more. One for all is refused by the kernel: a lower folder may not be inside another.) What is not listed
here is not there: no shadow, no keys, no sudoers, no home.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec

from ...fs.files import make_private
from ...fs.trees import remove_tree
from ...machine import boot_id
from .layers import MS_BIND, MS_RDONLY, Overlay, Step
from .resolve_in_root import READ_LIMIT, Folder
from .store_masking import Hidden, MountPoint, is_folder

VERSION = "1"  # of what a skeleton is made of
ASIDE = "host"  # beside the skeletons: where the overlay of the machine is mounted, in each container's own namespace
AGE_LIMIT = 600  # seconds since its last use, after which a skeleton may be looked at for removal

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
_MANY = 40  # files in a folder of /etc, from which on it is bound, not copied: a mount costs about as much as one file
_FILE_LIMIT = 16 << 20  # bytes; nothing in the list is near


def _etc_entries() -> list[str]:
    """What of the list is there, relative to /etc. Looked up again when an entry of /etc came or went."""
    return _etc_entries_at(os.stat("/etc").st_mtime_ns)


@lru_cache(maxsize=1)
def _etc_entries_at(_mtime: int) -> list[str]:
    there = sorted(os.listdir("/etc"))
    found = []
    for pattern in ETC:
        if "*" in pattern:
            found += fnmatch.filter(there, pattern)
        elif "/" in pattern:
            found += [pattern] if os.path.lexists(f"/etc/{pattern}") else []
        elif pattern in there:
            found.append(pattern)
    return found


def _fingerprint() -> str:
    """Changes when something that a skeleton was made from does."""
    import hashlib  # OpenSSL behind it takes 2 ms to load

    digest = hashlib.sha256(f"{VERSION} {boot_id()}".encode())  # what a crash left half-written is not used again
    paths = [f"/etc/{name}" for name in _etc_entries()]
    # a folder's time tells of new and removed entries; the one file that is known to be rewritten is looked at, too
    paths += ["/etc/ssl/certs/ca-certificates.crt", *(f"/{name}" for name in BINARIES)]
    for path in paths:
        with suppress(FileNotFoundError):
            found = os.stat(path, follow_symlinks=not path.startswith("/lib") and path not in ("/bin", "/sbin"))
            digest.update(f"{path}\0{found.st_dev}:{found.st_ino}\0{found.st_mtime_ns}\0{found.st_mode}\n".encode())
    return digest.hexdigest()[:16]


class Skeleton(msgspec.Struct, frozen=True):
    """One state of the frame: where it is, and the folders of /etc that are bound over it instead of copied."""

    path: Path

    @property
    def root(self) -> str:
        return f"{self.path}/root"

    @property
    def aside(self) -> str:
        """Where each container, in its own mount namespace, has the overlay of the machine's `/`."""
        return str(self.path.parent / ASIDE)

    def bound(self, points: Sequence[MountPoint]) -> list[str]:
        """Paths of /etc with so many public files that one mount is cheaper than copies of them."""
        try:
            text = (self.path / "bound").read_text()
        except FileNotFoundError:  # not made yet
            return _large_and_public(points)
        return text.splitlines()


def skeleton(views: Path) -> Skeleton:
    """The skeleton for this state of the machine, made or not."""
    return Skeleton(views / _fingerprint())


def make_skeleton(skeleton: Skeleton, points: Sequence[MountPoint]) -> None:
    """Make the skeleton, unless it is there: whole or not at all, whoever else does the same. Raises OSError."""
    path = skeleton.path
    with suppress(FileNotFoundError):
        os.utime(path)  # in use: `prune` looks at it
        return
    make_private(path.parent)
    (path.parent / ASIDE).mkdir(mode=0o700, exist_ok=True)
    building = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        make_folder(building, 0o700)
        bound = _large_and_public(points)
        (building / "bound").write_text("\n".join(bound))
        (building / "bound").chmod(0o600)
        _fill(building / "root", bound)
        try:
            building.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        remove_tree(building)
    prune(path)


def _fill(root: Path, bound: Sequence[str]) -> None:
    make_folder(root, 0o755)
    for name, mode in FOLDERS.items():
        make_folder(root / name, mode)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    for name in BINARIES:
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
        elif os.path.isdir(f"/{name}"):
            make_folder(root / name, 0o755)
    (root / "etc" / "resolv.conf").write_text("# this container has no network\n")
    (root / "etc" / "resolv.conf").chmod(0o644)
    for name in _etc_entries():
        copied = root / "etc" / name
        if f"/etc/{name}" in bound:
            _make_parents(copied)
            make_folder(copied, 0o755)
        else:
            _copy(f"/etc/{name}", copied)


def make_folder(path: Path, mode: int) -> None:
    """Make a folder with this mode, whatever the caller's umask."""
    path.mkdir()
    path.chmod(mode)


def _large_and_public(points: Sequence[MountPoint]) -> list[str]:
    """Folders of the list with many files, all of which everybody may read, with no mount above, at or below."""
    found = []
    for name in _etc_entries():
        path = f"/etc/{name}"
        if os.path.islink(path) or not os.path.isdir(path):
            continue
        if any(f"{point.path}/".startswith(f"{path}/") or point.path == "/etc" for point in points):
            continue
        modes = [os.lstat(path).st_mode]
        for folder, folders, files in os.walk(path):
            modes += [os.lstat(os.path.join(folder, entry)).st_mode for entry in (*folders, *files)]
        public = all(mode & 0o004 and (not stat.S_ISDIR(mode) or mode & 0o001) for mode in modes)
        if public and len(modes) > _MANY:
            found.append(path)
    return found


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
        data = Path(source).read_bytes()
        target.write_bytes(_without_passwords(data) if source in ("/etc/passwd", "/etc/group") else data)
        target.chmod(0o755 if found.st_mode & 0o001 else 0o644)


def _without_passwords(data: bytes) -> bytes:
    """passwd or group without the hashes that a machine without shadow files keeps in them."""
    lines = [line.split(b":") for line in data.split(b"\n")]
    return b"\n".join(b":".join([line[0], b"x", *line[2:]]) if len(line) > 2 else b":".join(line) for line in lines)


def _make_parents(path: Path) -> None:
    if not path.parent.exists():
        _make_parents(path.parent)
        make_folder(path.parent, 0o755)


def _copy_entry(entry: os.DirEntry[str], target: Path) -> None:
    if entry.is_symlink():
        target.symlink_to(os.readlink(entry.path))  # what it leads to is judged inside the view
    else:
        _copy(entry.path, target)


def prune(current: Path) -> None:
    """Remove the skeletons of earlier states of the machine that no container has mounted.

    Done when a new one was made, so seldom. One that was used lately may be about to be mounted: it stays.
    """
    before = time.time() - AGE_LIMIT
    old = []
    for path in current.parent.iterdir():
        with suppress(FileNotFoundError):  # somebody else removes it just now
            if path not in (current, current.with_name(ASIDE)) and path.stat().st_mtime < before:
                old.append(path)
    if not old:
        return
    mounted = set()
    for process in os.listdir("/proc"):
        with suppress(OSError):  # not one, or it has ended
            table = Path("/proc", process, "mountinfo").read_text(errors="replace")
            mounted.update(re.findall(r"lowerdir=([^,: ]+)", table))
    for path in old:
        if f"{path}/root" not in mounted:
            remove_tree(path)


def shown_folders() -> list[str]:
    """The machine's folders that the view has copy-on-write, each of one file system."""
    found = [path for path in SHOWN if os.path.isdir(path) and os.listdir(path)]
    return found + [f"/{name}" for name in BINARIES if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]


def mounts(
    rootfs: str, scratch: str, skeleton: Skeleton, hidden: Hidden, points: Sequence[MountPoint], *, flags: int
) -> list[Overlay | Step]:
    """The mounts of the view, in order. What is written goes to folders whose paths begin with `scratch`.

    `flags` are those of mount(2). The root itself is made read-only by the runtime, once it has its mount points.
    """
    shown = shown_folders()
    mounted = {point.path for point in points}
    bound = [folder for folder in shown if folder not in mounted]
    aside = skeleton.aside
    found: list[Overlay | Step] = [
        Overlay(target=rootfs, lowers=[skeleton.root], scratch=scratch, flags=flags & ~MS_RDONLY)
    ]
    if bound:
        secret = [f"{folder}/{path}" for folder in bound for path in hidden.below(folder)]
        found.append(Overlay(target=aside, lowers=["/"], scratch=f"{scratch}-host", flags=flags, hidden=secret))
        found += [
            Step(source=f"{aside}{path}", target=f"{rootfs}{path}", fstype="", flags=MS_BIND)
            for path in (*bound, *skeleton.bound(points))
        ]
    found += [
        Overlay(
            target=f"{rootfs}{folder}",
            lowers=[folder],
            scratch=f"{scratch}-{scratch_name(folder)}",
            flags=flags,
            hidden=hidden.below(folder),
        )
        for folder in with_mounts(shown, points, hidden)
        if folder not in bound
    ]
    return found


def scratch_name(folder: str) -> str:
    """A file name for a folder's path, one for each."""
    return folder.strip("/").replace("%", "%25").replace("/", "%2F")


# file systems of this machine that may be the lower layer of an overlay, and hold files, not the kernel's own tables
_FILE_SYSTEMS = frozenset("ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs tmpfs squashfs erofs".split())


def with_mounts(folders: Sequence[str], points: Sequence[MountPoint], hidden: Hidden) -> Iterator[str]:
    """Folders, each followed by what is mounted below it: an overlay does not show that by itself."""
    for folder in folders:
        yield folder
        prefix = folder.rstrip("/") + "/"
        seen = {folder}
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

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        return self._host.read(path, limit) if self.stat(path) is not None else None

    def stat(self, path: str) -> os.stat_result | None:
        path = posixpath.normpath(path)
        if path == "/" or path[1:] in FOLDERS or path in ("/var/run", "/var/lock"):
            return os.stat("/")
        found = self._host.resolve(path)
        if found is None:
            return None
        if any(found == folder or found.startswith(folder + "/") for folder in self._shown):
            return self._host.stat(path)
        if found.startswith("/etc/") and any(f"{found}/".startswith(f"/etc/{name}/") for name in _etc_entries()):
            return self._host.stat(path)
        return None

    def link(self, path: str) -> str | None:
        if path in ("/var/run", "/var/lock") or self.stat(path) is None:
            return None
        return self._host.link(path)

    def close(self) -> None:
        self._host.close()
