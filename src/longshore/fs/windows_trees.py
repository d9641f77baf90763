"""Removing a tree, on Windows. unix_trees.py has the same name for Unix."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from .files import MOVES_WHAT_IS_OPEN
from .removal_limit import RemovalLimit


def remove(path: str, limit: RemovalLimit) -> None:
    """Remove what `path` names.

    Raises: LimitReachedError if `limit` ends it; OSError if something stays.
    """
    _remove(path, os.lstat(path).st_dev, limit)


def _remove(path: str, device: int, limit: RemovalLimit) -> None:
    try:
        with os.scandir(path) as entries:
            found = list(entries)
    except NotADirectoryError:
        _unlink(path)
        return
    except PermissionError:
        os.chmod(path, stat.S_IRWXU)
        with os.scandir(path) as entries:
            found = list(entries)
    for entry in found:
        limit.count()
        with suppress(FileNotFoundError):
            if not is_directory(entry):
                _unlink(entry.path)
            elif os.lstat(entry.path).st_dev == device:  # DirEntry.stat does not say on Windows
                _remove(entry.path, device, limit)
            else:
                raise OSError(16, "another file system is mounted there", entry.path)
    os.rmdir(path)


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether it is one to go into: a junction of Windows leads elsewhere, as a link does."""
    if not entry.is_dir(follow_symlinks=False):
        return False
    return getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == 0


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except PermissionError:
        if MOVES_WHAT_IS_OPEN or not os.path.lexists(path):
            raise
        if os.path.isdir(path):
            os.rmdir(path)  # a junction: it goes, what it leads to stays
        else:
            os.chmod(path, stat.S_IWRITE)  # Windows does not remove what is marked read-only
            os.unlink(path)


__all__ = ["is_directory", "remove"]
