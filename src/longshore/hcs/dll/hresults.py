"""HRESULTs of the compute service: what each is called, what it means, the next step; and the error that carries one.

The service has two parallel families for the same conditions, 0xC0370xxx (vmcompute.dll) and 0x80370xxx (newer
parts of it); Win32 codes come wrapped as 0x8007xxxx. `normal` makes one number of the latter; the table is asked by
condition.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from ...errors import ServiceError
from ..schema1.documents import Failure, decode

PENDING = 0xC0370103
INVALID_STATE = 0xC0370105
UNEXPECTED_EXIT = 0xC0370106
TERMINATED = 0xC0370107
SYSTEM_NOT_FOUND = 0xC037010E
SYSTEM_EXISTS = 0xC037010F
ALREADY_STOPPED = 0xC0370110
SERVICE_DISCONNECT = 0x8037011E
PROCESS_ALREADY_STOPPED = 0x8037011F
FILE_NOT_FOUND, PATH_NOT_FOUND, ACCESS_DENIED, INVALID_HANDLE = 2, 3, 5, 6
INVALID_DATA, NOT_READY, NOT_SUPPORTED, BROKEN_PIPE = 13, 21, 50, 109
PROC_NOT_FOUND = 127
BAD_EXE_FORMAT, EXE_MACHINE_TYPE_MISMATCH, ELEVATION_REQUIRED = 193, 216, 740
DEVICE_NOT_CONNECTED, ELEMENT_NOT_FOUND, PRIVILEGE_NOT_HELD = 1167, 1168, 1314

_RIGHTS = "run it as a member of Administrators or of Hyper-V Administrators"
_FEATURE = "enable the feature: `Enable-WindowsOptionalFeature -Online -FeatureName Containers`, then restart Windows"
_HYPERV = (
    "enable it: `Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V -All`; or use process isolation"
)
NO_ANSWER = "check that the compute service runs (`Get-Service vmcompute`), or restart it"
_REPORT = "see the event log `Microsoft-Windows-Hyper-V-Compute-Admin`"


class Meaning(NamedTuple):
    """A condition: its name, what it means in words, and the next step where there is one to give."""

    name: str
    words: str
    hint: str | None = None


_SERVICE: dict[int, Meaning] = {
    0x0100: Meaning("TERMINATED_DURING_START", "it was terminated while it was starting"),
    0x0101: Meaning(
        "IMAGE_MISMATCH",
        "its layers are of another Windows build than this host",
        "use layers of this host's build, or Hyper-V isolation",
    ),
    0x0102: Meaning("HYPERV_NOT_INSTALLED", "Hyper-V is not installed", _HYPERV),
    0x0103: Meaning("OPERATION_PENDING", "the operation is not complete yet"),
    0x0104: Meaning("TOO_MANY_NOTIFICATIONS", "too many callbacks are registered for it"),
    0x0105: Meaning("INVALID_STATE", "it is not in a state in which this can be done"),
    0x0106: Meaning("UNEXPECTED_EXIT", "it ended unexpectedly", _REPORT),
    0x0107: Meaning("TERMINATED", "it was terminated by force"),
    0x0108: Meaning("CONNECT_FAILED", "its utility VM could not be connected to", _REPORT),
    0x0109: Meaning("TIMEOUT", "its utility VM did not answer in time", _REPORT),
    0x010A: Meaning("CONNECTION_CLOSED", "the connection to its utility VM was lost", _REPORT),
    0x010B: Meaning("UNKNOWN_MESSAGE", "this build of Windows, or of the utility VM, does not know the request"),
    0x010C: Meaning("UNSUPPORTED_PROTOCOL_VERSION", "its utility VM is of a version that this host cannot talk to"),
    0x010D: Meaning("INVALID_JSON", "the service does not accept the document", "run `longshore explain` to see it"),
    0x010E: Meaning("SYSTEM_NOT_FOUND", "the service has no such system"),
    0x010F: Meaning(
        "SYSTEM_ALREADY_EXISTS", "the service has a system of this id", "choose another id, or end the one that has it"
    ),
    0x0110: Meaning("SYSTEM_ALREADY_STOPPED", "it has stopped already"),
    0x0111: Meaning("PROTOCOL_ERROR", "its utility VM broke the protocol", _REPORT),
    0x0112: Meaning(
        "INVALID_LAYER",
        "a layer is missing or damaged, or the chain of layers is not right",
        "check that each folder exists, and that `layers.parents` has the nearest one first",
    ),
    0x0113: Meaning("WINDOWS_INSIDER_REQUIRED", "it needs an insider build of Windows"),
    0x0114: Meaning("SERVICE_NOT_AVAILABLE", "a Windows feature that it needs is not installed", _FEATURE),
    0x0115: Meaning("OPERATION_NOT_STARTED", "the operation was not started"),
    0x0116: Meaning("OPERATION_ALREADY_STARTED", "the operation was started already"),
    0x0117: Meaning("OPERATION_PENDING", "the operation is not complete yet"),
    0x0118: Meaning("OPERATION_TIMEOUT", "the operation did not complete in time"),
    0x0119: Meaning("SYSTEM_CALLBACK_ALREADY_SET", "a callback is set already"),
    0x011A: Meaning("RESULT_ALLOCATION_FAILED", "there was no memory for the result"),
    0x011B: Meaning("ACCESS_DENIED", "this user may not use the service", _RIGHTS),
    0x011C: Meaning("GUEST_CRITICAL_ERROR", "its utility VM crashed", _REPORT),
    0x011D: Meaning("PROCESS_INFO_NOT_AVAILABLE", "nothing is known of the process any more"),
    0x011E: Meaning(
        "SERVICE_DISCONNECT",
        "the connection to the compute service was lost",
        "see that the service `vmcompute` runs; containers of a service that died have ended",
    ),
    0x011F: Meaning("PROCESS_ALREADY_STOPPED", "the process has ended already"),
    0x0120: Meaning("SYSTEM_NOT_CONFIGURED_FOR_OPERATION", "it was not configured for this"),
    0x0121: Meaning("OPERATION_ALREADY_CANCELLED", "the operation was cancelled"),
}
"""By the low 16 bits of both families."""

_OTHERS: dict[int, Meaning] = {
    2: Meaning("FILE_NOT_FOUND", "a file cannot be found"),
    3: Meaning("PATH_NOT_FOUND", "a path cannot be found"),
    5: Meaning("ACCESS_DENIED", "access is denied", _RIGHTS),
    6: Meaning("INVALID_HANDLE", "the handle is not valid (any more)"),
    13: Meaning("INVALID_DATA", "the service does not accept the request"),
    21: Meaning("NOT_READY", "the device is not ready"),
    31: Meaning("GEN_FAILURE", "a device does not function"),
    32: Meaning("SHARING_VIOLATION", "a file is in use", "see which other program, or container, uses the layer"),
    50: Meaning("NOT_SUPPORTED", "the request is not supported"),
    109: Meaning("BROKEN_PIPE", "the pipe has been ended"),
    121: Meaning("SEM_TIMEOUT", "the time limit of the service expired"),
    127: Meaning("PROC_NOT_FOUND", "a procedure cannot be found"),
    161: Meaning(
        "BAD_PATHNAME",
        "a path is not valid",
        "check the volume path (`\\\\?\\Volume{...}`, without a backslash at its end) and those of the layers",
    ),
    193: Meaning("BAD_EXE_FORMAT", "it is not an executable file of Windows"),
    216: Meaning("EXE_MACHINE_TYPE_MISMATCH", "it is an executable file for another processor"),
    232: Meaning("NO_DATA", "the pipe is being closed"),
    233: Meaning("PIPE_NOT_CONNECTED", "no process is on the other end of the pipe"),
    740: Meaning("ELEVATION_REQUIRED", "it needs an administrator"),
    1060: Meaning("SERVICE_DOES_NOT_EXIST", "the compute service is not installed", _FEATURE),
    1062: Meaning("SERVICE_NOT_ACTIVE", "the compute service is not running", "start it: `Start-Service vmcompute`"),
    1115: Meaning("SHUTDOWN_IN_PROGRESS", "Windows is being shut down"),
    1167: Meaning("DEVICE_NOT_CONNECTED", "the device is not connected"),
    1168: Meaning("NOT_FOUND", "the element cannot be found"),
    1222: Meaning(
        "NO_NETWORK",
        "the network is not present or not started",
        "check the endpoint ids, and that the service `hns` runs",
    ),
    1314: Meaning("PRIVILEGE_NOT_HELD", "a privilege is missing", _RIGHTS),
    1326: Meaning("LOGON_FAILURE", "the user name or password is wrong"),
    1385: Meaning("LOGON_TYPE_NOT_GRANTED", "the user may not log on in this way"),
    1460: Meaning("TIMEOUT", "the time limit of the service expired"),
    1722: Meaning("RPC_S_SERVER_UNAVAILABLE", "the compute service does not answer", "see that `vmcompute` runs"),
    0x10D8: Meaning(
        "OBJECT_NOT_FOUND",
        "an identifier does not represent a valid object",
        "check the ids of endpoints, credentials and layers",
    ),
    0x803B0002: Meaning(
        "HCN_E_ENDPOINT_NOT_FOUND",
        "there is no such network endpoint",
        "list the endpoints with `Get-HnsEndpoint`",
    ),
    0xC03A001A: Meaning(
        "VIRTUAL_DISK_LIMITATION",
        "a virtual disk can be neither in a compressed nor in an encrypted folder",
        "use a folder without these attributes: `compact /u`, `cipher /d`",
    ),
    0x800401F3: Meaning(
        "CO_E_CLASSSTRING", "a class string is not valid", "check the layers' ids and the endpoint ids"
    ),
    0x80004005: Meaning("E_FAIL", "unspecified failure", _REPORT),
}


def normal(hresult: int) -> int:
    """An HRESULT as 32 unsigned bits; of Win32's facility the code alone, so that both spellings are one number."""
    value = hresult & 0xFFFFFFFF
    return value & 0xFFFF if value & 0x1FFF0000 == 0x00070000 else value


def failed(hresult: int) -> bool:
    """Whether an HRESULT says so; all others are success, not only 0."""
    return hresult & 0x80000000 != 0


def _condition(code: int) -> int | None:
    """What both families of the service call by the same low bits; None for codes of others."""
    return code & 0xFFFF if code & 0x7FFF0000 in (0x40370000, 0x00370000) else None


def same(code: int, codes: Collection[int]) -> bool:
    """Whether a normal code is one of `codes`, in whichever family."""
    if code in codes:
        return True
    condition = _condition(code)
    return condition is not None and any(_condition(each) == condition for each in codes)


STOPPED = (ALREADY_STOPPED, PROCESS_ALREADY_STOPPED, ELEMENT_NOT_FOUND, PROC_NOT_FOUND)
"""What was to end has ended. The original counted PROC_NOT_FOUND, taken for "process not found", and so it stayed."""

ENDED = (*STOPPED, SYSTEM_NOT_FOUND)
"""Codes of a call to end a system that has stopped, or no longer exists (hcsshim counts both)."""

GONE = (SYSTEM_NOT_FOUND, ELEMENT_NOT_FOUND)
"""There is no such system or process (any more)."""

INPUT_GONE = (SYSTEM_NOT_FOUND, ELEMENT_NOT_FOUND, PROC_NOT_FOUND, INVALID_STATE)
"""Closing the standard input of what is ending, or has ended: nothing that a caller need know."""

NO_COMMAND = (FILE_NOT_FOUND, PATH_NOT_FOUND)
NOT_EXECUTABLE = (ACCESS_DENIED, BAD_EXE_FORMAT, EXE_MACHINE_TYPE_MISMATCH, ELEVATION_REQUIRED)
UNKNOWN_REQUEST = (0xC037010B, 0xC037010D, INVALID_DATA, NOT_SUPPORTED)
"""This build does not know what it was asked for."""

FLAKY_MOUNT = (NOT_READY, DEVICE_NOT_CONNECTED)
"""A layer's volume that is not there yet: Windows builds of 2019 say so for some milliseconds (hcsshim's findings)."""


def meaning(code: int) -> Meaning:
    """What a normal code means; Windows' own words where we have none."""
    condition = _condition(code)
    found = _OTHERS.get(code) if condition is None else _SERVICE.get(condition)
    if found is not None:
        return found
    name = f"0x{code:08X}" if code > 0xFFFF else f"Win32 error {code}"
    return Meaning(name, _system_words(code) or "the service gives no reason")


def _system_words(code: int) -> str:
    """Return Windows' own message for a code; empty where Windows has none, and where this is not Windows.

    FormatError takes a signed 32-bit number (CPython gh-72660): the bits of an HRESULT above 2^31 are passed as that.
    """
    words = getattr(ctypes, "FormatError", None)
    if words is None:
        return ""
    try:
        found = str(words(code - (1 << 32) if code & 0x80000000 else code)).strip().rstrip(".")
    except (OSError, ValueError, OverflowError):  # no message is worth losing the code for
        return ""
    return "" if found == "<no description>" else found


class HcsError(ServiceError):
    """The compute service refused, or failed.

    `code` is the HRESULT (a Win32 code without its facility), `name` is its name in Windows, `call` is the function
    that failed (if known), and `events` are the service's own messages.
    """

    def __init__(
        self,
        operation: str,
        container_id: str | None,
        code: int,
        *,
        document: str | None = None,
        hint: str | None = None,
        call: str = "",
    ) -> None:
        known = meaning(code)
        words, events = _details(document)
        self.name = known.name
        self.call = call or (operation.removeprefix("call ") if operation.startswith("call ") else "")
        self.events = events
        self.document = document
        shown = f"0x{code:08X}" if code > 0xFFFF else str(code)
        said = f"; the service says: {' / '.join(dict.fromkeys([*words, *events]))}" if words or events else ""
        super().__init__(
            operation,
            container_id,
            f"{f'{call}: ' if call else ''}{known.words} ({known.name}, {shown}){said}",
            code=code,
            hint=hint or known.hint or _REPORT,
        )

    def about(self, operation: str, container_id: str | None, *, call: str = "", hint: str | None = None) -> HcsError:
        """Return the same failure with the operation and the container that it was for."""
        return HcsError(operation, container_id, self.code or 0, document=self.document, call=call, hint=hint)


def _details(document: str | None) -> tuple[list[str], list[str]]:
    """The service's own words in a result document: its message, and those of its events."""
    if not document:
        return [], []
    try:
        found = decode(document, Failure)
    except msgspec.MsgspecError:
        return [document.strip()[:500]], []
    events = [event.message.strip() for event in found.error_events or [] if event.message.strip()]
    return [found.error_message.strip()] if found.error_message.strip() else [], events


__all__ = [
    "ENDED",
    "FLAKY_MOUNT",
    "GONE",
    "INPUT_GONE",
    "NOT_EXECUTABLE",
    "NO_ANSWER",
    "NO_COMMAND",
    "STOPPED",
    "UNKNOWN_REQUEST",
    "HcsError",
    "Meaning",
    "failed",
    "meaning",
    "normal",
    "same",
]
