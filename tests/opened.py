"""Which files are opened while a test runs."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path


class Opened:
    """Which files of a folder were opened, by whomever (inotify)."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._fd, os.fsencode(folder), 0x20) >= 0

    def names(self) -> set[str]:
        found = set()
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return set()
        while data:
            size = struct.unpack_from("iIII", data)[3]
            found.add(data[16 : 16 + size].rstrip(b"\0").decode())
            data = data[16 + size :]
        return found

    def close(self) -> None:
        os.close(self._fd)
