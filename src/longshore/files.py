"""Files that other programs may write at the same moment, or be killed while writing."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from .errors import StoreError
from .tasks import in_thread

try:
    import fcntl
except ImportError:  # Windows: see _lock_windows
    fcntl = None  # type: ignore[assignment]

LOCK_LIMIT = 30.0  # seconds


def store_error(what: str, error: OSError) -> StoreError:
    """An operating system's error about the state directory, with what can be done about it."""
    hint = {
        errno.ENOSPC: "the disk is full: make room, or put the state elsewhere ($LONGSHORE_ROOT)",
        errno.EDQUOT: "the disk quota is used up: make room, or put the state elsewhere ($LONGSHORE_ROOT)",
        errno.EROFS: "the file system is read-only: put the state elsewhere ($LONGSHORE_ROOT)",
        errno.EACCES: "run as root, or put the state where you may write ($LONGSHORE_ROOT)",
        errno.EPERM: "run as root, or put the state where you may write ($LONGSHORE_ROOT)",
        errno.EMFILE: "too many open files: raise the soft limit (`ulimit -n`)",
    }.get(error.errno or 0)
    return StoreError(f"cannot {what}: {error.strerror or error}", hint=hint)


def write_new(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file whole, or not at all: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        if durable:
            sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def link_once(path: Path, data: bytes, *, durable: bool = False) -> bool:
    """Write a file that is written once: True if it is ours, False if somebody was first. Atomic, whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_new(temporary, data, durable=durable)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            temporary.unlink()
    if durable:
        sync_directory(path.parent)
    return True


def sync_directory(path: Path) -> None:
    """Make names durable (fsync(2), NOTES: a file's entry needs a sync of its directory)."""
    if fcntl is None:
        return  # Windows cannot, and does not need to
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file against other programs, if nobody has it. It ends when its last descriptor is closed."""
    if fcntl is None:
        return _lock_windows(fd)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_windows(fd: int) -> bool:
    import msvcrt

    os.lseek(fd, 0, os.SEEK_SET)
    try:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # only there
    except OSError:
        return False
    return True


class Held:
    """A lock that is held; `release` is idempotent."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_lock(path: Path) -> int:
    """The descriptor of a lock file, made if need be."""
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)


def try_hold(path: Path) -> Held | None:
    """Take the lock at `path` if nobody has it."""
    fd = open_lock(path)
    try:
        if try_lock(fd):
            return Held(fd)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


@asynccontextmanager
async def hold(path: Path, limit: float = LOCK_LIMIT) -> AsyncIterator[None]:
    """Hold a short lock: others hold it only while they change a file. StoreError after `limit` seconds."""
    held = try_hold(path) or await _wait_for(path, limit)
    try:
        yield
    finally:
        held.release()


async def _wait_for(path: Path, limit: float) -> Held:
    """Wait in a thread that may be abandoned: flock(2) has no time limit of its own."""
    fd = open_lock(path)
    abandoned = False

    def work() -> None:
        if fcntl is None:
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]  # tries ten times, a second apart
        else:
            fcntl.flock(fd, fcntl.LOCK_EX)
        if abandoned:
            os.close(fd)

    try:
        async with asyncio.timeout(limit):
            await in_thread(work, "longshore-lock")
    except BaseException as error:
        abandoned = True
        if isinstance(error, TimeoutError):
            raise StoreError(
                f"cannot lock {path}: another program has held it for {limit:g} s",
                hint="find it with `fuser`; it may be stopped",
            ) from None
        raise
    return Held(fd)
