"""Undo a container whose maker failed or died, while the maker's helpers may still be at work.

A maker starts helpers: the monitor, the runtime, and what the runtime starts. Any of them may be about to create a
process in the container's cgroup, and nothing but the cgroup shows it. So the cgroups are killed again and again until
the helpers are gone. Only then are the runtime's state and the cgroups removed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..aio.tasks import in_thread
from ..compute.values import Place
from ..fs.files import try_hold
from . import leases
from .cgroups.cgroup import Cgroup
from .processes.launch import Helpers
from .rootfs.layers import remove_work
from .runtimes.runtime import Runtime, delete_state
from .system import group_of_monitor

log = logging.getLogger("longshore.oci")


async def abandon(
    id: str,
    place: Place,
    groups: Sequence[Cgroup],
    runtimes: Sequence[Runtime],
    helpers: Helpers | None,
    *,
    root: Path,
    limit: float,
) -> None:
    """Kill and remove what is in `groups`, and the state that each of `runtimes` has of the container.

    `helpers` are those of a maker in this program; None for a maker that died. The first of `groups` is the one of a
    kept container. Helpers that still run after `limit` seconds are killed.
    """
    loop = asyncio.get_running_loop()
    deadline, killed = loop.time() + limit, False
    while True:
        for group in groups:
            await in_thread(group.kill, or_here=True)
        if helpers.gone() if helpers is not None else _helpers_gone(place):
            break
        if loop.time() > deadline:
            if killed:
                break
            await in_thread(lambda: _kill_helpers(id, place), or_here=True)
            killed, deadline = True, loop.time() + limit
        # what a runtime makes next shows only in the cgroup, so this polls until the helpers are gone
        await asyncio.sleep(0.005)
    for runtime in runtimes:
        await delete_state(runtime, id, place.run / "delete.log")
    for group in [*groups, group_of_monitor(groups[0].path, root)]:
        await in_thread(group.remove, or_here=True)
    remove_work(place.run)


def _helpers_gone(place: Place) -> bool:
    """Return whether all helpers of a dead maker have ended: they inherit the lock, and keep it."""
    held = try_hold(place.run / "making.lock")
    if held is None:
        return False
    held.release()
    return True


def _kill_helpers(id: str, place: Place) -> None:
    """Kill a runtime that hangs: every program that has the lock, which only the maker and its helpers inherit."""
    log.warning("container `%s`: its runtime did not end in time, and is killed", id)
    for pid in leases.holders(place.run / "making.lock"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
