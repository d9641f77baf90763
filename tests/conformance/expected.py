"""What is expected of each operation: its recorded outcome as a kind, changed where a rule of `rules.py` says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from longshore.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerExists,
    ContainerNotFound,
    InvalidSpec,
    InvalidState,
    NotSupported,
    ProcessExists,
    ProcessNotFound,
    ServiceError,
    TimeLimit,
)

from . import rules
from .vectors import PENDING, RecordedError, Vector

# kinds of outcome; an error with a code of the service is `code 0x…`
OK = "ok"
REFUSED = "refused"  # InvalidSpec: nothing was asked of the service
EXISTS = "exists"
NOT_SUPPORTED = "not supported"
NO_CONTAINER = "no container"
NO_PROCESS = "no process"
TIME_LIMIT = "time limit"
DISCONNECTED = "service lost"
UNEXPECTED_EXIT = "unexpected exit"
BAD_ANSWER = "bad answer"
SERVICING = "servicing failed"
OF_CALLER = "the caller's own"  # what its attach callback, or its event handler, raised
STREAM_CLOSED = "stream closed"
WRONG_STATE = "wrong state"
ANY = "anything, but it ends"

_TEXTS = {  # of errors without a code, by what their text has in it
    "timeout waiting for notification": TIME_LIMIT,
    "lost communication with compute service": DISCONNECTED,
    "unexpected container exit": UNEXPECTED_EXIT,
    "Failed to find ": NOT_SUPPORTED,  # an export that the DLL lacks
    "unexpected value returned from hcs": BAD_ANSWER,
    "invalid character": BAD_ANSWER,
    "unexpected end of JSON": BAD_ANSWER,
    "cannot unmarshal": BAD_ANSWER,
    "parsing time": BAD_ANSWER,
    "invalid container: ": NO_CONTAINER,
    "could not find": NO_PROCESS,
    "cannot pause Windows Server Containers": NOT_SUPPORTED,
    "cannot resume Windows Server Containers": NOT_SUPPORTED,
    "do not support checkpoints": NOT_SUPPORTED,
    "not implemented on Windows": NOT_SUPPORTED,
    "no layer option or paths were supplied": REFUSED,
    "returned non-zero exit code": SERVICING,
    "file has already been closed": STREAM_CLOSED,
}
_SAME_AS = {
    0x8037011E: DISCONNECTED,
    0xC037011E: DISCONNECTED,
    0xC0370106: UNEXPECTED_EXIT,
    0x80370106: UNEXPECTED_EXIT,
}


def code(number: int) -> str:
    """The kind of an error that has a code of the service."""
    return f"code {number:#x}"


def kind_of_recorded(error: RecordedError) -> str:
    """The kind of an error of the original. Its words are not compared."""
    if error.number is not None:
        return code(error.number)
    if "utility VM image could not be found" in error.text:
        return REFUSED
    for text, kind in _TEXTS.items():
        if text in (error.inner or error.text):
            return kind
    return OF_CALLER


def kinds_of(error: BaseException | None) -> set[str]:
    """The kinds that an error of ours counts as."""
    match error:
        case None:
            return {OK}
        case InvalidSpec():
            return {REFUSED}
        case ContainerExists() | ProcessExists():
            return {EXISTS}
        case NotSupported():
            return {NOT_SUPPORTED}
        case ContainerNotFound():
            return {NO_CONTAINER}
        case InvalidState():
            # the original knew nothing that has stopped (rule `remembered`); and what ended it may be told as the cause
            gone = {NO_CONTAINER, NO_PROCESS} if error.state in ("stopped", "ending") else set()
            return {WRONG_STATE} | gone | (kinds_of(error.__cause__) - {OK})
        case ProcessNotFound():
            return {NO_PROCESS}
        case CommandNotFound():
            return {code(2), code(3)}
        case CommandNotExecutable():
            return {code(5), code(193), code(216), code(740)}
        case TimeLimit():
            return {TIME_LIMIT}
        case ServiceError(code=None):
            return {BAD_ANSWER, SERVICING}
        case ServiceError():
            assert error.code is not None
            return {code(error.code), *([_SAME_AS[error.code]] if error.code in _SAME_AS else [])}
        case ConnectionError() | BrokenPipeError() | ValueError() | RuntimeError():
            return {STREAM_CLOSED, OF_CALLER}
    return {type(error).__name__, OF_CALLER}


@dataclass
class Expected:
    """What is expected of one operation: any of some kinds.

    `rule` is the one that changed it; its result is not compared, then.
    """

    kinds: set[str]
    rule: str | None = None


def outcomes(vector: Vector) -> dict[int, Expected]:
    """What is expected of each operation, by its index."""
    found: dict[int, Expected] = {}
    for index, step in enumerate(vector.operations):
        if step.op not in rules.SILENT:
            found[index] = _outcome(vector, index)
    return found


def _outcome(vector: Vector, index: int) -> Expected:
    step = vector.operations[index]
    recorded = OK if step.error is None else kind_of_recorded(step.error)
    for rule, kinds in _changes(vector, index, recorded):
        return Expected(kinds, rule)
    return Expected({recorded})


def _changes(vector: Vector, index: int, recorded: str) -> Iterator[tuple[str, set[str]]]:
    """The rules that change an outcome, and to what; the first counts."""
    step = vector.operations[index]
    if rules.is_refused(vector, index):
        yield "refused-values", {REFUSED, NOT_SUPPORTED, *([recorded] if recorded == NO_CONTAINER else [])}
    if rules.lacks_windows(vector, index):
        yield "no-crash", {OK}
    if step.panic is not None or step.hung:
        yield "no-crash", {ANY}
    if rules.is_of_a_live_name(vector, index):
        yield "live-name", {EXISTS}
    if rules.lacks_isolation(vector, index):
        yield "no-isolation-no-pause", {NOT_SUPPORTED, *([WRONG_STATE] if step.op == "resume" else [])}
    if rules.is_wrong_state(vector, index):
        yield "wrong-state", {WRONG_STATE}
    if step.op == "create" and "start-container" in vector.backend:
        yield "told-not-asked", {OK}
    if rules.is_misdirected(vector, index):  # what the original was not told any more, we were
        yield "no-crash", {recorded, OK, NO_CONTAINER, NO_PROCESS, WRONG_STATE}
    if rules.is_receivers(vector, index):
        yield "told-not-asked", {OK}
    if rules.is_after_hung_pause(vector, index):
        yield "pause-taken-back", {recorded, OK, WRONG_STATE}
    if rules.is_lost(vector, index):
        yield "service-lost", {recorded, NO_CONTAINER, DISCONNECTED}
    if step.op == "signal" and step.sig == 9 and rules.is_remembered(vector, index):
        yield "remembered", {OK, NO_CONTAINER}
    if rules.has_ended(vector, index):
        yield "remembered", {recorded, WRONG_STATE, *([OK] if step.op == "signalprocess" else [])}
    if not rules.is_legal(vector.container_of(step)):
        yield "refused-values", {REFUSED, recorded}
    if rules.is_merged(vector, index):
        yield "options-merged", {OK if recorded == NOT_SUPPORTED else NOT_SUPPORTED}
    if step.op in ("pids", "restore", "updateresources") or "checkpoint" in step.op:
        yield "left-undone", {NOT_SUPPORTED, NO_CONTAINER, *([] if "checkpoint" in step.op else [OK])}
    if rules.reaches_init(step):
        yield "left-undone", {OK} if recorded == NO_PROCESS else {recorded}
    if step.op == "signal":
        failures = set(_failures(vector, index))
        if failures:
            yield "failures-told", failures
    if step.op == "signalprocess" and recorded == code(0x490):  # it has ended: what was wanted
        yield "failures-told", {OK, recorded}
    met = rules.met(vector, index)
    if step.op == "signal" and met:
        yield "no-lock", {OK, NO_CONTAINER}
    if {"signal", "create"} & met or ("exit" in met and step.op != "stats") or (step.op == "create" and met):
        yield "no-lock", {ANY}
    if "exit" in met:
        yield "no-lock", {OK, NO_CONTAINER}
    yield from _later(vector, index, recorded)


def _later(vector: Vector, index: int, recorded: str) -> Iterator[tuple[str, set[str]]]:
    """What an earlier difference comes to: what was refused is not there, what was forgotten is."""
    step = vector.operations[index]
    for earlier in range(index):
        other = vector.operations[earlier]
        if vector.container_of(other) != vector.container_of(step):
            continue
        if other.op == "create" and rules.is_refused(vector, earlier):
            yield "refused-values", {NO_CONTAINER, REFUSED}
        if other.op == "signal" and recorded == NO_CONTAINER and rules.is_refused(vector, earlier):
            yield "refused-values", {OK, recorded}
        if other.op == "addprocess" and (rules.is_refused(vector, earlier) or rules.is_wrong_state(vector, earlier)):
            yield "refused-values", {NO_PROCESS, NO_CONTAINER, recorded}
        if rules.is_of_a_live_name(vector, earlier) or rules.is_forgotten(vector, earlier):
            # the first of the name is still there, and what its caller refused runs until somebody ends it
            yield "live-name", {OK, recorded}
        if other.panic is not None and recorded == NO_CONTAINER:
            yield "no-crash", {OK, recorded}


def _failures(vector: Vector, index: int) -> Iterator[str]:
    """Codes with which the service refused to end something, and which the original kept to itself."""
    for call in vector.calls_during(index):
        if call.function in ("HcsTerminateComputeSystem", "HcsShutdownComputeSystem"):
            number = call.hresult
            if number >= 1 << 31 and number not in (PENDING, *rules.STOPPED):
                yield code(number & 0xFFFF if number & 0x1FFF0000 == 0x00070000 else number)


def matches(expected: Expected, kinds: set[str]) -> bool:
    """Whether an outcome of these kinds is one of those expected."""
    return ANY in expected.kinds or bool(expected.kinds & kinds)
