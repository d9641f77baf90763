"""What a system is now: asked of the service, where nobody has told us."""

from __future__ import annotations

import logging
from contextlib import suppress

from ...compute.protocols import SystemHidden
from ...compute.values import State
from ...errors import ServiceError
from ..dll.hresults import GONE, HcsError, same
from ..dll.vmcompute import System, Vmcompute
from ..schema1 import documents
from . import properties
from .notifications import Type
from .system import HcsSystem, SystemToken

log = logging.getLogger("longshore.hcs")

PAUSED = "Paused"  # a `State` of the properties document


def ask_state(vmcompute: Vmcompute, known: SystemToken) -> State:
    """Whether a system's init is alive, of one that is not open here: in one go. Blocks.

    SystemHidden where the service refuses to say: that is neither the end of it nor its running.
    """
    try:
        handle = vmcompute.open_compute_system(known.id)
    except HcsError as error:
        if same(error.code or 0, GONE):
            return State.STOPPED
        raise SystemHidden(f"the service does not open it: {error.detail}") from error
    try:
        return _state(vmcompute, handle, known)
    except ServiceError as error:
        raise SystemHidden(f"the service does not say: {error.detail}") from error
    finally:
        with suppress(HcsError):
            vmcompute.close_compute_system(handle)


def _state(vmcompute: Vmcompute, handle: System, known: SystemToken) -> State:
    text = vmcompute.get_compute_system_properties(handle, documents.property_query())
    base = properties.properties(text, "the state", known.id)
    if base.stopped or base.state in ("Stopped", "Terminated"):
        return State.STOPPED
    if base.state == PAUSED:
        return State.PAUSED
    if known.init is None:
        return State.RUNNING
    init = known.init
    text = vmcompute.get_compute_system_properties(handle, documents.property_query("ProcessList"))
    found = properties.properties(text, "the processes", known.id)
    alive = properties.is_listed(found, init, hyperv=known.hyperv)
    return State.RUNNING if alive else State.STOPPED


async def look_whether_paused(system: HcsSystem) -> None:
    """Have a system that was opened know whether it was paused before. If the service does not say, it was not."""
    resumed = system.watch.expect(Type.SYSTEM_RESUME_COMPLETED)
    try:
        base = await system.properties()
    except ServiceError as error:
        log.warning("container `%s`: whether it is paused is not known: %s", system.id, error)
    else:
        if base.state == PAUSED and not resumed.done():  # not by the one who paused it, while we asked
            system.watch.deliver(Type.SYSTEM_PAUSE_COMPLETED, 0)
    finally:
        resumed.cancel()
