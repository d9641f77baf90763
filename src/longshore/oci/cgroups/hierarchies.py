"""Find the cgroup hierarchies of this machine, and read their files. cgroups(7); `cgroup.py` explains the versions."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from ...fs.files import read_whole

ROOT = Path("/sys/fs/cgroup")

Mode = Literal["v1", "hybrid", "v2"]


@cache
def mode(root: Path = ROOT) -> Mode:
    """Return how the cgroups of this machine are mounted."""
    if (root / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (root / "unified" / "cgroup.procs").exists() else "v1"


@cache
def hierarchies(root: Path = ROOT) -> dict[str, Path]:
    """Return the root of each controller's hierarchy, by the controller's name. Version 2 has one, named ``."""
    if mode(root) == "v2":
        return {"": root}
    found = {}
    with suppress(OSError):
        for name in sorted(os.listdir(root)):
            path = root / name
            if (path / "cgroup.procs").exists():
                for controller in name.split(","):
                    found["" if controller == "unified" else controller] = path
    return found


def read_text(path: Path | str) -> str | None:
    """Return the text of a kernel file; None if this kernel or this group has no such file."""
    try:
        return read_whole(path).decode("ascii", errors="replace")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EOPNOTSUPP):
            return None  # not there, just removed, or unknown to this kernel
        raise


def read_number(path: Path | str) -> int | None:
    """Return the number in a file; None if there is no such file, or no limit."""
    text = read_text(path)
    if text is None or not text.strip().lstrip("-").isdigit():
        return None  # `max`, for example
    return int(text)


def read_table(path: Path | str) -> dict[str, int]:
    """Return the `name number` lines of a file."""
    found = {}
    for line in (read_text(path) or "").splitlines():
        name, _, number = line.partition(" ")
        if number.strip().isdigit():
            found[name] = int(number)
    return found
