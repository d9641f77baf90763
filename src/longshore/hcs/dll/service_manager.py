"""What Windows' service manager says of the compute service: asked only when that does not answer itself."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_int32, c_uint32, c_void_p, c_wchar_p
from typing import Any

from .hresults import meaning

SERVICE = "vmcompute"
CONNECT, QUERY_STATUS = 0x1, 0x4  # SC_MANAGER_CONNECT, SERVICE_QUERY_STATUS
STATES = {1: "stopped", 2: "starting", 3: "stopping", 4: "running", 5: "continuing", 6: "pausing", 7: "paused"}


class _Status(Structure):
    """SERVICE_STATUS"""

    _fields_ = [(name, c_uint32) for name in "type state controls exit specific checkpoint hint".split()]


def ask(load: Any = None) -> str:
    """`running`, `stopped`, …; `not installed`; or why that cannot be said. `load` is ctypes.WinDLL, or a double."""
    load = load or getattr(ctypes, "WinDLL", None)
    if load is None:
        return "unknown: this is not Windows"
    advapi = load("advapi32", use_last_error=True)
    last_error: Any = getattr(ctypes, "get_last_error", lambda: 0)
    advapi.OpenSCManagerW.restype = advapi.OpenServiceW.restype = c_void_p
    advapi.OpenSCManagerW.argtypes = [c_wchar_p, c_wchar_p, c_uint32]
    advapi.OpenServiceW.argtypes = [c_void_p, c_wchar_p, c_uint32]
    advapi.QueryServiceStatus.restype = c_int32
    advapi.QueryServiceStatus.argtypes = [c_void_p, POINTER(_Status)]
    advapi.CloseServiceHandle.argtypes = [c_void_p]
    manager = advapi.OpenSCManagerW(None, None, CONNECT)
    if not manager:
        return f"unknown: {meaning(last_error()).words}"
    try:
        service = advapi.OpenServiceW(manager, SERVICE, QUERY_STATUS)
        if not service:
            code = last_error()
            return "not installed" if code == 1060 else f"unknown: {meaning(code).words}"
        try:
            status = _Status()
            if not advapi.QueryServiceStatus(service, byref(status)):
                return f"unknown: {meaning(last_error()).words}"
            return STATES.get(status.state, f"in state {status.state}")
        finally:
            advapi.CloseServiceHandle(service)
    finally:
        advapi.CloseServiceHandle(manager)
