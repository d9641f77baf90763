"""What a container wrote to its root, as one tar file: packed beside its checkpoint, unpacked for its next life.

Tar with the names that others use, too (GNU tar, buildah): attributes as `SCHILY.xattr.*`, a removed file as overlayfs
has it, a device 0:0. An archive may come from anywhere: nothing of it is written outside of the folder, no device but
that, and no attribute that would have overlayfs show what the layers below keep hidden (`trusted.overlay.redirect`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tarfile
from contextlib import suppress
from pathlib import Path

from ...errors import InvalidSpec

ATTRIBUTE = "SCHILY.xattr."
_KEPT = re.compile(r"user\.[\x21-\x7e]+|security\.capability|trusted\.overlay\.(opaque|whiteout)")
CHUNK = 1 << 20


def pack(folder: Path, path: Path, *, limit: int) -> None:
    """Write what is in `folder`, and the folder itself as `.`, to a new tar file.

    Raises OSError; ENOSPC before the disk is full, for more than `limit` bytes or than there is room for: a container
    may have made a sparse file of any size.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:
        room = os.fstatvfs(fd)
        left = min(limit, room.f_bavail * room.f_frsize)

        def take(member: tarfile.TarInfo) -> tarfile.TarInfo:
            nonlocal left
            left -= member.size
            if left < 0:
                raise OSError(errno.ENOSPC, "what the container wrote to its root does not fit", os.fspath(path))
            return _with_attributes(member, folder)

        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(folder, ".", filter=take)


def _with_attributes(member: tarfile.TarInfo, folder: Path) -> tarfile.TarInfo:
    source = folder / member.name
    member.uname = member.gname = ""  # numbers, not names of this machine
    found = {}
    for name in os.listxattr(source, follow_symlinks=False):
        if _KEPT.fullmatch(name):
            value = os.getxattr(source, name, follow_symlinks=False)
            found[ATTRIBUTE + name] = value.decode("utf-8", "surrogateescape")
    member.pax_headers = found
    return member


def unpack(path: Path, folder: Path, *, limit: int) -> None:
    """Fill a new folder from a tar file. InvalidSpec for what no container wrote, or more than `limit` bytes."""
    left = limit
    folders: list[tuple[Path, tarfile.TarInfo]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                left -= member.size + 512
                if left < 0:
                    raise _refused(path, member, f"there is more than {limit} bytes of it")
                target = _place(path, folder, member)
                _make(path, tar, member, target, folder)
                if member.isdir():
                    folders.append((target, member))
                elif not member.islnk():
                    _dress(target, member)
    except tarfile.TarError as error:
        raise InvalidSpec("archive", f"{path.name}: {error}", hint="export it again") from None
    if not folder.is_dir():
        raise InvalidSpec("archive", f"{path.name} is empty", hint="export it again")
    for target, member in reversed(folders):  # last, so that filling them does not change their times
        _dress(target, member)


def _refused(path: Path, member: tarfile.TarInfo, why: str) -> InvalidSpec:
    return InvalidSpec(
        "archive",
        f"{path.name}: {member.name[:200]!r}: {why}",
        hint="export it again: a container cannot have written this",
    )


def _place(path: Path, folder: Path, member: tarfile.TarInfo) -> Path:
    """Where a member goes. Its parents are folders that came before it, never links."""
    name = member.name.rstrip("/")
    if name == ".":
        if not member.isdir() or folder.exists():
            raise _refused(path, member, "it is the folder itself")
        return folder
    parts = name.removeprefix("./").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise _refused(path, member, "it is no name of a file")
    parent = folder
    for part in ["", *parts[:-1]]:
        parent = parent / part
        try:
            found = os.lstat(parent)
        except OSError:
            raise _refused(path, member, "its folder is not there") from None
        if not stat.S_ISDIR(found.st_mode):
            raise _refused(path, member, "what it is in is no folder")
    return parent / parts[-1]


def _make(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, folder: Path) -> None:
    if target != folder and os.path.lexists(target):
        raise _refused(path, member, "it is there twice")
    if member.isdir():
        target.mkdir(mode=0o700)
    elif member.isreg():
        source = tar.extractfile(member)
        assert source is not None
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            while data := source.read(CHUNK):
                file.write(data)
    elif member.issym():
        os.symlink(member.linkname, target)  # followed only inside of the container
    elif member.islnk():
        link = tarfile.TarInfo(member.linkname)
        original = _place(path, folder, link)
        if not stat.S_ISREG(os.lstat(original).st_mode) if os.path.lexists(original) else True:
            raise _refused(path, member, "what it is another name of is not there")
        os.link(original, target, follow_symlinks=False)
    elif member.isfifo():
        os.mkfifo(target, 0o600)
    elif member.ischr() and (member.devmajor, member.devminor) == (0, 0):
        os.mknod(target, stat.S_IFCHR, os.makedev(0, 0))
    else:
        raise _refused(path, member, "it is a device")


def _dress(target: Path, member: tarfile.TarInfo) -> None:
    """Owner, mode, attributes and time."""
    os.chown(target, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        os.chmod(target, member.mode & 0o7777)
    for key, value in member.pax_headers.items():
        name = key.removeprefix(ATTRIBUTE)
        if key.startswith(ATTRIBUTE) and _KEPT.fullmatch(name):
            with suppress(FileNotFoundError):
                os.setxattr(target, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
    with suppress(OverflowError):
        os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)


__all__ = ["pack", "unpack"]
