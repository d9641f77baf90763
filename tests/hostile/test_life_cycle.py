"""Any order of verbs on real containers, against the simplest model of what each may be: 300 steps."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from longshore.compute.events import Event
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import ContainerExists, ContainerNotFound, InvalidState, LongshoreError

from ..leftovers import cgroups, processes

pytestmark = pytest.mark.real

STEPS = {"crun": 200, "runc": 100}
IDS = ("a", "b", "c")
SLEEP = ["sleep", "infinity"]

Verb = Callable[[Container], Awaitable[object]]


async def _exec(box: Container) -> object:
    done = await box.run(["sh", "-c", "exit 7"])
    assert done.exit_code == 7
    return done


async def _kill(box: Container) -> object:
    await box.kill()
    return await box.wait()


ANY = ("created", "running", "paused", "stopped")
VERBS: dict[str, tuple[Verb, dict[str, str]]] = {  # in which states it is allowed, and what it is then
    "start": (lambda box: box.start(), {"created": "running"}),
    "pause": (lambda box: box.pause(), {"running": "paused"}),
    "resume": (lambda box: box.resume(), {"paused": "running"}),
    "exec": (_exec, {"running": "running"}),
    "stats": (lambda box: box.stats(), {"running": "running", "paused": "paused"}),
    "stop": (lambda box: box.stop(grace=0), dict.fromkeys(ANY, "stopped")),
    "kill": (_kill, dict.fromkeys(ANY, "stopped")),
    "delete": (lambda box: box.delete(), {"created": "gone", "stopped": "gone"}),
    "delete by force": (lambda box: box.delete(force=True), dict.fromkeys(ANY, "gone")),
}


@pytest.mark.parametrize("runtime", STEPS)
async def test_three_hundred_steps_of_any_verb(state: Path, runtime: str) -> None:
    seed = int(os.environ.get("LONGSHORE_SEED", random.randrange(10**9)))
    print(f"seed {seed}: LONGSHORE_SEED={seed} plays it again")
    rng = random.Random(seed)
    model: dict[str, str] = {}
    async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as one, Engine(state=state) as other:
        for _ in range(STEPS[runtime]):
            id, engine = rng.choice(IDS), rng.choice([one, one, other])
            if rng.random() < 0.35:
                launch = rng.random() < 0.6
                made = (one.launch if launch else one.create)(id, root="host", args=SLEEP)
                if id in model:
                    with pytest.raises(ContainerExists):
                        await made
                else:
                    await made
                    model[id] = "running" if launch else "created"
            else:
                await _verb(engine, id, rng.choice(list(VERBS)), model)
            for each in (one, other):
                assert {info.id: info.state for info in await each.list()} == model
        for id in list(model):
            await (await one.get(id)).delete(force=True)
        told: dict[str, list[str]] = {}
        async for event in one.events(since=0, follow=False):
            assert isinstance(event, Event)
            told.setdefault(event.uid, []).append(event.type)
    for types in told.values():
        for once in ("start-container", "exit", "delete"):
            assert types.count(once) <= 1, types
        assert types[-1] == "delete"
        assert 0 <= types.count("pause") - types.count("resume") <= 1
    assert [*processes(state), *cgroups(state)] == []


async def _verb(engine: Engine, id: str, verb: str, model: dict[str, str]) -> None:
    call, allowed = VERBS[verb]
    expected: type[LongshoreError] | None = None
    if id not in model:
        expected = ContainerNotFound
    elif model[id] not in allowed:
        expected = InvalidState
    if expected is not None:
        with pytest.raises(expected):
            await call(await engine.get(id))
        return
    await call(await engine.get(id))
    model[id] = allowed[model[id]]
    if model[id] == "gone":
        del model[id]
