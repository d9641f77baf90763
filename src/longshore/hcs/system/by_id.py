"""Find a system by its id alone: where no handle of it is open, or the open one has become useless.

A handle becomes useless when the service is restarted. The system may run on, and only its id finds it again. After our
system has ended, another program may have made a system with the same id. So the owner is compared before a system is
terminated.
"""

from __future__ import annotations

import asyncio

import msgspec

from ...aio.tasks import shielded
from ...compute.values import Place
from ...errors import LongshoreError
from ..dll.calls import Handle
from ..dll.hresults import ENDED, GONE, HcsError, same
from ..dll.vmcompute import System, Vmcompute
from . import properties
from .lease_records import CreationRecord
from .notifications import OF_SYSTEMS, Type, Watch, wait_for_exit
from .session import Session


async def open_system(session: Session, id: str, operation: str = "open") -> System | None:
    """Open a system; None if the service has none of this id.

    Raises: HcsError, with `operation` as what failed; TimeLimit if the service does not answer.
    """
    vm = session.vmcompute
    try:
        opening = session.threads.call(vm.open_compute_system, id)
        return await session.make("open", id, opening, vm.close_compute_system)
    except HcsError as error:
        if same(error.code or 0, GONE):
            return None
        raise error.about(operation, id) from error


async def is_gone(session: Session, id: str) -> bool:
    """Return whether the service says that it has no such system."""
    vm = session.vmcompute
    try:
        value = await open_system(session, id)
    except LongshoreError:
        return False
    if value is None:
        return True
    await shielded(session.threads.call(vm.close_compute_system, value, or_here=True))
    return False


async def end(session: Session, id: str, place: Place) -> None:
    """Terminate our system of this id, if there is one, and wait for its end.

    Raises: HcsError or TimeLimit; the system may then still run.
    """
    value = await open_system(session, id, "delete")
    if value is None:
        return
    watch = Watch(asyncio.get_running_loop(), OF_SYSTEMS)
    handle = await session.watch_system(value, watch, id)
    try:
        if await _is_ours(session, handle, id, place):
            await _terminate(session, handle, watch, id)
    finally:
        await shielded(handle.close())


async def _is_ours(session: Session, handle: Handle[System], id: str, place: Place) -> bool:
    """Return whether a system of our id also has our owner."""
    try:
        owner = CreationRecord.read(place).owner
    except (OSError, msgspec.MsgspecError):
        return True  # no record of an owner to compare with
    found = (await properties.ask(session, handle, id)).owner
    return not found or found == owner


async def _terminate(session: Session, handle: Handle[System], watch: Watch, id: str) -> None:
    limit = session.limits.terminate

    async def terminate() -> None:
        if not await handle.call("terminate", session.vmcompute.terminate_compute_system):
            await wait_for_exit(watch, "terminate", id, limit)

    try:
        await session.answer("terminate", id, terminate(), limit)
    except HcsError as error:
        exited = watch.ended.done() and watch.ended.result().type is Type.SYSTEM_EXITED  # though with an error
        if not exited and not same(error.code or 0, ENDED):
            raise


def terminate_apart(vmcompute: Vmcompute, id: str) -> bool:
    """Terminate a system by a handle of its own, where a call on the open one may block. Blocks."""
    system = vmcompute.open_compute_system(id)
    try:
        return vmcompute.terminate_compute_system(system)
    finally:
        vmcompute.close_compute_system(system)
