"""What a runner saw while it played a recording: the same members as the recording has, of the same types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .vectors import Attached, Call, Event, Open, Stdin, Stream


@dataclass
class Outcome:
    """How one operation ended: with a result (None: nothing), an error, or not at all within its `ms`."""

    result: Any = None
    error: BaseException | None = None
    hung: bool = False


@dataclass
class Reentered:
    """How a call from inside an event's handler ended."""

    state: str
    op: str
    outcome: Outcome


@dataclass
class Observed:
    """Everything that was seen.

    Handles are named as in recordings: s1, p1, c1 in order of creation. `outcomes` has one entry for each operation
    that has an outcome, by its index. `order` is the timeline: {"op": i}, {"return": i}, {"call": i}, {"event": i},
    {"attach": i}, as far as the runner knows it.
    """

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    attached: list[Attached] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    stdin: list[Stdin] = field(default_factory=list)
    open: Open = field(default_factory=Open)
    reentries: list[Reentered] = field(default_factory=list)
    order: list[dict[str, int]] = field(default_factory=list)
