"""Root file systems made of layers: overlay mounts, described here and made by the launcher.

An overlay shows `lowers` (nearest first, read-only) under `upper` (what is written). Its mount(2) options are one
text of at most a page, in which `,` `:` and `\\` mean something. Where a path has such a character, or the text
would be too long, folders are named by short links in a folder that the mounting thread stands in.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from ...errors import InvalidSpec
from ...fs.trees import remove_tree

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 1, 2, 4, 8, 0x1000, 0x4000
LAYERS_LIMIT = 500  # OVL_MAX_STACK of the kernel
_OPTIONS_LIMIT = 4000  # mount(2) takes a page; some is left for the options after the folders
_SPECIAL = frozenset(',:\\" \t\n')


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One mount(2) call; `cwd` is the folder that relative paths in it mean, empty if there are none.

    `added` are flags (MS_NOSUID, MS_NODEV) for what was mounted and all below it, beside those that it brings along.
    `points` are then made in it, unless they are there: places of mounts, and whether each is a folder. At last it is
    made read-only, if `sealed`.
    """

    source: str
    target: str
    fstype: str
    flags: int = 0
    data: str = ""
    cwd: str = ""
    added: int = 0
    points: Sequence[tuple[str, bool]] = ()
    sealed: bool = False


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """One overlay mount: `scratch` is its upper folder, unless `upper` names another one; beside it is what it needs.

    `hidden` are paths, relative to it, that its lower folders may have and that must never be seen.
    """

    target: str
    lowers: Sequence[str]
    scratch: str
    upper: str | None = None
    work: str | None = None
    volatile: bool = True  # nothing written here is worth a wait for the disk: it goes with the container
    flags: int = MS_NODEV
    hidden: Sequence[str] = ()

    @property
    def upper_path(self) -> str:
        return self.upper or self.scratch

    @property
    def work_path(self) -> str:
        return self.work or f"{self.scratch}.work"

    @property
    def _links_path(self) -> str:
        return f"{self.scratch}.links"

    def _options(self, lowers: Sequence[str], upper: str, work: str) -> str:
        text = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work}"
        return f"{text},volatile" if self.volatile and _has_volatile() else text

    @property
    def _plain(self) -> bool:
        paths = [*self.lowers, self.upper_path, self.work_path]
        return sum(len(os.fsencode(path)) + 1 for path in paths) < _OPTIONS_LIMIT and not any(
            _SPECIAL.intersection(path) for path in paths
        )

    def step(self) -> Step:
        """The mount call; `make` must have been called before it is executed."""
        if self._plain:
            options, cwd = self._options(self.lowers, self.upper_path, self.work_path), ""
        else:
            numbers = [str(number) for number in range(len(self.lowers))]
            options, cwd = self._options(numbers, "u", "w"), self._links_path
        return Step(source="overlay", target=self.target, fstype="overlay", flags=self.flags, data=options, cwd=cwd)

    def make(self) -> None:
        """Make the folders that the mount needs, and hide what must not be seen. Raises OSError."""
        # the overlay's own root has the mode and owner of the upper folder
        like(self.lowers[0], self.upper_path)
        with suppress(FileExistsError):
            os.mkdir(self.work_path, 0o700)
        for path in self.hidden:
            for lower in self.lowers:
                if os.path.isdir(os.path.dirname(f"{lower}/{path}")):
                    hide(lower, self.upper_path, path)
                    break
        if not self._plain:
            os.mkdir(self._links_path, 0o700)
            names = {str(number): path for number, path in enumerate(self.lowers)}
            for name, path in {**names, "u": self.upper_path, "w": self.work_path}.items():
                os.symlink(os.path.abspath(path), f"{self._links_path}/{name}")


def note_work(work: str, run: Path) -> None:
    """Write down, before it is made, a work folder outside of the container's own: it goes with the container."""
    os.symlink(work, run / "work")


def remove_work(run: Path) -> None:
    """Remove the work folder that was noted. Idempotent."""
    with suppress(FileNotFoundError):
        remove_tree(os.readlink(run / "work"))
        os.unlink(run / "work")


def _has_volatile() -> bool:
    major, minor = (int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return (major, minor) >= (5, 10)


def like(original: str, path: str, *, dir_fd: int | None = None) -> None:
    """Make a folder with the mode and owner of another one. What is there stays as it is."""
    found = os.stat(original)
    try:
        os.mkdir(path, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        return
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(path, found.st_uid, found.st_gid, dir_fd=dir_fd, follow_symlinks=False)
    os.chmod(path, stat.S_IMODE(found.st_mode), dir_fd=dir_fd)


def hide(lower: str, upper: str, path: str) -> None:
    """Hide `path` of a lower folder for good: what overlayfs writes for a removed file, written beforehand.

    The upper folder may be one that a container has written to. No link in it is followed; where it has no folder on
    the way, the lower one's is not seen in any case.
    """
    parts = [part for part in path.split("/") if part]
    with ExitStack() as opened:
        at = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, at)
        for part in parts[:-1]:
            lower = f"{lower}/{part}"
            like(lower, part, dir_fd=at)
            try:
                at = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    return
                raise
            opened.callback(os.close, at)
        with suppress(FileExistsError):
            os.mknod(parts[-1], stat.S_IFCHR, os.makedev(0, 0), dir_fd=at)


def check_parents(parents: Sequence[str]) -> None:
    """InvalidSpec unless every parent layer is a folder, and they are not too many."""
    if len(parents) > LAYERS_LIMIT:
        raise InvalidSpec("layers.parents", f"has {len(parents)} folders: overlayfs takes {LAYERS_LIMIT}")
    for index, path in enumerate(parents):
        check_folder(path, f"layers.parents[{index}]")


def check_folder(path: str, field: str) -> None:
    """InvalidSpec, naming the field, unless `path` is a folder of this machine."""
    if not path.startswith("/"):
        raise InvalidSpec(field, f"{path!r} is not an absolute path of this machine")
    try:
        found = Path(path).stat()
    except OSError as error:
        raise InvalidSpec(
            field, f"cannot use {path}: {(error.strerror or str(error)).lower()}", hint="use a folder of this machine"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidSpec(field, f"{path} is not a folder")
