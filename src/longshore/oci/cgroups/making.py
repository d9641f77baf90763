"""The cgroup of one container, made and limited by longshore, with the errors that its caller sees."""

from __future__ import annotations

import errno
import os
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
        raise _failure(what, id, error) from error


def _failure(what: str, id: str, error: OSError) -> ServiceError:
    hint = next_step(error)
    if error.errno == errno.EBUSY:
        hint = "ask for more memory than the container uses now"
    elif error.errno in (errno.EINVAL, errno.EACCES, errno.EPERM):
        hint = "ask for less; `longshore doctor` shows what this machine has"
    return ServiceError(what, id, str(error), hint=hint)


def make(id: str, group: Cgroup, config: Mapping[str, Any] | None) -> None:
    """Make the group that a container's process is to enter by itself, with the limits of config.json, if it is given.

    Failed: it is removed again. Raises ServiceError, InvalidSpec. Blocks.
    """
    try:
        limits.make(group)
        if config is not None:
            limits.limit(group, _wanted(config))
    except BaseException as error:
        Cgroup(os.path.dirname(group.path), root=group.root).remove(0)
        if isinstance(error, OSError):
            raise _failure("make the cgroup of", id, error) from error
        raise


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
