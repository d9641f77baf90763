"""The C library, for calls that Python's own modules lack."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def libc() -> ctypes.CDLL:
    """The C library, with errno kept per call."""
    return ctypes.CDLL(None, use_errno=True)
