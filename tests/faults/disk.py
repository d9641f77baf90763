"""A disk that fails at the step that a test names: every call on files below a directory is counted, and may fail.

The calls are those of Python's `os`, `io` and `builtins`: what other programs write (monitor, runtime) is tested with
a file system that is really full.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATHS = ("mkdir", "link", "symlink", "rename", "replace", "unlink", "rmdir", "listdir", "scandir", "stat", "lstat")
GROWING = ("mkdir", "link", "symlink", "open", "write")
"""What a full disk refuses; the rest goes on working there."""


class Disk:
    """Counts calls, and has some fail. `wanted` is the number of the first that does, None for none."""

    def __init__(self, directory: Path) -> None:
        self.directory = os.fspath(directory)
        self.calls: list[str] = []
        self.wanted: int | None = None
        self.for_ever = False
        self.code = errno.EIO
        self.only: tuple[str, ...] | None = None
        self.failed: list[str] = []

    def fill_up_at(self, step: int) -> None:
        """From the given call that needs space on, none of those succeeds: until `heal`."""
        self.calls, self.failed = [], []
        self.wanted, self.for_ever, self.code, self.only = step, True, errno.ENOSPC, GROWING

    def break_at(self, step: int) -> None:
        """The given call fails, of whatever kind; those after it work again."""
        self.calls, self.failed = [], []
        self.wanted, self.for_ever, self.code, self.only = step, False, errno.EIO, None

    def heal(self) -> None:
        self.wanted = None

    def step(self, kind: str, what: str) -> None:
        """Count a call; raises OSError if it is one to fail."""
        if self.wanted is None or (self.only is not None and kind not in self.only):
            return
        self.calls.append(f"{kind} {what.removeprefix(self.directory)}")
        number = len(self.calls) - 1
        if number == self.wanted or (self.for_ever and number > self.wanted):
            self.failed.append(self.calls[-1])
            raise OSError(self.code, os.strerror(self.code), what)

    def holds(self, path: object) -> bool:
        """Whether a path, as a call got it, is below the directory."""
        try:
            return os.fsdecode(path).startswith(self.directory)  # type: ignore[arg-type]
        except TypeError:
            return False


@contextmanager
def installed(disk: Disk) -> Iterator[Disk]:
    """Have all calls of this program go by the disk."""
    before: list[tuple[Any, str, Any]] = []

    def put(module: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        real = getattr(module, name)
        before.append((module, name, real))
        setattr(module, name, wrap(real))

    def by_path(name: str) -> Callable[[Any], Any]:
        def wrap(real: Any) -> Any:
            def call(path: Any, *args: Any, **options: Any) -> Any:
                if disk.wanted is not None:
                    target = args[0] if name in ("link", "symlink", "rename", "replace") and args else path
                    if disk.holds(target):
                        disk.step(name, os.fsdecode(target))
                return real(path, *args, **options)

            return call

        return wrap

    def wrap_os_open(real: Any) -> Any:
        def call(path: Any, flags: int, *args: Any, **options: Any) -> Any:
            if disk.wanted is not None and disk.holds(path):
                made = flags & os.O_CREAT and not os.path.exists(path)
                disk.step("open" if made else "look", os.fsdecode(path))
            return real(path, flags, *args, **options)

        return call

    def wrap_open(real: Any) -> Any:
        def call(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if disk.wanted is not None and disk.holds(path):
                disk.step("look" if "r" in mode and "+" not in mode else "open", os.fsdecode(path))
            return real(path, mode, *args, **options)

        return call

    def wrap_write(real: Any) -> Any:
        def call(fd: int, data: Any) -> Any:
            if disk.wanted is not None:
                try:
                    path = os.readlink(f"/proc/self/fd/{fd}")
                except OSError:
                    path = ""
                if disk.holds(path):
                    disk.step("write", path)
            return real(fd, data)

        return call

    for name in PATHS:
        put(os, name, by_path(name))
    put(os, "open", wrap_os_open)
    put(os, "write", wrap_write)
    put(io, "open", wrap_open)
    put(builtins, "open", wrap_open)
    try:
        yield disk
    finally:
        for module, name, real in reversed(before):
            setattr(module, name, real)
