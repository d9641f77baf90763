"""A machine in memory, a state directory, and any number of engines on them, one after the other or at once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.events import Event, Gap
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.fs.files import LockFile
from longshore.simulator import Machine, Process, Simulator, System
from longshore.spec import HyperV, WindowsOptions
from longshore.store.leases import EXECS

only_oci = pytest.mark.parametrize("world", ["oci"], indirect=True)
only_hcs = pytest.mark.parametrize("world", ["hcs"], indirect=True)
FOREVER = ["sleep", "forever"]
HYPERV = WindowsOptions(hyperv=HyperV())


async def deaf(process: Process) -> int:
    """Ignores TERM, says so, and lives on."""
    process.signals.ignore(15)
    await process.stdout.write(b"deaf\n")
    await asyncio.get_running_loop().create_future()
    return 0


async def both(process: Process) -> int:
    await process.stdout.write(b"out\n")
    await process.stderr.write(b"err\n")
    return int(process.args[1]) if len(process.args) > 1 else 0


async def trap_exit(process: Process) -> int:
    """`trap-exit N`: says `ready`, ends with N on TERM."""
    process.signals.catch(15)
    await process.stdout.write(b"ready\n")
    await process.signals.get()
    return int(process.args[1])


PROGRAMS = {"deaf": deaf, "both": both, "trap-exit": trap_exit}


@dataclass
class World:
    """What is there when no program uses it, and what programs there are."""

    machine: Machine
    state: Path
    engines: list[Engine] = field(default_factory=list)
    simulators: list[Simulator] = field(default_factory=list)
    begun: list[asyncio.Task[object]] = field(default_factory=list)
    deaths: int = 0

    @property
    def oci(self) -> bool:
        return self.machine.temperament == "oci"

    @property
    def systems(self) -> dict[str, System]:
        return self.machine.systems

    @property
    def pausable(self) -> dict[str, Any]:
        """The fields of a container that can be paused."""
        return {} if self.oci else {"windows": HYPERV}

    def engine(self) -> Engine:
        """Another program's engine; `simulator_of` tells its service. It is closed with the world."""
        simulator = Simulator(machine=self.machine)
        engine = Engine(simulator, state=self.state)
        self.engines.append(engine)
        self.simulators.append(simulator)
        return engine

    def simulator_of(self, engine: Engine) -> Simulator:
        return self.simulators[self.engines.index(engine)]

    @property
    def faults(self) -> Simulator:
        """Where faults are asked for: they are the machine's, whoever runs into them."""
        return Simulator(machine=self.machine)

    def begin(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Begin what its program will not live to see the end of."""
        self.begun.append(asyncio.create_task(coroutine))

    async def die(self, engine: Engine) -> None:
        """The program that uses `engine` is killed: nothing of its code runs any more, its locks are free."""
        self.simulator_of(engine).caller_died()
        core = engine._state
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        ours = [task for task in tasks if task in core._tasks]
        core.closed = True
        for task in ours:
            task.cancel()
        if ours:
            await asyncio.wait(ours)
        for end in list(core.subscriptions):
            end()
        # the kernel closes its descriptors; no other program here holds a lock now, but its lease's
        if core.lease is not None:
            core.lease._forget()
        others = [each._state.lease for each in self.engines if each is not engine]
        alive = [held for lease in others if lease is not None for held in vars(lease).values()]
        for found in gc.get_objects():
            if type(found) is LockFile and not any(found is held for held in alive):
                found.close()
        self.deaths += 1
        self.simulators.pop(self.engines.index(engine))
        self.engines.remove(engine)

    async def close(self) -> None:
        """Every program ends; then one more comes, as it always does, and finds what those that died have left."""
        for engine in list(self.engines):
            await engine.close(grace=0)
        async with self.engine():
            pass


async def history(engine: Engine, container: str | None = None, since: int = 0) -> list[Event]:
    """All events there are."""
    found: list[Event] = []
    async with aclosing(_generator(engine.events(since=since, follow=False, container=container))) as events:
        async for event in events:
            assert isinstance(event, Event), event
            found.append(event)
    return found


async def types(engine: Engine, container: str | None = None) -> list[str]:
    return [event.type for event in await history(engine, container)]


def _generator(iterator: AsyncIterator[Event | Gap]) -> Any:
    return iterator


class Listener:
    """Collects events as they come, in a task of its own."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.events: list[Event | Gap] = []
        self.ended = False
        self._source = engine.events(**options)
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async with aclosing(_generator(self._source)) as source:
                async for event in source:
                    self.events.append(event)
                    self._news.set()
        finally:
            self.ended = True
            self._news.set()

    async def until(self, type: str, container: str | None = None) -> Event:
        """The first event of a type; waits for it."""
        while True:
            for event in self.events:
                if isinstance(event, Event) and event.type == type and container in (None, event.container):
                    return event
            assert not self.ended, f"no {type} in {self.events}"
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def __aenter__(self) -> Listener:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


async def said(box: Container, word: bytes) -> None:
    """Wait until a kept container has written a word to its log."""
    async for record in box.logs(follow=True):
        if word in getattr(record, "data", b""):
            return


async def until(condition: Any) -> None:
    """Let the loop turn until something holds; the test's own limit bounds it."""
    while not condition():
        await asyncio.sleep(0)


async def runs(world: World, id: str) -> None:
    """Wait until a container's init runs."""
    await until(lambda: id in world.systems and world.systems[id].state == "running")


async def hung(world: World, step: str, times: int = 1) -> None:
    """Wait until a step was entered so many times: the next one of those that were asked to hang does."""
    await until(lambda: world.machine.calls[step] >= times)
    await asyncio.sleep(0)


def leftovers(world: World, *, leases: bool = True) -> list[str]:
    """What no container in the store accounts for: systems, leases, trash, temporary files."""
    left = []
    run, lib = world.state / "run", world.state / "lib"
    known = {path.name for base in (run, lib) for path in (base / "containers").glob("*")}
    left += [f"system {id}" for id in world.systems if id not in known]
    for where in (run / "leases", run / "trash", lib / "trash")[0 if leases else 1 :]:
        left += [f"file {path}" for path in where.glob("*")]
    left += [f"temporary file {path}" for path in world.state.rglob(".*") if path.name != EXECS]
    return left
