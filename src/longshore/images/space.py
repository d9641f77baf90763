"""Bounds of what one layer may take: bytes, files, and a rest of the disk that is left free for everything else."""

from __future__ import annotations

import errno
import os

from ..errors import InvalidImage, StoreError

BYTES_LIMIT = 1 << 40  # of data in one layer; the disk is mostly smaller
FILES_LIMIT = 5_000_000  # in one layer
KEPT_FREE = 1 << 30  # bytes, or a twentieth of a small disk
_STEP = 32 << 20  # bytes between two looks at the disk
_FILES_STEP = 2048  # files between them


class FreeSpace:
    """The disk of the folder `fd`, while a layer is written to it.

    `what` names the layer in errors: InvalidImage at the bounds of one layer, StoreError where the disk is full.
    """

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._what = what
        self._bytes = self._files = 0
        self._until = self._until_files = 0

    def take(self, size: int) -> None:
        """Note that so many bytes are about to be written."""
        self._bytes += size
        if self._bytes > self._until:
            if self._bytes > BYTES_LIMIT:
                raise InvalidImage(self._what, f"its files have more than {BYTES_LIMIT >> 30} GiB")
            self.check(size)
            self._until = self._bytes + _STEP

    def count(self) -> None:
        """Note that one more file is about to be made."""
        self._files += 1
        if self._files > self._until_files:
            if self._files > FILES_LIMIT:
                raise InvalidImage(self._what, f"it has more than {FILES_LIMIT} files")
            self.check(0)
            self._until_files = self._files + _FILES_STEP

    def check(self, size: int = 0) -> None:
        """Raise StoreError if the disk has no room for so many more bytes and the rest that is to stay free."""
        look = getattr(os, "fstatvfs", None)
        if look is None:  # Windows: a full disk is noticed when a write fails
            return
        disk = look(self._fd)
        kept = min(KEPT_FREE, disk.f_blocks * disk.f_frsize // 20)
        if disk.f_bavail * disk.f_frsize < size + kept or (disk.f_files and not disk.f_favail):
            raise no_space(self._what)


def no_space(what: str) -> StoreError:
    """Return the error of a disk that has no room for a part of an image."""
    return StoreError(
        f"cannot store {what}: {os.strerror(errno.ENOSPC)}",
        hint="make room (`longshore image prune` removes images that nothing uses),"
        " or put the state elsewhere ($LONGSHORE_ROOT)",
    )
