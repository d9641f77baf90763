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
    remove_some(path, None)


def remove_some(path: str | os.PathLike[str], most: int | None) -> bool:
    """As `remove_tree`, but stop after `most` files and directories. True if nothing is left."""
    remover = _Remover(most)
    try:
        remover.remove(os.fspath(path), os.lstat(path).st_dev)
    except FileNotFoundError:
        return True
    except _EnoughError:
        return False
    except OSError as error:
        raise store_error(f"remove {os.fspath(path)}", error) from error
    return True


class _EnoughError(Exception):
    """More than was wanted."""


class _Remover:
    def __init__(self, most: int | None) -> None:
        self.rest = most

    def count(self) -> None:
        if self.rest is not None:
            if self.rest == 0:
                raise _EnoughError
            self.rest -= 1

    def remove(self, path: str, device: int) -> None:
        try:
            with os.scandir(path) as entries:
                found = list(entries)
        except NotADirectoryError:
            os.unlink(path)
            return
        except PermissionError:
            os.chmod(path, stat.S_IRWXU)
            with os.scandir(path) as entries:
                found = list(entries)
        for entry in found:
            self.count()
            with suppress(FileNotFoundError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                elif entry.stat(follow_symlinks=False).st_dev == device:
                    self.remove(entry.path, device)
                else:
                    raise OSError(16, "another file system is mounted there", entry.path)
        os.rmdir(path)
