"""Which verb is allowed in which state: the table, row by row, and what the verbs of the engine make of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from longshore.cli.verbs import ps
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.engine.states import RULES, ContainerState, Verb, check_state
from longshore.errors import InvalidState, LongshoreError, NotSupported

from ..test_messages import IMPERATIVES
from .world import FOREVER, World

ALLOWED = {
    #                     creating created running paused stopped damaged hidden
    Verb.START:          "-        yes     -       -      -       -       -",
    Verb.RESTORE:        "-        -       -       -      yes     -       -",
    Verb.WAIT:           "-        -       yes     yes    yes     -       -",
    Verb.EXEC:           "-        -       yes     -      -       -       -",
    Verb.FIND_INIT:      "-        -       yes     yes    yes     -       -",
    Verb.SIGNAL:         "-        -       yes     yes    -       -       -",
    Verb.KILL:           "-        yes     yes     yes    yes     -       -",
    Verb.STOP:           "-        yes     yes     yes    yes     -       -",
    Verb.PAUSE:          "-        -       yes     -      -       -       -",
    Verb.RESUME:         "-        -       -       yes    -       -       -",
    Verb.UPDATE:         "-        yes     yes     yes    -       -       -",
    Verb.CONNECT:        "-        -       yes     yes    -       -       -",
    Verb.RESIZE:         "-        yes     yes     yes    -       -       -",
    Verb.STATS:          "-        -       yes     yes    -       -       -",
    Verb.TOP:            "-        -       yes     yes    -       -       -",
    Verb.CHECKPOINT:     "-        -       yes     yes    -       -       -",
    Verb.DELETE:         "-        yes     -       -      yes     -       -",
    Verb.ATTACH_COMMAND: "-        -       yes     yes    -       -       yes",
    Verb.KILL_COMMAND:   "-        -       yes     yes    -       -       yes",
}  # fmt: skip


@pytest.mark.parametrize("verb", Verb)
def test_a_verb_is_allowed_in_the_states_of_its_row_and_refused_in_all_others(verb: Verb) -> None:
    row = ALLOWED[verb].split()
    for state, allowed in zip(ContainerState, row, strict=True):
        if allowed == "yes":
            check_state(verb, "box", state)
            continue
        with pytest.raises(InvalidState) as caught:
            check_state(verb, "box", state)
        assert str(caught.value).startswith(f"cannot {RULES[verb].operation} container `box`: it is "), state
        assert caught.value.container_id == "box"


def test_an_error_names_the_container_in_its_hint() -> None:
    with pytest.raises(InvalidState) as caught:
        check_state(Verb.ATTACH_COMMAND, "box", "stopped")
    assert caught.value.hint == "run `longshore logs box` to see its output"


def test_every_hint_of_the_table_says_what_to_do() -> None:
    hints = {hint for rule in RULES.values() for hint in rule.hints.values()}
    assert {hint for hint in hints if hint.split()[0] not in IMPERATIVES} == set()


def test_a_container_in_the_making_is_said_to_be_being_created() -> None:
    with pytest.raises(InvalidState, match="it is being created"):
        check_state(Verb.KILL, "box", "creating")


def test_the_filter_of_ps_knows_every_state() -> None:
    assert set(ps.STATES) == set(ContainerState)


async def signalled(box: Container) -> None:
    await box.signal("TERM")


CALLS: dict[Verb, Callable[[Container], Awaitable[Any]]] = {
    Verb.START: lambda box: box.start(),
    Verb.EXEC: lambda box: box.exec(["true"]),
    Verb.FIND_INIT: lambda box: box.process("init"),
    Verb.SIGNAL: signalled,
    Verb.KILL: lambda box: box.kill(),
    Verb.STOP: lambda box: box.stop(grace=0),
    Verb.PAUSE: lambda box: box.pause(),
    Verb.RESUME: lambda box: box.resume(),
    Verb.UPDATE: lambda box: box.update(pids=10),
    Verb.STATS: lambda box: box.stats(),
    Verb.TOP: lambda box: box.top(),
    Verb.RESIZE: lambda box: box.resize(20, 80),
    Verb.DELETE: lambda box: box.delete(),
}
"""The verbs of `Container` that do not wait, and need nothing beside the container."""


async def made(engine: Engine, world: World, state: ContainerState) -> Container:
    box = await engine.create("box", args=FOREVER, terminal=True, **world.pausable)
    if state is not ContainerState.CREATED:
        await box.start()
    if state is ContainerState.PAUSED:
        await box.pause()
    if state is ContainerState.STOPPED:
        await box.stop(grace=0)
    assert (await box.info()).state == state
    return box


@pytest.mark.parametrize("state", ["created", "running", "paused", "stopped"])
@pytest.mark.parametrize("verb", CALLS)
async def test_a_verb_of_the_engine_does_what_the_table_says(
    engine: Engine, world: World, verb: Verb, state: str
) -> None:
    box = await made(engine, world, ContainerState(state))
    refused: LongshoreError | None = None
    try:
        await CALLS[verb](box)
    except NotSupported:  # for a reason that is not the state
        assert verb is Verb.UPDATE
        return
    except InvalidState as error:
        refused = error
    allowed = state in RULES[verb].allowed
    if verb is Verb.RESIZE and state == "stopped":
        return  # as the service has it: what is left of a container that has ended may still be open
    if verb is Verb.RESIZE and state == "created" and not world.oci:
        allowed = False  # no init is made before the start
    assert (refused is None) == allowed, refused
    if refused is not None:
        assert refused.hint == RULES[verb].hints.get(ContainerState(state))
        assert (await box.info()).state == state, "nothing has changed"
