"""How long each internal step may take before it fails: one table, for `Engine(limits=)`.

Calls that a user waits for have a limit of their own: `run(timeout=)`, `stop(grace=)`, `close(grace=)`.
"""

from __future__ import annotations

import math

import msgspec

from ..errors import InvalidSpec


class HcsLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds for the answers and completions of Windows' Host Compute Service."""

    default: float = 240.0  # create, start, pause, resume, as the original client; and every other call
    shutdown: float = (
        300.0  # until a system whose init has ended is down, as the original client; then it is terminated
    )
    terminate: float = 30.0  # until a terminated system is down, and until the service accepts that request
    servicing: float = 300.0  # until a servicing container ends, after its process has
    late_exit: float = 1.0  # between the end of a system and the report of the end of a process in it
    late_output: float = 30.0  # of silence, after which the output pipes of an ended process are released


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds for each step. A step that takes longer fails with a typed error, and what it made or paused is undone.

    A machine that is much slower than others (emulated, or with hundreds of containers for each processor) needs
    more: `Engine(limits=Limits(create=300, start=300, verb=120))`.
    """

    create: float = 60.0  # Linux: until the monitor has reported the pid of a kept container
    start: float = 60.0  # Linux: until a runtime has started a process that runs for its caller
    verb: float = 30.0  # Linux: until a runtime has completed `start`, `update` or `delete`
    settle: float = (
        40.0  # Linux: until no process of a container is left after its init has ended; HCS has `hcs.shutdown`
    )
    end: float = 60.0  # until a killed process or container has ended
    lock: float = 30.0  # until another program releases the lock of a container's files
    disk: float = (
        2.0  # until records of a kept container are on the disk; after that the call returns without waiting for it
    )
    other_start: float = 240.0  # until another program that lives has started a container
    other_end: float = 60.0  # until another program that lives has recorded an exit that it alone knows
    hcs: HcsLimits = HcsLimits()

    def __post_init__(self) -> None:
        """Raise InvalidSpec for a field that is not a number of seconds above 0."""
        for prefix, table in (("limits", self), ("limits.hcs", self.hcs)):
            for name in table.__struct_fields__:
                value = getattr(table, name)
                if name != "hcs" and not (isinstance(value, (int, float)) and 0 < value < math.inf):
                    raise InvalidSpec(f"{prefix}.{name}", f"{value!r} is not a number of seconds above 0")


USUAL = Limits()
