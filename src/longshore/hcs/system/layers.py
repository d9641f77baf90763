"""Layers of Windows images: the layer functions of vmcompute.dll, and the scratch layer of a container over them.

A layer is a folder; the filter driver of Windows shows the scratch layer of a process-isolated container, together
with its read-only parents, as a volume. A utility VM mounts its layers itself. The life of a scratch layer:
created, activated, prepared, used by its mount path; unprepared, deactivated, destroyed.
"""

from __future__ import annotations

import ctypes
import logging
import ntpath
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ctypes import byref, c_size_t, c_uint32
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ...aio.tasks import uninterrupted
from ...errors import NotSupported
from ..dll import privileges
from ..dll.hresults import ACCESS_DENIED, FLAKY_MOUNT, GONE, NO_COMMAND, HcsError, same
from ..dll.vmcompute import DriverInfo, Guid, LayerDescriptor, Vmcompute, text

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger("longshore.hcs")

T = TypeVar("T")

FILTER = 1  # the driver that containers use; 0 is that of differencing disks
SHARING_VIOLATION = 32
MOUNT_TRIES, MOUNT_PAUSE = 5, 0.1  # as hcsshim
DESTROY_TRIES, DESTROY_PAUSE = 100, 0.1  # a service, or a virus scanner, may use a layer's files for seconds more

_preparing = threading.Lock()
"""PrepareLayer fails when two run at once in one process: a bug of Windows, by hcsshim's findings."""


class Scratch(msgspec.Struct, frozen=True, kw_only=True):
    """The scratch layer that was put under a container, as far as it is ours to take away."""

    path: str
    mounted: bool  # process isolation: activated and prepared
    made: bool  # created by us: to be destroyed with the container


class LayerFunctions:
    """The layer functions: a layer is given by the full path of its folder. All block."""

    def __init__(self, vmcompute: Vmcompute) -> None:
        self._vm = vmcompute
        self._driver = DriverInfo(FILTER, "")

    def _call(self, name: str, path: str, *arguments: object) -> None:
        privileges.enable()
        try:
            self._vm.simple(name, byref(self._driver), text(path), *arguments)
        except HcsError as error:
            raise error.about(f"call {name} for {path}", None) from error

    def _chain(self, parents: Sequence[str]) -> tuple[object, int]:
        """The descriptors of the parent layers, nearest first."""
        descriptors = (LayerDescriptor * len(parents))()
        for descriptor, path in zip(descriptors, parents, strict=True):
            descriptor.layer_id = Guid.of(self._vm.name_to_guid(ntpath.split(path)[1]))
            descriptor.flags = 0
            descriptor.path = text(path)
        return descriptors, len(parents)

    def create(self, path: str, parents: Sequence[str]) -> None:
        """Make an empty scratch layer over its parents."""
        self._call("CreateSandboxLayer", path, None, *self._chain(parents))

    def expand(self, path: str, size: int) -> None:
        """Let a scratch layer grow to so many bytes; before it is activated."""
        self._call("ExpandSandboxSize", path, size)

    def activate(self, path: str) -> None:
        """Attach the disk of a scratch layer."""
        self._call("ActivateLayer", path)

    def deactivate(self, path: str) -> None:
        """Detach it."""
        self._call("DeactivateLayer", path)

    def prepare(self, path: str, parents: Sequence[str]) -> None:
        """Put the filter over an active layer: its volume then shows the parents, too. One at a time."""
        chain = self._chain(parents)
        with _preparing:
            self._call("PrepareLayer", path, *chain)

    def unprepare(self, path: str) -> None:
        """Take the filter away."""
        self._call("UnprepareLayer", path)

    def destroy(self, path: str) -> None:
        """Remove a layer with all its files."""
        self._call("DestroyLayer", path)

    def exists(self, path: str) -> bool:
        """Whether there is such a layer."""
        found = c_uint32()
        self._call("LayerExists", path, byref(found))
        return bool(found.value)

    def mount_path(self, path: str) -> str:
        r"""The volume of a prepared layer, as `\\?\Volume{GUID}\`."""
        length = c_size_t()
        self._call("GetLayerMountPath", path, byref(length), None)
        buffer = ctypes.create_unicode_buffer(length.value + 1)
        self._call("GetLayerMountPath", path, byref(length), ctypes.addressof(buffer))
        return buffer.value

    def process_base_layer(self, path: str) -> None:
        """Finish a base layer whose files were just unpacked."""
        self._plain("ProcessBaseImage", path)

    def process_utility_vm(self, path: str) -> None:
        """Finish the utility VM of a base layer (its folder `UtilityVM`) whose files were just unpacked."""
        self._plain("ProcessUtilityImage", path)

    def grant_access(self, vm_id: str, path: str) -> None:
        """Let a utility VM read a file."""
        self._plain("GrantVmAccess", vm_id, path)

    def _plain(self, name: str, *arguments: str) -> None:
        privileges.enable()
        try:
            self._vm.simple(name, *(text(each) for each in arguments))
        except HcsError as error:
            raise error.about(f"call {name} for {arguments[-1]}", None) from error


def _retried(call: Callable[[], T], codes: Sequence[int], tries: int, pause: float) -> T:
    """What `call` returns, tried again while it fails with one of `codes`: nothing tells when it would not."""
    for left in range(tries - 1, -1, -1):
        try:
            return call()
        except HcsError as error:
            if not left or not same(error.code or 0, codes):
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")


def mount(functions: LayerFunctions, path: str, parents: Sequence[str]) -> str:
    """Activate and prepare a scratch layer; its volume. Failed: it is as it was before."""

    def both() -> str:
        with ExitStack() as undo:
            functions.activate(path)
            undo.callback(_quietly, functions.deactivate, path)
            functions.prepare(path, parents)
            undo.callback(_quietly, functions.unprepare, path)
            volume = functions.mount_path(path)
            undo.pop_all()
            return volume

    return _retried(both, FLAKY_MOUNT, MOUNT_TRIES, MOUNT_PAUSE)


def _quietly(call: Callable[[str], None], path: str) -> None:
    try:
        call(path)
    except (HcsError, NotSupported) as error:
        log.warning("undoing a layer: %s", error)


def make(functions: LayerFunctions, scratch: Scratch, parents: Sequence[str], *, size: int) -> str:
    """A scratch layer, and its volume if it is to be mounted. Failed: one that was there is as it was before, and
    what was made is there for `take_away`."""
    if scratch.made:
        functions.create(scratch.path, parents)
        if size:
            functions.expand(scratch.path, size)
    volume = mount(functions, scratch.path, parents) if scratch.mounted else ""
    return volume.rstrip("\\")


def take_away(functions: LayerFunctions, scratch: Scratch) -> None:
    """Undo `make`, how far it ever came. The first failure is raised after everything was tried, if a layer is left."""
    failure: HcsError | None = None
    steps: list[Callable[[str], None]] = []
    if scratch.mounted:
        steps += [functions.unprepare, functions.deactivate]
    if scratch.made:
        steps.append(lambda path: _destroy(functions, path))
    for step in steps:
        try:
            step(scratch.path)
        except HcsError as error:
            if not same(error.code or 0, (*GONE, *NO_COMMAND)):
                failure = failure or error
    if (
        failure is not None
        and functions.exists(scratch.path)
        and (scratch.made or _is_mounted(functions, scratch.path))
    ):
        raise failure


def _is_mounted(functions: LayerFunctions, path: str) -> bool:
    """Whether a layer has a volume: not after a restart of Windows, where undoing its mount fails."""
    try:
        return bool(functions.mount_path(path))
    except HcsError:
        return False


def _destroy(functions: LayerFunctions, path: str) -> None:
    _retried(lambda: functions.destroy(path), (SHARING_VIOLATION, ACCESS_DENIED), DESTROY_TRIES, DESTROY_PAUSE)


async def plan(session: Session, container_id: str, path: str, *, mounted: bool) -> Scratch:
    """The scratch layer that a container is to have: there already, or to be made."""
    functions = LayerFunctions(session.vmcompute)
    try:
        there = await session.threads.call(functions.exists, path)
    except HcsError as error:
        raise _making(error, container_id) from error
    return Scratch(path=path, mounted=mounted, made=not there)


async def add(session: Session, container_id: str, scratch: Scratch, parents: Sequence[str], *, size: int) -> str:
    """`make`, for a container; once begun it completes, so that its result can be undone."""
    functions = LayerFunctions(session.vmcompute)
    try:
        return await uninterrupted(session.threads.call(lambda: make(functions, scratch, parents, size=size)))
    except HcsError as error:
        raise _making(error, container_id) from error


def _making(error: HcsError, container_id: str) -> HcsError:
    hint = "check that the folders of the layers exist, and that `layers.parents` has the nearest one first"
    missing = same(error.code or 0, NO_COMMAND)
    return error.about("make the scratch layer of", container_id, call=error.call, hint=hint if missing else None)


async def remove(session: Session, scratch: Scratch, container_id: str) -> None:
    """`take_away`, for a container."""
    functions = LayerFunctions(session.vmcompute)
    try:
        await uninterrupted(session.threads.call(lambda: take_away(functions, scratch)))
    except HcsError as error:
        raise error.about("remove the scratch layer of", container_id, call=error.call) from error
