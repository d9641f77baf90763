"""The cgroup of one container, made and limited by longshore, with the errors that its caller sees."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...aio.tasks import in_thread, uninterrupted
from ...errors import ServiceError
from ...fs.files import next_step
from ...typed_json import convert
from ..documents import Resources
from . import entering, limits
from .cgroup import Cgroup

T = TypeVar("T")


async def _done(what: str, id: str, work: Callable[[], T]) -> T:
    """Work on files of the kernel's, in a thread, to its end also if cancelled. Raises ServiceError."""
    try:
        return await uninterrupted(in_thread(work))
    except OSError as error:
        hint = next_step(error)
        if error.errno == errno.EBUSY:
            hint = "ask for more memory than the container uses now"
        elif error.errno in (errno.EINVAL, errno.EACCES, errno.EPERM):
            hint = "ask for less; `longshore doctor` shows what this machine has"
        raise ServiceError(what, id, str(error), hint=hint) from error


async def make(id: str, group: Cgroup) -> None:
    """Make the group that a container's process is to enter by itself. Raises ServiceError."""
    await _done("make the cgroup of", id, lambda: limits.make(group))


async def make_limited(id: str, group: Cgroup, config: Mapping[str, Any]) -> None:
    """Make it with the limits of config.json. Raises ServiceError, InvalidSpec."""

    def work() -> None:
        limits.make(group)
        limits.limit(group, _wanted(config))

    await _done("make the cgroup of", id, work)


async def limit_made(id: str, group: Cgroup, config: Mapping[str, Any]) -> None:
    """Write the limits of config.json to the group in which a runtime has made the container, and forget what the
    runtime used there. Raises ServiceError, InvalidSpec."""

    def work() -> None:
        limits.forget_used(group)
        limits.limit(group, _wanted(config))

    await _done("limit the cgroup of", id, work)


async def update(id: str, group: Cgroup, wanted: Resources) -> None:
    """Change limits; what is not named stays as it is. Raises ServiceError, InvalidSpec."""
    await _done("limit the cgroup of", id, lambda: limits.limit(group, wanted))


async def anteroom(id: str, group: Cgroup, config: Mapping[str, Any]) -> Cgroup | None:
    """The group that crun's `exec` is in, where the container may interfere with the first program. Raises
    ServiceError."""
    if not entering.may_interfere(config):
        return None
    return await _done("make the cgroup of", id, lambda: entering.make_anteroom(group))


def _wanted(config: Mapping[str, Any]) -> Resources:
    """The limits of a config.json that longshore has written."""
    return convert((config.get("linux") or {}).get("resources") or {}, Resources)
