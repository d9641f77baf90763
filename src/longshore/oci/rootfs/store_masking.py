"""Keeping the store out of every container: where it would be seen through a folder, by whatever path."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from ...compute.values import Place
from ...errors import InvalidSpec
from ...machine import places


class MountPoint(msgspec.Struct, frozen=True):
    """One line of /proc/self/mountinfo."""

    path: str
    fstype: str


def mount_points(data: str | None = None) -> list[MountPoint]:
    """What is mounted on this machine, in the order in which it was mounted."""
    if data is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            data = file.read()
    found = []
    for line in data.splitlines():
        before, _, after = line.partition(" - ")
        path = before.split(" ")[4]
        if "\\" in path:  # space, tab, newline and backslash are written in octal
            for code in ("\\040", "\\011", "\\012", "\\134"):
                path = path.replace(code, chr(int(code[1:], 8)))
        found.append(MountPoint(path, after.partition(" ")[0]))
    return found


def stores(place: Place) -> list[str]:
    """The folders that no container may see: the store that this container belongs to, and the machine's own."""
    run = place.run.parents[1]
    found = [run, place.data.parents[1]]
    if run.name == "run":
        found.append(run.parent / "lib")  # Store.at: the other half of a store of one's own
    return list(dict.fromkeys(str(path) for path in (*found, *places())))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _ancestors(path: str) -> Iterator[tuple[str, str]]:
    """A path and every folder above it, with what leads from there back to the path."""
    rest = ""
    while True:
        yield path, rest
        if path == "/":
            return
        head, tail = os.path.split(path)
        path, rest = head, f"{tail}/{rest}" if rest else tail


class Hidden:
    """Finds the store by what folders are (device and inode), not by what they are called."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = list(dict.fromkeys(os.path.realpath(folder) for folder in folders))
        self._own = {identity for folder in self.folders if (identity := _identity(folder)) is not None}
        # every folder on the way to a store, and how it goes on from there
        self._ways: dict[tuple[int, int], list[str]] = {}
        for folder in self.folders:
            for path, rest in _ancestors(folder):
                identity = _identity(path)
                if identity is not None:
                    self._ways.setdefault(identity, []).append(rest)

    def inside(self, path: str) -> bool:
        """Whether `path` is a store's folder, or something in it."""
        real = os.path.realpath(path)
        return any(_identity(above) in self._own for above, _ in _ancestors(real))

    def below(self, path: str) -> list[str]:
        """Where in this one file system, below `path`, a store is: relative paths, empty text for `path` itself."""
        identity = _identity(path)
        return [] if identity is None else sorted(set(self._ways.get(identity, [])))

    def below_with_mounts(self, path: str, points: Sequence[MountPoint]) -> list[str]:
        """The same, for a bind mount that shows what is mounted below `path`, too."""
        real = os.path.realpath(path)
        found = set(self.below(real))
        prefix = real.rstrip("/") + "/"
        for point in points:
            if point.path.startswith(prefix):
                at = point.path[len(prefix) :]
                if self.inside(point.path):
                    found.add(at)
                found.update(f"{at}/{rest}" if rest else at for rest in self.below(point.path))
        return sorted(found)

    def check_layer(self, path: str, field: str) -> None:
        """Raise InvalidSpec if `path` is in a store, unless it is the folder of an image's layer there."""
        if not self._is_layer(os.path.realpath(path)):
            self.check(path, field)

    def _is_layer(self, real: str) -> bool:
        """Return whether this is `images/layers/KEY/fs` or `images/fixups/HEX/fs` of a store (docs/state.md)."""
        above, name = os.path.split(real)
        kinds, kind = os.path.split(os.path.dirname(above))
        store, images = os.path.split(kinds)
        return (name, images) == ("fs", "images") and kind in ("layers", "fixups") and _identity(store) in self._own

    def check(self, path: str, field: str) -> None:
        """InvalidSpec if `path` is in a store."""
        if self.inside(path):
            raise InvalidSpec(field, f"{path} is in longshore's state directory, which no container may see")


def is_folder(path: str) -> bool:
    """Whether `path` is a folder, links followed."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
