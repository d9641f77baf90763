"""Loading recorded behaviour: a typed model of one vector file, and where the files are.

`LONGSHORE_VECTORS` names another directory of recordings of the same schema than the project's own. What a member
means is told in vectors/README.md; nothing here, nor in what uses it, looks at a vector's name but to show it.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType, field

OWN = Path(__file__).parent / "vectors"

PENDING = 0xC0370103
UNKNOWN_EXIT_CODE = 0xFFFFFFFF
"""How the recordings show an exit code that could not be read; longshore says None."""


class _Member(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One object of a file: members in camelCase. A member without a field here is an error: it says something."""


def number(value: int | str) -> int:
    """An HRESULT or status, which files write as a number or as "0x…", as 32 unsigned bits."""
    return (int(value, 16) if isinstance(value, str) else value) & 0xFFFFFFFF


def guid_of(name: str) -> str:
    """What the recording double answered to NameToGuid, unless a vector's `guids` has the name.

    The real service's names are version 5 UUIDs, too, but of a name space that is not public.
    """
    digest = hashlib.sha1(bytes(16) + name.encode("utf-16-le", "surrogatepass")).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


# what a runner sets up


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Time limits shortened for a run, in milliseconds; None is the original's own: 4 minutes, and 5 for the rest."""

    default_ms: int | None = None
    shutdown_ms: int | None = None
    terminate_ms: int | None = None
    servicing_ms: int | None = None


class Host(_Member, kw_only=True, frozen=True):
    """The machine: its processors, what exists below layer folders, what the DLL lacks."""

    cpus: int = 8
    directories: list[str] = []
    files: list[str] = []
    missing_functions: list[str] = []
    timeouts: Timeouts = Timeouts()


class Notification(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A notification that the service sends after a call."""

    type: str
    status: int | str = 0
    after_ms: int = 5
    data: str | None = None


class Kill(_Member, frozen=True):
    """All processes of the system exit."""

    exit_code: int = 0
    after_ms: int = field(default=0, name="after_ms")


class ProcessExit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a scripted process ends: after a while, or `on` the word that closes its stdin."""

    code: int = 0
    after_ms: int = 0
    status: int | str = 0
    on: str | None = None


class Rule(_Member, kw_only=True, frozen=True):
    """One answer of the service's script; unset members take the function's default."""

    match: str | None = None
    system: str | None = None
    times: int | None = None
    hr: int | str | UnsetType = UNSET
    result: Any = UNSET  # a string is handed out as it is, anything else as JSON
    properties: Any = UNSET  # as result; null is no document
    notify: list[Notification] | UnsetType = UNSET
    kill: Kill | None = None
    delay_ms: int = field(default=0, name="delay_ms")
    # HcsCreateProcess
    pid: int | None = None
    stdout: str = ""
    stderr: str = ""
    repeat: int = 1
    close_output: bool = field(default=False, name="close_output")
    exit: ProcessExit | None = None
    echo: bool = False
    withhold: list[str] = []
    invalid: list[str] = []
    # HcsTerminateProcess
    exit_code: int | None = None
    after_ms: int | None = field(default=None, name="after_ms")


class Service(_Member, frozen=True):
    """The service's script."""

    functions: dict[str, list[Rule]] = {}
    guids: dict[str, str] = {}


class Option(_Member, kw_only=True, frozen=True):
    """One option that the original's caller passes beside the specification, told apart by `type`.

    Servicing, Flush, HyperVIsolation, Layer, NetworkEndpoints, Credentials.
    """

    type: str
    is_servicing: bool = False
    ignore_flushes_during_boot: bool = False
    is_hyper_v: bool = False
    sandbox_path: str = ""
    layer_folder_path: str = ""
    layer_paths: list[str] | None = None
    endpoints: list[str] | None = None
    allow_unqualified_dns_query: bool = field(default=False, name="allowUnqualifiedDNSQuery")
    dns_search_list: list[str] | None = None
    credentials: str = ""


class Create(_Member, frozen=True):
    """What every `create` operation takes that says nothing else."""

    container: str
    spec: dict[str, Any] = {}
    options: list[Option] = []


class ServiceAction(_Member, kw_only=True, frozen=True):
    """Something that the service does by itself."""

    action: str  # process_exit, notify_process, notify_system, write, end
    process: int | None = None
    system: str | None = None
    type: str | None = None
    status: int | str = 0
    exit_code: int = 0
    silent: bool = False
    stream: str | None = None
    data: str = ""


class RecordedError(_Member, kw_only=True, frozen=True):
    """An error that the original returned. Compare `code` and `operation`; its words are not ours."""

    text: str
    type: str = ""
    pattern: str | None = None
    code: str | None = None
    operation: str | None = None
    extra_info: str = ""
    inner: str | None = None
    path: str | None = None

    @property
    def number(self) -> int | None:
        """The Win32 or HCS code: HRESULTs of the Win32 facility are reduced to their low 16 bits."""
        return None if self.code is None else number(self.code)


class Operation(_Member, kw_only=True, frozen=True):
    """One step, and its outcome: a result, an error, a crash, or that it did not come back in time."""

    op: str
    container: str | None = None
    asynchronous: bool = field(default=False, name="async")
    label: str | None = None
    ms: int | None = None
    name: str | None = None
    options: list[Option] | None = None
    spec: dict[str, Any] | None = None
    attach: str | None = None
    attach_error: str = ""
    checkpoint: str = ""
    checkpoint_dir: str = ""
    process: dict[str, Any] | None = None
    sig: int | None = None
    width: int = 0
    height: int = 0
    data: str = ""
    stream: str | None = None
    do: ServiceAction | None = None
    result: Any = UNSET  # unset: nothing
    error: RecordedError | None = None
    panic: str | None = None
    hung: bool = False


# what was observed


class Call(_Member, kw_only=True, frozen=True):
    """One call of the service. `document` is the exact text that was sent."""

    function: str
    system: str | None = None
    system_handle: str | None = None
    process: int | None = None
    process_handle: str | None = None
    callback: str | None = None
    document: str | None = None
    parsed: Any = UNSET
    options: str | None = None
    hr: int | str = 0
    result: Any = UNSET
    properties: Any = UNSET
    pipes: list[str] | None = None
    name: str | None = None
    guid: str | None = None
    identity: str | None = None

    @property
    def hresult(self) -> int:
        return number(self.hr)


class Event(_Member, kw_only=True, frozen=True):
    """One StateChanged: start-container, exit, exit-process, pause or resume."""

    container: str
    state: str
    pid: int = 0
    exit_code: int = 0
    process_id: str = field(default="", name="processID")
    update_pending: bool = False
    backend_error: str | None = None


class Attached(_Member, kw_only=True, frozen=True):
    """The streams that one attach callback was given."""

    process: str
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    terminal: bool = False
    error: str | None = None


class Stream(_Member, kw_only=True, frozen=True):
    """What came out of one attached stream; `end` is EOF, nothing (not ended) or an error."""

    process: str
    stream: str
    bytes: int
    data: str | None = None
    sha256: str | None = None
    end: str = ""


class Stdin(_Member, kw_only=True, frozen=True):
    """What a process was given whose stdin pipe the client closed."""

    process: int
    data: str


class Open(_Member, kw_only=True, frozen=True):
    """Handles that the client never closed."""

    systems: list[str] = []
    processes: list[str] = []
    callbacks: list[str] = []


class Reentry(_Member, kw_only=True, frozen=True):
    """The outcome of a call from inside an event."""

    state: str
    op: str
    error: RecordedError | None = None
    hung: bool = False


class Log(_Member, frozen=True):
    level: str
    message: str


IDENTICAL = "identical"


class Stability(_Member, kw_only=True, frozen=True):
    """What varied over the recorded runs: per member, groups of indices within which any order is right."""

    runs: int = 0
    calls: str = IDENTICAL
    events: str = IDENTICAL
    attached: str = IDENTICAL
    streams: str = IDENTICAL
    stdin: str = IDENTICAL
    open_at_end: str = IDENTICAL
    results: str = IDENTICAL
    reentries: str = IDENTICAL
    timeline: str = IDENTICAL
    logs: str = IDENTICAL
    differences: Any = None
    unordered: dict[str, list[list[int]]] = {}
    unordered_by_design: dict[str, list[list[int]]] = {}

    def varies(self, member: str) -> bool:
        """Whether the recorded runs came to different things: then no one of them is the right one."""
        return str(getattr(self, member)) == "varies"

    def groups(self, member: str) -> list[list[int]]:
        """The groups of indices of `member` (calls, events, …) whose order is free."""
        return [*self.unordered.get(member, []), *self.unordered_by_design.get(member, [])]


class Vector(_Member, kw_only=True, frozen=True):
    """One recorded scenario."""

    schema: int
    name: str
    about: str = ""
    tags: list[str] = []
    notes: str | None = None
    host: Host = Host()
    service: Service = Service()
    backend: dict[str, str] = {}
    reenter: dict[str, str] = {}
    create: Create
    operations: list[Operation]
    calls: list[Call] = []
    events: list[Event] = []
    attached: list[Attached] = []
    streams: list[Stream] = []
    stdin: list[Stdin] = []
    open_at_end: Open = Open()
    timeline: list[dict[str, Any]] = []
    reentries: list[Reentry] = []
    logs: list[Log] = []
    stability: Stability = Stability()

    def completed(self, step: Operation) -> Operation:
        """A `create` operation with the container, specification and options that hold for it."""
        return msgspec.structs.replace(
            step,
            spec=self.create.spec if step.spec is None else step.spec,
            options=self.create.options if step.options is None else step.options,
            container=self.container_of(step),
        )

    def calls_during(self, index: int) -> list[Call]:
        """The calls that lie between the begin and the return of `operations[index]`, those of others beside it too."""
        found: list[Call] = []
        inside = False
        for entry in self.timeline:
            if entry.get("op") == index:
                inside = True
            elif entry.get("return") == index:
                break
            elif inside and "call" in entry:
                found.append(self.calls[entry["call"]])
        return found

    def container_of(self, step: Operation) -> str:
        """The container that an operation is about; the recorder took an empty id for none, too."""
        return step.container or self.create.container


def directory() -> Path:
    """Where the vectors are: LONGSHORE_VECTORS, else the project's own."""
    chosen = os.environ.get("LONGSHORE_VECTORS")
    return Path(chosen) if chosen else OWN


@cache
def load(path: Path) -> Vector:
    """One file. A file of another schema is an error: it means something else."""
    vector = msgspec.json.decode(path.read_bytes(), type=Vector)
    if vector.schema != 1:
        raise ValueError(f"{path}: schema {vector.schema} is not known here")
    return vector


def load_all(where: Path | None = None) -> list[Vector]:
    """All vectors of a directory, by name. An empty directory is an error: nothing would be tested."""
    folder = directory() if where is None else where
    found = [load(path) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise FileNotFoundError(f"no vectors in {folder}")
    return found
