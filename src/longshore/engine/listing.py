"""Listings: what a user sees of all containers, and all that is known of one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..compute.values import ContainerInfo, State, now
from ..errors import (
    ContainerNotFound,
    NotVisible,
    StoreError,
)
from ..store.container_dir import ContainerDir
from ..store.records import Damaged, Record
from .lookup import derive, derive_alive, info_of, state_of, state_of_unmade
from .state import ContainerRef, EngineState, log
from .states import DAMAGED, HIDDEN, STOPPED


async def look(container: ContainerRef, record: Record) -> ContainerInfo:
    """Find out what a container is, as `derive` does. A container that cannot be seen from here is `hidden`."""
    try:
        return await derive(container, record)
    except NotVisible:
        found = container.directory.read_exit()  # another program may have recorded it meanwhile
        return info_of(record, HIDDEN, None) if found is None else info_of(record, STOPPED, found.exit)


async def listing(
    engine: EngineState, labels: Mapping[str, str] | None, states: Collection[str] | None
) -> list[ContainerInfo]:
    """Return all containers, oldest first; only those with all of `labels` and in one of `states` where given."""
    found: list[ContainerInfo] = []
    late: list[tuple[ContainerRef, Record]] = []  # exits to be found out or published, side by side

    def add(info: ContainerInfo) -> None:
        if states is None or info.state in states:
            found.append(info)

    for directory in engine.store.container_dirs():
        try:
            record = directory.read()
            container = ContainerRef(engine, directory, record.uid)
            if labels and any(record.labels.get(name) != text for name, text in labels.items()):
                continue
            exit = directory.read_exit()
            if exit is not None and not record.exit_published:
                late.append((container, record))
            elif exit is not None:
                add(info_of(record, STOPPED, exit.exit))
            elif not record.token:
                add(info_of(record, state_of_unmade(engine, directory), None))
            elif engine.store.sight(record)[0] == "hidden":
                add(info_of(record, HIDDEN, None))
            elif (seen := await state_of(engine, record)) is State.STOPPED:
                late.append((container, record))
            else:
                add(await derive_alive(container, record, seen))
        except ContainerNotFound:
            continue
        except NotVisible:
            add(info_of(record, HIDDEN, None))
        except Damaged as error:
            log.warning("%s", error)
            if not labels:
                add(_damaged_info(directory))
        except StoreError as error:
            log.warning("%s", error)
    if late:
        for info in await asyncio.gather(*(look(*each) for each in late), return_exceptions=True):
            if isinstance(info, ContainerInfo):
                add(info)
            elif not isinstance(info, ContainerNotFound):
                log.warning("listing: %s", info)
    return sorted(found, key=lambda info: (info.created_at, info.id))


def _damaged_info(directory: ContainerDir) -> ContainerInfo:
    """Return what is known of a container whose record cannot be read."""
    made = now()
    with suppress(OSError):
        made = datetime.fromtimestamp(os.stat(directory.home).st_mtime, UTC)
    return ContainerInfo(id=directory.id, uid="", state=DAMAGED.value, command=[], root="", created_at=made)


async def inspection(container: ContainerRef) -> dict[str, Any]:
    """Return all that is known of a container, as plain data; of its environment only the names."""
    directory = container.directory
    record = container.read_current()
    info = await look(container, record)
    document: dict[str, Any] = msgspec.to_builtins(info)
    spec = directory.read_spec()
    settings: dict[str, Any] = msgspec.to_builtins(spec)
    settings["env"] = sorted(spec.env)  # names only: values may be secrets
    settings.pop("oci", None)
    if settings.get("windows"):
        settings["windows"].pop("credentials", None)
    document["spec"] = settings
    document["lease"] = record.lease
    document["log"] = str(directory.place().log) if record.kept else None
    exit = directory.read_exit()
    document["oom"] = exit is not None and exit.oom
    document["updates_pending"] = exit is not None and exit.updates_pending
    document["error"] = None if exit is None else exit.error
    processes: dict[str, Any] = {}
    for name in directory.processes():
        found = directory.read_process(name)
        if found is not None:
            end = directory.read_process_exit(name)
            processes[name] = {
                "args": found.args,
                "pid": found.pid,
                "exit": None if end is None else msgspec.to_builtins(end.exit),
            }
    document["processes"] = processes
    return document
