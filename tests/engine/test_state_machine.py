"""Any order of verbs, by two programs that may die at any time: the states are those of a simple model.

After each step the listing says what the model says, and the journal is in order with each end told once. The model
knows what an engine need not: which program has made what.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import ContainerExists, ContainerNotFound, InvalidState
from longshore.simulator import Machine, Temperament

from .world import FOREVER, HYPERV, PROGRAMS, World, history, leftovers

LIMIT = 300.0
IDS = st.sampled_from(["a", "b", "c"])
WHO = st.sampled_from([0, 1])
OWNERS = st.sampled_from(["keep", "stop", "remove"])
EXAMPLES = int(os.environ.get("LONGSHORE_EXAMPLES", "15"))


@dataclass
class Model:
    """What is known of one container."""

    state: str
    owner: str
    maker: int  # which program made it


class Engines(RuleBasedStateMachine):
    """Two programs on one store and machine."""

    temperament: Temperament

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.base = Path(tempfile.mkdtemp(prefix="longshore-model-"))
        self.model: dict[str, Model] = {}
        self.world = World(Machine(self.temperament, programs=PROGRAMS), self.base)
        self.engines: list[Engine] = [self.world.engine(), self.world.engine()]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(asyncio.wait_for(coroutine, LIMIT))

    def teardown(self) -> None:
        try:
            self.run(self.world.close())
            assert leftovers(self.world) == []
        finally:
            self.loop.close()
            shutil.rmtree(self.base)

    # making

    @property
    def fields(self) -> dict[str, Any]:
        return {"args": FOREVER, "windows": HYPERV} if self.temperament == "hcs" else {"args": FOREVER}

    @rule(id=IDS, who=WHO, owner=OWNERS, launch=st.booleans())
    def make(self, id: str, who: int, owner: Any, launch: bool) -> None:
        engine = self.engines[who]
        made = (
            engine.launch(id, owner=owner, **self.fields) if launch else engine.create(id, owner=owner, **self.fields)
        )
        if id in self.model:
            with pytest.raises(ContainerExists):
                self.run(made)
        else:
            self.run(made)
            self.model[id] = Model("running" if launch else "created", owner, who)

    @rule(id=IDS, who=WHO, code=st.integers(0, 255))
    def run_once(self, id: str, who: int, code: int) -> None:
        running = self.engines[who].run("host", ["exit", str(code)], name=id)
        if id in self.model:
            with pytest.raises(ContainerExists):
                self.run(running)
        else:
            assert self.run(running).exit_code == code

    # verbs

    def verb(self, id: str, who: int, call: Any, allowed: dict[str, str]) -> Any:
        """Do something; in which states it is allowed, and what it is then."""

        async def do() -> Any:
            box: Container = await self.engines[who].get(id)
            return await call(box)

        model = self.model.get(id)
        if model is None:
            with pytest.raises(ContainerNotFound):
                self.run(do())
            return None
        if model.state not in allowed:
            with pytest.raises(InvalidState):
                self.run(do())
            return None
        result = self.run(do())
        model.state = allowed[model.state]
        return result

    @rule(id=IDS, who=WHO)
    def start(self, id: str, who: int) -> None:
        self.verb(id, who, lambda box: box.start(), {"created": "running"})

    @rule(id=IDS, who=WHO)
    def pause(self, id: str, who: int) -> None:
        self.verb(id, who, lambda box: box.pause(), {"running": "paused"})

    @rule(id=IDS, who=WHO)
    def resume(self, id: str, who: int) -> None:
        self.verb(id, who, lambda box: box.resume(), {"paused": "running"})

    @rule(id=IDS, who=WHO, named=st.booleans())
    def exec(self, id: str, who: int, named: bool) -> None:
        async def true(box: Container) -> int | None:
            process = await box.exec(["exit", "7"], name="work" if named else None)
            return (await process.wait()).code

        assert self.verb(id, who, true, {"running": "running"}) in (7, None)

    @rule(id=IDS, who=WHO)
    def measure(self, id: str, who: int) -> None:
        self.verb(id, who, lambda box: box.stats(), {"running": "running", "paused": "paused"})

    @rule(id=IDS, who=WHO)
    def stop(self, id: str, who: int) -> None:
        every = dict.fromkeys(("created", "running", "paused", "stopped"), "stopped")
        exit = self.verb(id, who, lambda box: box.stop(grace=0), every)
        assert exit is None or exit.code != 0

    @rule(id=IDS, who=WHO)
    def kill(self, id: str, who: int) -> None:
        async def kill_and_wait(box: Container) -> None:
            await box.kill()
            assert (await box.wait()).code != 0

        every = dict.fromkeys(("created", "running", "paused", "stopped"), "stopped")
        self.verb(id, who, kill_and_wait, every)

    @rule(id=IDS, who=WHO, force=st.booleans())
    def delete(self, id: str, who: int, force: bool) -> None:
        states = ("created", "running", "paused", "stopped") if force else ("created", "stopped")
        before = self.model.get(id)
        self.verb(id, who, lambda box: box.delete(force=force), dict.fromkeys(states, "gone"))
        if before is not None and before.state == "gone":
            del self.model[id]

    @rule(id=IDS, first=WHO)
    def start_twice_at_once(self, id: str, first: int) -> None:
        if id not in self.model or self.model[id].state != "created":
            return

        async def both() -> list[Any]:
            boxes = [await self.engines[who].get(id) for who in (first, 1 - first)]
            return await asyncio.gather(*(box.start() for box in boxes), return_exceptions=True)

        results = self.run(both())
        assert sorted(type(result).__name__ for result in results) == ["InvalidState", "Process"]
        self.model[id].state = "running"

    # bad luck

    @rule(id=IDS)
    def crash(self, id: str) -> None:
        if id in self.model and self.model[id].state in ("running", "paused"):
            self.world.faults.crash(id)
            self.run(asyncio.sleep(0.001))
            self.model[id].state = "stopped"

    @rule(who=WHO, restore=st.booleans())
    def die(self, who: int, restore: bool) -> None:
        """A program is killed; another comes, and finds what that has left."""
        self.run(self.world.die(self.engines[who]))
        self.engines[who] = self.world.engine()
        self.run(self.engines[who].restore() if restore else self.engines[who].list())
        self._ended(who)

    @rule(who=WHO)
    def close(self, who: int) -> None:
        self.run(self.engines[who].close(grace=0))
        index = self.world.engines.index(self.engines[who])
        del self.world.engines[index], self.world.simulators[index]
        self.engines[who] = self.world.engine()
        self._ended(who)

    def _ended(self, who: int) -> None:
        for id, model in list(self.model.items()):
            if model.maker == who and model.owner != "keep":
                if model.owner == "remove":
                    del self.model[id]
                else:
                    model.state = "stopped"
                    model.maker = -1

    # what holds after each step

    @invariant()
    @precondition(lambda self: self.engines)
    def the_listing_is_the_model(self) -> None:
        for engine in self.engines:
            found = {info.id: info.state for info in self.run(engine.list())}
            assert found == {id: model.state for id, model in self.model.items()}

    @invariant()
    def the_journal_is_in_order_and_each_end_is_told_once(self) -> None:
        events = self.run(history(self.engines[0]))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        told: dict[str, list[str]] = {}
        for event in events:
            told.setdefault(event.uid, []).append(event.type)
        for types in told.values():
            count = Counter(types)
            assert count["start-container"] <= 1
            assert count["exit"] <= 1
            assert count["delete"] <= 1
            assert types[0] in ("start-container", "delete")
            if "exit" in count:
                assert "start-container" in count
                assert set(types[types.index("exit") + 1 :]) <= {"delete", "exit-process"}
            assert types.count("delete") == 0 or types[-1] == "delete"
            assert 0 <= count["pause"] - count["resume"] <= 1

    @invariant()
    def the_machine_has_what_the_store_has(self) -> None:
        assert leftovers(self.world, leases=False) == []
        running = {id for id, model in self.model.items() if model.state in ("running", "paused")}
        alive = {process.system.id for process in self.world.machine.processes.values()}
        assert running <= alive
        if self.temperament == "hcs":  # an OCI-like machine makes init when the container is created
            assert alive == running


@pytest.mark.parametrize("temperament", ["oci", "hcs"])
def test_any_order_of_verbs_by_programs_that_die(temperament: Temperament) -> None:
    class Chosen(Engines):
        pass

    Chosen.temperament = temperament
    run_state_machine_as_test(Chosen, settings=settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None))
