"""Files that other programs may write at the same moment, or be killed while writing."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from weakref import WeakSet

from ..aio import fork_safety
from ..aio.tasks import in_thread
from ..errors import LongshoreError, StoreError

if os.name == "nt":
    from .windows import (
        MOVES_WHAT_IS_OPEN,
        canonical,
        check_private,
        descriptors,
        is_usable_name,
        lock_at_last,
        make_private,
        open_file,
        replace,
        replace_open,
        sync_file_system,
        sync_one,
        try_lock,
        unlock,
    )
else:
    from .unix import (
        MOVES_WHAT_IS_OPEN,
        canonical,
        check_private,
        descriptors,
        is_usable_name,
        lock_at_last,
        make_private,
        open_file,
        replace,
        replace_open,
        sync_file_system,
        sync_one,
        try_lock,
        unlock,
    )


PathLike = str | os.PathLike[str]

SHORT_LOCK_LIMIT = (
    5.0  # seconds that a lock may be taken which is held for a few system calls; the loop waits meanwhile
)


_NEXT_STEPS = {
    errno.ENOSPC: "make room on the disk, or put the state elsewhere ($LONGSHORE_ROOT)",
    errno.EDQUOT: "raise the disk quota, make room, or put the state elsewhere ($LONGSHORE_ROOT)",
    errno.EROFS: "put the state on a writable file system ($LONGSHORE_ROOT)",
    errno.EACCES: "run as root, or put the state where you may write ($LONGSHORE_ROOT)",
    errno.EPERM: "run as root, or put the state where you may write ($LONGSHORE_ROOT)",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "raise this machine's limit of open files (`sysctl fs.file-max`)",
    errno.EAGAIN: "raise the limit of processes (`ulimit -u`, and pids.max of the cgroup)",
    errno.ENOMEM: "free memory on this machine, or raise memory.max of this program's cgroup",
    errno.EIO: "check the disk: `dmesg` shows the kernel's errors",
}


def next_step(error: OSError) -> str | None:
    """What can be done about an error of the operating system's; None if that is not known."""
    return _NEXT_STEPS.get(error.errno or 0)


def store_error(what: str, error: OSError) -> StoreError:
    """An operating system's error about the state directory, with what can be done about it."""
    return StoreError(f"cannot {what}: {error.strerror or error}", hint=next_step(error))


@contextmanager
def as_store_errors(what: str) -> Iterator[None]:
    """StoreError, with what was tried, in the place of an operating system's error that nobody nearer has told."""
    try:
        yield
    except OSError as error:
        if isinstance(error, (LongshoreError, TimeoutError)):
            raise
        raise store_error(what, error) from error


def find_program(name: str, path: str | None = None) -> str | None:
    """Where a program is, by `path` (None: PATH). shutil.which does the same, after 2 ms of imports."""
    for directory in (os.environ.get("PATH", os.defpath) if path is None else path).split(os.pathsep):
        candidate = os.path.join(directory, name)
        if directory and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


SMALL = 1 << 13  # bytes that hold nearly every record: memory for more takes longer to get than to read into
LARGEST = 64 << 20  # bytes that a file of the store may have which is read as a whole


def read_whole(path: PathLike) -> bytes:
    """The content of a small file. OSError (EFBIG) for one that has more than LARGEST bytes."""
    fd = open_file(path, os.O_RDONLY)
    try:
        data = os.read(fd, SMALL)
        if len(data) == SMALL:
            while more := os.read(fd, 1 << 20):
                data += more
                if len(data) > LARGEST:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
        return data
    finally:
        os.close(fd)


def _write_beside(path: PathLike, data: bytes) -> str:
    """Write a file of a name of its own in the directory of `path`; it is as it should be, or not there."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(4).hex()}")
    fd = open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            written = os.write(fd, data)
            while written < len(data):
                written += os.write(fd, data[written:])
        finally:
            os.close(fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def write_mark(path: PathLike, data: bytes) -> None:
    """Write a few bytes to a file of their own, for a reader who takes an empty one for none."""
    fd = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def write_new(path: PathLike, data: bytes) -> None:
    """Write a file whole, or not at all: a reader sees the old content or the new, never a part."""
    temporary = _write_beside(path, data)
    try:
        replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def link_once(path: PathLike, data: bytes) -> bool:
    """Write a file that is written once: True if it is ours, False if somebody was first. Atomic, whole."""
    temporary = _write_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            os.unlink(temporary)
    return True


def sync(*paths: PathLike) -> None:
    """Have files, and what directories list, on the disk, so that a loss of power takes nothing of them. It blocks.

    What cannot be synced is left as it is: some file systems sync nothing.
    """
    for path in paths:
        with suppress(OSError):
            sync_one(path)


def sync_tree(top: PathLike) -> None:
    """The same for a directory and all that is below it."""
    for directory, _, names in os.walk(top):
        sync(*(os.path.join(directory, name) for name in names), directory)


class LockFile:
    """A lock file that is open, mostly to be held; `release` and `close` are idempotent.

    A forked child has none of them: it would hold, for as long as it lives, what a parent that died held.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        if fd >= 0:
            _open.add(self)

    @classmethod
    def opened(cls, path: PathLike, *, make: bool = True) -> LockFile:
        """The lock file at `path`, not locked yet; it is made if need be, unless `make` is off."""
        with fork_safety.not_now():
            return cls(open_lock(path) if make else open_file(path, os.O_RDWR))

    def write(self, text: str) -> None:
        """Say in the file what it is held for."""
        data = text.encode()
        os.lseek(self.fd, 0, os.SEEK_SET)
        os.write(self.fd, data)
        os.ftruncate(self.fd, len(data))

    def release(self) -> None:
        """End the lock, whoever has inherited it, and close the file."""
        if self.fd >= 0:
            try:
                unlock(self.fd)
            finally:
                self.close()

    def close(self) -> None:
        """Close the file: who has inherited the lock goes on holding it."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


_open: WeakSet[LockFile] = WeakSet()


def _close_in_child() -> None:
    for held in list(_open):
        with suppress(OSError):
            held.close()  # not `release`: the lock is the parent's


fork_safety.in_child(_close_in_child)


def open_lock(path: PathLike) -> int:
    """The descriptor of a lock file, made if need be."""
    return open_file(path, os.O_RDWR | os.O_CREAT)


def try_hold(path: PathLike, *, make: bool = True) -> LockFile | None:
    """Take the lock at `path` if nobody has it; the file is made if need be, unless `make` is off."""
    held = LockFile.opened(path, make=make)
    try:
        if try_lock(held.fd):
            return held
    except BaseException:
        held.close()
        raise
    held.close()
    return None


def is_held(path: PathLike, *, make: bool = True) -> bool:
    """Whether somebody has the lock at `path` now. For who looks, it is held for a moment: look under a lock of all."""
    held = try_hold(path, make=make)
    if held is None:
        return True
    held.release()
    return False


@contextmanager
def short_lock(path: PathLike, limit: float = SHORT_LOCK_LIMIT) -> Iterator[None]:
    """Hold a lock that everybody holds for a few system calls only, never across anything that waits. It blocks.

    StoreError after `limit` seconds: whoever has it was stopped just then.
    """
    held = LockFile.opened(path)
    try:
        if not try_lock(held.fd):
            _wait_for_short_lock(held.fd, path, limit)
        yield
    finally:
        held.release()


def _wait_for_short_lock(fd: int, path: PathLike, limit: float) -> None:
    deadline = time.monotonic() + limit
    pause = 0.0001
    while not try_lock(fd):
        if time.monotonic() > deadline:
            raise _held(path, limit)
        time.sleep(pause)  # flock(2) has no time limit
        pause = min(pause * 2, 0.005)


def _held(path: PathLike, limit: float) -> StoreError:
    return StoreError(
        f"cannot lock {os.fspath(path)}: another program has held it for {limit:g} s",
        hint=f"find that program with `fuser {os.fspath(path)}`: it may be suspended",
    )


@asynccontextmanager
async def hold(path: PathLike, limit: float) -> AsyncIterator[None]:
    """Hold a short lock: others hold it only while they change a file. StoreError after `limit` seconds."""
    held = try_hold(path) or await wait_for_lock(path, limit)
    try:
        yield
    finally:
        held.release()


async def wait_for_lock(path: PathLike, limit: float) -> LockFile:
    """Wait in a thread that may be abandoned: flock(2) has no time limit of its own. StoreError after `limit`."""
    held = LockFile.opened(path)
    mutex = threading.Lock()
    locked = abandoned = False

    def work() -> None:
        nonlocal locked
        try:
            lock_at_last(held.fd)
        finally:
            with mutex:
                locked = True
                if abandoned:
                    held.release()

    try:
        async with asyncio.timeout(limit):
            await in_thread(work, "longshore-lock")
    except BaseException as error:
        with mutex:
            abandoned = True
            if locked or (isinstance(error, OSError) and not isinstance(error, TimeoutError)):
                held.release()  # the thread was done when we gave up, or could not be started
        if isinstance(error, TimeoutError):
            raise _held(path, limit) from None
        raise
    return held


__all__ = [
    "MOVES_WHAT_IS_OPEN",
    "LockFile",
    "as_store_errors",
    "canonical",
    "check_private",
    "descriptors",
    "hold",
    "is_held",
    "is_usable_name",
    "link_once",
    "make_private",
    "next_step",
    "open_file",
    "open_lock",
    "read_whole",
    "replace",
    "replace_open",
    "short_lock",
    "store_error",
    "sync",
    "sync_file_system",
    "sync_tree",
    "try_hold",
    "try_lock",
    "wait_for_lock",
    "write_mark",
    "write_new",
]
