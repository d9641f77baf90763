"""Where longshore differs from the recordings on purpose: each difference as a rule, with its reason.

A rule looks at what a recording contains: at the values that a caller gives, at what the service answers, at the order
of things; never at its name. What no rule speaks of must be as recorded. `RULES` is the list for people; the functions
below say where each of them applies. What follows from it is in `expected.py` (outcomes) and `compare.py` (the rest).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.hcs.argv import command_line_to_argv

from .vectors import PENDING, Operation, Option, Vector


@dataclass(frozen=True)
class Rule:
    """One wanted difference. `about` is what it changes: documents, calls, outcomes, events, handles."""

    name: str
    about: str
    rule: str
    reason: str


RULES = (
    Rule(
        "quoted",
        "documents",
        "arguments given as a list are quoted by the rules of CommandLineToArgvW; a command line given as text (and a"
        " command that is null, which is an empty one) is passed as it is",
        "the original joined them by blanks: an argument with a blank, a quote or nothing in it was lost",
    ),
    Rule(
        "refused-values",
        "documents outcomes calls",
        "a value that the document cannot hold, or that means nothing, is InvalidSpec before the service is asked",
        "the original wrapped it around, cut it off, or left the limit out: the container ran without it",
    ),
    Rule(
        "modern-names",
        "documents",
        "a volume's name is sent without a backslash at its end, and a mount of a named pipe as a mapped pipe",
        "later specifications have the backslash, which HCS does not want; a pipe is no folder, and cannot be mapped as"
        " one",
    ),
    Rule(
        "no-layers",
        "documents outcomes calls",
        "a list of parent layers that is null or empty is refused before the service is asked",
        "the original sent null for an empty one, and no such container can start",
    ),
    Rule(
        "options-merged",
        "documents outcomes",
        "options given twice are merged by the runner: the last counts, for pause and resume as for the document",
        "longshore has one typed object of options; the original looked at the first one when it paused",
    ),
    Rule(
        "closed",
        "handles calls",
        "handles of a system or process that has ended, or that failed to start, are unregistered and closed",
        "the original left them to the garbage collector, or for ever (tag `leak`)",
    ),
    Rule(
        "no-crash",
        "outcomes calls events handles",
        "where the original crashed, hung or forgot a container that runs (tag `bug`), there is a typed error or"
        " the thing works, and nothing is left behind",
        "a null dereference, a channel without a reader and an overwritten table entry are nobody's wish",
    ),
    Rule(
        "failures-told",
        "outcomes",
        "a failure of terminate or shutdown, or of ending a process, reaches the caller; already stopped is success",
        "the original only logged it, and answered success",
    ),
    Rule(
        "live-name",
        "outcomes calls events",
        "a second container or process of a name that is alive is refused before the service is asked",
        "the original overwrote its table entry: the first one could not be reached any more",
    ),
    Rule(
        "wrong-state",
        "outcomes calls",
        "what the container's state does not allow (to resume what is not paused, to run something in what is) is"
        " refused, and not asked of the service",
        "longshore knows the state; the original had none, and asked",
    ),
    Rule(
        "remembered",
        "outcomes",
        "a container or process that has stopped is known until the container is deleted: killing it again is success,"
        " the rest says that it is stopped",
        "the original forgot it at its exit",
    ),
    Rule(
        "service-lost",
        "outcomes",
        "once the service was lost, its containers are taken for stopped",
        "they end with it; the original noticed at its next wait",
    ),
    Rule(
        "told-not-asked",
        "outcomes events",
        "events are told; a receiver that fails changes nothing: the operation has succeeded, also a pause or a resume",
        "the original let the receiver refuse a start, and forgot the container, which ran on; and it returned the"
        " receiver's error for a pause or a resume that was done",
    ),
    Rule(
        "left-undone",
        "outcomes calls events",
        "`pids`, `restore` and `update` work or are NotSupported with the reason",
        "the original had nothing behind them, and answered success or an invented exit",
    ),
    Rule(
        "no-isolation-no-pause",
        "outcomes calls",
        "pause and resume of a container that was given no isolation option are refused, too",
        "it is process-isolated then, and only utility VMs can be paused; the original asked the service",
    ),
    Rule(
        "no-lock",
        "outcomes calls events",
        "kill, stats and signal get through while a start, a pause or a teardown is pending, and the engine may be"
        " called from an event's handler",
        "the original held the container's lock for up to five minutes",
    ),
    Rule(
        "servicing-told",
        "events",
        "a servicing container that has done its work is a container that was started and has exited: both are told",
        "the original kept it out of its table and told nobody; an exit record is what longshore's callers look at",
    ),
    Rule(
        "gone-is-not-found",
        "calls",
        "a system that could not be ended, or whose service was lost, is looked for by its id when it is taken away,"
        " and ended then, if it has the same owner",
        "the original took it for gone, and its id was never free again",
    ),
    Rule(
        "pause-taken-back",
        "outcomes calls events",
        "a pause that was not completed within its time is taken back: a resume is asked for. The caller's own resume"
        " is then asked of the service, or refused once the taking back has succeeded",
        "the original told its caller that the pause had failed, and when it came late, the container stood still",
    ),
    Rule(
        "looked-at",
        "calls",
        "the status of a process that the service will not kill is read: it may have ended",
        "the original waited for ever for one that had ended and of which nobody had been told",
    ),
    Rule(
        "unknown-code",
        "events",
        "an exit code that could not be read is None, which the runner shows as 4294967295",
        "the original's -1 cannot be told from a process that ended with it",
    ),
)

# documents


def splits_into(line: str, args: Sequence[str]) -> bool:
    """Rule `quoted`: whether programs take the command line apart into just these arguments."""
    return command_line_to_argv(line) == list(args)


def refusals(spec: Mapping[str, Any], options: Sequence[Option]) -> list[str]:
    """Rules `refused-values` and `no-layers`: why a `create` is refused before the service is asked; [] if it is not.

    Written from the recording's own words, not from the code that refuses.
    """
    return [reason for is_so, reason in _refusals(spec, options) if is_so]


def _refusals(spec: Mapping[str, Any], options: Sequence[Option]) -> Iterator[tuple[bool, str]]:
    windows = spec.get("windows") or {}
    resources = windows.get("resources") or {}
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    storage = resources.get("storage") or {}
    limit = memory.get("limit") or 0
    yield (cpu.get("percent") or 0) > 100, "percent goes from 1 to 100"
    yield (cpu.get("shares") or 0) > 10_000, "HCS's weight goes from 1 to 10000"
    yield 0 < limit < 1 << 20, "HCS counts memory in megabytes: less than one would be no limit"
    yield limit >= 1 << 63, "the document's member is a signed number of 64 bits"
    yield (storage.get("sandboxSize") or 0) >= 1 << 63, "no disk is so large"

    paths = None
    for option in options:
        if option.type == "Layer":
            paths = option.layer_paths
    yield not paths, "no parent layers"

    searched = [name for option in options for name in option.dns_search_list or []]
    yield any("," in name for name in searched), "a domain of the search list is one domain"

    yield bool((spec.get("root") or {}).get("readonly")), "Windows has no read-only roots"
    root = (spec.get("root") or {}).get("path") or ""
    volume = re.fullmatch(r"\\\\\?\\Volume\{[0-9a-fA-F-]{36}\}\\?", root)
    yield bool(root) and volume is None, "a root is a volume"
    for mount in spec.get("mounts") or []:
        yield (mount.get("type") or "bind") != "bind", "there are no other mounts"
    yield from process_refusals(spec.get("process") or {})


def in_modern_names(document: str) -> str:
    """Rule `modern-names`: the document of a container as longshore would write it."""
    document = re.sub(r'("VolumePath":"[^"]*\})\\\\"', r'\1"', document)
    if '"HostPath":"\\\\\\\\.\\\\pipe\\\\' not in document:
        return document
    members = json.loads(document)
    found: dict[str, Any] = {}
    for name, value in members.items():
        found[name] = value
        if name == "MappedDirectories":
            pipes = [mount for mount in value if mount["HostPath"].startswith(PIPE)]
            found[name] = [mount for mount in value if mount not in pipes]
            found["MappedPipes"] = [
                {"HostPath": each["HostPath"], "ContainerPipeName": each["ContainerPath"].removeprefix(PIPE)}
                for each in pipes
            ]
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


PIPE = "\\\\.\\pipe\\"


def process_refusals(process: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Rule `refused-values` for one process."""
    args = process.get("args") or []
    size = process.get("consoleSize") or {}
    yield bool(args) and '"' in args[0], "the name of a program holds no quote"
    yield sum(len(argument) + 3 for argument in args) > 32_767, "Windows' command lines are shorter"
    yield process.get("consoleSize") is not None and not {"height", "width"} <= size.keys(), "a size has two sides"
    if process.get("terminal"):
        yield not 0 <= size.get("height", 0) <= 0xFFFF, "a console has at most 65535 lines"
        yield not 0 <= size.get("width", 0) <= 0xFFFF, "a console has at most 65535 columns"


def resize_refused(width: int, height: int) -> bool:
    """Rule `refused-values` for `resize`: a console has a size, of 16 bits each."""
    return not (1 <= width <= 0xFFFF and 1 <= height <= 0xFFFF)


# operations

STOPPED = (0xC0370110, 0x80370110, 0x80070490, 0x8007007F, 0x8037011F, 0xC037010E, 0x8037010E)
"""What the service says of what has ended already; the third was the original's for a process, too.

That there is no such system was no end to the original, and is one to today's hcsshim, and to us.
"""

SILENT = ("settle", "sleep", "join", "service", "start_reading", "gc", "drop")
"""Operations of the runner's own: they have no outcome."""

_LEGAL_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def is_refused(vector: Vector, index: int) -> bool:
    """Rules `refused-values` and `no-layers`: the operation's values are refused."""
    step = vector.operations[index]
    match step.op:
        case "create":
            full = vector.completed(step)
            if not is_legal(vector.container_of(step)):
                return True
            return bool(refusals(full.spec or {}, full.options or []))
        case "addprocess":
            return any(is_so for is_so, _ in process_refusals(step.process or {}))
        case "resize":
            return resize_refused(step.width, step.height)
        case "signal":
            return not 1 <= (step.sig or 0) <= 64
    return False


def _at(vector: Vector, index: int) -> int:
    """Where in the timeline an operation begins."""
    return next(place for place, entry in enumerate(vector.timeline) if entry.get("op") == index)


def _until(vector: Vector, index: int) -> int:
    """Where in the timeline an operation returns; the end, if it never does."""
    places = (place for place, entry in enumerate(vector.timeline) if entry.get("return") == index)
    return next(places, len(vector.timeline))


def _is_alive(vector: Vector, container: str, process: str, place: int) -> bool:
    """Whether a process has been announced as ended before a place in the timeline."""
    for entry in vector.timeline[:place]:
        if "event" in entry:
            event = vector.events[entry["event"]]
            if event.container == container and event.state == "exit":
                return False
            if event.container == container and event.state == "exit-process" and event.process_id == process:
                return False
    return True


def made_before(vector: Vector, index: int, op: str) -> list[int]:
    """Operations of a kind, on the same container, that succeeded before this one began."""
    step, begin = vector.operations[index], _at(vector, index)
    return [
        earlier
        for earlier in range(index)
        if (other := vector.operations[earlier]).op == op
        and vector.container_of(other) == vector.container_of(step)
        and (other.error is None or is_receivers(vector, earlier))
        and other.panic is None
        and not other.hung
        and not is_refused(vector, earlier)
        and not is_wrong_state(vector, earlier)
        and _until(vector, earlier) < begin
    ]


RECEIVED = {"create": "start-container", "pause": "pause", "resume": "resume"}
"""The event that an operation tells when it is done."""


def is_receivers(vector: Vector, index: int) -> bool:
    """Rule `told-not-asked`: a pause or resume was done, and its error is that of the receiver of its event."""
    step = vector.operations[index]
    refusal = vector.backend.get(RECEIVED.get(step.op, ""))
    return step.op != "create" and step.error is not None and refusal is not None and step.error.text == refusal


def is_after_hung_pause(vector: Vector, index: int) -> bool:
    """Rule `pause-taken-back`: a resume after a pause that reached its limit."""
    step = vector.operations[index]
    if step.op != "resume":
        return False
    earlier = [
        other
        for other in vector.operations[:index]
        if other.op in ("pause", "resume") and vector.container_of(other) == vector.container_of(step)
    ]
    return bool(earlier) and earlier[-1].op == "pause" and "timeout waiting" in getattr(earlier[-1].error, "text", "")


def is_misdirected(vector: Vector, index: int | None = None) -> bool:
    """Rule `no-crash`: the service told a handle something that its kind has not; the original's callback hung.

    Before an operation began, or at all.
    """
    own = {"process": ("ProcessExited", "ServiceDisconnect"), "system": SYSTEM_TYPES}
    before = vector.timeline[: None if index is None else _at(vector, index)]
    notices = (entry["notify"] for entry in before if "notify" in entry)
    return any(notice.get("type") not in own["process" if "process" in notice else "system"] for notice in notices)


SYSTEM_TYPES = (
    "SystemExited",
    "SystemCreateCompleted",
    "SystemStartCompleted",
    "SystemPauseCompleted",
    "SystemResumeCompleted",
    "ServiceDisconnect",
)


def is_legal(container: str) -> bool:
    """Rule `refused-values`: an id is a name in the file system, too."""
    return _LEGAL_ID.fullmatch(container) is not None


def is_wrong_state(vector: Vector, index: int) -> bool:
    """Rule `wrong-state`: a resume of what is not paused; a pause of what is, or a further process in it."""
    step = vector.operations[index]
    if is_after_hung_pause(vector, index):
        return False
    if step.op not in ("resume", "pause", "addprocess") or not made_before(vector, index, "create"):
        return False
    done = [*made_before(vector, index, "pause"), *made_before(vector, index, "resume")]
    paused = bool(done) and vector.operations[max(done)].op == "pause"
    return paused is (step.op != "resume")


def is_lost(vector: Vector, index: int) -> bool:
    """Rule `service-lost`: the service was lost before, as far as the container's system was told."""
    container = vector.container_of(vector.operations[index])
    return any(
        (action := earlier.do) is not None
        and action.action == "notify_system"
        and action.type == "ServiceDisconnect"
        and (action.system or vector.create.container) == container
        for earlier in vector.operations[:index]
    )


def is_remembered(vector: Vector, index: int) -> bool:
    """Rule `remembered`: the operation's container was made, and its exit was told before."""
    step = vector.operations[index]
    made = bool(made_before(vector, index, "create"))
    return made and not _is_alive(vector, vector.container_of(step), "", _at(vector, index))


def may_live_on(vector: Vector, container: str) -> bool:
    """Rule `gone-is-not-found`: the service was lost, or was asked to terminate the system, and did not."""
    told, answers = _told_of(vector, container), _answers(vector, container, "HcsTerminateComputeSystem")
    refused = any(
        each >= 1 << 31 and each not in (PENDING, *STOPPED)
        for each in [*answers, *_answers(vector, container, "HcsShutdownComputeSystem")]
    )
    return "ServiceDisconnect" in told or refused or (PENDING in answers and "SystemExited" not in told)


def pause_hung(vector: Vector, container: str) -> bool:
    """Rule `pause-taken-back`: a pause was asked for, and not completed in its time, or at all."""
    pauses = [step for step in vector.operations if step.op == "pause" and vector.container_of(step) == container]
    if any(step.hung or "timeout waiting" in getattr(step.error, "text", "") for step in pauses):
        return True
    answers = _answers(vector, container, "HcsPauseComputeSystem")
    return PENDING in answers and "SystemPauseCompleted" not in _told_of(vector, container)


def _told_of(vector: Vector, container: str) -> set[str | None]:
    """The notifications of a container's system."""
    notices = (entry.get("notify") or {} for entry in vector.timeline)
    return {each.get("type") for each in notices if each.get("system") == container and "process" not in each}


def _answers(vector: Vector, container: str, function: str) -> list[int]:
    return [call.hresult for call in vector.calls if call.function == function and call.system == container]


def has_ended(vector: Vector, index: int) -> bool:
    """Rule `remembered`: the operation is about a further process that was made, and its exit told, before."""
    step = vector.operations[index]
    if step.op not in ("signalprocess", "resize") or step.name in (None, "init"):
        return False
    made = [other for other in made_before(vector, index, "addprocess") if vector.operations[other].name == step.name]
    return bool(made) and not _is_alive(vector, vector.container_of(step), step.name or "", _at(vector, index))


def is_of_a_live_name(vector: Vector, index: int) -> bool:
    """Rule `live-name`: a container, or a process, of this name is alive. `init` is the first process's."""
    step = vector.operations[index]
    if step.op not in ("create", "addprocess"):
        return False
    container, begin = vector.container_of(step), _at(vector, index)
    if step.op == "create":
        return bool(made_before(vector, index, "create")) and _is_alive(vector, container, "", begin)
    if not made_before(vector, index, "create"):
        return False
    if step.name == "init":
        return _is_alive(vector, container, "", begin)
    same = [
        earlier for earlier in made_before(vector, index, "addprocess") if vector.operations[earlier].name == step.name
    ]
    return bool(same) and _is_alive(vector, container, step.name or "", begin)


def _isolation(vector: Vector, index: int) -> list[bool]:
    """What the isolation options of the operation's container say, in order."""
    made = made_before(vector, index, "create")
    if not made:
        return []
    options = vector.completed(vector.operations[made[0]]).options or []
    return [option.is_hyper_v for option in options if option.type == "HyperVIsolation"]


def lacks_isolation(vector: Vector, index: int) -> bool:
    """Rule `no-isolation-no-pause`: a pause or resume of a container that was given no isolation option."""
    step = vector.operations[index]
    is_pause = step.op in ("pause", "resume")
    return is_pause and bool(made_before(vector, index, "create")) and not _isolation(vector, index)


def is_merged(vector: Vector, index: int) -> bool:
    """Rule `options-merged`: a pause or resume where the first isolation option says something else than the last."""
    given = _isolation(vector, index) if vector.operations[index].op in ("pause", "resume") else []
    return bool(given) and given[0] != given[-1]


def reaches_init(step: Operation) -> bool:
    """Rule `left-undone`: `signalprocess` of the first process."""
    return step.op == "signalprocess" and step.name == "init" and step.error is not None


def lacks_windows(vector: Vector, index: int) -> bool:
    """Rule `no-crash`: a specification without its `windows` member is one where it is empty."""
    step = vector.operations[index]
    return step.op == "create" and step.panic is not None and (vector.completed(step).spec or {}).get("windows") is None


def services(vector: Vector, container: str) -> bool:
    """Rule `servicing-told`: whether this is a servicing container."""
    return any(
        option.type == "Servicing" and option.is_servicing
        for step in vector.operations
        if step.op == "create" and vector.container_of(step) == container
        for option in vector.completed(step).options or []
    )


def is_forgotten(vector: Vector, index: int) -> bool:
    """Rule `no-crash`: after this operation the original has forgotten what runs, because its caller refused it."""
    step = vector.operations[index]
    if step.op == "create":
        return step.attach == "fail" or "start-container" in vector.backend
    return step.op == "addprocess" and step.attach == "fail"


UNLOCKED = ("pids", "restore", "updateresources", "serverversion")
"""Operations that took no lock in the original; nor did those of checkpoints."""


def met(vector: Vector, index: int) -> set[str]:
    """Rule `no-lock`: operations on the same container that were under way with this one, and `exit` where it began
    while the exit was handled. All these waited for each other in the original."""
    step = vector.operations[index]
    if step.op in SILENT or step.op in UNLOCKED or "checkpoint" in step.op:
        return set()
    container, begin, end = vector.container_of(step), _at(vector, index), _until(vector, index)
    found: set[str] = set()
    for other, theirs in enumerate(vector.operations):
        if other == index or theirs.op in SILENT or theirs.op in UNLOCKED or "checkpoint" in theirs.op:
            continue
        if vector.container_of(theirs) == container and (
            _at(vector, other) < begin < _until(vector, other) or begin < _at(vector, other) < end
        ):
            found.add(theirs.op)
    ends_it = step.op in ("signal", "signalprocess")  # it began before the exit that it brings about
    for first, last in _exits(vector, container):
        if first < begin < last or (begin < first < end and not ends_it):
            found.add("exit")
    return found


def _exits(vector: Vector, container: str) -> Iterator[tuple[int, int]]:
    """From the notification of a first process's exit to its event, as places in the timeline."""
    inits = {event.pid for event in vector.events if event.container == container and event.state == "exit"}
    for place, entry in enumerate(vector.timeline):
        notice = entry.get("notify") or {}
        if notice.get("system") == container and notice.get("process") in inits:
            for later in range(place, len(vector.timeline)):
                seen = vector.timeline[later].get("event")
                if seen is not None and vector.events[seen].state == "exit":
                    yield place, later
                    break
