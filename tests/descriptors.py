"""The files that this process has open, on each system."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def open_files() -> list[str]:
    """Names of what is open, one for each descriptor."""
    if os.name == "nt":
        return list(_by_number().values())
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the one that lists them
            continue
    return found


def remove_as_after_a_program(directory: Path) -> None:
    """Remove a directory that the test's "programs" have files in: those that the test left open are closed."""
    if os.name == "nt":  # which does not remove them otherwise
        for fd, name in _by_number().items():
            if str(directory) in name:
                os.close(fd)
    shutil.rmtree(directory)


def _by_number() -> dict[int, str]:
    if sys.platform != "win32":
        raise NotImplementedError("by /proc")
    import ctypes
    import msvcrt

    name_of = ctypes.WinDLL("kernel32").GetFinalPathNameByHandleW
    name_of.argtypes = [ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_uint32, ctypes.c_uint32]
    found: dict[int, str] = {}
    for fd in range(2048):
        try:
            handle = msvcrt.get_osfhandle(fd)
        except OSError:
            continue
        name = ctypes.create_unicode_buffer(1024)
        name_of(handle, name, len(name), 0)
        found[fd] = name.value.removeprefix("\\\\?\\")
    return found
