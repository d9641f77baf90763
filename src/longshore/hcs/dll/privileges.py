"""Privileges that the layer functions need: administrators hold them, but they are not in force until asked for."""

from __future__ import annotations

import ctypes
from ctypes import Structure, byref, c_uint32, c_void_p, c_wchar_p, sizeof
from functools import cache
from typing import Any

BACKUP = ("SeBackupPrivilege", "SeRestorePrivilege")

TOKEN_ADJUST_PRIVILEGES, TOKEN_QUERY = 0x20, 0x8
SE_PRIVILEGE_ENABLED = 0x2


class _Luid(Structure):
    _fields_ = [("low", c_uint32), ("high", ctypes.c_int32)]


class _Privileges(Structure):
    """TOKEN_PRIVILEGES with one entry."""

    _pack_ = 4
    _fields_ = [("count", c_uint32), ("luid", _Luid), ("attributes", c_uint32)]


@cache
def enable(names: tuple[str, ...] = BACKUP) -> bool:
    """Put privileges in force for this process, once. False where it does not hold them: the functions then say so."""
    load: Any = getattr(ctypes, "WinDLL", None)
    if load is None:
        return False
    advapi, kernel = load("advapi32", use_last_error=True), load("kernel32", use_last_error=True)
    advapi.OpenProcessToken.argtypes = [c_void_p, c_uint32, c_void_p]
    advapi.LookupPrivilegeValueW.argtypes = [c_wchar_p, c_wchar_p, c_void_p]
    advapi.AdjustTokenPrivileges.argtypes = [c_void_p, c_uint32, c_void_p, c_uint32, c_void_p, c_void_p]
    kernel.GetCurrentProcess.restype = c_void_p
    kernel.CloseHandle.argtypes = [c_void_p]
    last_error: Any = getattr(ctypes, "get_last_error")  # noqa: B009 -- only Windows has it
    token = c_void_p()
    if not advapi.OpenProcessToken(kernel.GetCurrentProcess(), TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY, byref(token)):
        return False
    try:
        for name in names:
            wanted = _Privileges(count=1, attributes=SE_PRIVILEGE_ENABLED)
            luid = _Luid()
            if not advapi.LookupPrivilegeValueW(None, name, byref(luid)):
                return False
            wanted.luid = luid
            if not advapi.AdjustTokenPrivileges(token, 0, byref(wanted), sizeof(wanted), None, None):
                return False
            if last_error():  # ERROR_NOT_ALL_ASSIGNED: it "succeeds" without
                return False
    finally:
        kernel.CloseHandle(token)
    return True
