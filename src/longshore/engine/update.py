"""Update: change the limits of a container while it lives, and its network endpoints on Windows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ..aio.tasks import shielded
from ..compute.protocols import ComputeSystem, Connectable
from ..errors import LongshoreError, NotSupported
from ..spec import Resources
from ..store.container_dir import RECORD, SPEC
from .lookup import with_system
from .state import ContainerRef, log
from .states import Verb


async def update(container: ContainerRef, change: Resources) -> None:
    """Change the limits, and record them in the spec. If cancelled, they are changed and recorded, or neither."""
    await with_system(container, Verb.UPDATE, lambda system: system.update(change))
    await shielded(_record_limits(container, change))


async def _record_limits(container: ContainerRef, change: Resources) -> None:
    directory = container.directory
    changed = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not None}
    async with directory.locked():
        container.read_current()
        spec = directory.read_spec()
        limits = msgspec.to_builtins(spec.resources) | changed
        memory, swap = limits["memory"], limits["memory_swap"]
        if None not in (memory, swap) and -1 < swap < memory:  # the new one of the two overrules the old one
            limits["memory" if "memory_swap" in changed else "memory_swap"] = None
        directory.write_spec(msgspec.structs.replace(spec, resources=Resources(**limits)))
    await directory.on_disk(SPEC, RECORD)  # a spec emptied by a loss of power looks as if the container were being made


def _connectable(system: ComputeSystem) -> Connectable:
    if not isinstance(system, Connectable):
        raise NotSupported("endpoints", "this service has no network endpoints", hint="set `network` in the spec")
    return system


async def need_endpoints(container: ContainerRef) -> None:
    """Raise NotSupported if the platform has no endpoints, before anything is changed."""

    async def look(system: ComputeSystem) -> None:
        _connectable(system)

    await with_system(container, Verb.CONNECT, look)


async def change_endpoints(container: ContainerRef, add: Sequence[str], remove: Sequence[str]) -> None:
    """Add network endpoints and remove others. If one fails, those before it are put back.

    Raises NotSupported if the platform has none. If cancelled, it completes first.
    """

    async def change(system: ComputeSystem) -> None:
        connectable = _connectable(system)
        undo: list[tuple[Callable[[str], Awaitable[None]], str]] = []
        try:
            for endpoint in add:
                await connectable.connect(endpoint)
                undo.append((connectable.disconnect, endpoint))
            for endpoint in remove:
                await connectable.disconnect(endpoint)
                undo.append((connectable.connect, endpoint))
        except LongshoreError:
            for reverse, endpoint in reversed(undo):
                try:
                    await reverse(endpoint)
                except LongshoreError as error:
                    log.warning("container `%s`: undoing a change of its endpoints: %s", container.id, error)
            raise

    await with_system(container, Verb.CONNECT, lambda system: shielded(change(system)))
