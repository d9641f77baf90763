"""What a process that runs for us gets as its streams: ours, but for those that are the null device."""

from __future__ import annotations

import os
import select

from ...compute.values import DEVNULL, INHERIT, Stdio
from .output import Unwritable


def _is_null(fd: int) -> bool:
    """Whether a stream of ours is the null device, or none at all: nothing has to be copied then."""
    try:
        found = os.fstat(fd)
    except OSError:
        return True
    return os.name != "nt" and os.path.samestat(found, os.stat(os.devnull))


def own_streams(*, stdin: bool) -> Stdio:
    """Our streams, for a process that is started. It gets copies of what goes through them, never the files."""
    return Stdio(stdin=_or_null(0) if stdin else DEVNULL, stdout=_or_null(1), stderr=_or_null(2))


def _or_null(fd: int) -> int:
    return DEVNULL if _is_null(fd) else INHERIT


def check_written(unwritten: dict[str, OSError]) -> None:
    """Unwritable, if one of our outputs took no more."""
    for name, error in unwritten.items():
        raise Unwritable(1 if name == "stdout" else 2, error)


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Write all of it, also to a stream of ours that somebody has made non-blocking. Unwritable, if it is ours."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            if fd not in (1, 2):
                raise
            raise Unwritable(fd, error) from None
