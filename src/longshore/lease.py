"""The lease: what ties containers to the life of their owner, however that ends; and the keeper that enforces it.

A lease is a directory with a lock that the owner, and every helper process of its containers, holds shared. The
keeper is a tiny process that reads from a pipe whose only write end the owner has: at its end, it kills what
the lease has, until it holds the lock alone. If owner and keeper are both dead, whoever next opens the store
finds the lock free, and ends the lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from .compute import ComputeService
from .files import open_lock, store_error, try_lock
from .store import Store
from .trees import remove_tree

log = logging.getLogger("longshore.lease")

_pipes: weakref.WeakSet[OwnerLease] = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child must not hold the write end: it would keep the lease alive after its owner."""
    for lease in list(_pipes):
        lease._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class OwnerLease:
    """The lease of one engine. Made when the first container needs it."""

    def __init__(self, store: Store, service: ComputeService) -> None:
        self._store = store
        self._service = service
        self.id = f"{os.getpid():x}-{secrets.token_hex(4)}"
        self.directory = store.leases / self.id
        self._lock_fd = -1
        self._pipe = -1
        self._keeper: subprocess.Popen[bytes] | None = None
        self._keeper_fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def lock_fd(self) -> int:
        """The shared lock; helpers inherit it."""
        return self._lock_fd

    @property
    def keeper_pid(self) -> int | None:
        return None if self._keeper is None else self._keeper.pid

    def hold(self) -> OwnerLease:
        """Have the lease in force: directory, lock and keeper. Idempotent."""
        if self._lock_fd < 0:
            # locked before it has its name: nobody can take it for one whose owner died
            made = self._store.leases / f".{self.id}"
            try:
                made.mkdir(mode=0o700, parents=True)
                (made / "owned").mkdir()
                (made / "execs").mkdir()
                fd = open_lock(made / "lease.lock")
                try_lock(fd, shared=True)
                os.rename(made, self.directory)
            except OSError as error:
                raise store_error(f"make the lease {made}", error) from error
            self._lock_fd = fd
            self._loop = asyncio.get_running_loop()
            _pipes.add(self)
        if self._keeper is None:
            self._start_keeper()
        return self

    def _start_keeper(self) -> None:
        command = self._service.keeper(self, self.directory)
        if command is None:
            return
        read, write = os.pipe()
        try:
            self._keeper = subprocess.Popen(
                command,
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:
            os.close(write)
            raise store_error("start the keeper of the lease", error) from error
        finally:
            os.close(read)
        self._pipe = write
        self._keeper_fd = os.pidfd_open(self._keeper.pid)
        assert self._loop is not None
        self._loop.add_reader(self._keeper_fd, self._keeper_died)

    def _keeper_died(self) -> None:
        """Somebody killed it: another takes its place."""
        log.warning("the keeper of lease %s died; starting another", self.id)
        self._let_go_of_keeper()
        try:
            self._start_keeper()
        except Exception:
            log.exception("cannot start another keeper; the lease ends when the store is next opened")

    def _let_go_of_keeper(self) -> None:
        if self._keeper_fd >= 0:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._keeper_fd)
            os.close(self._keeper_fd)
            self._keeper_fd = -1
        if self._keeper is not None:
            self._keeper.wait()
            self._keeper = None
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    @asynccontextmanager
    async def owning(self, id: str) -> AsyncIterator[None]:
        """Note that container `id` is ours to end, for as long as the block runs."""
        self.own(id)
        try:
            yield
        finally:
            self.disown(id)

    def own(self, id: str) -> None:
        """Note that container `id` is ours to end."""
        with suppress(FileExistsError):
            os.close(os.open(self.directory / "owned" / id, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def disown(self, id: str) -> None:
        """It has been ended, or is no longer ours."""
        with suppress(OSError):
            os.unlink(self.directory / "owned" / id)

    def _forget(self) -> None:
        """In a forked child: close our copies, touch nothing else."""
        for fd in (self._pipe, self._lock_fd, self._keeper_fd):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self._pipe = self._lock_fd = self._keeper_fd = -1
        self._keeper = None

    async def release(self) -> None:
        """End the lease after its containers were ended: the keeper has nothing to do any more."""
        if self._lock_fd < 0:
            return
        _pipes.discard(self)
        if self._keeper is not None:
            self._keeper.kill()
            self._let_go_of_keeper()
        await self._service.end_lease(self.id, self.directory)
        os.close(self._lock_fd)
        self._lock_fd = -1
        remove_tree(self.directory)


def keeper_arguments(store: Store) -> list[str]:
    """What a keeper needs to run this module at the end: state directory, interpreter, module path."""
    state = f"{store.run}:{store.data}"
    return [state, sys.executable or "", str(Path(__file__).resolve().parent.parent)]


async def end_dead_leases(store: Store, service: ComputeService) -> list[str]:
    """End the leases whose owner and keeper are dead. Returns their ids; their records are the engine's to close."""
    ended = []
    try:
        names = os.listdir(store.leases)
    except OSError:
        return []
    for name in names:
        directory = store.leases / name
        if name.startswith("."):
            continue
        try:
            fd = os.open(directory / "lease.lock", os.O_RDWR)
        except OSError:
            continue
        try:
            if try_lock(fd):
                await service.end_lease(name, directory)
                ended.append(name)
        finally:
            os.close(fd)
    return ended


def main() -> int:
    """For the keeper: close the records of a lease that has ended. Arguments: RUN:DATA and the lease."""
    from .engine import Engine

    state, lease = sys.argv[1:]
    run, _, data = state.partition(":")

    async def end() -> None:
        async with Engine(_store=Store(Path(run), Path(data))) as engine:
            await engine.close_lease(lease)

    asyncio.run(end())
    return 0


if __name__ == "__main__":
    sys.exit(main())
