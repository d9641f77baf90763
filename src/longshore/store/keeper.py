"""Starts, watches and ends the process of a keeper, which must not be a child of its owner.

An owner may kill all its children before it dies, as workers of Ray and process supervisors do. So the owner starts a
process that forks the keeper and exits at once. The keeper's parent is then the machine's init. The engine watches it
by pidfd.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ..aio import fork_safety
from ..errors import ServiceError
from ..fs.files import next_step

START_LIMIT = 20.0  # seconds until it has written its pid; it takes a few milliseconds on an idle machine
END_LIMIT = 1.0  # seconds from its SIGKILL to its end
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37  # prctl(2)

_adopting = threading.Lock()


def _new_lock_in_child() -> None:
    global _adopting
    _adopting = threading.Lock()


fork_safety.in_child(_new_lock_in_child)


class Keeper:
    """A keeper that runs and has written its pid."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd

    def kill(self) -> None:
        """Kill it, and wait until it is dead. Its parent reaps it."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)  # type: ignore[attr-defined,unused-ignore]  # Linux
        _wait_until_readable(self.pidfd, END_LIMIT)

    def close(self) -> None:
        """Close the pidfd. Idempotent."""
        if self.pidfd >= 0:
            with suppress(OSError):  # mostly it is no child of ours; but an owner that is its own init has to reap it
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)  # type: ignore[attr-defined,unused-ignore]
            os.close(self.pidfd)
            self.pidfd = -1


def start(command: Sequence[str], owner_fd: int, note_pipe: Callable[[int], None]) -> Keeper:
    """Start a keeper, and return when it has written its pid. Blocks.

    `owner_fd` is the lock that it shares with its owner. `note_pipe` gets the writing end of the pipe, which only the
    owner may have: a child that is forked later closes it.

    Raises: ServiceError with the keeper's message if it cannot be started.
    """
    try:
        return _start(command, owner_fd, note_pipe)
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = next_step(error) if isinstance(error, OSError) else None
        raise _failure(reason, hint) from error


def _failure(reason: str, hint: str | None = None) -> ServiceError:
    return ServiceError(
        "start the keeper of the lease",
        None,
        reason,
        hint=hint or "try `/bin/sh -c true`: the keeper is a shell script",
    )


def _start(command: Sequence[str], owner_fd: int, note_pipe: Callable[[int], None]) -> Keeper:
    with fork_safety.not_now():
        read, write = os.pipe()
        note_pipe(write)
    answer = said = -1
    try:
        answer, said = os.pipe()
        with _leaving_orphans_to_init():
            process = subprocess.Popen(
                command,
                stdin=read,
                stdout=said,
                stderr=said,
                cwd="/",
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
                start_new_session=True,
                pass_fds=(owner_fd,),
            )
            os.close(said)
            said = -1
            text = _read_line(answer)
            status = _wait_for(process)
    finally:
        for fd in (read, answer, said):
            if fd >= 0:
                os.close(fd)
    if not text.strip().isdigit():
        raise _failure(text.strip() or f"`{command[0]}` ended with status {status}, and said nothing")
    pid = int(text)
    try:
        return Keeper(pid, os.pidfd_open(pid))  # type: ignore[attr-defined,unused-ignore]  # Linux alone has keepers
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # type: ignore[attr-defined,unused-ignore]  # before its pipe is closed
        raise


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status of the process that forks the keeper; kill it if it does not end in time.

    It waits by pidfd, because Popen.wait with a limit polls.
    """
    with suppress(ProcessLookupError):  # the program has reaped it itself
        pidfd = os.pidfd_open(process.pid)  # type: ignore[attr-defined,unused-ignore]  # Linux alone has keepers
        try:
            if not _wait_until_readable(pidfd, START_LIMIT):
                process.kill()
        finally:
            os.close(pidfd)
    return process.wait()


def _read_line(fd: int) -> str:
    """Return the first line that was written, or all output if there is no whole line."""
    deadline = time.monotonic() + START_LIMIT
    data = b""
    while b"\n" not in data and len(data) < 4096:
        if not _wait_until_readable(fd, max(0.0, deadline - time.monotonic())):
            break
        more = os.read(fd, 4096)
        if not more:
            break
        data += more
    return data.decode("utf-8", "replace")


def _wait_until_readable(fd: int, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(seconds))


@contextmanager
def _leaving_orphans_to_init() -> Iterator[None]:
    """If this program is a subreaper (prctl(2)), be none for the moment: the keeper would become its child again.

    What else loses its parent in these milliseconds goes to the next subreaper, or to init, too.
    """
    prctl = _prctl()
    with _adopting:  # two at once would put back what the other has changed
        is_subreaper = ctypes.c_int(0)
        if prctl is None or prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(is_subreaper), 0, 0, 0) or not is_subreaper:
            yield
            return
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        try:
            yield
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _prctl() -> Callable[..., int] | None:
    try:
        prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    except (AttributeError, OSError, TypeError):  # this C library has none
        return None
    return prctl
