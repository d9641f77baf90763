"""What a system is now, for who has not got it open: asked of the service, in one go."""

from __future__ import annotations

from contextlib import suppress

from ..compute import State
from ..errors import ServiceError
from . import documents, measure
from .hresults import GONE, HcsError, same
from .system import SystemToken
from .vmcompute import System, Vmcompute


def ask_state(vmcompute: Vmcompute, known: SystemToken) -> State:
    """Whether a system's init is alive. Blocks."""
    try:
        handle = vmcompute.open_compute_system(known.id)
    except HcsError as error:
        return State.STOPPED if same(error.code or 0, GONE) else State.RUNNING
    try:
        return _state(vmcompute, handle, known)
    except ServiceError:
        return State.RUNNING  # it is there, and the service says no more
    finally:
        with suppress(HcsError):
            vmcompute.close_compute_system(handle)


def _state(vmcompute: Vmcompute, handle: System, known: SystemToken) -> State:
    text = vmcompute.get_compute_system_properties(handle, documents.property_query())
    base = measure.properties(text, "the state", known.id)
    if base.stopped or base.state in ("Stopped", "Terminated"):
        return State.STOPPED
    if base.state == "Paused":
        return State.PAUSED
    if known.init is None:
        return State.RUNNING
    init = known.init
    text = vmcompute.get_compute_system_properties(handle, documents.property_query("ProcessList"))
    found = measure.properties(text, "the processes", known.id)
    alive = measure.is_listed(found, init, hyperv=known.hyperv)
    return State.RUNNING if alive else State.STOPPED
