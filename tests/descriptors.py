"""The files that this process has open, on each system."""

from __future__ import annotations

import os


def open_files() -> list[str]:
    """Names of what is open, one for each descriptor."""
    if os.name == "nt":
        return _open_files_windows()
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the one that lists them
            continue
    return found


def _open_files_windows() -> list[str]:
    import ctypes
    import msvcrt

    name_of = ctypes.WinDLL("kernel32").GetFinalPathNameByHandleW
    name_of.argtypes = [ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_uint32, ctypes.c_uint32]
    found = []
    for fd in range(2048):
        try:
            handle = msvcrt.get_osfhandle(fd)
        except OSError:
            continue
        name = ctypes.create_unicode_buffer(1024)
        name_of(handle, name, len(name), 0)
        found.append(name.value.removeprefix("\\\\?\\"))
    return found
