"""Removing a directory tree that somebody else filled."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from .files import store_error


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a directory and all in it: no link is followed, no other file system entered; gone already is fine.

    A directory without permissions (overlayfs makes such a one) is opened up first. StoreError if something stays.
    """
    try:
        device = os.lstat(path).st_dev
    except FileNotFoundError:
        return
    try:
        _remove(os.fspath(path), device)
    except FileNotFoundError:
        return
    except OSError as error:
        raise store_error(f"remove {path}", error) from error


def _remove(path: str, device: int) -> None:
    try:
        entries = list(os.scandir(path))
    except NotADirectoryError:
        os.unlink(path)
        return
    except PermissionError:
        os.chmod(path, stat.S_IRWXU)
        entries = list(os.scandir(path))
    for entry in entries:
        with suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                if entry.stat(follow_symlinks=False).st_dev == device:
                    _remove(entry.path, device)
                else:
                    raise OSError(16, "another file system is mounted there", entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(path)

