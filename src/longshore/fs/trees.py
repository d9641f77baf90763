"""Removing a directory tree that somebody else filled."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from ..errors import StoreError
from .files import MOVES_WHAT_IS_OPEN, store_error
from .removal_limit import LimitReachedError, RemovalLimit

if os.name == "nt":
    from .windows_trees import is_directory, remove
else:
    from .unix_trees import remove
    from .windows_trees import is_directory

MOVE_LIMIT = 2.0  # seconds that a file of a tree may be in the way


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a directory and all in it: no link is followed, no other file system entered; gone already is fine.

    A directory without permissions (overlayfs makes such a one) is opened up first. StoreError if something stays.
    """
    remove_some(path, None)


def remove_some(path: str | os.PathLike[str], most: int | None) -> bool:
    """As `remove_tree`, but stop after `most` files and directories. True if nothing is left."""
    try:
        remove(os.fspath(path), RemovalLimit(most))
    except LimitReachedError:
        return False
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
            return True
        raise store_error(f"remove {os.fspath(path)}", error) from error
    return True


def remove_though_open(path: str | os.PathLike[str], trash: str | os.PathLike[str]) -> bool:
    """As `remove_tree`, for what somebody may have files open in, or make some: it goes to `trash` in one step.

    Where what is open cannot be moved (Windows), it goes piece by piece, into a new directory there. False if some of
    it is left in the trash.
    """
    place = f"{os.fspath(trash)}/{os.urandom(8).hex()}"
    try:
        if MOVES_WHAT_IS_OPEN:
            os.rename(path, place)
        else:
            os.mkdir(place, 0o700)
            move_out(path, place)
    except FileNotFoundError as error:
        if os.path.lexists(path):
            raise store_error(f"remove {os.fspath(path)}", error) from error
        return True
    except OSError as error:
        raise store_error(f"remove {os.fspath(path)}", error) from error
    for _ in range(2):  # what a disk refuses once it may do the next time
        with suppress(StoreError):  # else the rest goes when the trash is next emptied
            remove_tree(place)
            return True
    return False


def move_out(path: str | os.PathLike[str], trash: str | os.PathLike[str], *, last: str = "") -> None:
    """Move a tree into `trash` piece by piece, so that its name is free, though others have files in it open.

    For Windows, which lets a file be renamed while it is open, but not a directory above it. What stands directly in
    `path` keeps its name, and `last` goes last. The trash may be removed only when everybody has closed what is in
    it. Gone already is fine. StoreError if something stays: a program has a file open and does not share it.
    """
    deadline = time.monotonic() + MOVE_LIMIT
    while True:
        try:
            _move_out(os.fspath(path), os.fspath(trash), last, top=True)
            return
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise store_error(f"remove {os.fspath(path)}", error) from error
        time.sleep(0.002)  # something new came in, or is open in a way that forbids it: for a moment, as a rule


def _move_out(path: str, trash: str, last: str, *, top: bool) -> None:
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name == last)
    for entry in found:
        if is_directory(entry):
            _move_out(entry.path, trash, last, top=False)
        else:
            _rename_into(trash, entry.path, entry.name if top else "")
    _rename_into(trash, path, "")


def _rename_into(trash: str, path: str, name: str) -> None:
    with suppress(FileNotFoundError):
        if name and not os.path.lexists(f"{trash}/{name}"):
            os.rename(path, f"{trash}/{name}")
        else:
            os.rename(path, f"{trash}/.{os.urandom(8).hex()}")
