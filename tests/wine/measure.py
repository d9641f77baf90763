"""What this process has of Windows: handles, and memory."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_size_t, c_uint16, c_uint32, c_void_p
from typing import Any

INFO_LENGTH_MISMATCH = 0xC0000004
EXTENDED_HANDLE_INFORMATION = 64


class _Entry(ctypes.Structure):
    """SYSTEM_HANDLE_TABLE_ENTRY_INFO_EX"""

    _fields_ = [
        ("object", c_void_p),
        ("pid", c_size_t),
        ("handle", c_size_t),
        ("access", c_uint32),
        ("trace", c_uint16),
        ("type", c_uint16),
        ("attributes", c_uint32),
        ("reserved", c_uint32),
    ]


class _Memory(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS"""

    _fields_ = [("size", c_uint32), ("faults", c_uint32)] + [
        (name, c_size_t) for name in "peak working qpp qp qnp qn pagefile peakpagefile".split()
    ]


def handles() -> int:
    """How many handles this process has (GetProcessHandleCount says 0 under Wine)."""
    query: Any = ctypes.WinDLL("ntdll").NtQuerySystemInformation  # type: ignore[attr-defined]
    query.argtypes, query.restype = [c_uint32, c_void_p, c_uint32, c_void_p], c_uint32
    size = 1 << 20
    while True:
        buffer, needed = ctypes.create_string_buffer(size), c_uint32()
        status = query(EXTENDED_HANDLE_INFORMATION, buffer, size, ctypes.byref(needed))
        if status == 0:
            break
        if status != INFO_LENGTH_MISMATCH:
            raise OSError(f"NtQuerySystemInformation: 0x{status:X}")
        size *= 2
    count = c_size_t.from_buffer(buffer).value
    entries = (_Entry * count).from_buffer(buffer, 2 * ctypes.sizeof(c_size_t))
    return sum(entry.pid == os.getpid() for entry in entries)


def memory() -> int:
    """Bytes that this process has committed."""
    found = _Memory(size=ctypes.sizeof(_Memory))
    ask: Any = ctypes.WinDLL("psapi").GetProcessMemoryInfo  # type: ignore[attr-defined]
    ask.argtypes = [c_void_p, c_void_p, c_uint32]
    assert ask(c_void_p(-1), ctypes.byref(found), found.size)
    return int(found.pagefile)
