"""What subscribers are given: events, and gaps between them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from ..exit_record import Exit

EventType = Literal[
    "start-container", "pause", "resume", "exit", "exit-process", "restore", "oom", "checkpoint", "delete"
]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One state change. `seq` is its place in the journal and the cursor for `events(since=)`.

    `container` is the id, `uid` tells two containers apart that had the same id one after the other; `process`
    is the name of the process that an `exit` or `exit-process` is about.
    """

    seq: int
    at: datetime
    type: EventType
    container: str
    uid: str = ""
    process: str | None = None
    exit: Exit | None = None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Events `since` to `until` (both included) are not known any more: dropped by age, or lost with the power.

    Between two boots there is one also where nothing was lost: nobody can know.
    """

    since: int
    until: int


__all__ = ["Event", "EventType", "Gap"]
