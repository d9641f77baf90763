"""The documents that HCS reads and writes, schema 1: typed, and encoded to the very text that the original sent.

Names, order and what is left out follow hcsshim v0.5.12, the original's own binding. Later members are marked with
the build that brought them; they are left out unless asked for, so that old builds never see them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import field

from ...typed_json import convert, decode_json

# what HCS reads


class Document(msgspec.Struct, rename="pascal", omit_defaults=True):
    """A JSON document that HCS reads.

    It spells names in PascalCase; a name off the rule is written beside its field. An absent member is "not
    configured", so `omit_defaults` drops what nobody asked for. A member that the original always wrote, empty or
    not, has no default: whoever builds the document says its value. (`kw_only` is not inherited.)
    """


class Layer(Document, kw_only=True):
    """A read-only parent layer; `id` is what NameToGuid says of its folder's name."""

    id: str = field(name="ID")
    path: str


class MappedDirectory(Document, kw_only=True):
    """A host folder that the container sees. A maximum of 0 is no limit."""

    host_path: str
    container_path: str
    read_only: bool
    bandwidth_maximum: int
    iops_maximum: int = field(name="IOPSMaximum")


class MappedPipe(Document, kw_only=True):
    r"""A host's named pipe that the container sees; its name there is without `\\.\pipe\`. From build 16299 on."""

    host_path: str
    container_pipe_name: str


class AssignedDevice(Document, kw_only=True):
    """All devices of an interface class, for a process-isolated container. From build 17763 on."""

    interface_class_guid: str


class HvRuntime(Document, kw_only=True):
    """The utility VM of a Hyper-V isolated container."""

    image_path: str = ""


class ContainerConfig(Document, kw_only=True):
    """What HcsCreateComputeSystem takes; members in the original's order, the later ones after them."""

    system_type: str
    name: str
    owner: str
    is_dummy: bool
    volume_path: str = ""  # process isolation; without a trailing backslash
    ignore_flushes_during_boot: bool
    layer_folder_path: str = ""
    layers: list[Layer] | None  # nearest parent first
    credentials: str = ""
    processor_count: int = 0
    processor_weight: int = 0  # 1 to 10000
    processor_maximum: int = 0  # percent x 100, so 1 to 10000
    storage_iops_maximum: int = field(default=0, name="StorageIOPSMaximum")
    storage_bandwidth_maximum: int = 0  # bytes a second
    storage_sandbox_size: int = 0  # bytes
    memory_maximum: int = field(default=0, name="MemoryMaximumInMB")
    host_name: str
    mapped_directories: list[MappedDirectory]
    mapped_pipes: list[MappedPipe] = []
    sandbox_path: str = ""
    hv_partition: bool
    endpoint_list: list[str] | None  # null: none were given
    network_shared_container_name: str = ""
    hv_runtime: HvRuntime | None = None
    servicing: bool
    allow_unqualified_dns_query: bool = field(name="AllowUnqualifiedDNSQuery")
    dns_search_list: str = field(default="", name="DNSSearchList")
    terminate_on_last_handle_closed: bool = False
    assigned_devices: list[AssignedDevice] = []


class ProcessConfig(Document, kw_only=True):
    """What HcsCreateProcess takes: every member always."""

    application_name: str
    command_line: str
    user: str
    working_directory: str
    environment: dict[str, str]  # sorted by name
    emulate_console: bool
    create_std_in_pipe: bool
    create_std_out_pipe: bool
    create_std_err_pipe: bool
    console_size: tuple[int, int]  # height, width


class ConsoleSize(Document, kw_only=True):
    """The size of a console, in characters."""

    height: int
    width: int


class CloseHandle(Document, kw_only=True):
    """Which of a process's streams to close: StdIn, StdOut, StdErr or All."""

    handle: str


class ProcessModifyRequest(Document, kw_only=True):
    """What HcsModifyProcess takes; `operation` names the one of the others that is there."""

    operation: str
    console_size: ConsoleSize | None = None
    close_handle: CloseHandle | None = None


class SignalRequest(Document, kw_only=True):
    """What HcsSignalProcess takes (from build 17763 on): CtrlC, CtrlBreak, CtrlClose, CtrlLogOff or CtrlShutdown."""

    signal: str


class ModifyRequest(Document, kw_only=True):
    """What HcsModifyComputeSystem takes. `settings` is an endpoint's id where `resource_type` is Network."""

    resource_type: str
    request_type: str  # Add or Remove
    settings: str


class ComputeSystemQuery(Document, kw_only=True):
    """Which systems HcsEnumerateComputeSystems tells of; an empty list is no condition."""

    ids: list[str] = []
    types: list[str] = []
    names: list[str] = []
    owners: list[str] = []


CLOSE_STDIN = ProcessModifyRequest(operation="CloseHandle", close_handle=CloseHandle(handle="StdIn"))


def resize(height: int, width: int) -> ProcessModifyRequest:
    """The request that sets a console's size; HCS takes 16 bits each."""
    return ProcessModifyRequest(operation="ConsoleSize", console_size=ConsoleSize(height=height, width=width))


def property_query(*types: str) -> str:
    """The text that asks HcsGetComputeSystemProperties for Statistics, ProcessList or PendingUpdates.

    Its blanks are the original's. No types at all ask for the base properties, by an empty object as hcsshim does
    (`internal/hcs/system.go`).
    """
    names = ",".join(f'"{name}"' for name in types)
    return f'{{ "PropertyTypes" : [{names}]}}' if types else "{}"


# what HCS writes: any member may be missing, and a list or an object may be null


U16 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 16) - 1)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
I32 = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
U64 = Annotated[int, msgspec.Meta(ge=0)]  # msgspec takes no bound above 2^63: `Answer` checks the other end
"""Numbers as the original's types had them: what does not fit makes the whole answer a bad one."""


class Answer(msgspec.Struct, rename="pascal", frozen=True):
    """A JSON document that HCS writes. A number that is missing counts as 0, as it did for the original."""

    def __post_init__(self) -> None:
        """ValueError for a number of more than 64 bits."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value >= 1 << 64:
                raise ValueError(f"{value} has more than 64 bits")


class ProcessStatus(Answer, kw_only=True, frozen=True):
    """What HcsGetProcessProperties tells. The code means nothing unless `exited`, and unless the wait's result is 0."""

    process_id: U32 = 0
    exited: bool = False
    exit_code: U32 = 0
    last_wait_result: I32 = 0


class MemoryStatistics(Answer, kw_only=True, frozen=True):
    """Bytes: what is committed, the most that ever was, and the private working set."""

    memory_usage_commit_bytes: U64 = 0
    memory_usage_commit_peak_bytes: U64 = 0
    memory_usage_private_working_set_bytes: U64 = 0


class ProcessorStatistics(Answer, kw_only=True, frozen=True):
    """In units of 100 ns, since the start."""

    total_runtime: U64 = field(default=0, name="TotalRuntime100ns")
    runtime_user: U64 = field(default=0, name="RuntimeUser100ns")
    runtime_kernel: U64 = field(default=0, name="RuntimeKernel100ns")


class StorageStatistics(Answer, kw_only=True, frozen=True):
    """Operations (in units of 8 KiB) and bytes, since the start."""

    read_count_normalized: U64 = 0
    read_size_bytes: U64 = 0
    write_count_normalized: U64 = 0
    write_size_bytes: U64 = 0


class NetworkStatistics(Answer, kw_only=True, frozen=True):
    """Counters of one endpoint, since it was attached."""

    bytes_received: U64 = 0
    bytes_sent: U64 = 0
    packets_received: U64 = 0
    packets_sent: U64 = 0
    dropped_packets_incoming: U64 = 0
    dropped_packets_outgoing: U64 = 0
    endpoint_id: str = ""
    instance_id: str = ""


class Statistics(Answer, kw_only=True, frozen=True):
    """Counters of a system, since its start."""

    timestamp: datetime | None = None
    container_start_time: datetime | None = None
    uptime: U64 = field(default=0, name="Uptime100ns")
    memory: MemoryStatistics | None = None
    processor: ProcessorStatistics | None = None
    storage: StorageStatistics | None = None
    network: list[NetworkStatistics] | None = None


class ProcessListItem(Answer, kw_only=True, frozen=True):
    """One process of a system; the list also shows the system's own."""

    create_timestamp: datetime | None = None
    image_name: str = ""
    kernel_time: U64 = field(default=0, name="KernelTime100ns")
    user_time: U64 = field(default=0, name="UserTime100ns")
    memory_commit_bytes: U64 = 0
    memory_working_set_private_bytes: U64 = 0
    memory_working_set_shared_bytes: U64 = 0
    process_id: U32 = 0


class ContainerProperties(Answer, kw_only=True, frozen=True):
    """What HcsGetComputeSystemProperties and HcsEnumerateComputeSystems tell of one system."""

    id: str = ""
    state: str = ""
    name: str = ""
    system_type: str = ""
    owner: str = ""
    silo_guid: str = ""
    runtime_id: str = ""
    is_runtime_template: bool = False
    runtime_image_path: str = ""
    stopped: bool = False
    exit_type: str = ""
    are_updates_pending: bool = False
    statistics: Statistics | None = None
    process_list: list[ProcessListItem] | None = None


class ErrorEvent(Answer, kw_only=True, frozen=True):
    """One event of the service's own log that belongs to a failure."""

    message: str = ""
    stack_trace: str = ""
    provider: str = ""
    event_id: U16 = 0
    flags: U32 = 0
    source: str = ""
    data: Any = None


class Failure(Answer, kw_only=True, frozen=True):
    """The result document of a call that failed."""

    error: int = 0
    error_message: str = ""
    error_events: list[ErrorEvent] | None = None


class SchemaVersion(Answer, kw_only=True, frozen=True):
    """A version of the documents that the service reads."""

    major: U32 = 0
    minor: U32 = 0


# text

_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_GO_SPELLING = str.maketrans(_GO_ESCAPES)
_SHORT = re.compile(r"\\(.)")  # an escape: what follows the backslash decides
_LONG = {"b": "\\u0008", "f": "\\u000c"}


def encode(document: msgspec.Struct) -> str:
    """A document as the text that the original sent, byte for byte.

    Its encoder, Go's, writes `<`, `>`, `&` and two line ends of Unicode as \\u003c and so on, and has no short form
    for the control characters that JSON calls \\b and \\f.
    """
    return _spelled(msgspec.json.encode(document))


NEW_BUILD = 17763
"""From here on HCS gets today's members, as hcsshim's `internal/hcs/schema1` has them; before, the recorded ones."""

_NO_MORE = ("IsDummy", "SandboxPath")  # gone from hcsshim since 2017
_ONLY_WITH_A_VALUE = (
    "Owner",
    "IgnoreFlushesDuringBoot",
    "HostName",
    "MappedDirectories",
    "EndpointList",
    "Servicing",
    "AllowUnqualifiedDNSQuery",
)


def for_build(config: ContainerConfig, build: int) -> dict[str, Any]:
    """Return the document that makes a container, with the members that HCS of this build is sent today."""
    members: dict[str, Any] = msgspec.to_builtins(config)
    if build < NEW_BUILD:
        return members
    for mapped in members["MappedDirectories"]:
        mapped["CreateInUtilityVM"] = False
    return {
        name: value
        for name, value in members.items()
        if name not in _NO_MORE and (value or name not in _ONLY_WITH_A_VALUE)
    }


def encode_for(config: ContainerConfig, build: int) -> str:
    """Return that document as the text that is sent."""
    return _spelled(msgspec.json.encode(for_build(config, build)))


def encode_text(text: str) -> str:
    """A string as it stands in such a document, with its quotes."""
    return _spelled(msgspec.json.encode(text))


def _spelled(json: bytes) -> str:
    text = json.decode()
    text = _SHORT.sub(lambda match: _LONG.get(match[1], match[0]), text)
    return text.translate(_GO_SPELLING)


SECRET = "(not shown)"


def shown(document: ContainerConfig | ProcessConfig, build: int = 0) -> dict[str, Any]:
    """A document as plain data for people: without the credentials, and of the environment only the names."""
    found = for_build(document, build) if isinstance(document, ContainerConfig) else msgspec.to_builtins(document)
    if found.get("Credentials"):
        found["Credentials"] = SECRET
    if "Environment" in found:
        found["Environment"] = dict.fromkeys(found["Environment"], SECRET)
    return found


class _Sent(Answer, kw_only=True, frozen=True):
    """What is secret in a document that was sent."""

    credentials: str = ""
    environment: dict[str, str] = {}


_QUOTED = re.compile(r'(Credentials|Environment)\\*"\s*:')  # within JSON, perhaps within a string of JSON
_LEAST_SECRET = 8  # characters; a value like `true` is none, and stands in messages by chance


def without_secrets(said: str, sent: str) -> str:
    """What the service says of a document that it was sent, without the secrets that it may quote from it.

    Where it quotes the members that have them, nothing of it is left: who knows where it cut them off.
    """
    try:
        found = decode(sent, _Sent)
    except msgspec.MsgspecError:
        return said
    if not found.credentials and not found.environment:
        return said
    if _QUOTED.search(said):
        return _spelled(msgspec.json.encode({"ErrorMessage": f"{SECRET}: it quotes credentials, or the environment"}))
    for secret in sorted({found.credentials, *_texts(found.credentials), *found.environment.values()}, key=len)[::-1]:
        spelling = secret
        for _ in range(4):  # as it is, and as a string of JSON, of JSON within JSON, ...
            if len(secret) >= _LEAST_SECRET:
                said = said.replace(spelling, SECRET)
            spelling = msgspec.json.encode(spelling).decode()[1:-1]
    return said


def _texts(credentials: str) -> Iterator[str]:
    """The texts in a credential spec."""
    try:
        found: list[Any] = [decode(credentials, object)]
    except msgspec.MsgspecError:
        return
    while found:
        match found.pop():
            case str(text):
                yield text
            case list(items):
                found.extend(items)
            case dict(members):
                found.extend(members.values())


T = TypeVar("T")


def decode(text: str, kind: type[T]) -> T:
    """Return an answer of the service as a type. Raises msgspec.DecodeError for what is no JSON, or not of this shape.

    A member that is null counts as one that is not there, as for the original's decoder, which skipped it.
    """
    try:
        found = _present(decode_json(text, Any))
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None
    if found is None and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        found = {}
    return convert(found, kind)


def _present(value: Any) -> Any:
    """Return plain data without the members that are null. An element that is null is an empty object."""
    if isinstance(value, dict):
        return {name: _present(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [{} if element is None else _present(element) for element in value]
    return value
