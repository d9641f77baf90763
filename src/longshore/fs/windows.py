"""What files.py asks of the operating system, on Windows. unix.py has the same names for Unix.

Windows' C library opens files in such a way that nobody can rename or remove them meanwhile, and its locks hide the
locked bytes from who only reads. So files are opened here with CreateFileW, sharing everything, and locked far
behind their end.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

if sys.platform != "win32":
    raise ImportError("Unix has unix.py in its place")

import ctypes
import msvcrt
from ctypes import c_int32, c_uint32, c_void_p, c_wchar_p

T = TypeVar("T")

PathLike = str | os.PathLike[str]

MOVES_WHAT_IS_OPEN = False
"""Whether a directory can be renamed while somebody has a file in it open."""

PATIENCE = 0.5  # seconds that a file may be in the way of others: virus scanners and indexers open what is new

_ACCESS = {os.O_RDONLY: 0x80000000, os.O_WRONLY: 0x40000000, os.O_RDWR: 0xC0000000}  # GENERIC_READ, GENERIC_WRITE
SHARE_ALL = 0x7  # FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE
_NORMAL = 0x80  # FILE_ATTRIBUTE_NORMAL
INVALID = c_void_p(-1).value
_LOCK_BYTE = 0x7FFFFFFF  # the upper half of the offset that is locked: no file is that long
_FAIL_IMMEDIATELY, _EXCLUSIVE = 0x1, 0x2
_IN_THE_WAY = (5, 32, 33)  # ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION
_LOCKED = (33, 997)  # ERROR_LOCK_VIOLATION, ERROR_IO_PENDING
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{digit}" for kind in ("COM", "LPT") for digit in range(10))}


class Overlapped(ctypes.Structure):
    """OVERLAPPED: where LockFileEx reads its offset; where other calls write how they ended."""

    _fields_ = [
        ("internal", c_void_p),
        ("internal_high", c_void_p),
        ("offset", c_uint32),
        ("offset_high", c_uint32),
        ("event", c_void_p),
    ]


@cache
def kernel32() -> Any:
    """kernel32.dll, with the signatures of what is called here."""
    dll = ctypes.WinDLL("kernel32", use_last_error=True)
    dll.CreateFileW.restype = c_void_p
    dll.CreateFileW.argtypes = [c_wchar_p, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_void_p]
    dll.LockFileEx.restype = c_int32
    dll.LockFileEx.argtypes = [c_void_p, c_uint32, c_uint32, c_uint32, c_uint32, c_void_p]
    dll.CloseHandle.argtypes = [c_void_p]
    return dll


def last_error(path: PathLike | None = None) -> OSError:
    """The error of the last call in this thread, as Python has it: FileNotFoundError and so on."""
    code = ctypes.get_last_error()
    return OSError(0, ctypes.FormatError(code).strip(), None if path is None else os.fspath(path), code)


def _patiently(action: Callable[[], T]) -> T:
    """Do it, again and again for PATIENCE seconds if another program's handle is in the way."""
    deadline = time.monotonic() + PATIENCE
    pause = 0.001
    while True:
        try:
            return action()
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_THE_WAY or time.monotonic() > deadline:
                raise
        time.sleep(pause)  # nobody tells when a handle is closed
        pause = min(pause * 2, 0.05)


def mark(fd: int) -> None:
    """Nothing has to be known again here."""


def is_marked(fd: int) -> bool:
    """Whether it was marked: never."""
    return False


def descriptors() -> tuple[int, int] | None:
    """How many descriptors this program has, and may have: Windows has no limit that is met before its memory."""
    return None


def open_file(path: PathLike, flags: int) -> int:
    """As `os.open`: not inherited, bytes as they are; others may replace and remove the file meanwhile."""
    if flags & os.O_CREAT:
        how = 1 if flags & os.O_EXCL else 2 if flags & os.O_TRUNC else 4  # CREATE_NEW, CREATE_ALWAYS, OPEN_ALWAYS
    else:
        how = 5 if flags & os.O_TRUNC else 3  # TRUNCATE_EXISTING, OPEN_EXISTING
    access = _ACCESS[flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)]
    name = os.fspath(path)

    def create() -> int:
        handle = kernel32().CreateFileW(name, access, SHARE_ALL, None, how, _NORMAL, None)
        if handle is None or handle == INVALID:
            raise last_error(path)
        return int(handle)

    keep = flags & (os.O_WRONLY | os.O_RDWR | os.O_APPEND)
    return msvcrt.open_osfhandle(_patiently(create), keep | os.O_BINARY | os.O_NOINHERIT)


def canonical(path: PathLike) -> str:
    """An absolute path. Links in it are left as they are: their targets have other forms, which not all calls take."""
    return os.path.abspath(path)


def is_usable_name(name: str) -> bool:
    """Whether a file can have this name: not that of a device, whatever its ending; Windows drops a last dot."""
    stem = name.partition(".")[0].upper()
    return not name.endswith(".") and stem not in _DEVICES


def replace(source: PathLike, target: PathLike) -> None:
    """As `os.replace`; waits a moment for who has the target open."""
    _patiently(lambda: os.replace(source, target))


def replace_open(source: PathLike, target: PathLike) -> None:
    """As `replace`, also while readers have the target open; there may be a moment when there is no target.

    Windows does not replace such a file, but lets it be renamed: it goes aside, and is gone when all have closed it.
    """
    try:
        os.replace(source, target)
        return
    except PermissionError:
        directory, name = os.path.split(target)
        aside = os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
        os.rename(target, aside)
    try:
        os.rename(source, target)
    except BaseException:
        os.rename(aside, target)
        raise
    with suppress(OSError):
        os.unlink(aside)


def _lock(fd: int, flags: int) -> bool:
    where = Overlapped(offset_high=_LOCK_BYTE)
    handle = msvcrt.get_osfhandle(fd)
    if kernel32().LockFileEx(handle, flags, 0, 1, 0, ctypes.byref(where)):
        return True
    if ctypes.get_last_error() in _LOCKED:
        return False
    raise last_error()


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file against other programs, if nobody has it. It ends when its last descriptor is closed."""
    return _lock(fd, _FAIL_IMMEDIATELY | (0 if shared else _EXCLUSIVE))


def unlock(fd: int) -> None:
    """Closing does it: no child has the descriptor."""


def sync_file_system(path: PathLike) -> None:
    """Do nothing: Windows has no such call for who is not an administrator of the volume."""


def sync_one(path: PathLike) -> None:
    """Have a file on the disk. Nothing is done for a directory: none can be opened."""
    if os.path.isdir(path):
        return
    fd = open_file(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_at_last(fd: int) -> None:
    """Lock, waiting for as long as it takes."""
    _lock(fd, _EXCLUSIVE)


def make_private(path: PathLike, *, closed: bool = True) -> None:
    """Make a directory with its parents. Its permissions are inherited."""
    os.makedirs(path, mode=0o700, exist_ok=True)


def check_private(path: PathLike) -> None:
    """Check nothing: permissions are inherited here."""
