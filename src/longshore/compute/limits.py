"""How long each step may take before it counts as failed: one table, for `Engine(limits=)`.

What a user waits for has a limit of its own where it is asked for (`run(timeout=)`, `stop(grace=)`, `close(grace=)`).
"""

from __future__ import annotations

import math

import msgspec

from ..errors import InvalidSpec


class HcsLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that Windows' Host Compute Service is given for an answer, and for what it completes later."""

    default: float = 240.0  # create, start, pause, resume: as the original client; and what has no limit of its own
    shutdown: float = 300.0  # as the original: until a system whose init has ended is down; then it is terminated
    terminate: float = 30.0  # until a system that was terminated is down; and until the service takes such a word
    servicing: float = 300.0  # until a servicing container ends, after its process has
    late_exit: float = 1.0  # between the end of a system and the word of the end of a process in it
    late_output: float = 30.0  # of silence, after which the output pipes of an ended process are released


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that each step may take; then it fails with a typed error. What it was making, or pausing, is undone.

    A machine that is much slower than others (emulated, or with hundreds of containers for each processor) needs
    more: `Engine(limits=Limits(create=300, start=300, verb=120))`.
    """

    create: float = 60.0  # Linux: until the monitor has told the pid of a kept container
    start: float = 60.0  # Linux: until a runtime has started what runs for its caller
    verb: float = 30.0  # Linux: until a runtime has ended what it was told (`start`, `update`, `delete`)
    settle: float = 40.0  # Linux: until a container whose init has ended is quiet; HCS has `hcs.shutdown`
    end: float = 60.0  # until something that was killed is gone
    lock: float = 30.0  # until a container's files are free
    disk: float = 2.0  # until what a kept container is told by is on the disk; after that it is told all the same
    other_start: float = 240.0  # until another program, alive, has started a container (HCS: as long as that)
    other_end: float = 60.0  # until another program, alive, has recorded an end that it alone can know
    hcs: HcsLimits = HcsLimits()

    def __post_init__(self) -> None:
        """InvalidSpec, naming the field, for what is no time."""
        for prefix, table in (("limits", self), ("limits.hcs", self.hcs)):
            for name in table.__struct_fields__:
                value = getattr(table, name)
                if name != "hcs" and not (isinstance(value, (int, float)) and 0 < value < math.inf):
                    raise InvalidSpec(f"{prefix}.{name}", f"{value!r} is not a number of seconds above 0")


USUAL = Limits()
