"""What of a layer depends on the layers below it.

A layer is unpacked alone. When all layers of an image are there, three things are looked at that only the image as a
whole can tell. `LayerStack` answers them as overlayfs would: a path is a folder of as many layers as have it as a
folder, from the top down to the first that has something else there, or an opaque folder.

- A whiteout in a folder that no lower layer has would be listed as a broken file (overlayfs hides whiteouts only where
  it merges folders). Such a layer is unpacked again without it: `needs_below` tells.
- A hard link to a file of a lower layer needs that file: the same.
- overlayfs shows the attributes of the topmost folder. Where the topmost layer has a folder only because something is
  in it (*implied*), those of a lower layer are meant. `write_fixup` makes a layer for the very top that has nothing but
  these folders, empty, with the attributes that are meant.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from .layer_writer import Folder, LayerWriter, is_allowed
from .records import Unpacked
from .space import FreeSpace

if sys.platform == "win32":
    raise ImportError("Windows makes layers by a call of its own")

_OPAQUE = "trusted.overlay.opaque"
_COPIED_AT_ONCE = 8 << 20


class Found(NamedTuple):
    """What a stack has at a path that is no folder: in which layer, and what it is."""

    layer: int
    status: os.stat_result


class LayerStack:
    """Unpacked layers as one file system. They are numbered from the top, and closed with it."""

    def __init__(self, tops: Sequence[str | os.PathLike[str]]) -> None:
        self._fds: list[int] = []
        try:
            for path in tops:
                self._fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except BaseException:
            self.close()
            raise
        self._known: dict[bytes, tuple[int, ...]] = {b"": tuple(range(len(self._fds)))}

    def __enter__(self) -> LayerStack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open. Idempotent."""
        while self._fds:
            os.close(self._fds.pop())

    def layers_with(self, path: bytes) -> tuple[int, ...]:
        """Return the layers whose folder at `path` is seen there, the topmost first."""
        known = self._known.get(path)
        if known is None:
            found = []
            for layer in self.layers_with(path.rpartition(b"/")[0]):
                status = self._status(layer, path)
                if status is None:
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    break
                found.append(layer)
                if self._is_opaque(layer, path):
                    break
            known = self._known[path] = tuple(found)
        return known

    def has_folder(self, path: bytes) -> bool:
        """Return whether there is a folder at this path."""
        return bool(self.layers_with(path))

    def find(self, path: bytes) -> Found | None:
        """Return what is at a path; None if nothing is, or a folder."""
        for layer in self.layers_with(path.rpartition(b"/")[0]):
            status = self._status(layer, path)
            if status is not None:
                hidden = stat.S_ISDIR(status.st_mode) or is_whiteout(status)
                return None if hidden else Found(layer, status)
        return None

    def link_below(self, layer: int, path: bytes) -> bool:
        """Return whether the folder that this layer has at `path` hides a symbolic link of a lower one."""
        above = self.layers_with(path.rpartition(b"/")[0])
        for lower in above[above.index(layer) + 1 :] if layer in above else ():
            status = self._status(lower, path)
            if status is not None:
                return stat.S_ISLNK(status.st_mode)
        return False

    def copy_to(self, writer: LayerWriter, path: bytes) -> bool:
        """Copy the file at this path to the same place of the layer that is written. False if there is none."""
        found = self.find(path)
        if found is None:
            return False
        above, _, name = path.rpartition(b"/")
        parent = writer.parent(above.split(b"/") if above else [])
        self._copy(found, path, writer, writer.fd(parent), name)
        return True

    def _copy(self, found: Found, path: bytes, writer: LayerWriter, to: int, name: bytes) -> None:
        layer, status = found
        source = self._fds[layer]
        kind = stat.S_IFMT(status.st_mode)
        times = (status.st_atime_ns, status.st_mtime_ns)
        if kind == stat.S_IFREG:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            try:
                made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=to)
                try:
                    writer.count_copy(status.st_size)
                    while os.copy_file_range(fd, made, _COPIED_AT_ONCE):
                        pass
                    os.chown(made, status.st_uid, status.st_gid)
                    os.chmod(made, stat.S_IMODE(status.st_mode))
                    writer.set_xattrs(made, xattrs_of(fd), path)
                    os.utime(made, ns=times)
                finally:
                    os.close(made)
            finally:
                os.close(fd)
            return
        writer.count_copy(0)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(path, dir_fd=source), name, dir_fd=to)
        else:
            os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=to)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=to, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=to)
        os.utime(name, ns=times, dir_fd=to, follow_symlinks=False)

    def folder(self, layer: int, path: bytes) -> Folder:
        """Return the attributes that a layer has for a folder of it."""
        fd = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fds[layer])
        try:
            status = os.fstat(fd)
            folder = Folder()
            folder.mode = stat.S_IMODE(status.st_mode)
            folder.uid, folder.gid, folder.mtime = status.st_uid, status.st_gid, status.st_mtime_ns
            folder.xattrs = xattrs_of(fd)
            return folder
        finally:
            os.close(fd)

    def _status(self, layer: int, path: bytes) -> os.stat_result | None:
        with suppress(FileNotFoundError):
            return os.stat(path, dir_fd=self._fds[layer], follow_symlinks=False)
        return None

    def _is_opaque(self, layer: int, path: bytes) -> bool:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fds[layer])
        try:
            return os.getxattr(fd, _OPAQUE) == b"y"
        except OSError:
            return False
        finally:
            os.close(fd)


def needs_below(layer: Unpacked, below: LayerStack) -> bool:
    """Return whether a layer that was unpacked alone has to be unpacked again with those below it."""
    return bool(layer.missing) or not all(below.has_folder(path) for path in layer.whiteouts)


class Fixup(NamedTuple):
    """What was found where folders are implied: those that need attributes, and links that such folders hide."""

    folders: dict[bytes, Folder]
    hidden_links: list[bytes]


def find_fixup(stack: LayerStack, layers: Sequence[Unpacked]) -> Fixup:
    """Return the folders whose attributes the topmost layer that has them does not state, but a lower one does.

    `layers` is what is known of each layer of the stack, the topmost first.
    """
    implied = [frozenset(layer.implied) for layer in layers]
    wanted: dict[bytes, Folder] = {}
    links: list[bytes] = []
    for number, layer in enumerate(layers):
        for path in layer.implied:
            shown_by = stack.layers_with(path)
            if not shown_by or shown_by[0] != number:
                continue
            if path and stack.link_below(number, path):
                links.append(path)
            stating = next((each for each in shown_by if path not in implied[each]), None)
            if stating is not None:
                wanted[path] = stack.folder(stating, path)
    return Fixup(_with_parents(wanted, stack), links)


def _with_parents(wanted: dict[bytes, Folder], stack: LayerStack) -> dict[bytes, Folder]:
    """Add the folders above each, with the attributes that are seen without a fix-up layer."""
    folders = dict(wanted)
    for path in wanted:
        above = path
        while above:
            above = above.rpartition(b"/")[0]
            if above not in folders:
                folders[above] = stack.folder(stack.layers_with(above)[0], above)
    return folders


def write_fixup(folders: dict[bytes, Folder], top: int, what: str) -> None:
    """Make these folders in the empty folder `top`, a descriptor. Raises: OSError; StoreError if the disk is full."""
    writer = LayerWriter(top, what, FreeSpace(top, what))
    try:
        for path in sorted(folders):
            writer.parent(path.split(b"/") if path else [])
            writer.folders[path] = folders[path]
        writer.finish_folders()
    finally:
        writer.close()


def is_whiteout(status: os.stat_result) -> bool:
    """Return whether this hides what lower layers have: overlayfs takes a character device 0:0 for that."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def xattrs_of(fd: int) -> dict[bytes, bytes]:
    """Return the extended attributes of what is open, but for those that an image may not set."""
    with suppress(OSError):  # a file system without any
        names = [os.fsencode(name) for name in os.listxattr(fd)]
        return {name: os.getxattr(fd, name) for name in names if is_allowed(name)}
    return {}
