"""Starts a runtime or a monitor without the caller's own settings.

A program inherits blocked and ignored signals over execve(2), and so do the containers that a runtime starts. A signal
that the caller has blocked, to take it by sigwait(3), would never reach a container's command. A program that is
started here has no signal blocked or ignored, a session of its own, and only the descriptors that it is given.

The C library's posix_spawn(3) sets the signals of the child alone. If a thread of this program unblocked them first,
they would be delivered to that thread. Python's binding cannot name the C library's two own signals (32 and 33), which
glibc leaves ignored in the child unless they are named.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache

FIRST = 3  # the first descriptor that is none of the standard streams
OBJECT = 1024  # bytes for a posix_spawnattr_t or posix_spawn_file_actions_t: glibc's have 336 and 80
SIGNALS = 128  # bytes of a sigset_t
SETSIGDEF, SETSIGMASK, SETSID = 0x04, 0x08, 0x80  # spawn.h, of glibc and of musl


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _call(name: str, *arguments: object) -> None:
    """A function that returns an error number. The interpreter runs on meanwhile."""
    code = getattr(_libc(), name)(*arguments)
    if code:
        raise OSError(code, os.strerror(code))


@contextmanager
def _made(kind: str) -> Iterator[ctypes.Array[ctypes.c_char]]:
    made = ctypes.create_string_buffer(OBJECT)
    _call(f"{kind}_init", made)
    try:
        yield made
    finally:
        _call(f"{kind}_destroy", made)


def start_program(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Collection[int] = (),
    places: Sequence[int] = (),
    environment: Mapping[str, str],
) -> int:
    """Start a program and return its pid once it runs; OSError if it cannot be executed. None is the null device.

    Its path is absolute. It inherits `pass_fds` under their numbers, and `places` as 3, 4 and so on: one of `pass_fds`
    that has such a number gets another. Working directory, umask, priority and mount namespace are those of the calling
    thread.
    """
    if any(fd < FIRST for fd in pass_fds):
        raise ValueError("a standard stream is not passed on under its number: it is one of the three streams")
    with ExitStack() as opened:

        def beyond_standard(fd: int | None) -> int:
            """A descriptor that the streams of the child, which are made one after the other, cannot overwrite."""
            if fd is None:
                fd = os.open(os.devnull, os.O_RDWR)
                opened.callback(os.close, fd)
            return beyond(fd, FIRST)

        def beyond(fd: int, end: int) -> int:
            if fd >= end:
                return fd
            copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end)
            opened.callback(os.close, copy)
            return copy

        null = beyond_standard(None) if None in (stdin, stdout, stderr) else None
        streams = [beyond_standard(null if fd is None else fd) for fd in (stdin, stdout, stderr)]
        actions = opened.enter_context(_made("posix_spawn_file_actions"))
        for number, fd in enumerate(streams):
            _call("posix_spawn_file_actions_adddup2", actions, fd, number)
        end = FIRST + len(places)
        pass_fds = [beyond(fd, end) for fd in pass_fds]
        sources = [beyond(fd, end) for fd in places]
        for fd in pass_fds:
            _call("posix_spawn_file_actions_adddup2", actions, fd, fd)  # to itself: execve does not close it any more
        for fd in _inheritable():
            if fd not in pass_fds:
                _call("posix_spawn_file_actions_addclose", actions, fd)
        for number, fd in enumerate(sources, start=FIRST):
            _call("posix_spawn_file_actions_adddup2", actions, fd, number)
        attributes = opened.enter_context(_made("posix_spawnattr"))
        _call("posix_spawnattr_setflags", attributes, ctypes.c_short(SETSIGDEF | SETSIGMASK | SETSID))
        _call("posix_spawnattr_setsigmask", attributes, ctypes.create_string_buffer(SIGNALS))
        _call("posix_spawnattr_setsigdefault", attributes, ctypes.create_string_buffer(b"\xff" * SIGNALS, SIGNALS))
        pid = ctypes.c_int()
        words = _array(os.fsencode(word) for word in argv)
        variables = _array(os.fsencode(f"{name}={value}") for name, value in environment.items())
        try:
            _call("posix_spawn", ctypes.byref(pid), os.fsencode(argv[0]), actions, attributes, words, variables)
        except OSError as error:
            raise OSError(error.errno, error.strerror, argv[0]) from None
        return pid.value


def _array(items: Iterator[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """Texts as execve(2) takes them."""
    texts = list(items)
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)


def _inheritable() -> list[int]:
    """The descriptors that a program which is started now would inherit, but for the standard ones."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            fd = int(name)
            if fd >= FIRST and os.get_inheritable(fd):
                found.append(fd)
    return found


__all__ = ["start_program"]
