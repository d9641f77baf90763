"""Make the files of one layer below a folder, whatever the archive says, and nothing outside of it.

The folder is private and belongs to this writer alone, so nothing in it changes under its hands: what can lead outside
is only what the archive itself has made, links above all. So no path is ever given to the kernel. Each folder of the
layer is known here by its path (`folders`), and reached component by component with O_NOFOLLOW. Where a parent in a
name is a symbolic link of this layer, the link is followed here, as if the layer's root were `/`; a hard link's target
is looked for in the same way. A file is made by O_EXCL: through a name that exists nothing is ever opened.

A later entry replaces an earlier one of the same name; only a folder over a folder keeps what is in it. Owner, mode and
times of folders are set at last, for each file that is made in them changes them.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress

from ..errors import InvalidImage, StoreError
from .space import FreeSpace
from .tar_reader import BLOCK_DEVICE, CHARACTER, FIFO, NAME_LIMIT, TarEntry, TarReader, shown

if sys.platform == "win32":
    raise ImportError("Windows makes layers by a call of its own")

DEPTH_LIMIT = 512  # folders in one another
OPEN_LIMIT = 24  # descriptors of folders that are kept open
LINKS_LIMIT = 40  # symbolic links that are followed for one name, as many as the kernel follows
LAST_TIME = ((1 << 34) - 1) * 1_000_000_000  # no file system stores a later one (2514)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """What is known of one folder of the layer. An implied one has no entry of its own."""

    __slots__ = ("gid", "implied", "mode", "mtime", "opaque", "uid", "xattrs")

    def __init__(self) -> None:
        self.implied = True
        self.opaque = False  # what lower layers have of it is not seen
        self.mode = 0o755
        self.uid = self.gid = 0
        self.mtime = 0  # nanoseconds
        self.xattrs: dict[bytes, bytes] = {}


class LayerWriter:
    """The folder of a layer being filled. `top` is its descriptor, and stays its caller's."""

    def __init__(self, top: int, what: str, space: FreeSpace) -> None:
        self.what = what
        self.folders: dict[bytes, Folder] = {b"": Folder()}
        self.size = 0  # bytes of data in files
        self.made = 0  # files, links, nodes and folders, also those that were replaced
        self._space = space
        self._top = top
        self._open: dict[bytes, int] = {}  # folders by path, the one used last at the end
        self._us = (os.geteuid(), os.getegid())

    def close(self) -> None:
        """Close what is open. Idempotent."""
        while self._open:
            os.close(self._open.popitem()[1])

    # folders

    def parent(self, parts: list[bytes]) -> bytes:
        """Return the path of the folder that these components lead to; what is missing of it is made, as implied."""
        path = b"/".join(parts)
        if path in self.folders:
            return path
        found = self._walk(parts, make=True)
        assert found is not None
        return found

    def find(self, parts: list[bytes]) -> tuple[bytes, bytes] | None:
        """Return the folder and the name that a hard link's target means; None if there is no such folder."""
        parent = self._walk(parts[:-1], make=False)
        return None if parent is None else (parent, parts[-1])

    def _walk(self, parts: list[bytes], *, make: bool) -> bytes | None:
        left = parts[::-1]
        path = b""
        links = 0
        while left:
            part = left.pop()
            if part == b"..":  # of a symbolic link; above the root is the root
                path = path.rpartition(b"/")[0]
                continue
            at = joined(path, part)
            if at in self.folders:
                path = at
                continue
            fd = self.fd(path)
            try:
                found = os.stat(part, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                if not make:
                    return None
                self._make_folder(path, part)
                path = at
                continue
            if not stat.S_ISLNK(found.st_mode):
                raise self.invalid(f"{shown(at)} is no folder, but has files in it")
            links += 1
            if links > LINKS_LIMIT:
                raise self.invalid(f"{shown(b'/'.join(parts))} leads through too many symbolic links")
            target = os.readlink(part, dir_fd=fd)
            if target.startswith(b"/"):
                path = b""
            left += [each for each in reversed(target.split(b"/")) if each not in (b"", b".")]
        return path

    def _make_folder(self, parent: bytes, name: bytes) -> Folder:
        path = joined(parent, name)
        if path.count(b"/") >= DEPTH_LIMIT or len(path) >= NAME_LIMIT:
            raise self.invalid(f"its folder {shown(path)} is too deep")
        self._count()
        folder = Folder()
        try:
            os.mkdir(name, 0o700, dir_fd=self.fd(parent))
        except FileExistsError:
            self._clear(parent, name)
            os.mkdir(name, 0o700, dir_fd=self.fd(parent))
            folder.opaque = True  # what it replaced hid what lower layers have
        self.folders[path] = folder
        return folder

    def fd(self, path: bytes) -> int:
        """Return a descriptor of a folder of the layer. It is valid until the next two are asked for, at least."""
        fd = self._open.pop(path, -1)
        if fd < 0:
            if not path:
                return self._top
            fd = self._reach(path)
            if len(self._open) >= OPEN_LIMIT:
                oldest = next(iter(self._open))
                os.close(self._open.pop(oldest))
        self._open[path] = fd
        return fd

    def _reach(self, path: bytes) -> int:
        """Open a folder from the nearest one above it that is open."""
        above, _, name = path.rpartition(b"/")
        names = [name]
        while above and above not in self._open:
            above, _, name = above.rpartition(b"/")
            names.append(name)
        at = self._open[above] if above else self._top
        opened = -1
        try:
            while names:
                fd = os.open(names.pop(), _DIRECTORY, dir_fd=at)
                if opened >= 0:
                    os.close(opened)
                at = opened = fd
        except BaseException:
            if opened >= 0:
                os.close(opened)
            raise
        return opened

    # entries

    def write_folder(self, parent: bytes, name: bytes, entry: TarEntry) -> None:
        """Make a folder, or give the one that is there the attributes of this entry. Both empty: the root itself."""
        path = joined(parent, name)
        folder = self.folders.get(path)
        if folder is None:
            folder = self._make_folder(parent, name)
        folder.implied = False
        folder.mode, folder.uid, folder.gid = entry.mode, entry.uid, entry.gid
        folder.mtime = _storable(entry.mtime)
        folder.xattrs = entry.xattrs

    def write_file(self, parent: bytes, name: bytes, entry: TarEntry, archive: TarReader) -> None:
        """Make a regular file, with the data that the archive has next."""
        self._count()
        self._space.take(entry.size)
        self.size += entry.size
        at = self.fd(parent)
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=at)
        except FileExistsError:
            self._clear(parent, name)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self.fd(parent))
        try:
            if entry.sparse is not None:
                self._write_parts(fd, entry, archive)
            elif entry.size:
                for piece in archive.data():
                    written = os.write(fd, piece)
                    while written < len(piece):
                        written += os.write(fd, piece[written:])
            # in this order: chown takes setuid and capabilities away
            if (entry.uid, entry.gid) != self._us:
                os.chown(fd, entry.uid, entry.gid)
            os.chmod(fd, entry.mode)
            if entry.xattrs:
                self.set_xattrs(fd, entry.xattrs, joined(parent, name))
            time = _storable(entry.mtime)
            os.utime(fd, ns=(time, time))
        finally:
            os.close(fd)

    def _write_parts(self, fd: int, entry: TarEntry, archive: TarReader) -> None:
        assert entry.sparse is not None
        parts = iter(entry.sparse.parts)
        offset = length = 0
        for piece in archive.data():
            left = piece
            while left:
                if not length:
                    offset, length = next(parts)
                written = os.pwrite(fd, left[:length], offset)
                offset, length, left = offset + written, length - written, left[written:]
        os.truncate(fd, entry.sparse.size)

    def write_symlink(self, parent: bytes, name: bytes, entry: TarEntry) -> None:
        """Make a symbolic link. Wherever it leads, nothing here follows it but as if the layer were all there is."""
        if not entry.link:
            raise self.invalid(f"the symbolic link {shown(joined(parent, name))} has no target")
        self._count()
        at = self.fd(parent)
        try:
            os.symlink(entry.link, name, dir_fd=at)
        except FileExistsError:
            self._clear(parent, name)
            at = self.fd(parent)
            os.symlink(entry.link, name, dir_fd=at)
        self._set_by_name(at, name, entry)

    def write_node(self, parent: bytes, name: bytes, entry: TarEntry) -> None:
        """Make a device or a FIFO."""
        self._count()
        major, minor = entry.device
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise self.invalid(f"the device {shown(joined(parent, name))} has the numbers {major}:{minor}")
        kind = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}[entry.kind]
        at = self.fd(parent)
        try:
            os.mknod(name, kind | 0o600, os.makedev(major, minor), dir_fd=at)
        except FileExistsError:
            self._clear(parent, name)
            at = self.fd(parent)
            os.mknod(name, kind | 0o600, os.makedev(major, minor), dir_fd=at)
        self._set_by_name(at, name, entry, mode=True)

    def link(self, parent: bytes, name: bytes, target: tuple[bytes, bytes]) -> bool:
        """Make a hard link to a file of this layer. False if there is no such file."""
        path, target_path = joined(parent, name), joined(*target)
        if target_path in self.folders:
            raise self.invalid(f"the hard link {shown(path)} leads to a folder")
        if target_path.startswith(path + b"/"):
            raise self.invalid(f"the hard link {shown(path)} would replace what it leads to")
        self._count()
        source = self.fd(target[0])
        try:
            os.stat(target[1], dir_fd=source, follow_symlinks=False)
            if path == target_path:
                return True
            to = self.fd(parent)
            try:
                os.link(target[1], name, src_dir_fd=source, dst_dir_fd=to, follow_symlinks=False)
            except FileExistsError:
                self._clear(parent, name)
                source, to = self.fd(target[0]), self.fd(parent)
                os.link(target[1], name, src_dir_fd=source, dst_dir_fd=to, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _set_by_name(self, at: int, name: bytes, entry: TarEntry, *, mode: bool = False) -> None:
        if (entry.uid, entry.gid) != self._us:
            os.chown(name, entry.uid, entry.gid, dir_fd=at, follow_symlinks=False)
        if mode:
            os.chmod(name, entry.mode, dir_fd=at)  # the node that was made just now, and no link
        time = _storable(entry.mtime)
        os.utime(name, ns=(time, time), dir_fd=at, follow_symlinks=False)

    # what this layer hides of lower ones

    def exists(self, parent: bytes, name: bytes) -> bool:
        """Return whether the layer has something of this name."""
        try:
            os.stat(name, dir_fd=self.fd(parent), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def remove(self, parent: bytes, name: bytes) -> None:
        """Remove a file that this layer has."""
        os.unlink(name, dir_fd=self.fd(parent))

    def write_whiteout(self, parent: bytes, name: bytes) -> None:
        """Hide what lower layers have of this name: overlayfs takes a character device 0:0 for that."""
        self._count()
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self.fd(parent))

    def finish_folders(self) -> None:
        """Give all folders their owner, mode, attributes and times, deepest first; nothing can be made afterwards."""
        for path in sorted(self.folders, reverse=True):
            folder = self.folders[path]
            fd = self.fd(path)
            if folder.opaque and path:
                os.setxattr(fd, "trusted.overlay.opaque", b"y")
            if (folder.uid, folder.gid) != self._us or not path:
                os.chown(fd, folder.uid, folder.gid)
            os.chmod(fd, folder.mode)
            if folder.xattrs:
                self.set_xattrs(fd, folder.xattrs, path)
            os.utime(fd, ns=(folder.mtime, folder.mtime))

    # replacing

    def _clear(self, parent: bytes, name: bytes) -> None:
        """Remove what an earlier entry made at this name, with all that is in it."""
        path = joined(parent, name)
        if path not in self.folders:
            os.unlink(name, dir_fd=self.fd(parent))
            return
        removed = []
        left = [path]
        while left:
            at = left.pop()
            removed.append(at)
            fd = self.fd(at)
            for each in os.listdir(fd):
                child = os.fsencode(each)
                if joined(at, child) in self.folders:
                    left.append(joined(at, child))
                else:
                    os.unlink(child, dir_fd=fd)
        for at in reversed(removed):
            above, _, last = at.rpartition(b"/")
            if at in self._open:
                os.close(self._open.pop(at))
            os.rmdir(last, dir_fd=self.fd(above))
            del self.folders[at]

    def set_xattrs(self, fd: int, xattrs: dict[bytes, bytes], path: bytes) -> None:
        """Set the extended attributes that an image may bring along; the rest would mean something to this machine."""
        for key, value in xattrs.items():
            if not is_allowed(key):
                continue
            try:
                os.setxattr(fd, key, value)
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP and key.startswith(b"user."):  # tmpfs before Linux 6.6
                    continue
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    with suppress(StoreError):
                        self._space.check()
                        reason = "the file system of the store takes no attribute of its size"
                        raise self._unusable(path, key, reason) from error
                    raise
                if error.errno in (errno.E2BIG, errno.ERANGE, errno.EINVAL, errno.ENAMETOOLONG):
                    raise self._unusable(path, key, os.strerror(error.errno)) from error
                raise

    def _unusable(self, path: bytes, key: bytes, reason: str) -> InvalidImage:
        return self.invalid(f"the attribute {shown(key)} of {shown(path)} cannot be set ({reason})")

    def count_copy(self, size: int) -> None:
        """Note that a file of so many bytes is about to be copied from a lower layer."""
        self._count()
        self._space.take(size)
        self.size += size

    def _count(self) -> None:
        self.made += 1
        self._space.count()

    def invalid(self, problem: str) -> InvalidImage:
        """Return the error for something that the archive must not have."""
        return InvalidImage(self.what, problem)


def is_allowed(xattr: bytes) -> bool:
    """Return whether an image may set this attribute: overlayfs' own, and labels of this machine, it may not."""
    if xattr.startswith(b"user."):
        return not xattr.startswith(b"user.overlay.")
    return xattr == b"security.capability"


def joined(parent: bytes, name: bytes) -> bytes:
    """Return the path of a name in a folder of the layer."""
    return parent + b"/" + name if parent else name


def _storable(time: int) -> int:
    return min(max(time, 0), LAST_TIME)
