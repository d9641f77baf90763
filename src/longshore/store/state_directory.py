"""The state directory: one directory per container, records, locks, the journal. docs/state.md is its contract.

Two places: `run` ends with the boot (sockets, bundles, pid files, leases), `data` stays. A record is replaced as
a whole under the container's short lock; an exit record is linked into place once, by whoever is first. Longer
operations (create, start, delete) hold a *claim*: a lock that nobody waits for, and that ends with its holder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from ..compute.limits import USUAL
from ..compute.values import Owner, now
from ..errors import ContainerExists, ContainerNotFound, InvalidSpec, LongshoreError, StoreError
from ..fs.files import (
    LockFile,
    canonical,
    check_private,
    is_usable_name,
    link_once,
    make_private,
    read_whole,
    short_lock,
    store_error,
    sync,
    write_new,
)
from ..machine import boot_id, first_namespaces, places, viewpoint
from ..machine.visibility import Sight, Viewpoint
from ..spec import ProcessSpec, Spec
from .container_dir import ContainerDir
from .journal import Journal
from .records import VERSION, ProcessRecord, Record, StoreInfo, decode

ASIDE = ".before."  # in `run`, until it is in the trash: what an earlier boot left there
# what may be there before store.json:
OURS_IN_DATA = (
    "boot",
    "containers",
    "images",
    "journal",
    "lost+found",
    "probe.json",
    "trash",
)
OURS_IN_RUN = ("boot", "containers", "images", "leases", "lock", "lost+found", "runtime", "trash", "view", "views")
VIEW = "view"  # in a lease, and in `run`: the boot and the namespaces that its pids belong to
_VIEW = re.compile(rb"([!-~]*)\n(\w+:\[\d+\] \w+:\[\d+\])?")

RUN, DATA = (Path(place) for place in places())


class Store:
    """The state directory of this machine, or one of its own for tests and embedders."""

    def __init__(self, run: Path, data: Path) -> None:
        self.run = run
        self.data = data
        self.containers = run / "containers"
        self.kept = data / "containers"
        self.leases = run / "leases"
        self.run_trash = run / "trash"
        self.data_trash = data / "trash"
        self.journal = Journal(data / "journal")
        self.id = ""
        self.named = ""  # the directory as it was named, before links were followed
        self.boot = ""
        self.viewpoint = Viewpoint()
        self.lock_limit = USUAL.lock  # seconds that a container's lock is waited for
        self.disk_limit = USUAL.disk  # seconds that the disk is waited for

    @classmethod
    def at(cls, state: str | os.PathLike[str] | None) -> Store:
        """The store at `state`, $LONGSHORE_ROOT, or the machine's own. InvalidSpec if the variable is relative, or if a
        container could not be made there."""
        chosen = state
        if chosen is None and (named := os.environ.get("LONGSHORE_ROOT")):
            if not os.path.isabs(named):
                # each program that inherits it would have a store of its own, by the folder that it is in
                raise InvalidSpec(
                    "LONGSHORE_ROOT",
                    f"{named!r} is not an absolute path",
                    hint=f"write LONGSHORE_ROOT={os.path.abspath(os.path.expanduser(named))}",
                )
            chosen = named
        if chosen is None:
            return cls(Path(canonical(RUN)), Path(canonical(DATA)))
        if "\0" in os.fspath(chosen):
            raise InvalidSpec("state", "holds a NUL character")
        named = os.path.abspath(chosen)
        base = Path(canonical(chosen))
        problem = _problem_of(str(base))
        if problem:
            raise InvalidSpec(
                "LONGSHORE_ROOT" if state is None else "state",
                f"{str(base)!r} {problem}",
                hint="use another directory",
            )
        store = cls(base / "run", base / "lib")
        store.named = named
        return store

    def open(self) -> None:
        """Make the directories if need be; refuse what a later version wrote, before anything is touched."""
        if self.id:
            return
        info_path = self.data / "store.json"
        try:
            self._refuse_others(info_path)
            if self.named:
                make_private(self.named, closed=False)
            make_private(self.data)
            info = self._info(info_path)
            for path in (
                self.run,
                self.containers,
                self.leases,
                self.run_trash,
                self.kept,
                self.data_trash,
                self.journal.directory,
            ):
                make_private(path)
            self._remove_half_written()
            if info is None:
                with short_lock(self.lock_path):
                    link_once(info_path, msgspec.json.encode(StoreInfo(VERSION, os.urandom(4).hex())))
                sync(info_path, self.data)
                info = self._info(info_path)
        except OSError as error:
            raise store_error(f"use the state directory {self.data}", error) from error
        if info is None:
            raise StoreError(f"cannot use {info_path}: it can be neither read nor created", hint="remove it")
        self.viewpoint = viewpoint()
        self._begin_boot(self.viewpoint.boot)
        self.id = info.id

    def _refuse_others(self, info_path: Path) -> None:
        """Refuse directories with files of other programs, before anything is changed: with `/` for the state, those
        would be the machine's own /lib and /run, which no other user could use any more once they are private.

        Another program may be making the store at this moment: `store.json` among the names shows that it has.
        """
        if os.path.lexists(info_path):
            return
        for directory, ours in ((self.data, OURS_IN_DATA), (self.run, OURS_IN_RUN)):
            check_private(directory)
            try:
                names = os.listdir(directory)
            except FileNotFoundError:
                continue
            if info_path.name in names and directory == info_path.parent:
                return
            other = next((name for name in names if name not in ours and not name.startswith(".")), None)
            if other is not None:
                raise StoreError(
                    f"cannot use {directory} as the state directory: it holds other files (`{other}`)",
                    hint="use an empty directory, or one that does not exist yet",
                )

    def _remove_half_written(self) -> None:
        """Remove what programs left that died while they wrote `store.json` or `boot`, or emptied `run`."""
        if any(name.startswith(ASIDE) for name in os.listdir(self.run)):
            with short_lock(self.lock_path):
                self._discard_aside()
        for directory in (self.run, self.data):
            left = [name for name in os.listdir(directory) if name.startswith((".store.json.", ".boot.", f".{VIEW}."))]
            if left:
                with short_lock(self.lock_path):
                    for name in left:
                        with suppress(FileNotFoundError):
                            os.unlink(directory / name)

    def _begin_boot(self, boot: str) -> None:
        """Empty `run` if another boot has filled it: it need not be on a file system that a boot empties."""
        self.boot = self.journal.boot = boot
        path = self.run / "boot"
        try:
            before = _content(path)
            if before == boot.encode():
                return
            if before is not None and self.viewpoint.sight(before.decode("utf-8", "replace"), "")[0] != "gone":
                return  # what fills `run` may be alive, and cannot be seen from here
            # what cannot be written can be looked at; who tells something tries again
            with suppress(OSError, StoreError):
                self.journal.begin(self.disk_limit)
            with short_lock(self.lock_path):
                if path.exists() and _content(path) != boot.encode() and not self._is_of(boot):
                    self._set_aside()
                self.note_view(self.run)
                write_new(path, boot.encode())
        except OSError as error:
            raise store_error(f"begin to use {self.run} in this boot", error) from error

    def _set_aside(self) -> None:
        """Move what an earlier boot left in `run` to the trash: what is in there may be large, or not removable."""
        aside = self.run / f"{ASIDE}{os.urandom(8).hex()}"
        aside.mkdir(mode=0o700)
        for name in os.listdir(self.run):
            if name not in ("lock", "boot") and not name.startswith(ASIDE):
                os.rename(self.run / name, aside / name)
        for directory in (self.containers, self.leases, self.run_trash):
            directory.mkdir(mode=0o700)
        self._discard_aside()

    def _discard_aside(self) -> None:
        for name in os.listdir(self.run):
            if name.startswith(ASIDE):
                os.rename(self.run / name, self.run_trash / name.removeprefix(ASIDE))

    def _is_of(self, boot: str) -> bool:
        """Whether a container was made in this boot: then `run/boot` is wrong, and there may be life here."""
        for entry in self.container_dirs():
            with suppress(LongshoreError):
                if entry.read().boot == boot:
                    return True
        return False

    # what can be seen from here

    def sight(self, record: Record) -> tuple[Sight, str]:
        """Whether the processes of a container can be judged from here; the reason where they cannot."""
        return self.viewpoint.sight(record.boot, record.namespaces or first_namespaces())

    def sight_at(self, directory: Path) -> Sight:
        """The same for a lease, or for `run` as a whole. Earlier versions have recorded nothing.

        A damaged record counts as none: else what it belongs to would stay hidden, and so be left for ever.
        """
        view = None
        with suppress(OSError):
            view = _VIEW.fullmatch(read_whole(directory / VIEW))
        if view is not None:
            boot, namespaces = (each.decode("ascii") for each in view.groups(b""))
        else:
            boot, namespaces = (_content(self.run / "boot") or b"").decode("utf-8", "replace"), ""
        return self.viewpoint.sight(boot, namespaces or first_namespaces())[0]

    def note_view(self, directory: Path) -> None:
        """Record which boot and namespaces the pids of a lease belong to, or those of `run`."""
        write_new(directory / VIEW, f"{self.boot}\n{self.viewpoint.namespaces}".encode())

    def _info(self, path: Path) -> StoreInfo | None:
        try:
            data = read_whole(path)
        except FileNotFoundError:
            return None
        found: StoreInfo = decode(
            data, StoreInfo, path, hint="it says what kind of store this is: use another directory"
        )
        return found

    @property
    def lock_path(self) -> str:
        """LockFile, for a few system calls, by who takes an id, makes a lease, or looks whether a maker lives."""
        return f"{self.run}/lock"

    def container_dirs(self) -> Iterator[ContainerDir]:
        """The files of every container, half-made ones included, in no order. Made to be quick for thousands."""
        kept = self.names(self.kept)
        for name in kept:
            yield ContainerDir(self, name, self.kept / name)
        known = set(kept)
        for name in self.names(self.containers):
            if name not in known:
                yield ContainerDir(self, name, self.containers / name)

    @staticmethod
    def names(directory: Path) -> list[str]:
        """What is in a directory of the store; nothing if it is not there."""
        try:
            return os.listdir(directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(f"list {directory}", error) from error

    def container_dir(self, id: str) -> ContainerDir:
        """The files of a container that exists (perhaps half-made). ContainerNotFound if there are none."""
        for home in (self.kept / id, self.containers / id):
            try:
                os.stat(home)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise store_error(f"look at {home}", error) from error
            return ContainerDir(self, id, home)
        raise ContainerNotFound(id)

    def reserve(self, id: str, *, durable: bool) -> tuple[ContainerDir, LockFile]:
        """Take an id, and the claim to make it: in one step, so that of two programs one gets ContainerExists."""
        if not is_usable_name(id):
            raise InvalidSpec("id", f"{id!r} cannot be the name of a file here", hint="use another id")
        run, kept = self.containers / id, self.kept / id
        made = []
        try:
            # the lock: who finds a directory without record and claim knows that its maker is dead
            with short_lock(self.lock_path):
                try:
                    if not durable and kept.is_dir():
                        raise ContainerExists(id)
                    for path in (run, kept) if durable else (run,):
                        os.mkdir(path, 0o700)
                        made.append(path)
                    entry = ContainerDir(self, id, kept if durable else run)
                    return entry, entry.claim_new("create")
                except BaseException:
                    for path in reversed(made):
                        with suppress(OSError):
                            os.rmdir(path)
                    raise
        except FileExistsError:
            raise ContainerExists(id) from None
        except OSError as error:
            raise store_error(f"make {run}", error) from error

    def new_record(
        self, id: str, spec: Spec, owner: Owner, lease: str | None, *, kept: bool, durable: bool, stdin: bool
    ) -> Record:
        """A record of a container that is about to be made."""
        return Record(
            version=VERSION,
            id=id,
            uid=os.urandom(8).hex(),
            created_at=now(),
            owner=owner,
            lease=lease,
            boot=self.boot,
            namespaces=self.viewpoint.namespaces,
            command=shortened(spec.command),
            root=spec.root,
            labels=spec.labels,
            stop_signal=spec.stop_signal,
            terminal=spec.terminal,
            stdin=stdin,
            kept=kept,
            durable=durable,
            log_size=spec.log_size,
            journal=self.journal.end(),
        )

    def new_process_record(self, name: str, process: ProcessSpec, lease: str, *, named: bool) -> ProcessRecord:
        """A record of an exec that is about to be started."""
        return ProcessRecord(
            version=VERSION,
            name=name,
            args=shortened(process.command),
            started_at=now(),
            lease=lease,
            named=named,
            journal=self.journal.end(),
        )


def _problem_of(base: str) -> str | None:
    """Why no container could be made in a state directory with this path; None if nothing is known against it."""
    if ":" in os.path.splitdrive(base)[1]:
        return "has a `:`, at which runtimes and monitors cut paths"
    try:
        base.encode()
    except UnicodeEncodeError:
        return "is not UTF-8, as the documents of a container are"
    return None


def _content(path: Path) -> bytes | None:
    try:
        return read_whole(path)
    except FileNotFoundError:
        return None


def shortened(args: list[str]) -> list[str]:
    """A command for a listing: records are read by the thousand."""
    return [argument[:1000] for argument in args[:20]]


__all__ = ["DATA", "RUN", "ContainerDir", "Owner", "Record", "Store", "boot_id"]
