"""How much of a tree one call may remove. Shared by unix_trees.py and windows_trees.py."""

from __future__ import annotations


class LimitReachedError(Exception):
    """More is there than was to be removed."""


class RemovalLimit:
    """Counts files and directories as they are removed. Without a number, there is no limit."""

    def __init__(self, most: int | None) -> None:
        self._left = most

    @property
    def exists(self) -> bool:
        """Whether there is a limit at all."""
        return self._left is not None

    def count(self) -> None:
        """Count one file or directory that is about to be removed.

        Raises: LimitReachedError if it is one too many.
        """
        if self._left is None:
            return
        if self._left == 0:
            raise LimitReachedError
        self._left -= 1
