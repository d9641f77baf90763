"""The files of one container: its record and exit record, its locks and claims, its execs. docs/state.md."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..aio.tasks import in_thread
from ..compute.values import Lease, Place
from ..errors import ContainerNotFound, InvalidSpec, InvalidState, LongshoreError, StoreError
from ..fs.files import (
    MOVES_WHAT_IS_OPEN,
    LockFile,
    hold,
    is_held,
    is_usable_name,
    link_once,
    open_lock,
    read_whole,
    short_lock,
    store_error,
    sync,
    try_hold,
    try_lock,
    wait_for_lock,
    write_mark,
    write_new,
)
from ..fs.trees import move_out, remove_some, remove_though_open, remove_tree
from ..spec import Spec
from .records import BY_FORCE, Damaged, ExitRecord, ProcessRecord, Record, decode

if TYPE_CHECKING:
    from .state_directory import Store

GONE = (FileNotFoundError, NotADirectoryError)
NO_FILE = (errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EFBIG)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
AT_ONCE = 64  # files that are removed in the loop; a larger tree is a thread's work
_CLAIMED = {
    "create": "created",
    "start": "started",
    "pause": "paused",
    "resume": "resumed",
    "checkpoint": "written to a checkpoint",
    "stop": "stopped",
    "delete": "deleted",
}
_ENCODER = msgspec.json.Encoder()

log = logging.getLogger("longshore.engine")

RECORD, SPEC = "record.json", "spec.json"


class ContainerDir:
    """The files of one container."""

    def __init__(self, store: Store, id: str, home: Path) -> None:
        self.store = store
        self.id = id
        self._life = 1  # of the record as it was last read
        self.home = home  # where record, exit record, log and scratch layer are: in `run`, or in `data` if durable

    @property
    def run(self) -> Path:
        """What ends with the boot: locks, claim, execs, and the service's own files."""
        return self.store.containers / self.id

    @property
    def durable(self) -> bool:
        return self.home.parent == self.store.kept

    def place(self, lease: Lease | None = None, lock_fd: int | None = None) -> Place:
        """Where the service keeps its files of this container."""
        return Place(run=self.run, data=self.home, lease=lease, lock_fd=lock_fd)

    # records

    def read(self) -> Record:
        """The record as it is now. ContainerNotFound if there is none (any more); Damaged if only that is gone."""
        path = f"{self.home}/{RECORD}"
        data = self._read_record(path)
        if not data.strip(b"\0") and not self._has_spec():
            raise ContainerNotFound(self.id)  # a loss of power left this of one that was being made: nobody knows of it
        found: Record = decode(data, Record, path)
        if found.id != self.id:
            if found.id.lower() == self.id.lower():  # where file names are the same in upper and lower case
                raise ContainerNotFound(self.id)
            raise Damaged(f"cannot read {path}: it is that of another container", hint=BY_FORCE)
        names = f"{found.uid}{found.lease or ''}{found.starter or ''}"
        if not found.uid or not names.replace("-", "").isalnum():  # they are parts of paths
            raise Damaged(f"cannot read {path}: it is damaged (an identifier that is none)", hint=BY_FORCE)
        self._life = found.life
        return found

    def _read_record(self, path: str) -> bytes:
        for _ in range(3):  # more than once: another of this id may just have been made
            try:
                return read_whole(path)
            except GONE:
                if not self._has_spec():
                    raise ContainerNotFound(self.id) from None
            except OSError as error:
                raise _unreadable(path, error) from error
        # it had one, for that is written before the spec: it may run, and whoever looks is not to end it
        raise Damaged(f"cannot read {path}: it is gone", hint=BY_FORCE)

    def read_own(self, uid: str) -> Record:
        """The record, if it is still that of this very container; else ContainerNotFound."""
        record = self.read()
        if record.uid != uid:
            raise ContainerNotFound(self.id)
        return record

    def write(self, record: Record) -> None:
        """Replace the record; the caller holds the lock, or is the only one who knows this container."""
        path = f"{self.home}/{RECORD}"
        try:
            write_new(path, _ENCODER.encode(record))
            self._life = record.life
        except GONE:
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise store_error(f"write {path}", error) from error

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """The short lock: for reading and replacing the record, never across anything that waits."""
        self.make_run()
        held = hold(f"{self.run}/lock", self.store.lock_limit)
        try:
            await held.__aenter__()
        except GONE:
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise store_error(f"lock container `{self.id}`", error) from error
        try:
            yield
        finally:
            await held.__aexit__(None, None, None)

    def make_run(self) -> None:
        """Make the directory in `run` again, which the end of a boot took from a container that is kept."""
        with suppress(OSError):
            if self.durable and not self.run.is_dir() and self.home.is_dir():
                self.run.mkdir(mode=0o700)

    async def change(self, uid: str, change: Callable[[Record], None]) -> Record:
        """Read, change and replace the record under the lock; returns what it is now."""
        async with self.locked():
            record = self.read_own(uid)
            change(record)
            self.write(record)
            return record

    async def on_disk(self, *names: str) -> None:
        """Wait until these files of a kept container are on the disk: what is told of it next survives a loss of power.

        Half a millisecond where the disk has nothing else to do; where it is slower than `Limits.disk`, that is logged,
        and the container goes on without. Of what a boot ends anyway nothing is synced. Cancelled: not waited for.
        """
        if not self.durable:
            return
        paths = [f"{self.home}/{name}" for name in names]
        limit = self.store.disk_limit
        try:
            async with asyncio.timeout(limit):
                await in_thread(lambda: sync(*paths, self.home, self.store.kept), "longshore-sync")
        except TimeoutError:
            log.warning("container `%s`: its record was not on the disk within %g s", self.id, limit)
        except OSError as error:  # no thread to be had
            log.warning("container `%s`: its record may not be on the disk: %s", self.id, error)

    def write_spec(self, spec: Spec) -> None:
        """Keep the spec beside the record; it may be large, so it is a file of its own. Written after the record."""
        path = f"{self.home}/{SPEC}"
        try:
            write_new(path, _ENCODER.encode(spec))
        except OSError as error:
            raise store_error(f"write {path}", error) from error

    def _has_spec(self) -> bool:
        with suppress(OSError):
            return bool(read_whole(f"{self.home}/{SPEC}").strip(b"\0"))
        return False

    def read_spec(self) -> Spec:
        """The spec that the container was made from."""
        path = f"{self.home}/{SPEC}"
        try:
            data = read_whole(path)
        except GONE:
            if self.home.is_dir():
                raise Damaged(f"cannot read {path}: it is gone", hint=BY_FORCE) from None
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise _unreadable(path, error) from error
        found: Spec = decode(data, Spec, path)
        return found

    # the exit record

    def read_exit(self) -> ExitRecord | None:
        """How init ended, in the life that the record was last read of; None while nobody has linked it."""
        return _read_exit(self._exit_path)

    def link_exit(self, exit: ExitRecord) -> bool:
        """Put the exit record in place; False if somebody was first. The caller holds the lock."""
        return self._link_exit(self._exit_path, exit)

    @property
    def exit_name(self) -> str:
        """The file of the exit record, in the life that the record was last read of."""
        return "exit.json" if self._life == 1 else f"exit.{self._life}.json"

    @property
    def _exit_path(self) -> str:
        return f"{self.home}/{self.exit_name}"

    def _link_exit(self, path: str, exit: ExitRecord) -> bool:
        with suppress(OSError):
            if not read_whole(path).strip(b"\0"):  # what a loss of power left of one
                os.unlink(path)
        try:
            return link_once(path, _ENCODER.encode(exit))
        except GONE:
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise store_error(f"write {path}", error) from error

    # claims

    def claim(self, operation: str) -> LockFile:
        """Be the one program that creates, starts or deletes this container now; InvalidState if another is."""
        self.make_run()
        try:
            with short_lock(self.store.lock_path):  # who only looks (`is_claimed`) must not seem to be one
                return self.claim_new(operation)
        except GONE:
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise store_error(f"lock container `{self.id}`", error) from error

    def claim_new(self, operation: str) -> LockFile:
        """As `claim`, for who has the store's lock. OSError if there are no such files."""
        path = f"{self.run}/claim"
        held = try_hold(path)
        if held is None:
            doing = b""
            with suppress(OSError):
                doing = read_whole(path)
            raise InvalidState(
                operation, self.id, f"being {doing.decode(errors='replace') or 'changed'} already", hint="try again"
            )
        return self._claimed(held, operation)

    async def wait_for_claim(self, operation: str, limit: float) -> LockFile:
        """As `claim`, but wait for who has it. StoreError after `limit` seconds."""
        with suppress(InvalidState):
            return self.claim(operation)
        try:
            return self._claimed(await wait_for_lock(f"{self.run}/claim", limit), operation)
        except GONE:
            raise ContainerNotFound(self.id) from None

    def _claimed(self, held: LockFile, operation: str) -> LockFile:
        try:
            held.write(_CLAIMED.get(operation, "changed"))
        except OSError as error:
            held.release()
            raise store_error(f"write {self.run}/claim", error) from error
        return held

    def is_claimed(self, *operations: str) -> bool:
        """Whether somebody does one of these to it at this moment; any, if none is given."""
        try:
            with short_lock(self.store.lock_path):
                if not is_held(f"{self.run}/claim"):
                    return False
            word = read_whole(f"{self.run}/claim").decode(errors="replace") if operations else ""
        except OSError:
            return False
        return not operations or word in [_CLAIMED[operation] for operation in operations]

    def making_lock(self) -> LockFile:
        """A lock that helpers which make the container inherit: free again when all have ended, and it is let go of."""
        try:
            held = LockFile.opened(f"{self.run}/making.lock")
        except OSError as error:
            raise store_error(f"lock {self.run}/making.lock", error) from error
        try_lock(held.fd)
        return held

    # exec processes

    def process_directory(self, name: str) -> Path:
        return self.run / "execs" / name

    def new_process(self, name: str, lease: str) -> Path:
        """Reserve a process name for `lease`; the directory for its files. FileExistsError if the name is taken."""
        if not is_usable_name(name):
            raise InvalidSpec("name", f"{name!r} cannot be the name of a file here", hint="use another name")
        path = self.process_directory(name)
        try:
            with suppress(FileExistsError):
                os.mkdir(path.parent, 0o700)
            os.mkdir(path, 0o700)
            try:
                write_mark(f"{path}/maker", lease.encode())
            except OSError:
                remove_tree(path)
                raise
        except FileExistsError:
            raise
        except GONE:
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise store_error(f"make {path}", error) from error
        return path

    def process_maker(self, name: str) -> str | None:
        """The lease that an exec without a record was being started for; None if that is not known."""
        try:
            return read_whole(f"{self.run}/execs/{name}/maker").decode() or None
        except OSError:
            return None

    def processes(self) -> list[str]:
        """Names of the execs that have a directory."""
        try:
            return sorted(os.listdir(self.run / "execs"))
        except OSError:
            return []

    def read_process(self, name: str) -> ProcessRecord | None:
        """What is known of an exec; None if there is none of this name."""
        path = f"{self.run}/execs/{name}/record.json"
        try:
            data = read_whole(path)
        except GONE:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        found: ProcessRecord = decode(data, ProcessRecord, path)
        return found if found.name == name else None

    def write_process(self, record: ProcessRecord) -> None:
        """Replace the record of an exec."""
        try:
            write_new(f"{self.run}/execs/{record.name}/record.json", _ENCODER.encode(record))
        except GONE:
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise store_error(f"write the record of process `{record.name}`", error) from error

    def read_process_exit(self, name: str) -> ExitRecord | None:
        """How an exec ended; None while nobody has linked it."""
        return _read_exit(f"{self.run}/execs/{name}/exit.json")

    def link_process_exit(self, name: str, exit: ExitRecord) -> bool:
        """Put an exec's exit record in place; False if somebody was first. The caller holds the lock."""
        return self._link_exit(f"{self.run}/execs/{name}/exit.json", exit)

    def remove_process(self, name: str) -> bool:
        """Forget an exec; its name is free. Its record goes first: without one, nobody tells its end again.

        False if some of its files are left in the trash.
        """
        directory = self.process_directory(name)
        with suppress(OSError):
            os.unlink(f"{directory}/record.json")
        return remove_though_open(directory, self.store.run_trash)

    # the end

    async def remove(self, uid: str, claim: LockFile, told: Callable[[], None]) -> None:
        """Take the container out of the store: its id is free; then call `told`; then remove the files.

        The caller has the claim: it moves along, so that who finds the trash knows whether somebody is at it.
        """
        trash, kept_trash = self.store.run_trash / uid, self.store.data_trash / uid
        if not MOVES_WHAT_IS_OPEN:
            await self._remove_in_place(trash, kept_trash, claim, told)
            return
        try:
            async with self._locked_if_possible():  # who has it finishes first; who comes after finds nothing
                for path, target in ((self.run, trash), (self.home, kept_trash))[: 1 + self.durable]:
                    with suppress(FileNotFoundError):
                        _rename_to_trash(path, target)
        except ContainerNotFound:
            pass
        except OSError as error:
            raise store_error(f"remove {self.run}", error) from error
        told()
        for path in (kept_trash, trash):  # the claim goes last
            await remove_in_bits(path)

    @asynccontextmanager
    async def _locked_if_possible(self) -> AsyncIterator[None]:
        """As `locked`, for who has the claim. Where there is no lock file, and no room to make one, nobody has it."""
        if not os.path.exists(f"{self.run}/lock"):
            try:
                os.close(open_lock(f"{self.run}/lock"))
            except OSError as error:
                if error.errno in NO_ROOM:
                    yield
                    return
        async with self.locked():
            yield

    async def _remove_in_place(self, trash: Path, kept_trash: Path, claim: LockFile, told: Callable[[], None]) -> None:
        """As `remove`, where a directory cannot be moved while somebody reads a log in it: its files are, one by one.

        The trash gets a claim of its own first. From then on, who finds the record there knows that we are at it.
        """
        moves = [(self.run, trash), (self.home, kept_trash)][: 1 + self.durable]
        ours: LockFile | None = None
        try:
            while ours is None:  # who empties the trash meanwhile takes a directory without claim for a dead one's
                for _, target in moves:
                    with suppress(FileExistsError):
                        os.mkdir(target, 0o700)
                with suppress(FileNotFoundError):
                    ours = try_hold(trash / "claim")
                await asyncio.sleep(0)
            with suppress(ContainerNotFound):
                async with self.locked():  # who has the lock finishes first; who comes after finds no record
                    for name in (SPEC, RECORD):  # a spec without a record would be that of a damaged container
                        with suppress(FileNotFoundError):
                            os.rename(self.home / name, moves[-1][1] / name)
            for path, target in reversed(moves):
                await in_thread(partial(move_out, path, target, last="claim"), "longshore-remove")
            told()
            claim.release()  # it is in the trash now
        except OSError as error:
            raise store_error(f"remove {self.run}", error) from error
        finally:
            if ours is not None:
                ours.release()
        with suppress(LongshoreError):  # what somebody has open goes when the trash is next emptied
            for _, target in reversed(moves):
                await remove_in_bits(target)


async def remove_in_bits(path: Path) -> None:
    """Remove a tree; if it is large, in a thread."""
    if not remove_some(path, AT_ONCE):
        await in_thread(lambda: remove_tree(path), "longshore-remove")


def _rename_to_trash(path: Path, target: Path) -> None:
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        os.rename(path, target.with_name(trash_name()))  # the rest of a removal that failed halfway


def _unreadable(path: str, error: OSError) -> StoreError:
    if error.errno in NO_FILE:
        return Damaged(f"cannot read {path}: it is damaged ({error.strerror})", hint=BY_FORCE)
    return store_error(f"read {path}", error)


def _read_exit(path: str) -> ExitRecord | None:
    try:
        data = read_whole(path)
    except GONE:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    if not data.strip(b"\0"):
        return None  # a loss of power took it: nobody knows how it ended
    found: ExitRecord = decode(data, ExitRecord, path)
    return found


def trash_name() -> str:
    """A name in the trash for what has no uid."""
    return os.urandom(8).hex()
