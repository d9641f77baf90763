"""Unpack one layer alone, into a folder in overlayfs' own format.

A layer says what it changes of the layers below: entries, and *whiteouts*. `.wh.NAME` hides what lower layers have of
NAME; `.wh..wh..opq` in a folder hides all that they have in it. Both mean lower layers only, wherever they stand in the
archive: entries of the same layer stay. overlayfs knows the same two as a character device 0:0 and as an attribute of
the folder. So a layer can be unpacked without those below it, before they are there, and is the same in every image.

What is known only at the end is done at the end. A whiteout whose name the layer has as well is not written: a file
hides what is below by itself, and a folder becomes opaque. None is written below an opaque folder either: overlayfs
lists a whiteout as a broken file where no lower folder is merged with the one that it is in.

Three things depend on the layers below after all; `Unpacked` tells them, and `lower_layers.py` settles them:

- folders that stand in names only (*implied*): their attributes are those of the lower layers;
- whiteouts in a folder that no lower layer has;
- hard links to a file of a lower layer.

In the last two cases the layer is unpacked again with the layers below it as `below`, for that one image.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from typing import Protocol

from .layer_writer import LayerWriter, joined
from .records import Unpacked
from .space import FreeSpace, no_space
from .tar_reader import BLOCK_DEVICE, CHARACTER, FIFO, FILE, FOLDER, LINK, SYMLINK, TarEntry, TarReader, shown

if sys.platform == "win32":
    raise ImportError("Windows makes layers by a call of its own")

_WHITEOUT = b".wh."
_META = b".wh..wh."  # aufs' own files begin with this
_OPAQUE = b".wh..wh..opq"

_OF_THE_ARCHIVE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EFBIG)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Below(Protocol):
    """The layers below the one that is unpacked, as one file system."""

    def has_folder(self, path: bytes) -> bool:
        """Return whether there is a folder at this path."""
        ...

    def copy_to(self, writer: LayerWriter, path: bytes) -> bool:
        """Make the file at this path in the layer, too. False if there is none."""
        ...


def unpack(pieces: Iterable[bytes], top: int, what: str, below: Below | None = None) -> Unpacked:
    """Unpack an archive into the empty folder `top`, a descriptor, and read the archive to its end.

    Raises: InvalidImage about `what` for what no archive of a layer may have, StoreError if the disk is full, and
    OSError. What was written until then is left to the caller.
    """
    archive = TarReader(pieces, what)
    writer = LayerWriter(top, what, FreeSpace(top, what))
    try:
        return _Unpacker(archive, writer, below).run()
    finally:
        writer.close()


class _Unpacker:
    def __init__(self, archive: TarReader, writer: LayerWriter, below: Below | None) -> None:
        self.archive = archive
        self.writer = writer
        self.below = below
        self.whiteouts: dict[tuple[bytes, bytes], None] = {}
        self.missing: list[bytes] = []
        self.copied: set[bytes] = set()  # files of lower layers that were copied for hard links to them

    def run(self) -> Unpacked:
        for entry in self.archive.entries():
            try:
                self._add(entry)
            except OSError as error:
                if error.errno in _FULL:
                    raise no_space(self.writer.what) from error
                if error.errno in _OF_THE_ARCHIVE:
                    problem = f"{shown(entry.name)} cannot be made ({os.strerror(error.errno)})"
                    raise self.writer.invalid(problem) from error
                raise
        try:
            return self._finish()
        except OSError as error:
            if error.errno in _FULL:
                raise no_space(self.writer.what) from error
            raise

    def _add(self, entry: TarEntry) -> None:
        parts = cleaned(entry.name)
        writer = self.writer
        if not parts:
            if entry.kind != FOLDER:
                raise writer.invalid("an entry for its root is no folder")
            writer.write_folder(b"", b"", entry)
            return
        name = parts.pop()
        if any(part.startswith(_WHITEOUT) for part in parts):
            if any(part.startswith(_META) for part in parts):
                return  # where aufs kept hard links and the like
            raise writer.invalid(f"{shown(entry.name)} is below a whiteout")
        if name.startswith(_WHITEOUT):
            self._add_whiteout(parts, name, entry)
            return
        parent = writer.parent(parts)
        kind = entry.kind
        if self.copied and not (kind == FOLDER and joined(parent, name) in writer.folders):
            self._forget_copies(joined(parent, name))
        if kind == FILE:
            writer.write_file(parent, name, entry, self.archive)
        elif kind == FOLDER:
            writer.write_folder(parent, name, entry)
        elif kind == SYMLINK:
            writer.write_symlink(parent, name, entry)
        elif kind == LINK:
            self._add_link(parent, name, entry)
        elif kind == CHARACTER and entry.device == (0, 0):  # a whiteout by another name
            self.whiteouts[parent, name] = None
        elif kind in (CHARACTER, BLOCK_DEVICE, FIFO):
            writer.write_node(parent, name, entry)
        else:
            raise writer.invalid(f"{shown(entry.name)} is of the unknown type {kind!r}")

    def _forget_copies(self, path: bytes) -> None:
        """Note that an entry replaces what is at a path: files that were copied there are no copies any more."""
        self.copied = {each for each in self.copied if each != path and not each.startswith(path + b"/")}

    def _add_whiteout(self, parts: list[bytes], name: bytes, entry: TarEntry) -> None:
        if name == _OPAQUE:
            parent = self.writer.parent(parts)
            self.writer.folders[parent].opaque = True
        elif not name.startswith(_META):
            hidden = name[len(_WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise self.writer.invalid(f"the whiteout {shown(entry.name)} hides no name")
            self.whiteouts[self.writer.parent(parts), hidden] = None

    def _add_link(self, parent: bytes, name: bytes, entry: TarEntry) -> None:
        parts = cleaned(entry.link)
        if not parts:
            raise self.writer.invalid(f"the hard link {shown(entry.name)} leads to the root")
        target = self.writer.find(parts)
        if target is not None and self.writer.link(parent, name, target):
            return
        if self.below is None:
            self.missing.append(joined(parent, name))
            return
        path = b"/".join(parts) if target is None else joined(*target)
        if self._hides(path) or not self.below.copy_to(self.writer, path):
            raise self.writer.invalid(f"the hard link {shown(entry.name)} leads to {shown(path)}, which is nowhere")
        self.copied.add(path)
        above, _, last = path.rpartition(b"/")
        if not self.writer.link(parent, name, (above, last)):
            raise self.writer.invalid(f"the hard link {shown(entry.name)} would replace what it leads to")

    def _hides(self, path: bytes) -> bool:
        """Return whether this layer has already hidden what lower layers have at this path."""
        parts = path.split(b"/")
        for count in range(len(parts)):
            above = b"/".join(parts[:count])
            folder = self.writer.folders.get(above)
            if (folder is not None and folder.opaque) or (above, parts[count]) in self.whiteouts:
                return True
        return False

    def _finish(self) -> Unpacked:
        writer = self.writer
        waiting: list[tuple[bytes, bytes]] = []
        hidden: dict[bytes, bool] = {}
        for parent, name in sorted(self.whiteouts):  # those in a folder come before those below it
            if parent not in writer.folders:
                continue  # replaced by an entry that hides it all
            if parent not in hidden:
                hidden[parent] = self._is_hidden(parent)
            path = joined(parent, name)
            if hidden[parent]:
                continue
            if path in writer.folders:
                writer.folders[path].opaque = True
            elif path in self.copied or not writer.exists(parent, name):
                waiting.append((parent, name))
        self._remove_hidden_copies()
        has_whiteouts: dict[bytes, bool] = {}
        for parent, name in waiting:
            if parent not in has_whiteouts:
                has_whiteouts[parent] = self.below is None or self.below.has_folder(parent)
            if has_whiteouts[parent]:
                writer.write_whiteout(parent, name)
        writer.finish_folders()
        return Unpacked(
            size=writer.size,
            files=writer.made,
            implied=[path for path, folder in writer.folders.items() if folder.implied],
            whiteouts=[path for path, written in has_whiteouts.items() if written],
            missing=self.missing,
            opaque=writer.folders[b""].opaque,
        )

    def _remove_hidden_copies(self) -> None:
        """Remove what was copied from below for a hard link, if this layer hides it there: the link stays."""
        for path in self.copied:
            parent, _, name = path.rpartition(b"/")
            if (parent, name) in self.whiteouts or self._is_hidden(parent):
                self.writer.remove(parent, name)

    def _is_hidden(self, path: bytes) -> bool:
        """Return whether a folder, or one above it, hides all that lower layers have of it."""
        while not self.writer.folders[path].opaque:
            if not path:
                return False
            path = path.rpartition(b"/")[0]
        return True


def cleaned(name: bytes) -> list[bytes]:
    """Return the components of a name, as seen from the root: `..` does not lead above it."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return parts
