"""What is written down of containers for whoever finds them later: what one was made of, and what a lease has."""

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
    """What a container was made of: written before it is made, into its own place. May hold secrets."""

    owner: str
    spec: Spec
    scratch: Scratch | None = None

    def write(self, place: Place) -> None:
        """Put it in the container's place, as a whole."""
        path = place.data / MADE
        fresh = path.with_suffix(".tmp")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self))
        os.replace(fresh, path)

    @classmethod
    def read(cls, place: Place) -> CreationRecord:
        """What was written. OSError or msgspec.MsgspecError if there is nothing of the kind."""
        return decode_json((place.data / MADE).read_bytes(), cls)

    @staticmethod
    def forget(place: Place) -> None:
        """Take it away."""
        (place.data / MADE).unlink(missing_ok=True)


class LeaseRecord(NamedTuple):
    """One thing that a lease has: a system with the name of its owner, or a process in it with its token."""

    name: str  # of its file
    id: str
    owner: str | None
    process: bytes | None = None


class LeaseRecords:
    """Which systems, and which processes in systems that may be kept, a lease is to take with it: one file each."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "hcs-leases"

    def add_system(self, lease: str, id: str, owner: str) -> None:
        """The lease has a system, which bears this owner's name."""
        self._add(lease, id, owner.encode())

    def add_process(self, lease: str, id: str, pid: int, token: bytes) -> None:
        """The lease has a process."""
        self._add(lease, f"{id}~{pid}", token)  # `~` is in no id

    def _add(self, lease: str, name: str, data: bytes) -> None:
        folder = self._folder / lease
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / name).write_bytes(data)

    def remove_system(self, lease: str, id: str) -> None:
        """It is gone."""
        self._remove(lease, id)

    def remove_process(self, lease: str, id: str, pid: int) -> None:
        """It has ended."""
        self._remove(lease, f"{id}~{pid}")

    def _remove(self, lease: str, name: str) -> None:
        with suppress(OSError):
            (self._folder / lease / name).unlink(missing_ok=True)

    def forget_system(self, id: str) -> None:
        """It is gone, whichever lease had it."""
        with suppress(OSError):
            for lease in os.listdir(self._folder):
                self._remove(lease, id)

    def of(self, lease: str) -> list[LeaseRecord]:
        """What a lease has."""
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
        """It has ended."""
        self._remove(lease, record.name)

    def forget_lease(self, lease: str) -> None:
        """It has ended, unless a record of it is left."""
        with suppress(OSError):
            (self._folder / lease).rmdir()
