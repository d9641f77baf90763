"""The binding of vmcompute.dll: one function here for each of its exports, and no decisions.

A function returns what the export gives, or raises HcsError. Where a call may be completed later, it returns False,
and the notification of that name tells. All block: from the event loop they are called through `calls.py`.

Kept in mind: a result text belongs to us as soon as the call has returned, on failure, too, and is freed before
anything can raise; handles of systems, processes and callbacks are numbers that mean nothing elsewhere, while those
of pipes are files of this process; a callback is given a number as its context, never an address of ours.
"""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_int32, c_size_t, c_uint32, c_uint64, c_void_p, c_wchar_p
from functools import cache
from typing import Any, NewType

from ...errors import InvalidSpec, NotSupported
from ..schema1.documents import without_secrets
from .hresults import PENDING, HcsError, failed, normal

System = NewType("System", int)
Process = NewType("Process", int)
Registration = NewType("Registration", int)

LOAD_LIBRARY_SEARCH_SYSTEM32 = 0x800

# Windows' calling convention, where there is one; elsewhere only doubles are called
_FUNCTION: Callable[..., Any] = getattr(ctypes, "WINFUNCTYPE", ctypes.CFUNCTYPE)

NotificationCallback: Any = _FUNCTION(None, c_uint32, c_void_p, c_int32, c_void_p)
"""`void callback(type, context, status, data)`, called by threads of the service."""


class ProcessInformation(Structure):
    """HCS_PROCESS_INFORMATION: the pid, and our ends of the pipes; 0 for those that were not asked for."""

    _fields_ = [
        ("process_id", c_uint32),
        ("reserved", c_uint32),
        ("stdin", c_void_p),
        ("stdout", c_void_p),
        ("stderr", c_void_p),
    ]


class Guid(Structure):
    """GUID, as Windows lays it out."""

    _fields_ = [("bytes", ctypes.c_ubyte * 16)]

    @classmethod
    def of(cls, value: uuid.UUID) -> Guid:
        """The structure of a UUID."""
        return cls.from_buffer_copy(value.bytes_le)

    @property
    def uuid(self) -> uuid.UUID:
        """The value: the first three groups are little-endian in memory."""
        return uuid.UUID(bytes_le=bytes(self.bytes))


class DriverInfo(Structure):
    """What the layer functions take first: the filter driver, and a home directory (empty: layers by full paths)."""

    _fields_ = [("flavour", c_int32), ("home", c_wchar_p)]


class LayerDescriptor(Structure):
    """WC_LAYER_DESCRIPTOR: one read-only parent layer."""

    _fields_ = [("layer_id", Guid), ("flags", c_uint32), ("path", c_wchar_p)]


_TEXT, _OUT, _HANDLE = c_wchar_p, POINTER(c_void_p), c_void_p
_DRIVER, _LAYERS = POINTER(DriverInfo), POINTER(LayerDescriptor)
_VERB = [_HANDLE, _TEXT, _OUT]
_LAYER_VERB = [_DRIVER, _TEXT]
_LAYER_CHAIN = [_DRIVER, _TEXT, _LAYERS, c_size_t]

PROTOTYPES: dict[str, list[Any]] = {
    "HcsEnumerateComputeSystems": [_TEXT, _OUT, _OUT],
    "HcsCreateComputeSystem": [_TEXT, _TEXT, _HANDLE, _OUT, _OUT],
    "HcsOpenComputeSystem": [_TEXT, _OUT, _OUT],
    "HcsCloseComputeSystem": [_HANDLE],
    "HcsStartComputeSystem": _VERB,
    "HcsShutdownComputeSystem": _VERB,
    "HcsTerminateComputeSystem": _VERB,
    "HcsPauseComputeSystem": _VERB,
    "HcsResumeComputeSystem": _VERB,
    "HcsGetComputeSystemProperties": [_HANDLE, _TEXT, _OUT, _OUT],
    "HcsModifyComputeSystem": [_HANDLE, _TEXT, _OUT],
    "HcsRegisterComputeSystemCallback": [_HANDLE, NotificationCallback, c_void_p, _OUT],
    "HcsUnregisterComputeSystemCallback": [_HANDLE],
    "HcsCreateProcess": [_HANDLE, _TEXT, POINTER(ProcessInformation), _OUT, _OUT],
    "HcsOpenProcess": [_HANDLE, c_uint32, _OUT, _OUT],
    "HcsCloseProcess": [_HANDLE],
    "HcsTerminateProcess": [_HANDLE, _OUT],
    "HcsSignalProcess": _VERB,
    "HcsGetProcessProperties": [_HANDLE, _OUT, _OUT],
    "HcsModifyProcess": _VERB,
    "HcsRegisterProcessCallback": [_HANDLE, NotificationCallback, c_void_p, _OUT],
    "HcsUnregisterProcessCallback": [_HANDLE],
    "HcsGetServiceProperties": [_TEXT, _OUT, _OUT],
    "NameToGuid": [_TEXT, POINTER(Guid)],
    "ActivateLayer": _LAYER_VERB,
    "DeactivateLayer": _LAYER_VERB,
    "DestroyLayer": _LAYER_VERB,
    "UnprepareLayer": _LAYER_VERB,
    "CreateSandboxLayer": [_DRIVER, _TEXT, _TEXT, _LAYERS, c_size_t],
    "ExpandSandboxSize": [_DRIVER, _TEXT, c_uint64],
    "PrepareLayer": _LAYER_CHAIN,
    "GetLayerMountPath": [_DRIVER, _TEXT, POINTER(c_size_t), _HANDLE],
    "LayerExists": [_DRIVER, _TEXT, POINTER(c_uint32)],
    "ProcessBaseImage": [_TEXT],
    "ProcessUtilityImage": [_TEXT],
    "GrantVmAccess": [_TEXT, _TEXT],
}
"""The arguments of each export; all return an HRESULT as 32 signed bits.

Not ctypes.HRESULT: it raises for every negative value, and "pending" is one.
"""


class Vmcompute:
    """The exports of one vmcompute.dll, or of a double of it.

    `dll` has them as attributes; `free` gives back the memory of a text (CoTaskMemFree).
    """

    def __init__(self, dll: Any, free: Callable[[int], object]) -> None:
        self._dll = dll
        self._free = free
        self._functions: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        """Whether this build exports it."""
        return hasattr(self._dll, name)

    def export(self, name: str) -> Any:
        """One export, with its prototype. NotSupported where this build lacks it."""
        function = self._functions.get(name)
        if function is None:
            try:
                function = getattr(self._dll, name)
            except AttributeError:
                raise NotSupported(
                    name, "vmcompute.dll of this Windows build does not have it", hint="use a newer build of Windows"
                ) from None
            function.restype = c_int32
            function.argtypes = PROTOTYPES[name]
            self._functions[name] = function
        return function

    def take(self, text: c_void_p) -> str | None:
        """A text that the service made for us, given back to it."""
        if not text.value:
            return None
        try:
            return whole(ctypes.wstring_at(text.value))
        finally:
            self._free(text.value)

    def _pending(self, name: str, *arguments: Any, sent: str = "") -> bool:
        """Call an export whose last argument is the result text. True: done; False: a notification will tell.

        Of a document that was `sent`, the error quotes no secrets.
        """
        result = c_void_p()  # not c_wchar_p: ctypes would copy the text and lose the pointer to free
        hresult = self.export(name)(*arguments, byref(result))
        document = self.take(result)
        if hresult & 0xFFFFFFFF == PENDING:
            return False
        if failed(hresult):
            if document and sent:
                document = without_secrets(document, sent)
            raise HcsError(f"call {name}", None, normal(hresult), document=document)
        return True

    def _done(self, name: str, *arguments: Any, sent: str = "") -> None:
        """As `_pending`, of an export that has nothing to complete later: then that is a failure."""
        if not self._pending(name, *arguments, sent=sent):
            raise HcsError(f"call {name}", None, PENDING)

    def simple(self, name: str, *arguments: Any) -> None:
        """Call an export that makes no text."""
        hresult = self.export(name)(*arguments)
        if failed(hresult):
            raise HcsError(f"call {name}", None, normal(hresult))

    # systems

    def enumerate_compute_systems(self, query: str) -> str | None:
        """HcsEnumerateComputeSystems: the document that lists them."""
        systems = c_void_p()
        try:
            self._done("HcsEnumerateComputeSystems", text(query), byref(systems))
        finally:
            found = self.take(systems)
        return found

    def create_compute_system(self, id: str, configuration: str) -> tuple[System, bool]:
        """HcsCreateComputeSystem: its handle, and whether it is complete already."""
        system = c_void_p()
        name = "HcsCreateComputeSystem"
        done = self._pending(name, text(id), text(configuration), None, byref(system), sent=configuration)
        return System(system.value or 0), done

    def open_compute_system(self, id: str) -> System:
        """HcsOpenComputeSystem: a further handle of a system."""
        system = c_void_p()
        self._done("HcsOpenComputeSystem", text(id), byref(system))
        return System(system.value or 0)

    def close_compute_system(self, system: System) -> None:
        """HcsCloseComputeSystem: the system goes on, unless it was made to end with its last handle."""
        self.simple("HcsCloseComputeSystem", system)

    def start_compute_system(self, system: System) -> bool:
        """HcsStartComputeSystem: True if started, False if SystemStartCompleted will tell."""
        return self._pending("HcsStartComputeSystem", system, "")

    def shutdown_compute_system(self, system: System) -> bool:
        """HcsShutdownComputeSystem: True if done, False if SystemExited will tell."""
        return self._pending("HcsShutdownComputeSystem", system, "")

    def terminate_compute_system(self, system: System) -> bool:
        """HcsTerminateComputeSystem: True if done, False if SystemExited will tell."""
        return self._pending("HcsTerminateComputeSystem", system, "")

    def pause_compute_system(self, system: System) -> bool:
        """HcsPauseComputeSystem: True if paused, False if SystemPauseCompleted will tell."""
        return self._pending("HcsPauseComputeSystem", system, "")

    def resume_compute_system(self, system: System) -> bool:
        """HcsResumeComputeSystem: True if it goes on, False if SystemResumeCompleted will tell."""
        return self._pending("HcsResumeComputeSystem", system, "")

    def get_compute_system_properties(self, system: System, query: str) -> str | None:
        """HcsGetComputeSystemProperties: the document asked for; None if the service gave none."""
        properties = c_void_p()
        try:
            self._done("HcsGetComputeSystemProperties", system, text(query), byref(properties))
        finally:
            found = self.take(properties)
        return found

    def modify_compute_system(self, system: System, request: str) -> None:
        """HcsModifyComputeSystem: a setting of the living system is changed."""
        self._done("HcsModifyComputeSystem", system, text(request))

    def register_compute_system_callback(self, system: System, callback: Any, context: int) -> Registration:
        """HcsRegisterComputeSystemCallback: `callback` is called with `context` from now on."""
        return self._register("HcsRegisterComputeSystemCallback", system, callback, context)

    def unregister_compute_system_callback(self, registration: Registration) -> None:
        """HcsUnregisterComputeSystemCallback: returns when no notification of it is being delivered any more."""
        self.simple("HcsUnregisterComputeSystemCallback", registration)

    # processes

    def create_process(self, system: System, parameters: str) -> tuple[Process, int, tuple[int, int, int]]:
        """HcsCreateProcess: its handle, its pid, and the handles of stdin, stdout, stderr (0: none)."""
        information = ProcessInformation()
        process = c_void_p()
        self._done("HcsCreateProcess", system, text(parameters), byref(information), byref(process), sent=parameters)
        pipes = (information.stdin or 0, information.stdout or 0, information.stderr or 0)
        return Process(process.value or 0), information.process_id, pipes

    def open_process(self, system: System, pid: int) -> Process:
        """HcsOpenProcess: a handle of a process by its pid in the system."""
        process = c_void_p()
        self._done("HcsOpenProcess", system, pid, byref(process))
        return Process(process.value or 0)

    def close_process(self, process: Process) -> None:
        """HcsCloseProcess: the process goes on."""
        self.simple("HcsCloseProcess", process)

    def terminate_process(self, process: Process) -> None:
        """HcsTerminateProcess: asked; ProcessExited tells."""
        self._done("HcsTerminateProcess", process)

    def signal_process(self, process: Process, options: str) -> None:
        """HcsSignalProcess (builds from 17763 on): may block until the process has ended."""
        self._done("HcsSignalProcess", process, text(options))

    def get_process_properties(self, process: Process) -> str | None:
        """HcsGetProcessProperties: its status document."""
        properties = c_void_p()
        try:
            self._done("HcsGetProcessProperties", process, byref(properties))
        finally:
            found = self.take(properties)
        return found

    def modify_process(self, process: Process, request: str) -> None:
        """HcsModifyProcess: console size, or the end of its input."""
        self._done("HcsModifyProcess", process, text(request))

    def register_process_callback(self, process: Process, callback: Any, context: int) -> Registration:
        """HcsRegisterProcessCallback: as for systems."""
        return self._register("HcsRegisterProcessCallback", process, callback, context)

    def unregister_process_callback(self, registration: Registration) -> None:
        """HcsUnregisterProcessCallback: as for systems."""
        self.simple("HcsUnregisterProcessCallback", registration)

    def _register(self, name: str, handle: int, callback: Any, context: int) -> Registration:
        registration = c_void_p()
        self.simple(name, handle, callback, context, byref(registration))
        return Registration(registration.value or 0)

    # the service, and names of layers

    def get_service_properties(self, query: str) -> str | None:
        """HcsGetServiceProperties: what the service is (builds from 17763 on)."""
        properties = c_void_p()
        try:
            self._done("HcsGetServiceProperties", text(query), byref(properties))
        finally:
            found = self.take(properties)
        return found

    def name_to_guid(self, name: str) -> uuid.UUID:
        """NameToGuid: the id by which the service knows a layer of this name."""
        found = Guid()
        self.simple("NameToGuid", text(name), byref(found))
        return found.uuid


def whole(text: str) -> str:
    """Return a text of the service's without halves of surrogate pairs, which no other text can be made of."""
    return text.encode(errors="replace").decode()


def text(value: str) -> str:
    """A text as the service gets it: to the first NUL, so that there must be none in it."""
    if "\0" in value:
        raise InvalidSpec("text", f"{value[:80]!r} holds a NUL character")
    return value


@cache
def load() -> Vmcompute:
    """This machine's vmcompute.dll. NotSupported where there is none."""
    load_library: Any = getattr(ctypes, "WinDLL", None)
    if load_library is None:
        raise NotSupported(
            "running Windows containers", "this is not Windows", hint="use a Linux runtime: crun or runc"
        )
    try:
        # only from System32: nobody's current directory is searched
        dll = load_library("vmcompute.dll", winmode=LOAD_LIBRARY_SEARCH_SYSTEM32)
        ole = load_library("ole32.dll", winmode=LOAD_LIBRARY_SEARCH_SYSTEM32)
    except OSError as error:
        raise NotSupported(
            "running containers",
            f"vmcompute.dll cannot be loaded ({error})",
            hint="enable the feature: `Enable-WindowsOptionalFeature -Online -FeatureName Containers`,"
            " then restart Windows",
        ) from error
    free = ole.CoTaskMemFree
    free.restype = None
    free.argtypes = [c_void_p]
    return Vmcompute(dll, free)
