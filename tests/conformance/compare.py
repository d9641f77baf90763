"""Comparing what a runner saw with a recording: `differences` is empty where all is as recorded, or as a rule wants.

Two depths. Where no rule changes what happens, calls, events and streams are compared one by one. Where one does (the
first container of a name lives on, a kill gets through), there is no recording of what follows; then outcomes are
compared, every document must be a recorded one, and what holds for any run must hold: handles are used while they are
open, closed once, and none stays open of what has ended; a start comes before its exit, and there is one exit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from . import rules
from .expected import kind_of_recorded, kinds_of, matches, outcomes
from .observed import Observed
from .vectors import UNKNOWN_EXIT_CODE, Call, Event, Operation, Vector

CLOSING = {
    "HcsUnregisterComputeSystemCallback": "callback",
    "HcsCloseComputeSystem": "system_handle",
    "HcsUnregisterProcessCallback": "callback",
    "HcsCloseProcess": "process_handle",
}
OPENING = {
    "HcsCreateComputeSystem": "system_handle",
    "HcsOpenComputeSystem": "system_handle",
    "HcsRegisterComputeSystemCallback": "callback",
    "HcsCreateProcess": "process_handle",
    "HcsOpenProcess": "process_handle",
    "HcsRegisterProcessCallback": "callback",
}


def differences(vector: Vector, seen: Observed) -> list[str]:
    """What is neither as recorded nor as a rule wants it, in words."""
    found = [*_outcomes(vector, seen), *_reentries(vector, seen), *_documents(vector, seen), *invariants(seen)]
    found += _left_open(vector, seen)
    if changes_the_course(vector):
        return found
    varies = vector.stability.varies
    return [
        *found,
        *([] if varies("calls") else _calls(vector, seen)),
        *([] if varies("events") else _events(vector, seen)),
        *([] if varies("attached") else _members("attached", vector, seen)),
        *([] if varies("streams") else _streams(vector, seen)),
        *([] if varies("stdin") else _members("stdin", vector, seen)),
    ]


def changes_the_course(vector: Vector) -> set[str]:
    """Rules after which what happens is no longer what was recorded."""
    found: set[str] = set()
    for index, step in enumerate(vector.operations):
        if step.panic is not None or step.hung or rules.is_forgotten(vector, index):
            found.add("no-crash")
        if rules.is_of_a_live_name(vector, index):
            found.add("live-name")
        if rules.is_merged(vector, index):
            found.add("options-merged")
        if rules.is_after_hung_pause(vector, index):
            found.add("pause-taken-back")
        if rules.reaches_init(step) and kind_of_recorded(step.error) == "no process":  # type: ignore[arg-type]
            found.add("left-undone")
        if {"signal", "create", "exit"} & rules.met(vector, index):
            found.add("no-lock")
        if step.op in ("signal", "addprocess") and rules.is_refused(vector, index):
            found.add("refused-values")
        if step.op == "addprocess" and rules.is_wrong_state(vector, index):
            found.add("wrong-state")
    if "gc" in vector.tags or "bug" in vector.tags or rules.is_misdirected(vector):
        found.add("no-crash")
    if vector.reenter:  # the handler is called beside what goes on, not in the midst of it
        found.add("no-lock")
    return found


# outcomes


def _outcomes(vector: Vector, seen: Observed) -> Iterator[str]:
    for index, expected in outcomes(vector).items():
        step, outcome = vector.operations[index], seen.outcomes.get(index)
        what = f"operation {index} ({step.op})"
        if outcome is None:
            yield f"{what} was not played"
        elif outcome.hung:
            yield f"{what} did not come back"
        else:
            kinds = kinds_of(outcome.error)
            if not matches(expected, kinds):
                why = f", by rule `{expected.rule}`" if expected.rule else ""
                yield f"{what}: expected {sorted(expected.kinds)}{why}, but {sorted(kinds)}: {outcome.error!r}"
            elif (
                expected.rule is None
                and not vector.stability.varies("results")
                and not _same_result(step, outcome.result)
            ):
                yield f"{what}: expected the result {step.result!r}, but {outcome.result!r}"


def _same_result(step: Operation, ours: Any) -> bool:
    """Results are compared where the original gave one; its version was an empty document."""
    nothing = step.error is not None or step.result is msgspec.UNSET or step.op == "serverversion"
    return nothing or step.result == ours


def _reentries(vector: Vector, seen: Observed) -> Iterator[str]:
    """A call from inside an event ends, with whatever outcome it has without the lock."""
    if any(_is_invented(event) for event in vector.events):
        return
    for index, recorded in enumerate(vector.reentries):
        entry = seen.reentries[index] if index < len(seen.reentries) else None
        if entry is None or (entry.state, entry.op) != (recorded.state, recorded.op):
            yield f"reentry {index} ({recorded.op} from {recorded.state}) was not seen: {entry}"
        elif entry.outcome.hung:
            yield f"reentry {index} ({recorded.op} from {recorded.state}) did not come back"


# calls


def _documents(vector: Vector, seen: Observed) -> Iterator[str]:
    """Every document that was sent is a recorded one, but for its command line and its size of a refused console."""
    recorded = {(call.function, _without_command(call)) for call in vector.calls if call.document is not None}
    recorded |= {
        ("HcsCreateComputeSystem", step.error.extra_info)
        for step in vector.operations
        if step.error is not None and step.op == "create" and step.error.extra_info
    }
    looked_for = _looked_for(vector, seen)
    for call in seen.calls:
        if call.document is None or call.function in ("HcsEnumerateComputeSystems", "HcsSignalProcess"):
            continue
        if call.function == "HcsGetComputeSystemProperties":
            if call.document not in _QUERIES and call.system_handle not in looked_for:
                yield f"a query that the original had not: {call.document}"
        elif call.function in ("HcsCreateComputeSystem", "HcsCreateProcess", "HcsModifyProcess"):
            is_known = (call.function, _without_command(call)) in recorded
            if not is_known and not changes_the_course(vector):
                yield f"{call.function} with a document that is not recorded: {call.document}"
        if call.function == "HcsCreateProcess" and not splits(vector, call):
            yield f"a command line that no list of arguments comes to: {call.document}"


_QUERIES = {f'{{ "PropertyTypes" : ["{kind}"]}}' for kind in ("Statistics", "ProcessList", "PendingUpdates")}


def _without_command(call: Call) -> str:
    """A document's text, without the command line of a process (rule `quoted`), in longshore's names."""
    text = call.document or ""
    if call.function == "HcsCreateComputeSystem":
        return rules.in_modern_names(text)
    if call.function != "HcsCreateProcess":
        return text
    start = text.index('"CommandLine":')
    end = text.index(',"User":', start)
    return text[:start] + text[end:]


def splits(vector: Vector, call: Call) -> bool:
    """Rule `quoted`: whether a command line comes to a list of arguments that the recording's caller gave."""
    line = json.loads(call.document or "{}")["CommandLine"]
    asked = [(vector.completed(step).spec or {}).get("process") for step in vector.operations if step.op == "create"]
    asked += [step.process for step in vector.operations if step.op == "addprocess"]
    commands = [(process or {}).get("args") or [] for process in asked]
    return any(rules.splits_into(line, args) for args in commands)


Shape = tuple[Any, ...]


def _shape(call: Call) -> Shape:
    """What is compared of a call: function, handles and document; not what the service answered."""
    document = _without_command(call) if call.document is not None else None
    return (call.function, call.system_handle, call.process_handle, call.callback, document, call.options, call.name)


def _calls(vector: Vector, seen: Observed) -> Iterator[str]:
    loose = bool(owed(vector))
    recorded = [call for call in _not_refused(vector) if not (loose and call.function in CLOSING)]
    ours = [call for call in _asked_in_the_original(vector, seen) if not (loose and call.function in CLOSING)]
    if loose:
        ours = _without_clean_up(recorded, ours)
    apart = _ended_in_the_shutdown(vector)
    if apart:  # in its own order, at whatever time
        for handle in sorted(apart):
            theirs, mine = ([_shape(c) for c in calls if _is_end_of(c, {handle})] for calls in (recorded, ours))
            yield from _sequence(f"call of the end of {handle}", theirs, mine, [])
        recorded, ours = ([c for c in calls if not _is_end_of(c, apart)] for calls in (recorded, ours))
        yield from _sequence("call", [_shape(c) for c in recorded], [_shape(c) for c in ours], [])
        return
    yield from _sequence(
        "call", [_shape(c) for c in recorded], [_shape(c) for c in ours], vector.stability.groups("calls")
    )


def _ended_in_the_shutdown(vector: Vector) -> set[str]:
    """Handles of further processes that end while their system is brought down: closed before it or after it."""
    falling: set[str] = set()
    found: set[str] = set()
    inits = {event.pid for event in vector.events if event.state == "exit"}
    handles = {(call.system, call.process): call.process_handle for call in vector.calls if call.process_handle}
    for entry in vector.timeline:
        notice = entry.get("notify") or {}
        if "call" in entry and vector.calls[entry["call"]].function in BRINGING_DOWN:
            falling.add(vector.calls[entry["call"]].system or "")
        elif notice.get("type") == "ProcessExited" and notice.get("system") in falling:
            handle = handles.get((notice["system"], notice["process"]))
            if notice["process"] not in inits and handle is not None:
                found.add(handle)
    return found


BRINGING_DOWN = ("HcsShutdownComputeSystem", "HcsTerminateComputeSystem")


def _is_end_of(call: Call, handles: set[str]) -> bool:
    return call.process_handle in handles and call.function in (
        "HcsGetProcessProperties",
        "HcsUnregisterProcessCallback",
        "HcsCloseProcess",
    )


def _not_refused(vector: Vector) -> list[Call]:
    """The recorded calls, without those of operations that a rule refuses."""
    dropped: set[int] = set()
    for index in range(len(vector.operations)):
        is_refused = rules.is_refused(vector, index) or rules.is_wrong_state(vector, index)
        if is_refused or rules.lacks_isolation(vector, index):
            dropped |= {id(call) for call in vector.calls_during(index)}
            if vector.operations[index].op == "create":  # and whatever was done with it afterwards
                container = vector.container_of(vector.operations[index])
                dropped |= {id(call) for call in vector.calls if call.system in (container, None)}
    return [call for call in vector.calls if id(call) not in dropped]


def _asked_in_the_original(vector: Vector, seen: Observed) -> list[Call]:
    """Our calls, without those of operations that called nothing in the original (`left-undone`, `remembered`)."""
    dropped: set[int] = set()
    inside = 0
    taking_back = _taken_back(vector, seen)
    asked_nothing = {
        index for index, step in enumerate(vector.operations) if _is_unlocked(step) or rules.has_ended(vector, index)
    }
    for entry in seen.order:
        inside += (entry.get("op") in asked_nothing) - (entry.get("return") in asked_nothing)
        if inside and "call" in entry:
            dropped.add(entry["call"])
    looked_for = _looked_for(vector, seen)
    return [
        call
        for index, call in enumerate(seen.calls)
        if index not in dropped
        and call.system_handle not in looked_for
        and not (call.function == "HcsOpenComputeSystem" and call.system_handle is None and _is_sought(vector, call))
        and not _looks(seen.calls, index)
        and index not in taking_back
    ]


def _taken_back(vector: Vector, seen: Observed) -> set[int]:
    """Rule `pause-taken-back`: our resumes that no operation asked for."""
    resuming: set[int] = set()
    found: set[int] = set()
    for entry in seen.order:
        if "op" in entry and vector.operations[entry["op"]].op == "resume":
            resuming.add(entry["op"])
        resuming.discard(entry.get("return", -1))
        if "call" in entry and not resuming and entry["call"] < len(seen.calls):
            call = seen.calls[entry["call"]]
            if call.function == "HcsResumeComputeSystem" and rules.pause_hung(vector, call.system or ""):
                found.add(entry["call"])
    return found


def _looked_for(vector: Vector, seen: Observed) -> set[str | None]:
    """Rule `gone-is-not-found`: handles of systems that were opened again to end them."""
    return {
        call.system_handle
        for call in seen.calls
        if call.function == "HcsOpenComputeSystem" and _is_sought(vector, call)
    } - {call.system_handle for call in vector.calls}


def _is_sought(vector: Vector, call: Call) -> bool:
    return rules.may_live_on(vector, call.system or "")


def _looks(calls: Sequence[Call], index: int) -> bool:
    """Rule `looked-at`: the reading of a status after the service would not kill the process."""
    call = calls[index]
    return call.function == "HcsGetProcessProperties" and any(
        earlier.function == "HcsTerminateProcess"
        and earlier.process_handle == call.process_handle
        and earlier.hresult >= 1 << 31
        for earlier in calls[:index]
    )


def _is_unlocked(step: Operation) -> bool:
    return step.op in rules.UNLOCKED or "checkpoint" in step.op


CLEAN_UP = ("HcsTerminateComputeSystem", "HcsOpenProcess", "HcsTerminateProcess", "HcsGetProcessProperties")
"""What undoing a failure may ask for beside closing (rule `closed`): what was made is ended first."""


def _without_clean_up(recorded: Sequence[Call], ours: Sequence[Call]) -> list[Call]:
    """Our calls without those that undo what failed, as far as they are not recorded, too."""
    wanted = [_shape(call) for call in recorded]
    found = []
    for call in ours:
        shape = _shape(call)
        if shape in wanted:
            wanted.remove(shape)
        elif call.function in CLEAN_UP:
            continue
        found.append(call)
    return found


def owed(vector: Vector) -> list[str]:
    """Handles that the original left open of what had ended or failed (rule `closed`)."""
    still = vector.open_at_end
    owners = _owners(vector.calls)
    ended = _ended_systems(vector)
    found = [handle for handle in (*still.systems, *still.processes, *still.callbacks) if owners.get(handle) in ended]
    for index, step in enumerate(vector.operations):
        if step.op == "addprocess" and (step.error is not None or step.panic is not None):
            made = [call.process_handle for call in vector.calls_during(index) if call.function == "HcsCreateProcess"]
            found += [handle for handle in made if handle in still.processes]
    return found


def _owners(calls: Iterable[Call]) -> dict[str, str]:
    """The system handle that each handle belongs to."""
    found: dict[str, str] = {}
    for call in calls:
        if call.system_handle is not None:
            for handle in (call.system_handle, call.process_handle, call.callback):
                if handle is not None:
                    found[handle] = call.system_handle
    return found


def _ended_systems(vector: Vector) -> set[str]:
    """Systems that failed to start, serviced, were closed, or whose first process's exit was announced."""
    found: set[str] = set()
    for index, step in enumerate(vector.operations):
        if step.op == "create":
            made = {call.system_handle for call in vector.calls_during(index) if call.system_handle is not None}
            options = vector.completed(step).options or []
            services = any(option.type == "Servicing" and option.is_servicing for option in options)
            failed = step.panic is not None or (step.error is not None and not rules.is_forgotten(vector, index))
            if failed or services:
                found |= made
    inits = {event.pid for event in vector.events if event.state == "exit"}
    for call in vector.calls:
        is_over = call.function == "HcsCloseComputeSystem" or (
            call.function == "HcsGetProcessProperties" and call.process in inits
        )
        if is_over and call.system_handle is not None:
            found.add(call.system_handle)
    return found


def _kept_open(vector: Vector, calls: Iterable[Call]) -> set[str]:
    """Handles that cannot be closed: the service refused, or lacks the function; and those with such a callback."""
    found: set[str] = set()
    lacking = {function for function in CLOSING if function in vector.host.missing_functions}
    for call in calls:
        refused = call.function in CLOSING and call.hresult >= 1 << 31
        lost = call.function in OPENING and any(CLOSING[function] == OPENING[call.function] for function in lacking)
        if refused or lost:
            handle = call.process_handle or call.system_handle
            found |= {each for each in (handle, call.callback) if each is not None}
    return found


# events, streams


def _events(vector: Vector, seen: Observed) -> Iterator[str]:
    """As recorded, without the exits that the original invented; what ended unseen with its system is told so."""
    refused = {
        vector.container_of(step)
        for index, step in enumerate(vector.operations)
        if step.op == "create" and rules.is_refused(vector, index)
    }
    unasked = _events_of_refused(vector)
    recorded = [
        event
        for index, event in enumerate(vector.events)
        if event.container not in refused and not _is_invented(event) and index not in unasked
    ]
    ours = [event for event in seen.events if not rules.services(vector, event.container)]
    if owed(vector):
        told = {(event.container, event.state, event.pid) for event in recorded}
        ours = [
            event
            for event in ours
            if event.state != "exit-process"
            or (event.container, event.state, event.pid) in told
            or event.exit_code not in (UNKNOWN_EXIT_CODE, 1)
        ]
    groups = vector.stability.groups("events") if recorded == vector.events else []
    pids = {call.process for call in vector.calls if call.process_handle in _ended_in_the_shutdown(vector)}
    if pids:  # in whatever order, among themselves and with the container's
        for each in (recorded, ours):
            each.sort(key=lambda event: (event.pid in pids, event.pid if event.pid in pids else 0))
    yield from _sequence("event", [_of_event(e) for e in recorded], [_of_event(e) for e in ours], groups)


def _events_of_refused(vector: Vector) -> set[int]:
    """Where the events of pauses and resumes are that a rule refuses."""
    found: set[int] = set()
    inside: set[int] = set()
    for entry in vector.timeline:
        if "op" in entry and (rules.lacks_isolation(vector, entry["op"]) or rules.is_wrong_state(vector, entry["op"])):
            inside.add(entry["op"])
        inside.discard(entry.get("return", -1))
        if inside and "event" in entry and vector.events[entry["event"]].state in ("pause", "resume"):
            found.add(entry["event"])
    return found


def _is_invented(event: Event) -> bool:
    """The exit that the original told when it was asked to restore (rule `left-undone`)."""
    return event.state == "exit" and event.exit_code == 1 << 31 and not event.pid


def _of_event(event: Event) -> Shape:
    return (event.container, event.state, event.pid, event.exit_code, event.process_id, event.update_pending)


def _streams(vector: Vector, seen: Observed) -> Iterator[str]:
    ours = {(stream.process, stream.stream): stream for stream in seen.streams}
    for stream in _kept(vector, vector.streams):
        found = ours.pop((stream.process, stream.stream), None)
        if found is None:
            yield f"{stream.stream} of {stream.process} is missing"
        elif (found.bytes, found.data, found.sha256, found.end) != (
            stream.bytes,
            stream.data,
            stream.sha256,
            stream.end,
        ):
            yield f"{stream.stream} of {stream.process}: expected {stream}, but {found}"
    for process, name in ours:
        yield f"{name} of {process} was not recorded"


def _kept(vector: Vector, members: Sequence[Any]) -> Sequence[Any]:
    """Members that belong to a container that is not refused; a recording has more than one only under live names."""
    refused = any(
        step.op == "create" and rules.is_refused(vector, index) for index, step in enumerate(vector.operations)
    )
    return [] if refused else members


def _members(name: str, vector: Vector, seen: Observed) -> Iterator[str]:
    recorded, ours = list(_kept(vector, getattr(vector, name))), list(getattr(seen, name))
    if name == "stdin":  # rule `closed`: pipes that the original left to its caller are closed with what they belong to
        ours = [entry for entry in ours if entry in recorded or entry.data]
    if sorted(map(repr, recorded)) != sorted(map(repr, ours)):
        yield f"{name}: expected {recorded}, but {ours}"


def _sequence(what: str, recorded: list[Shape], ours: list[Shape], groups: list[list[int]]) -> Iterator[str]:
    """Two sequences compared in order; within a group of indices any order is right."""
    for group in groups:
        for sequence in (recorded, ours):
            members = [index for index in sorted(group) if index < len(sequence)]
            for index, shape in zip(members, sorted((sequence[i] for i in members), key=repr), strict=True):
                sequence[index] = shape
    for index, (theirs, mine) in enumerate(zip(recorded, ours, strict=False)):
        if theirs != mine:
            yield f"{what} {index}: expected {_short(theirs)}, but {_short(mine)}"
            return
    for shape in recorded[len(ours) :]:
        yield f"{what} missing: {_short(shape)}"
    for shape in ours[len(recorded) :]:
        yield f"{what} not recorded: {_short(shape)}"


def _short(shape: Shape) -> str:
    return " ".join(str(part) for part in shape if part is not None)


# what holds for any run


def invariants(seen: Observed) -> Iterator[str]:
    """Handles are used while they are open and closed once; a start comes before its exit, and there is one exit."""
    opened: set[str] = set()
    closed: set[str] = set()
    unregistered: set[str] = set()
    callbacks: dict[str, str] = {}  # of which handle each is
    for index, call in enumerate(seen.calls):
        where = f"call {index} ({call.function})"
        owner = call.process_handle or call.system_handle
        if call.function == "HcsCreateProcess":
            owner = call.system_handle
        if owner in closed:  # the system may be closed before its processes: the original did so
            yield f"{where} uses {owner}, which is closed"
        if call.function in OPENING and call.hresult in (0, 0xC0370103):
            handle = getattr(call, OPENING[call.function])
            if handle is not None:
                opened.add(handle)
            if OPENING[call.function] == "callback" and handle is not None and owner is not None:
                callbacks[handle] = owner
        if call.function in CLOSING:
            handle = getattr(call, CLOSING[call.function])
            if handle is None or (handle not in opened and handle.startswith("c")):
                yield f"{where} closes {handle}, which is not open"
            elif handle in closed | unregistered:
                yield f"{where} closes {handle} a second time"
            elif handle.startswith("c"):
                unregistered.add(handle)
            else:
                late = [name for name, of in callbacks.items() if of == handle and name not in unregistered]
                if late:
                    yield f"{where} closes {handle} before {', '.join(late)} was unregistered"
                closed.add(handle)
    yield from _event_order(seen.events)


def _event_order(events: Sequence[Event]) -> Iterator[str]:
    running: set[str] = set()
    over: set[tuple[str, int]] = set()
    for event in events:
        if event.state == "start-container":
            if event.container in running:
                yield f"`{event.container}` was started twice"
            running.add(event.container)
        elif event.state == "exit":
            if event.container not in running:
                yield f"`{event.container}` exits, and was not started, or has exited"
            running.discard(event.container)
        elif event.state == "exit-process":
            if (event.container, event.pid) in over:
                yield f"process {event.pid} of `{event.container}` exits twice"
            over.add((event.container, event.pid))


def left_behind(vector: Vector, seen: Observed) -> list[str]:
    """Handles that are open at the end of systems that have ended, and could have been closed."""
    ended, owners = _systems_over(seen), _owners(seen.calls)
    kept = _kept_open(vector, seen.calls) | _not_over(vector, seen)
    still = (*seen.open.systems, *seen.open.processes, *seen.open.callbacks)
    return [handle for handle in still if owners.get(handle) in ended and handle not in kept]


def _left_open(vector: Vector, seen: Observed) -> Iterator[str]:
    """Open at the end are the recorded handles, without those that a rule has closed."""
    for handle in left_behind(vector, seen):
        yield f"{handle} is open, but its system has ended"
    if changes_the_course(vector):
        return
    kept = _kept_open(vector, seen.calls) | _not_over(vector, seen)
    gone = set(owed(vector)) | _refused_handles(vector) | kept | _kept_open(vector, vector.calls)
    gone |= {call.callback for call in vector.calls if call.process_handle in gone and call.callback is not None}
    for kind in ("systems", "processes", "callbacks"):
        expected = [handle for handle in getattr(vector.open_at_end, kind) if handle not in gone]
        ours = [handle for handle in getattr(seen.open, kind) if handle not in kept]
        if sorted(expected) != sorted(ours):
            yield f"open at the end: expected {kind} {expected}, but {ours}"


def _not_over(vector: Vector, seen: Observed) -> set[str]:
    """Handles of processes whose end the service has not told yet, though their system's; recorded as open, too."""
    told = {event.pid for event in seen.events if event.state in ("exit", "exit-process")}
    failed = {
        call.process
        for index, step in enumerate(vector.operations)
        if step.op == "addprocess" and step.error is not None
        for call in vector.calls_during(index)
    }
    recorded = {*vector.open_at_end.processes, *vector.open_at_end.callbacks}
    return {
        handle
        for call in seen.calls
        if call.process_handle is not None and call.process not in told | failed
        for handle in (call.process_handle, call.callback)
        if handle is not None and handle in recorded
    }


def _refused_handles(vector: Vector) -> set[str]:
    """Handles that there are none of, because what made them is refused."""
    kept = {id(call) for call in _not_refused(vector)}
    gone = (call for call in vector.calls if id(call) not in kept and call.function in OPENING)
    return {handle for call in gone if (handle := getattr(call, OPENING[call.function])) is not None}


def _systems_over(seen: Observed) -> set[str]:
    """Systems of containers whose exit we told, or that we did not get to start."""
    names = {call.system_handle: call.system for call in seen.calls if call.system_handle is not None}
    latest = {name: handle for handle, name in names.items() if handle is not None}
    alive = set()
    for event in seen.events:
        if event.state == "start-container":
            alive.add(event.container)
        elif event.state == "exit":
            alive.discard(event.container)
    return {
        handle for handle, name in names.items() if handle is not None and (name not in alive or latest[name] != handle)
    }
