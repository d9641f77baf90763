"""What a subscription returns: events, and gaps between them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from ..exit_record import Exit

EventType = Literal[
    "start-container", "pause", "resume", "exit", "exit-process", "restore", "oom", "checkpoint", "delete"
]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of a container. `seq` is its number in the journal, and the cursor for `events(since=)`.

    `container` is the id. `uid` differs between two containers that had the same id one after the other. `process` is
    the name of the process of an `exit` or `exit-process`.
    """

    seq: int
    at: datetime
    type: EventType
    container: str
    uid: str = ""
    process: str | None = None
    exit: Exit | None = None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Events `since` to `until` (both included) are no longer known: dropped by age, or lost in a power failure.

    There is always one between two boots, because longshore cannot know whether something was lost.
    """

    since: int
    until: int


__all__ = ["Event", "EventType", "Gap"]
