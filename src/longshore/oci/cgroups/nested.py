"""The control groups below one group. A container that can write to its own may have made any number, at any depth.

So the walk and the removal go by descriptors, without recursion: no path is too long, and no tree too deep. A group has
no links, and only the way back from a group leads to its parent (`..`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(directory: Path) -> Iterator[int]:
    """Yield a descriptor of the group and of each one below it. It is valid until the next step.

    A group that is removed meanwhile is left out, with what was below it.
    """
    try:
        fd = _open(directory)
    except OSError:
        return
    left: list[list[str]] = []  # of each level, the names that are still to be visited
    try:
        yield fd
        left.append(_children(fd))
        while left:
            if left[-1]:
                try:
                    child = _open(left[-1].pop(), fd)
                except OSError:
                    continue
                os.close(fd)
                fd = child
                yield fd
                left.append(_children(fd))
            else:
                left.pop()
                if left:
                    fd = _parent(fd)
    except FileNotFoundError:  # the way back: it was removed below us
        return
    finally:
        os.close(fd)


def remove(directory: Path) -> bool:
    """Remove a group and all below it; False if one is in use. Gone already is fine."""
    try:
        os.rmdir(directory)  # mostly there are no children
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        if not remove_below(directory):
            return False
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return True


def has_children(directory: Path) -> bool:
    """Whether there are groups below one: its number of links counts them."""
    try:
        return os.stat(directory).st_nlink > 2
    except OSError:
        return False


def remove_below(directory: Path) -> bool:
    """Remove all groups below one; False if one of them is in use."""
    try:
        fd = _open(directory)
    except OSError:
        return True
    removed = True
    names: list[str] = []  # of the groups that lead to the one of `fd`
    try:
        left = [_children(fd)]
        while True:
            if left[-1]:
                name = left[-1].pop()
                child = _open_if_not_removed(name, fd)
                if child is None:
                    continue
                below = _children(child)
                if not below:  # it has processes
                    os.close(child)
                    removed = False
                    continue
                os.close(fd)
                fd = child
                names.append(name)
                left.append(below)
                continue
            left.pop()
            if not left:
                return removed
            fd = _parent(fd)
            removed = _rmdir(names.pop(), fd) and removed
    except FileNotFoundError:  # another program removes them, too
        return False
    finally:
        os.close(fd)


def _open_if_not_removed(name: str, fd: int) -> int | None:
    """Remove a group without children; a descriptor of it if that is refused."""
    if _rmdir(name, fd):
        return None
    try:
        return _open(name, fd)
    except FileNotFoundError:
        return None


def _rmdir(name: str, fd: int) -> bool:
    try:
        os.rmdir(name, dir_fd=fd)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _open(name: str | Path, fd: int | None = None) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)


def _parent(fd: int) -> int:
    parent = _open("..", fd)
    os.close(fd)
    return parent


def _children(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
