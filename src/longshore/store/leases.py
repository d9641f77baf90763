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
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ..aio import fork_safety
from ..aio.tasks import in_thread, uninterrupted
from ..compute.protocols import ComputeService, HasKeepers
from ..errors import LongshoreError, ServiceError
from ..fs.files import LockFile, is_held, short_lock, store_error, try_hold, try_lock
from ..fs.trees import remove_though_open, remove_tree
from .keeper import Keeper, start
from .state_directory import Store

log = logging.getLogger("longshore.store")

EXECS = ".execs"  # among the ids of owned containers: there are, or were, execs in containers that may be kept

DEATHS, DEATHS_WITHIN = 5, 60.0  # so many keepers that died within so many seconds: no more is started before that

_leases: weakref.WeakSet[OwnerLease] = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child must not hold the write end: it would keep the lease alive after its owner."""
    for lease in list(_leases):
        lease._forget()


fork_safety.in_child(_close_in_child)


class OwnerLease:
    """The lease of one engine. `hold` it when the first container needs it."""

    def __init__(self, store: Store, service: ComputeService) -> None:
        self._store = store
        self._service = service
        self.id = f"{os.getpid():x}-{os.urandom(4).hex()}"
        self.directory = store.leases / self.id
        self._lock = LockFile(-1)
        self._owner = LockFile(-1)
        self._alive = LockFile(-1)
        self._pipe = -1
        self._keeper: Keeper | None = None
        self._starting = asyncio.Lock()
        self._replacing: asyncio.Task[None] | None = None
        self._deaths: deque[float] = deque(maxlen=DEATHS)
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

    async def hold(self) -> OwnerLease:
        """Have the lease in force: directory, lock and keeper. Idempotent; some milliseconds the first time.

        ServiceError if there can be no keeper: no process would end what is made then.
        """
        if self._lock.fd < 0:
            self._make()
        if self._keeper is None:
            await self._have_keeper()
        return self

    def _make(self) -> None:
        lock = owner = alive = LockFile(-1)
        try:
            # so that no program finds it unlocked, and takes its owner for dead
            with short_lock(self._store.lock_path):
                self.directory.mkdir(mode=0o700)
                for name in ("owned", "execs"):
                    (self.directory / name).mkdir(mode=0o700)
                self._store.note_view(self.directory)
                alive = LockFile.opened(self.directory / "alive.lock")
                try_lock(alive.fd)
                owner = LockFile.opened(self.directory / "owner.lock")
                try_lock(owner.fd)
                lock = LockFile.opened(self.directory / "lease.lock")
                try_lock(lock.fd, shared=True)
        except OSError as error:
            for each in (lock, owner, alive):
                each.close()
            with suppress(OSError):
                remove_tree(self.directory)
            raise store_error(f"make the lease {self.directory}", error) from error
        self._lock = lock
        self._owner = owner
        self._alive = alive
        self._loop = asyncio.get_running_loop()
        _leases.add(self)

    async def _have_keeper(self) -> None:
        command = self._service.keeper(self, self.directory)
        if command is None:
            return
        async with self._starting:
            if self._keeper is None:
                self._refuse_if_it_keeps_dying()
                await uninterrupted(self._start_keeper(command))

    def _refuse_if_it_keeps_dying(self) -> None:
        if self._pause() > 0:
            raise ServiceError(
                "start the keeper of the lease",
                None,
                f"{DEATHS} keepers died within {DEATHS_WITHIN:g} s",
                hint=f"find out what kills them (`dmesg`, `auditctl`), and try again after {DEATHS_WITHIN:g} s",
            )

    def _pause(self) -> float:
        """Seconds until the next keeper may be started: 0 unless too many have just died."""
        if len(self._deaths) < DEATHS:
            return 0.0
        return max(0.0, self._deaths[0] + DEATHS_WITHIN - time.monotonic())

    async def _start_keeper(self, command: Sequence[str]) -> None:
        try:
            keeper = await in_thread(lambda: start(command, self._owner.fd, self._note_pipe), "longshore-keeper")
        except BaseException:
            self._close_pipe()
            raise
        if self._lock.fd < 0:  # released meanwhile
            keeper.kill()
            keeper.close()
            self._close_pipe()
            return
        self._keeper = keeper
        assert self._loop is not None
        self._loop.add_reader(keeper.pidfd, self._keeper_died)

    def _note_pipe(self, fd: int) -> None:
        self._pipe = fd

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _keeper_died(self) -> None:
        """Start another keeper in place of one that was killed."""
        self._release_keeper()
        self._deaths.append(time.monotonic())
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.ensure_future(self._replace_keeper())

    async def _replace_keeper(self) -> None:
        """Start another keeper; one that dies again and again is not started without end, but after a pause."""
        while self._keeper is None:
            pause = self._pause()
            log.warning(
                "the keeper of lease %s died; starting another%s", self.id, f" in {pause:.0f} s" if pause else ""
            )
            await asyncio.sleep(pause)
            try:
                await self._have_keeper()
            except (LongshoreError, OSError) as error:
                log.warning("lease %s has no keeper: %s", self.id, error)
                self._deaths.append(time.monotonic())

    def _release_keeper(self) -> None:
        if self._keeper is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._keeper.pidfd)
            self._keeper.close()
            self._keeper = None
        self._close_pipe()

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
        """Note that there are, or were, execs: the next program has to close their records if we cannot."""
        if not self._owned[EXECS]:
            self.own(EXECS)

    def _forget(self) -> None:
        """In a forked child: close our copies, touch nothing else."""
        for held in (self._lock, self._owner, self._alive):
            held.close()
        with suppress(OSError):
            self._close_pipe()
        if self._keeper is not None:
            with suppress(OSError):
                self._keeper.close()
            self._keeper = None

    async def release(self) -> None:
        """End the lease after its containers were ended: the keeper has nothing to do any more. Idempotent."""
        if self._lock.fd < 0:
            return
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait((self._replacing,))
        _leases.discard(self)
        if self._keeper is not None:
            self._keeper.kill()
        self._release_keeper()
        self._lock.close()
        try:
            await self._service.end_lease(self.id, self.directory)
        except LongshoreError as error:
            log.warning("lease %s is left to the next program that opens the store: %s", self.id, error)
            self._owner.close()
            self._alive.close()
            return
        self._owner.close()
        self._alive.close()  # after it: who finds this free takes who has the other for a keeper
        remove_though_open(self.directory, self._store.run_trash)  # another program may just be trying the lock


def is_alive(store: Store, lease: str) -> bool:
    """Whether the owner of a lease lives; or its keeper, which has not come to the end yet."""
    try:
        with short_lock(store.lock_path):
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
                with short_lock(store.lock_path):
                    kept = not is_held(directory / "alive.lock", make=False) and is_held(
                        directory / "owner.lock", make=False
                    )
                if kept:
                    await service.end_stopped_keeper(directory)


def closed(store: Store, lease: str, id: str) -> None:
    """Note that all is recorded and published of a container of a dead owner's; or of its execs (`EXECS`)."""
    with suppress(FileNotFoundError):
        os.unlink(store.leases / lease / "owned" / id)


def drop(store: Store, lease: str) -> bool:
    """Remove a lease if everything in it is closed. False if it is left to the next program that opens the store."""
    try:
        os.rmdir(store.leases / lease / "owned")
    except FileNotFoundError:
        pass
    except OSError:
        return False
    remove_though_open(store.leases / lease, store.run_trash)
    return True


def owned(store: Store, lease: str) -> list[str]:
    """The ids of the containers that a lease says it has, whether or not they are there."""
    try:
        return [name for name in os.listdir(store.leases / lease / "owned") if name != EXECS]
    except OSError:
        return []


@contextmanager
def dead_leases(store: Store) -> Iterator[list[str]]:
    """The leases whose owner and keeper are dead, and which no other program is ending: locked while the block runs."""
    held: dict[str, LockFile] = {}
    try:
        names = os.listdir(store.leases)
    except OSError:
        names = []
    try:
        if names:
            with suppress(OSError), short_lock(store.lock_path):  # none is just being made
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
