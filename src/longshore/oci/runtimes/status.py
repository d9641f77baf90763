"""Whether the kernel executed a command: reported by the first program, over descriptors that no command inherits.

A runtime reports "running" before its own process executes the command by execve. If the kernel then refuses, only an
exit code of 1 shows it, as if the command had ended with 1. So the runtime executes a small program of longshore first
(`first/first.c`), which executes the command and reports the answer of execve.
`docs/decisions/0010-a-first-program-of-our-own.md` has the reasons.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

import msgspec

from ...errors import CommandNotExecutable, CommandNotFound, LongshoreError, ServiceError
from ..config import seccomp
from ..processes.launch import out_of_the_way

IMAGE, WAKE, RECORD = 3, 4, 5  # the descriptors that the first program inherits
PASSED = 3  # how many they are, from 3 on: `--preserve-fds`
PATH = f"/proc/self/fd/{IMAGE}"
FLAGS = f"x{IMAGE}w{WAKE}r{RECORD}"
FIFO_NAME = "began"
RECORD_NAME = "status"
RECORD_SIZE = 64  # bytes; the first program writes less
MESSAGES = (
    1000  # that are looked at in one turn of the loop: more than the kernel holds, unless another process floods it
)
LOOK_AGAIN = 0.01  # seconds, where another process has opened the FIFO
BEGIN_LIMIT = 1.0  # seconds that a first program without a FIFO is given

_RECORD = re.compile(rb"r\n(?:x(\d{1,4}) ([01])\n|([fc])(\d{1,4})\n)?")
_CREDENTIALS = struct.Struct("iII")
_SO_PASSCRED, _SCM_CREDENTIALS = 16, 2  # socket has them on Linux only
_ADD_SEALS, _ALL_SEALS = 1033, 0x1F & ~0x10  # fcntl(2): F_ADD_SEALS; seal, shrink, grow, write
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_EXECUTABLE_BY_ALL_READABLE_BY_NONE = 0o111
_NEEDS = "close execve exit_group faccessat fcntl openat prctl write"
_NEEDS_AS_INIT = "clone getpid ioctl kill pipe2 read rt_sigaction rt_sigprocmask rt_sigreturn setpgid wait4"
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)
_FILE_LIMIT = 4096  # bytes that a container's processes must be allowed to write to a file


def is_first(args: Sequence[str]) -> bool:
    """Whether the first program is what a document executes."""
    return len(args) > 1 and args[1].startswith(FLAGS)


class Outcome(msgspec.Struct, frozen=True):
    """The report of the first program. Without `begun` it never ran; with an `error` the command never ran."""

    begun: bool = False
    error: int | None = None
    found: bool = False
    forking: bool = False
    entering: bool = False

    @property
    def ran(self) -> bool:
        """Whether the command was executed, so that its exit is its own."""
        return self.begun and self.error is None


def parse(record: bytes) -> Outcome:
    """Return the outcome in a record. A malformed record shows only that the first program ran."""
    if not record:
        return Outcome()
    match = _RECORD.fullmatch(record)
    if match is None or match.end() == len(b"r\n"):
        return Outcome(begun=True)
    kind = match[3]
    number = int(match[4] or match[1])
    return Outcome(begun=True, error=number, found=match[2] == b"1", forking=kind == b"f", entering=kind == b"c")


def refusal(container_id: str, command: str, outcome: Outcome) -> LongshoreError:
    """The error of a command that the kernel refused, or that was not tried outside of its cgroup."""
    code = outcome.error
    assert code is not None
    reason = os.strerror(code).lower()
    if outcome.entering:
        return ServiceError("enter the cgroup of", container_id, reason, hint="run `longshore doctor`")
    if outcome.forking:
        hint = "raise the limit of processes (`pids`), or run the command without an init (`init=False`)"
        problem = f"the init could not make a process for it ({reason})"
        return CommandNotExecutable(container_id, command, problem, hint=hint)
    if code in (errno.ENOENT, errno.ENOTDIR):
        if not outcome.found:
            return CommandNotFound(container_id, command)
        reason = f"the interpreter or loader that it names cannot be found ({reason})"
        hint = "check its first line, which must not end in a carriage return, or install the loader that it needs"
        return CommandNotExecutable(container_id, command, reason, hint=hint)
    busy = "close the file where it is open for writing" if code == errno.ETXTBSY else None
    return CommandNotExecutable(container_id, command, reason, hint=busy)


# whether it can be used


@cache
def _image() -> bytes | None:
    """The first program for this processor; None if there is none, or if this machine executes nothing from memory.

    Raises OSError for a shortage, which may be over the next time.
    """
    try:
        data = Path(__file__).with_name("first").joinpath(f"first-{os.uname().machine}").read_bytes()
        os.close(_in_memory(data))
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        return None
    return data


def _in_memory(data: bytes) -> int:
    """Return a descriptor of a program in memory, which no process can change, and only the kernel can read."""
    try:
        fd = os.memfd_create("longshore-first", _MFD_CLOEXEC | _MFD_ALLOW_SEALING | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Linux before 6.3 knows no other kind
            raise
        fd = os.memfd_create("longshore-first", _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        os.fchmod(fd, _EXECUTABLE_BY_ALL_READABLE_BY_NONE)
        fcntl.fcntl(fd, _ADD_SEALS, _ALL_SEALS)
        return os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    finally:
        os.close(fd)


def available() -> bool:
    """Whether there is a first program for this machine."""
    return _image() is not None


def image_file() -> str | None:
    """Where the first program is on this machine, if it can be executed there: to be mounted in a container."""
    path = Path(__file__).with_name("first") / f"first-{os.uname().machine}"
    with suppress(OSError):
        if os.access(path, os.X_OK) and not os.statvfs(path).f_flag & os.ST_NOEXEC:
            return str(path)
    return None


def why_not(
    config: Mapping[str, Any], *, init: bool = False, kept: bool = False, process: Mapping[str, Any] | None = None
) -> str | None:
    """Why the first program cannot be used for a document (or for an exec's `process` in its container); else None.

    With `kept` it writes its record to a file, which a limit can forbid; else to a socket.
    """
    if not available():
        return f"there is none for this machine ({os.uname().machine})"
    process = config.get("process") or {} if process is None else process
    linux = config.get("linux") or {}
    if not _has_proc(config.get("mounts") or []):
        return "the document mounts no /proc"
    for name in ("apparmorProfile", "selinuxLabel"):
        if process.get(name):
            return f"the document has a {name}, which may refuse it"
    if "run.oci.handler" in (config.get("annotations") or {}):
        return "the document names a handler, which runs the command in its own way"
    if kept and any(_stops_the_record(limit) for limit in process.get("rlimits") or []):
        return "the document allows it to write no file"
    names = f"{_NEEDS} {_NEEDS_AS_INIT}".split() if init else _NEEDS.split()
    forbidden = seccomp.forbidden(linux.get("seccomp"), names)
    if forbidden:
        return f"the document's seccomp profile forbids {', '.join(forbidden)}"
    return None


def _stops_the_record(limit: Any) -> bool:
    soft = limit.get("soft") if isinstance(limit, Mapping) and limit.get("type") == "RLIMIT_FSIZE" else None
    return isinstance(soft, int) and soft < _FILE_LIMIT


def _has_proc(mounts: Sequence[Mapping[str, Any]]) -> bool:
    found = False
    for mount in mounts:
        at = os.path.normpath("/" + str(mount["destination"]).lstrip("/"))
        if at == "/proc":
            found = mount.get("type") == "proc"
        elif at == "/" or at.startswith(("/proc/self", "/proc/thread-self")):
            found = False
    return found


# the channel


class Channel:
    """The descriptors of one start, and what comes by them. `directory` is one that only root can enter.

    The record of what runs for its caller comes by a socket, on which the kernel names its sender. That of a kept
    container is a file (`kept`), which any program can read later.
    """

    def __init__(self, directory: Path, *, kept: bool = False) -> None:
        self._directory = directory
        self._begin = -1
        self._socket: socket.socket | None = None
        self._theirs: list[int] = []
        self._record = b""
        self.certain = False
        self.held = False  # by the process, which closes it
        data = _image()
        assert data is not None
        try:
            self._theirs.append(out_of_the_way(_in_memory(data)))
            self._theirs.append(out_of_the_way(self._fifo()))
            self._theirs.append(out_of_the_way(self._file() if kept else self._pair()))
        except BaseException:
            self.close()
            raise

    def _fifo(self) -> int:
        path = self._directory / FIFO_NAME
        os.mkfifo(path)
        os.chmod(path, 0o622)  # whatever user the process has: nobody else can reach it
        return os.open(path, os.O_PATH | os.O_CLOEXEC)

    def _file(self) -> int:
        """The file of the record, filled with zeros: the record replaces them, also when the file system is full."""
        fd = os.open(self._directory / RECORD_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, bytes(RECORD_SIZE))
            os.lseek(fd, 0, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _pair(self) -> int:
        begin = open_begin(self._directory)
        assert begin is not None
        self._begin = begin
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
        return theirs.detach()

    @property
    def places(self) -> list[int]:
        """What the runtime must inherit, from descriptor 3 on."""
        return self._theirs

    def started(self) -> None:
        """The runtime has its copies."""
        while self._theirs:
            os.close(self._theirs.pop())

    async def wait(self, pid: int, ended: asyncio.Future[Any]) -> Outcome:
        """Wait until the command was executed, could not be, or `ended` is done: the runtime's end.

        `certain` tells afterwards whether nothing can come any more: a first program that got no FIFO, or whose FIFO
        was taken from it, is not waited for longer than `BEGIN_LIMIT`.
        """
        outcome, self.certain = await _wait_outcome(lambda: self.received(pid), self._begin, ended)
        return outcome

    def received(self, pid: int) -> Outcome:
        """What the process itself wrote so far, and no other."""
        assert self._socket is not None
        with suppress(BlockingIOError):
            for _ in range(MESSAGES):
                if len(self._record) > RECORD_SIZE:
                    break
                data, extra, _, _ = self._socket.recvmsg(RECORD_SIZE, socket.CMSG_SPACE(_CREDENTIALS.size))
                if not data:
                    break
                for level, kind, content in extra:
                    if level == socket.SOL_SOCKET and kind == _SCM_CREDENTIALS:
                        sender = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
                        self._record += data if sender == pid else b""
        return parse(self._record)

    def close(self) -> None:
        self.started()
        if self._begin >= 0:
            os.close(self._begin)
            self._begin = -1
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.held:
            self.close()


def open_begin(directory: Path) -> int | None:
    """The end of the FIFO that is readable when the command was executed; None if there was no first program."""
    with suppress(FileNotFoundError):
        return os.open(directory / FIFO_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


async def wait_record(directory: Path, begin: int, ended: asyncio.Future[Any]) -> Outcome:
    """As `Channel.wait`, for a kept container."""
    outcome, _ = await _wait_outcome(lambda: read_record(directory) or Outcome(), begin, ended)
    return outcome


async def _wait_outcome(read: Callable[[], Outcome], begin: int, ended: asyncio.Future[Any]) -> tuple[Outcome, bool]:
    """Return the outcome, and whether nothing can come any more.

    root in a container can open the FIFO of its execs. So data in it is thrown away, and its end counts only with a
    record, or if none comes within `BEGIN_LIMIT`.
    """
    loop = asyncio.get_running_loop()
    until: float | None = None
    while True:
        closed = await wait_begin(begin, ended, BEGIN_LIMIT)
        certain = ended.done() or (closed and _is_at_end(begin))
        outcome = read()
        if ended.done() or not closed or (certain and outcome.begun):
            if certain or outcome.begun:
                return outcome, certain
            continue
        until = until or loop.time() + BEGIN_LIMIT
        if loop.time() > until:
            return outcome, certain
        await asyncio.sleep(LOOK_AGAIN)


def _is_at_end(begin: int) -> bool:
    """Whether the FIFO has no writer any more. What is in it is thrown away: the first program writes nothing."""
    try:
        return not os.read(begin, 1 << 16)
    except BlockingIOError:
        return False


async def wait_begin(begin: int, ended: asyncio.Future[Any], limit: float) -> bool:
    """Wait until the first program has closed the FIFO, or `ended` is done; False after `limit` seconds."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def closed() -> None:
        if not over.done():
            over.set_result(None)

    loop.add_reader(begin, closed)  # a FIFO that was never opened for writing is not readable
    try:
        done, _ = await asyncio.wait((over, ended), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        loop.remove_reader(begin)


def read_record(directory: Path) -> Outcome | None:
    """What became of the command of a kept container; None if it had no first program."""
    try:
        fd = os.open(directory / RECORD_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(fd, "rb") as file:
        return parse(file.read(RECORD_SIZE + 1).rstrip(b"\0"))
