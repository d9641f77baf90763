"""The lease: what ties containers to the life of their owner, however that ends; and the keeper that enforces it.

A lease is a directory with three locks. `lease.lock` is held, shared, by the owner and by every helper process of its
containers. `owner.lock` is held by the owner and the keeper alone, as one: it is free once both are dead. The keeper is
a tiny process that reads from a pipe whose only write end the owner has: at its end, it kills what the lease has,
until it can hold `lease.lock` alone. If owner and keeper are both dead, whoever next opens the store finds
`owner.lock` free, and ends the lease in the same way. `alive.lock` is the owner's alone: where that is free and
`owner.lock` is not, the keeper is at work; or it is stopped, and is then killed by whoever next opens the store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from . import forks
from .compute import ComputeService, HasKeepers
from .files import Held, briefly, is_held, store_error, try_hold, try_lock
from .store import Store
from .trees import remove_though_open, remove_tree

log = logging.getLogger("longshore.lease")

EXECS = ".execs"  # among the ids of owned containers: there are, or were, execs in containers that may be kept

_leases: weakref.WeakSet[OwnerLease] = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child must not hold the write end: it would keep the lease alive after its owner."""
    for lease in list(_leases):
        lease._forget()


forks.in_child(_close_in_child)


class OwnerLease:
    """The lease of one engine. `hold` it when the first container needs it."""

    def __init__(self, store: Store, service: ComputeService) -> None:
        self._store = store
        self._service = service
        self.id = f"{os.getpid():x}-{os.urandom(4).hex()}"
        self.directory = store.leases / self.id
        self._lock = Held(-1)
        self._owner = Held(-1)
        self._alive = Held(-1)
        self._pipe = -1
        self._keeper: subprocess.Popen[bytes] | None = None
        self._keeper_fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owned: Counter[str] = Counter()  # two may try for one id at once

    @property
    def lock_fd(self) -> int:
        """The shared lock; helpers inherit it."""
        return self._lock.fd

    @property
    def keeper_pid(self) -> int | None:
        """The keeper's pid; None where the service needs none, or before the lease is held."""
        return None if self._keeper is None else self._keeper.pid

    def hold(self) -> OwnerLease:
        """Have the lease in force: directory, lock and keeper. Idempotent; half a millisecond the first time."""
        if self._lock.fd < 0:
            lock = owner = alive = Held(-1)
            try:
                # so that nobody finds it unlocked, and takes it for one whose owner died
                with briefly(self._store.lock_path):
                    self.directory.mkdir(mode=0o700)
                    for name in ("owned", "execs"):
                        (self.directory / name).mkdir(mode=0o700)
                    self._store.note_view(self.directory)
                    alive = Held.opened(self.directory / "alive.lock")
                    try_lock(alive.fd)
                    owner = Held.opened(self.directory / "owner.lock")
                    try_lock(owner.fd)
                    lock = Held.opened(self.directory / "lease.lock")
                    try_lock(lock.fd, shared=True)
            except OSError as error:
                for each in (lock, owner, alive):
                    each.let_go()
                with suppress(OSError):
                    remove_tree(self.directory)
                raise store_error(f"make the lease {self.directory}", error) from error
            self._lock = lock
            self._owner = owner
            self._alive = alive
            self._loop = asyncio.get_running_loop()
            _leases.add(self)
        if self._keeper is None:
            self._start_keeper()
        return self

    def _start_keeper(self) -> None:
        command = self._service.keeper(self, self.directory)
        if command is None:
            return
        with forks.not_now():  # a child that had the write end, and did not know it, would keep the lease alive
            self._run_keeper(command)
        assert self._keeper is not None
        self._keeper_fd = os.pidfd_open(self._keeper.pid)  # type: ignore[attr-defined,unused-ignore]  # Linux alone has keepers
        assert self._loop is not None
        self._loop.add_reader(self._keeper_fd, self._keeper_died)

    def _run_keeper(self, command: Sequence[str]) -> None:
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
                pass_fds=(self._owner.fd,),
            )
        except OSError as error:
            os.close(write)
            raise store_error("start the keeper of the lease", error) from error
        finally:
            os.close(read)
        self._pipe = write

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
            self._keeper.wait()  # it is dead, or has just been killed: this is the moment to reap it
            self._keeper = None
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def own(self, id: str) -> None:
        """Note that container `id` is ours to end, or to undo. As often as that was said, `disown` has to be."""
        if not self._owned[id]:
            try:
                os.close(os.open(f"{self.directory}/owned/{id}", os.O_WRONLY | os.O_CREAT, 0o600))
            except OSError as error:
                raise store_error(f"write the lease {self.directory}", error) from error
        self._owned[id] += 1

    def disown(self, id: str) -> None:
        """It has been ended, or is no longer ours."""
        if self._lock.fd < 0:  # this is a forked child
            return
        self._owned[id] -= 1
        if self._owned[id] <= 0:
            del self._owned[id]
            with suppress(OSError):
                os.unlink(f"{self.directory}/owned/{id}")

    def has_execs(self) -> None:
        """Note that there are, or were, execs: somebody has to close their records if we cannot."""
        if not self._owned[EXECS]:
            self.own(EXECS)

    def _forget(self) -> None:
        """In a forked child: close our copies, touch nothing else."""
        for held in (self._lock, self._owner, self._alive):
            held.let_go()
        for fd in (self._pipe, self._keeper_fd):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self._pipe = self._keeper_fd = -1
        if self._keeper is not None:
            self._keeper.returncode = 0  # it is not our child: nobody is to wait for it here
            self._keeper = None

    async def release(self) -> None:
        """End the lease after its containers were ended: the keeper has nothing to do any more. Idempotent."""
        if self._lock.fd < 0:
            return
        _leases.discard(self)
        if self._keeper is not None:
            self._keeper.kill()
            self._let_go_of_keeper()
        self._lock.let_go()
        await self._service.end_lease(self.id, self.directory)
        self._owner.let_go()
        self._alive.let_go()  # after it: who finds this free takes who has the other for a keeper
        remove_though_open(self.directory, self._store.run_trash)  # somebody may just be trying the lock


def is_alive(store: Store, lease: str) -> bool:
    """Whether the owner of a lease lives; or its keeper, which has not come to the end yet."""
    try:
        with briefly(store.lock_path):
            return is_held(store.leases / lease / "owner.lock", make=False)
    except OSError:
        return False


async def end_stopped_keepers(store: Store, service: ComputeService) -> None:
    """Kill the keepers of dead owners that are stopped: their leases would never end."""
    if isinstance(service, HasKeepers):
        for name in store.names(store.leases):
            directory = store.leases / name
            if store.sight_at(directory) == "hidden":
                continue
            with suppress(OSError):
                with briefly(store.lock_path):
                    kept = not is_held(directory / "alive.lock", make=False) and is_held(
                        directory / "owner.lock", make=False
                    )
                if kept:
                    await service.end_stopped_keeper(directory)


def owned(store: Store, lease: str) -> list[str]:
    """The ids of the containers that a lease says it has, whether or not they are there."""
    try:
        return [name for name in os.listdir(store.leases / lease / "owned") if name != EXECS]
    except OSError:
        return []


@contextmanager
def dead_leases(store: Store) -> Iterator[list[str]]:
    """The leases whose owner and keeper are dead, and which nobody else is ending: locked while the block runs."""
    held: dict[str, Held] = {}
    try:
        names = os.listdir(store.leases)
    except OSError:
        names = []
    try:
        if names:
            with suppress(OSError), briefly(store.lock_path):  # none is just being made
                for name in names:
                    if store.sight_at(store.leases / name) == "hidden":
                        continue  # what it has may live, and could not be ended from here
                    with suppress(OSError):
                        if (lock := try_hold(store.leases / name / "owner.lock")) is not None:
                            held[name] = lock
        yield list(held)
    finally:
        for lock in held.values():
            lock.release()


def main() -> int:
    """For the keeper: close the records of a lease that has ended. Arguments: RUN:DATA and the lease."""
    from .engine import close_dead_lease

    state, lease = sys.argv[1:]
    run, _, data = state.partition(":")
    asyncio.run(close_dead_lease(Store(Path(run), Path(data)), lease))
    return 0


if __name__ == "__main__":
    sys.exit(main())
