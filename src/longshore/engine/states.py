"""The states of a container, and which verb is allowed in which state: one table, for the engine and its front ends.

    creating  →  created  →  running  ⇄  paused
                    └───────────┴──────────┴──→  stopped

A container is *creating* until it has all its parts. *Stopped* is the end; only `start(checkpoint=...)` begins another
life from there. Two further states say what this program knows of a container: *damaged*, its record cannot be read,
and *hidden*, its processes cannot be seen from here, as from another pid namespace.

The state is not stored anywhere. `lookup.derive` finds it out, from the files of the container and its init.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import NamedTuple

from ..errors import InvalidState


class ContainerState(StrEnum):
    """What a container is; `ContainerInfo.state` is one of these words."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DAMAGED = "damaged"
    HIDDEN = "hidden"


CREATING, CREATED, RUNNING, PAUSED, STOPPED, DAMAGED, HIDDEN = ContainerState
ALIVE = frozenset((RUNNING, PAUSED))
"""The states in which init runs."""


class Rule(NamedTuple):
    """One row of the table: the verb as an error names it, the states it is allowed in, the next step in others."""

    operation: str
    allowed: frozenset[ContainerState]
    hints: Mapping[ContainerState, str] = {}
    words: Mapping[ContainerState, str] = {}
    """How an error names a state, where the plain word says too little."""


class Verb(StrEnum):
    """What can be done with a container in some of its states only."""

    START = "start"
    RESTORE = "restore"
    WAIT = "wait"
    EXEC = "exec"
    FIND_INIT = "find init"
    SIGNAL = "signal"
    KILL = "kill"
    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"
    UPDATE = "update"
    CONNECT = "connect"
    RESIZE = "resize"
    STATS = "stats"
    TOP = "top"
    CHECKPOINT = "checkpoint"
    DELETE = "delete"
    ATTACH_COMMAND = "longshore attach"
    KILL_COMMAND = "longshore kill"


_TO_HAVE_IT_RUN = {
    CREATED: "start it first",
    PAUSED: "resume it first",
    STOPPED: "create another container: each starts once",
}
_NOT_STARTED = {CREATED: "start it first"}, {CREATED: "created, not started"}
_BEING_CREATED = {CREATING: "wait until it is created"}
_ENDED = frozenset((CREATED, STOPPED))

RULES: Mapping[Verb, Rule] = {
    Verb.START: Rule("start", frozenset((CREATED,)), dict.fromkeys(ALIVE | {STOPPED}, _TO_HAVE_IT_RUN[STOPPED])),
    Verb.RESTORE: Rule(
        "restore",
        frozenset((STOPPED,)),
        dict.fromkeys(ALIVE | {CREATED}, "stop it first, or import an exported checkpoint"),
    ),
    Verb.WAIT: Rule("wait for", ALIVE | {STOPPED}, *_NOT_STARTED),
    Verb.EXEC: Rule("exec in", frozenset((RUNNING,)), _TO_HAVE_IT_RUN),
    Verb.FIND_INIT: Rule("find a process of", ALIVE | {STOPPED}, *_NOT_STARTED),
    Verb.SIGNAL: Rule("signal", ALIVE, _TO_HAVE_IT_RUN),
    Verb.KILL: Rule("kill", ALIVE | _ENDED, _BEING_CREATED),
    Verb.STOP: Rule("stop", ALIVE | _ENDED, _BEING_CREATED),
    Verb.PAUSE: Rule("pause", frozenset((RUNNING,)), _TO_HAVE_IT_RUN),
    Verb.RESUME: Rule("resume", frozenset((PAUSED,)), _TO_HAVE_IT_RUN),
    Verb.UPDATE: Rule("update", ALIVE | {CREATED}, _TO_HAVE_IT_RUN),
    Verb.CONNECT: Rule("update", ALIVE, _TO_HAVE_IT_RUN),
    Verb.RESIZE: Rule("resize the terminal of", ALIVE | {CREATED}, *_NOT_STARTED),  # created: if init is made
    Verb.STATS: Rule("measure", ALIVE, _TO_HAVE_IT_RUN),
    Verb.TOP: Rule("list the processes of", ALIVE, _TO_HAVE_IT_RUN),
    Verb.CHECKPOINT: Rule("checkpoint", ALIVE, _TO_HAVE_IT_RUN),
    Verb.DELETE: Rule("delete", _ENDED, dict.fromkeys(ALIVE, "stop it first, or use force")),
    # the command line is stricter than the engine here, and knows its own next step; `{id}` is the container's
    Verb.ATTACH_COMMAND: Rule(
        "attach to", ALIVE | {HIDDEN}, dict.fromkeys(ContainerState, "run `longshore logs {id}` to see its output")
    ),
    Verb.KILL_COMMAND: Rule(
        "kill", ALIVE | {HIDDEN}, dict.fromkeys(ContainerState, "run `longshore rm {id}` to remove it")
    ),
}
"""The table. Errors for a damaged or hidden container are raised earlier, by the code that finds the state out."""

_WORDS = {CREATING: "being created"}


def wrong_state(verb: Verb, id: str, state: str) -> InvalidState:
    """Return the error for a verb in a state that does not allow it, with the next step as its hint."""
    rule, found = RULES[verb], ContainerState(state)
    hint = rule.hints.get(found)
    word = rule.words.get(found) or _WORDS.get(found) or found.value
    return InvalidState(rule.operation, id, word, hint=hint and hint.format(id=id))


def check_state(verb: Verb, id: str, state: str, *, allowed: Collection[str] | None = None) -> None:
    """Raise InvalidState unless the verb is allowed in this state; `allowed` replaces the states of the table."""
    if state not in (RULES[verb].allowed if allowed is None else allowed):
        raise wrong_state(verb, id, state)
