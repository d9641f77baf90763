"""The state directory: one directory per container, records, locks, the journal. docs/state.md is its contract.

Two places: `run` ends with the boot (sockets, bundles, pid files, leases), `data` stays. A record is replaced as
a whole under the container's short lock; an exit record is linked into place once, by whoever is first. Longer
operations (create, start, delete) hold a *claim*: a lock that nobody waits for, and that ends with its holder.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from .compute import Exit, Place, now
from .errors import ContainerExists, ContainerNotFound, InvalidState, StoreError
from .events import Journal, Position
from .files import Held, hold, link_once, open_lock, store_error, try_hold, try_lock, write_new
from .spec import ProcessSpec, Spec

VERSION = 1
RUN = Path("/run/longshore")
DATA = Path("/var/lib/longshore")

Owner = Literal["keep", "stop", "remove"]


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of one container; small, so that a listing reads one file for each."""

    version: int = VERSION
    id: str
    uid: str  # tells two containers apart that had the same id one after the other
    created_at: datetime
    owner: Owner = "keep"
    lease: str | None = None
    boot: str = ""
    command: list[str] = []
    root: str = ""
    labels: dict[str, str] = {}
    stop_signal: int = 15
    terminal: bool = False
    stdin: bool = False
    durable: bool = False
    journal: Position = Position()  # nothing of this container stands before
    log_inode: int | None = None
    # filled in as it goes
    token: bytes = b""  # what the service needs to open the system; empty: half-made
    process: bytes = b""  # the same for init
    pid: int | None = None
    starting_at: datetime | None = None
    started_at: datetime | None = None
    start_told: bool = False
    exit_told: bool = False
    killed: bool = False  # by us: what ends it from now on is `killed`
    paused: bool = False


class ProcessRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of one exec process."""

    version: int = VERSION
    name: str
    args: list[str]
    started_at: datetime
    owner_pid: int
    token: bytes = b""
    pid: int | None = None
    journal: Position = Position()


class StoreInfo(msgspec.Struct):
    """What kind of store a directory is."""

    version: int
    id: str


def boot_id() -> str:
    """Tells this boot of the machine from every other; empty where the host has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Entry:
    """The files of one container."""

    def __init__(self, store: Store, id: str, home: Path) -> None:
        self.store = store
        self.id = id
        self.run = store.containers / id
        self.home = home  # `run` for what its caller owns, else under `data`
        self.durable = home != self.run

    @property
    def _record_path(self) -> Path:
        return self.home / "record.json"

    @property
    def _exit_path(self) -> Path:
        return self.home / "exit.json"

    def place(self, lease: Any = None, lock_fd: int | None = None) -> Place:
        """Where the service keeps its files of this container."""
        return Place(run=self.run, data=self.home, lease=lease, lock_fd=lock_fd)

    # records

    def read(self) -> Record:
        """The record as it is now. ContainerNotFound if there is none any more."""
        try:
            data = self._record_path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise store_error(f"read {self._record_path}", error) from error
        return decode(data, Record, self._record_path)

    def write(self, record: Record) -> None:
        """Replace the record; the caller holds the lock, or is the only one who knows this container."""
        try:
            write_new(self._record_path, msgspec.json.encode(record), durable=self.durable)
        except OSError as error:
            raise store_error(f"write {self._record_path}", error) from error

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """The short lock: for reading and replacing the record, never across anything that waits."""
        try:
            async with hold(self.run / "lock"):
                yield
        except FileNotFoundError:
            raise ContainerNotFound(self.id) from None

    async def change(self, change: Callable[[Record], None]) -> Record:
        """Read, change and replace the record under the lock; returns what it is now."""
        async with self.locked():
            record = self.read()
            change(record)
            self.write(record)
            return record

    def read_spec(self) -> Spec:
        """The spec that the container was made from."""
        path = self.home / "spec.json"
        try:
            return decode(path.read_bytes(), Spec, path)
        except FileNotFoundError:
            raise ContainerNotFound(self.id) from None

    # the exit record

    def read_exit(self) -> Exit | None:
        """How init ended; None while nobody has linked it."""
        try:
            data = self._exit_path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return decode(data, Exit, self._exit_path)

    def link_exit(self, exit: Exit) -> bool:
        """Put the exit record in place; False if somebody was first."""
        try:
            return link_once(self._exit_path, msgspec.json.encode(exit), durable=self.durable)
        except OSError as error:
            raise store_error(f"write {self._exit_path}", error) from error

    # claims

    def claim(self, operation: str) -> Held:
        """Be the one program that creates, starts or deletes this container now; InvalidState if another is."""
        path = self.run / "claim"
        try:
            held = try_hold(path)
        except FileNotFoundError:
            raise ContainerNotFound(self.id) from None
        if held is None:
            doing = "changed"
            with suppress(OSError):
                doing = path.read_text() or doing
            raise InvalidState(operation, self.id, f"being {doing} already")
        word = {"start": "started", "delete": "deleted", "create": "created"}.get(operation, "changed")
        try:
            path.write_text(word)
        except OSError as error:
            held.release()
            raise store_error(f"write {path}", error) from error
        return held

    def making_lock(self) -> int:
        """A locked descriptor that helpers which make the container inherit: free again when all have ended."""
        fd = open_lock(self.run / "making.lock")
        try_lock(fd)
        os.set_inheritable(fd, False)  # passed on by name only
        return fd

    def being_made(self) -> bool:
        """Whether a helper of its maker is still alive."""
        try:
            held = try_hold(self.run / "making.lock")
        except FileNotFoundError:
            return False
        if held is None:
            return True
        held.release()
        return False

    # exec processes

    def process_directory(self, name: str) -> Path:
        return self.run / "execs" / name

    def new_process(self, name: str) -> Path:
        """Reserve a process name; the directory for its files. FileExistsError if the name is taken."""
        path = self.process_directory(name)
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            path.mkdir(mode=0o700)
        except FileExistsError:
            raise
        except FileNotFoundError:
            raise ContainerNotFound(self.id) from None
        except OSError as error:
            raise store_error(f"make {path}", error) from error
        return path

    def processes(self) -> list[str]:
        """Names of the execs that have a record."""
        try:
            return sorted(os.listdir(self.run / "execs"))
        except OSError:
            return []

    def read_process(self, name: str) -> ProcessRecord | None:
        path = self.process_directory(name) / "record.json"
        try:
            return decode(path.read_bytes(), ProcessRecord, path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_process(self, record: ProcessRecord) -> None:
        try:
            write_new(self.process_directory(record.name) / "record.json", msgspec.json.encode(record))
        except OSError as error:
            raise store_error(f"write the record of process `{record.name}`", error) from error

    def read_process_exit(self, name: str) -> Exit | None:
        path = self.process_directory(name) / "exit.json"
        try:
            return decode(path.read_bytes(), Exit, path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def link_process_exit(self, name: str, exit: Exit) -> bool:
        """Put an exec's exit record in place; False if somebody was first, or its container is deleted."""
        try:
            return link_once(self.process_directory(name) / "exit.json", msgspec.json.encode(exit))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise store_error(f"write the exit of process `{name}`", error) from error

    def remove_process(self, name: str) -> None:
        from .trees import remove_tree

        remove_tree(self.process_directory(name))

    # the end

    def remove(self, uid: str) -> None:
        """Take the container out of the store and free its id; `recover` finishes what a crash leaves of this."""
        from .trees import remove_tree

        trash = self.store.run / "trash" / f"{uid}-{secrets.token_hex(2)}"
        if self.durable:
            # first, so that what is left after a crash between the two is a half-made container, without a record
            with suppress(FileNotFoundError):
                self._record_path.unlink()
            remove_tree(self.home)
        try:
            trash.parent.mkdir(exist_ok=True, mode=0o700)
            os.rename(self.run, trash)
        except FileNotFoundError:
            return
        except OSError as error:
            raise store_error(f"remove {self.run}", error) from error
        remove_tree(trash)


def decode(data: bytes, type_: Any, path: Path) -> Any:
    """A record from its bytes; StoreError, naming the file, where it is damaged or from a later version."""
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreError(
            f"cannot read {path}: it is damaged ({error})", hint="delete the container with `longshore rm --force`"
        ) from error


class Store:
    """The state directory of this machine, or one of its own for tests and embedders."""

    def __init__(self, run: Path, data: Path) -> None:
        self.run = run
        self.data = data
        self.containers = run / "containers"
        self.kept = data / "containers"
        self.leases = run / "leases"
        self.journal = Journal(data / "journal")
        self.id = ""
        self.boot = ""

    @classmethod
    def at(cls, state: str | os.PathLike[str] | None) -> Store:
        """The store at `state`, $LONGSHORE_ROOT, or the machine's own."""
        chosen = state if state is not None else os.environ.get("LONGSHORE_ROOT") or None
        if chosen is None:
            return cls(RUN, DATA)
        base = Path(os.path.abspath(chosen))
        return cls(base / "run", base / "lib")

    def open(self) -> None:
        """Make the directories if need be; refuse what a later version wrote."""
        if self.id:
            return
        try:
            for path in (
                self.run,
                self.containers,
                self.leases,
                self.data,
                self.kept,
                self.journal.directory,
            ):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            info_path = self.data / "store.json"
            if not info_path.exists():
                link_once(info_path, msgspec.json.encode(StoreInfo(VERSION, secrets.token_hex(4))), durable=True)
            info: StoreInfo = decode(info_path.read_bytes(), StoreInfo, info_path)
        except OSError as error:
            raise store_error(f"use the state directory {self.data}", error) from error
        if info.version > VERSION:
            raise StoreError(
                f"cannot use the state directory {self.data}: it is of version {info.version}, this is {VERSION}",
                hint="use the longshore that wrote it, or another directory ($LONGSHORE_ROOT)",
            )
        self.id = info.id
        self.boot = boot_id()

    def ids(self) -> Iterator[str]:
        """Every id that has a directory, half-made ones included."""
        seen = set()
        for directory in (self.containers, self.kept):
            try:
                names = os.listdir(directory)
            except FileNotFoundError:
                continue
            for name in names:
                if name not in seen:
                    seen.add(name)
                    yield name

    def entry(self, id: str) -> Entry:
        """The files of a container that exists (perhaps half-made). ContainerNotFound if there are none."""
        kept = self.kept / id
        if kept.is_dir():
            run = self.containers / id
            if not run.is_dir():  # the machine was booted again
                run.mkdir(mode=0o700, exist_ok=True)
            return Entry(self, id, kept)
        run = self.containers / id
        if run.is_dir():
            return Entry(self, id, run)
        raise ContainerNotFound(id)

    def reserve(self, id: str, *, durable: bool) -> Entry:
        """Take an id: in one step, so that of two programs one gets ContainerExists."""
        run = self.containers / id
        try:
            run.mkdir(mode=0o700)
        except FileExistsError:
            raise ContainerExists(id) from None
        except OSError as error:
            raise store_error(f"make {run}", error) from error
        kept = self.kept / id
        if not durable:
            if kept.is_dir():
                self._undo(run)
                raise ContainerExists(id)
            return Entry(self, id, run)
        try:
            kept.mkdir(mode=0o700)
        except FileExistsError:
            self._undo(run)
            raise ContainerExists(id) from None
        except OSError as error:
            self._undo(run)
            raise store_error(f"make {kept}", error) from error
        return Entry(self, id, kept)

    @staticmethod
    def _undo(run: Path) -> None:
        with suppress(OSError):
            run.rmdir()

    def new_record(self, id: str, spec: Spec, owner: Owner, lease: str | None, *, durable: bool, stdin: bool) -> Record:
        """A record of a container that is about to be made."""
        command = [argument[:1000] for argument in spec.command[:20]]
        return Record(
            id=id,
            uid=secrets.token_hex(8),
            created_at=now(),
            owner=owner,
            lease=lease,
            boot=self.boot,
            command=command,
            root=spec.root,
            labels=spec.labels,
            stop_signal=spec.stop_signal,
            terminal=spec.terminal,
            stdin=stdin,
            durable=durable,
            journal=self.journal.end(),
        )


def write_spec(entry: Entry, spec: Spec) -> None:
    """Keep the spec beside the record; it may be large, so it is a file of its own."""
    path = entry.home / "spec.json"
    try:
        write_new(path, msgspec.json.encode(spec), durable=entry.durable)
    except OSError as error:
        raise store_error(f"write {path}", error) from error


def process_record(name: str, process: ProcessSpec, journal: Journal) -> ProcessRecord:
    """A record of an exec that is about to be started."""
    return ProcessRecord(
        name=name,
        args=[argument[:1000] for argument in process.args[:20]],
        started_at=now(),
        owner_pid=os.getpid(),
        journal=journal.end(),
    )
