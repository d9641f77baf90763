"""Resolves a path of a container before the container is made, through the links of its root, as the kernel does.

The files of a mount cannot be seen yet. So a path that leads into a mount is not judged; only certain failures are
refused.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ...errors import CommandNotExecutable, CommandNotFound, InvalidSpec
from ..rootfs.executable import check_format
from ..rootfs.resolve_in_root import Inside
from . import translate

LINKS = 40  # MAXSYMLINKS of the kernel


class CommandPath(msgspec.Struct, frozen=True):
    """Where a command is. `path` is None if it leads into a mount; `missing` or `denied` if execve would refuse it."""

    path: str | None = None
    missing: bool = False
    denied: bool = False


class ContainerPaths:
    """A root with the mounts that a document makes in it, in the order of the document."""

    def __init__(self, inside: Inside, destinations: Iterable[str]) -> None:
        self.inside = inside
        self.mounts: set[str] = set()
        for destination in destinations:
            at = self.follow(destination)
            if at is not None:
                self.mounts.add(at)

    def follow(self, path: str) -> str | None:
        """The path without links; None if it leads into a mount."""
        at, links = "/", 0
        pending = path.split("/")[::-1]
        while "/" not in self.mounts:
            if not pending:
                return at
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                at = posixpath.dirname(at)
                continue
            at = posixpath.join(at, part)
            if at in self.mounts:
                return None
            link = self.inside.link(at) if links < LINKS else None
            if link is not None:
                links += 1
                at = "/" if link.startswith("/") else posixpath.dirname(at)
                pending += link.split("/")[::-1]
        return None

    def may_have(self, path: str) -> bool:
        """Whether there is something at `path`, or it leads into a mount."""
        at = self.follow(path)
        return at is None or self.inside.stat(at) is not None

    def check_folder(self, path: str) -> None:
        """InvalidSpec if `path` is certainly no folder."""
        at = self.follow(path)
        if at is None:
            return
        found = self.inside.stat(at)
        if found is None or not stat.S_ISDIR(found.st_mode):
            problem = "the container's root has no such folder" if found is None else "is not a folder there"
            raise InvalidSpec("cwd", f"{path!r}: {problem}", hint="name a folder of the root, or mount one there")

    def find_command(self, command: str, *, env: Sequence[str], cwd: str) -> CommandPath:
        """Where execve would look for a command."""
        if "/" in command:
            candidates = [posixpath.join(cwd, command)]
        else:
            path = next((item[5:] for item in env if item.startswith("PATH=")), translate.PATH)
            candidates = [posixpath.join(cwd, folder, command) for folder in path.split(":") if folder]
        denied = False
        for candidate in candidates:
            at = self.follow(candidate)
            if at is None:
                return CommandPath()
            found = self.inside.stat(at)
            if found is None:
                continue
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o111:
                return CommandPath(path=at)
            denied = True
        return CommandPath(missing=not denied, denied=denied)

    def check_command(self, id: str, command: str, place: CommandPath) -> None:
        """Raise CommandNotFound or CommandNotExecutable for a command that certainly cannot be run."""
        if place.missing:
            raise CommandNotFound(id, command)
        if place.denied:
            raise CommandNotExecutable(id, command, "it is not an executable file")
        if place.path is not None:
            check_format(id, command, place.path, self.inside, self.may_have)


def destinations(mounts: Iterable[Any]) -> list[str]:
    """The places of mounts, of our own entries or of a document's."""
    return [mount["destination"] if isinstance(mount, dict) else mount.destination for mount in mounts]
