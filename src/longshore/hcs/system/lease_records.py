"""Record, for programs that come later, what a container was made of, and what a lease has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...compute.values import Place
from ...spec import Spec
from ...typed_json import decode_json
from .layers import Scratch

MADE = "hcs.json"


class CreationRecord(msgspec.Struct, kw_only=True):
    """What a container was made of. Written into its own place before it is made. May hold secrets."""

    owner: str
    spec: Spec
    scratch: Scratch | None = None

    def write(self, place: Place) -> None:
        """Write it into the container's place, atomically."""
        path = place.data / MADE
        fresh = path.with_suffix(".tmp")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self))
        os.replace(fresh, path)

    @classmethod
    def read(cls, place: Place) -> CreationRecord:
        """Read it.

        Raises: OSError or msgspec.MsgspecError if there is no such record.
        """
        return decode_json((place.data / MADE).read_bytes(), cls)

    @staticmethod
    def forget(place: Place) -> None:
        """Remove it."""
        (place.data / MADE).unlink(missing_ok=True)


class LeaseRecord(NamedTuple):
    """One entry of a lease: a system with the name of its owner, or a process in a system, with its token."""

    name: str  # of its file
    id: str
    owner: str | None
    process: bytes | None = None


class LeaseRecords:
    """The systems of a lease, and its processes in systems that may be kept: one file each. They end with the lease."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "hcs-leases"

    def add_system(self, lease: str, id: str, owner: str) -> None:
        """Record that the lease has a system with this owner."""
        self._add(lease, id, owner.encode())

    def add_process(self, lease: str, id: str, pid: int, token: bytes) -> None:
        """Record that the lease has a process."""
        self._add(lease, f"{id}~{pid}", token)  # `~` is in no id

    def _add(self, lease: str, name: str, data: bytes) -> None:
        folder = self._folder / lease
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / name).write_bytes(data)

    def remove_system(self, lease: str, id: str) -> None:
        """Remove the record of a system that is gone."""
        self._remove(lease, id)

    def remove_process(self, lease: str, id: str, pid: int) -> None:
        """Remove the record of a process that has ended."""
        self._remove(lease, f"{id}~{pid}")

    def _remove(self, lease: str, name: str) -> None:
        with suppress(OSError):
            (self._folder / lease / name).unlink(missing_ok=True)

    def forget_system(self, id: str) -> None:
        """Remove the records of a system that is gone, whichever lease had it."""
        with suppress(OSError):
            for lease in os.listdir(self._folder):
                self._remove(lease, id)

    def of(self, lease: str) -> list[LeaseRecord]:
        """Return the records of a lease."""
        folder = self._folder / lease
        found: list[LeaseRecord] = []
        with suppress(OSError):
            for name in sorted(os.listdir(folder)):
                id, mark, _ = name.partition("~")
                data = b""
                with suppress(OSError):
                    data = (folder / name).read_bytes()
                owner = None if mark else data.decode(errors="replace")
                found.append(LeaseRecord(name, id, owner, data if mark else None))
        return found

    def remove(self, lease: str, record: LeaseRecord) -> None:
        """Remove one record."""
        self._remove(lease, record.name)

    def forget_lease(self, lease: str) -> None:
        """Remove a lease, unless a record of it is left."""
        with suppress(OSError):
            (self._folder / lease).rmdir()
