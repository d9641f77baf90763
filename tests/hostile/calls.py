"""Run inside a container: which system calls are let through, with upper bits set and by the entries of 32 bits.

Prints one JSON object. Each call is made in a child of its own: a filter may kill for it.
"""

# mypy: ignore-errors

import ctypes
import errno
import json
import mmap
import os
import signal
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
X32 = 0x40000000
UPPER = [0, 1 << 32, 1 << 63, 0xFFFFFFFF << 32]


def outcome(call):
    """`ok`, the name of an error, or of the signal that the call ended in."""
    pid = os.fork()
    if pid == 0:
        os._exit(call() & 255)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = os.WEXITSTATUS(status)
    return "ok" if code == 0 else errno.errorcode.get(code, str(code))


def plain(number, *args):
    def call():
        done = LIBC.syscall(*(ctypes.c_ulong(value & (1 << 64) - 1) for value in (number, *args)))
        return 0 if done >= 0 else ctypes.get_errno()

    return outcome(call)


def low_memory(protection):
    """A page below 4 GiB, where a call of 32 bits can point."""
    return LIBC.mmap(None, 4096, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, -1, 0)


# push rbx; eax, ebx, ecx, edx = the four arguments; int 0x80; pop rbx; ret
GATE = bytes.fromhex("5389f889f34189c889d14489c2cd805bc3")
PAGE, DATA = low_memory(7), low_memory(3)
ctypes.memmove(PAGE, GATE, len(GATE))
ENTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(PAGE)


def old(number, *args):
    """A call by the entry of 32 bits."""
    four = [value & 0xFFFFFFFF for value in (number, *args, 0, 0, 0)][:4]

    def call():
        done = ENTER(*four)
        return 0 if done >= 0 else -done

    return outcome(call)


def socketcall(kind, *args):
    ctypes.memmove(DATA, struct.pack("<4I", *[*args, 0, 0, 0][:4]), 16)
    return old(102, kind, DATA)


pair = DATA + 64
families = (1, 2, 38, 40)
found = {
    "socket": {family: [plain(41, upper | family, 1, 0) for upper in UPPER] for family in families},
    "socketpair": {family: [plain(53, upper | family, 1, 0, pair) for upper in UPPER] for family in (1, 38, 40)},
    "audit": [plain(41, upper | 16, 3, upper | 9) for upper in UPPER],
    "keys": [plain(248, 0, 0, 0, 0, 0), plain(249, 0, 0, 0, 0), plain(250, 0, -3, 0)],
    "personality": [plain(135, upper | 0x40000) for upper in UPPER],
    "personality-query": [plain(135, upper | 0xFFFFFFFF) for upper in UPPER],
    "unshare": [plain(272, upper | 0x10000000) for upper in UPPER],
    "io_uring": plain(425, 1, DATA),
    "syslog": plain(103, 10, 0, 0),
    "unknown": plain(2000),
    "old-getpid": old(20),
    "old-socket": {family: old(359, family, 1, 0) for family in families},
    "old-socketpair": {family: old(360, family, 1, 0) for family in (38, 40)},
    "socketcall": {f"{kind} {family}": socketcall(kind, family, 1, 0, pair) for kind in (1, 8) for family in families},
    "old-keys": [old(286), old(287), old(288, 0, -3, 0)],
    "x32": [plain(X32 | 41, family, 1, 0) for family in (38, 40)] + [plain(X32 | 250, 0, -3, 0)],
}
json.dump(found, sys.stdout)
