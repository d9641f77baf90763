"""What the files of the state directory say: records, with their version. docs/state.md is their contract."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any, Literal

import msgspec

from ..compute.values import Owner
from ..errors import StoreError
from ..exit_record import Cause, Exit
from ..typed_json import decode_json
from .journal import Position

VERSION = 1


class Change(msgspec.Struct, frozen=True):
    """A pause or resume that was begun: who finds it done, and not told, tells it."""

    type: Literal["pause", "resume"]
    since: Position


class Record(
    msgspec.Struct,
    kw_only=True,
    omit_defaults=True,
    rename={"start_published": "start_told", "exit_published": "exit_told"},  # as earlier versions store them
):
    """What is known of one container; small, so that a listing reads one file for each."""

    version: int
    id: str
    uid: str  # tells two containers apart that had the same id one after the other
    created_at: datetime
    owner: Owner = "keep"
    lease: str | None = None  # it ends with this
    starter: str | None = None  # the lease of the program that started it, and knows most of its end while it lives
    boot: str = ""
    namespaces: str = ""  # what its pids and start times belong to; earlier versions did not record it
    command: list[str] = []
    root: str = ""
    labels: dict[str, str] = {}
    stop_signal: int = 15
    terminal: bool = False
    stdin: bool = False
    kept: bool = False  # its output goes to its log; else to its caller
    durable: bool = False  # it lives in `data`: it may outlive its owner
    log_size: int = 64 << 20
    journal: Position = Position()  # nothing of this container stands before
    life: int = 1  # counts up each time that it goes on from a checkpoint; each has an exit record of its own
    # filled in as it goes
    log_inode: int | None = None
    token: bytes = b""  # what the service needs to open the system; empty: half-made
    process: bytes = b""  # the same for init
    pid: int | None = None
    starting_at: datetime | None = None  # before the service was asked to start it
    started_at: datetime | None = None  # after it had said yes
    start_published: bool = False
    exit_published: bool = False
    paused: bool = False  # as it was told
    change: Change | None = None
    checkpointing: bool = False  # frozen until its checkpoint is whole
    ending: Cause | None = None  # why we kill it, once we do


class ExitRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a process ended, and what else was seen; written once."""

    version: int
    exit: Exit
    oom: bool = False
    updates_pending: bool = False  # Windows: servicing left updates to apply
    error: str | None = None


class ProcessRecord(msgspec.Struct, kw_only=True, omit_defaults=True, rename={"exit_published": "exit_told"}):
    """What is known of one exec process."""

    version: int
    name: str
    args: list[str]
    started_at: datetime
    lease: str  # it ends with this
    named: bool = False  # else it is forgotten when it has ended
    journal: Position = Position()
    token: bytes = b""
    pid: int | None = None
    exit_published: bool = False


class StoreInfo(msgspec.Struct):
    """What kind of store a directory is."""

    version: int
    id: str


BY_FORCE = "delete the container with `longshore rm --force`"


class Damaged(StoreError):
    """A file of a container cannot be read: only its forced deletion is possible."""


class _Versioned(msgspec.Struct):
    version: int


def decode(data: bytes, type_: type[Any], path: str | os.PathLike[str], *, hint: str | None = None) -> Any:
    """A record from its bytes. StoreError, naming the file, if a later version wrote it; Damaged if it is no record."""
    try:
        found = decode_json(data, type_)
    except (ValueError, RecursionError) as error:
        try:
            version = decode_json(data, _Versioned).version
        except (ValueError, RecursionError):
            version = VERSION
        if version <= VERSION:
            raise Damaged(
                f"cannot read {os.fspath(path)}: it is damaged ({error})",
                hint=hint or BY_FORCE,
            ) from error
    else:
        version = getattr(found, "version", VERSION)
        if version <= VERSION:
            return found
    raise StoreError(
        f"cannot use {os.fspath(path)}: it has format version {version}, and this longshore reads version {VERSION}",
        hint="use the longshore version that wrote it, or another state directory ($LONGSHORE_ROOT)",
    )


__all__ = [
    "BY_FORCE",
    "VERSION",
    "Change",
    "Damaged",
    "ExitRecord",
    "Owner",
    "ProcessRecord",
    "Record",
    "StoreInfo",
    "decode",
]
