"""One round: drivers are at work, somebody is killed, another program checks the books. A seed plays it again."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from longshore.compute.events import Event
from longshore.engine.engine import Engine
from longshore.errors import LongshoreError
from longshore.store.leases import is_alive
from longshore.store.state_directory import Store

from ..leftovers import leftovers, processes
from .books import Wrong, check_the_books
from .notes import Told
from .victims import Kill, Nursery, RuntimeKiller, in_thread_kill, inits, kill, monitors

VICTIMS = ["owner", "owner", "owner and keeper", "keeper", "monitor", "monitor", "runtime", "runtime", "init"]
LONGEST = 0.7  # seconds that drivers are at work before the first is killed
BEGIN_LIMIT = 10.0  # seconds
VERBS = ["create", "start", "exec", "delete", "run"]
KEEPER_LIMIT = 60.0  # seconds: this machine may be busy


@dataclass
class Figures:
    """What was done in some rounds."""

    rounds: int = 0
    containers: int = 0
    callers: int = 0
    kills: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        self.rounds += other.rounds
        self.containers += other.containers
        self.callers += other.callers
        self.kills += other.kills

    def __str__(self) -> str:
        kills = ", ".join(f"{victim} {count}" for victim, count in sorted(self.kills.items()))
        return (
            f"{self.rounds} rounds, {self.callers} callers, {self.containers} containers; killed: {kills or 'nobody'}"
        )


class Watcher:
    """A program that lives through the round: it takes up whatever starts, and hears every event."""

    def __init__(self, state: Path, runtime: str) -> None:
        self.engine = Engine(state=state, runtime=runtime)
        self.waiting: set[str] = set()
        self.numbers: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Watcher:
        await self.engine.__aenter__()
        self._tasks.append(asyncio.create_task(self._follow()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.engine.close()

    async def _follow(self) -> None:
        async for event in self.engine.events(since=0):
            self.numbers.append(event.seq if isinstance(event, Event) else -1)
            if isinstance(event, Event) and event.type == "start-container":
                self._tasks.append(asyncio.create_task(self._wait(event.container)))

    async def _wait(self, id: str) -> None:
        with suppress(LongshoreError):
            box = await self.engine.get(id)
            process = await box.process("init")
            self.waiting.add(id)
            await process.wait()

    def check(self) -> None:
        if self.numbers != list(range(1, len(self.numbers) + 1)):
            raise Wrong(f"a subscriber heard of events {self.numbers}")


class Round:
    """One round, in a store of its own."""

    def __init__(self, nursery: Nursery, seed: int, directory: Path, probed: Path | None) -> None:
        self.seed = seed
        self.choose = random.Random(seed)
        self.nursery = nursery
        self.directory = directory
        self.state = directory / "state"
        self.runtime = self.choose.choice(["crun", "runc"])
        self.victim = self.choose.choice(VICTIMS)
        self.figures = Figures(rounds=1)
        self.kills: list[Kill] = []
        self.drivers: dict[int, Path] = {}  # by pid: notes
        self.watched = self.choose.random() < 0.5
        if probed is not None and self.choose.random() < 0.9:  # else several programs probe the machine at once
            (self.state / "lib").mkdir(parents=True, mode=0o700)
            shutil.copy(probed, self.state / "lib" / "probe.json")

    def __str__(self) -> str:
        watched = ", watched" if self.watched else ""
        return f"seed {self.seed}: {self.runtime}, {len(self.drivers)} callers, {self.victim} killed{watched}"

    @property
    def told(self) -> Told:
        return Told(list(self.drivers.values()))

    async def play(self) -> Figures:
        """Raises Wrong if the books are wrong or something is left."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for number in range(self.choose.choice([1, 1, 2, 3])):
            notes = self.directory / f"d{number}"
            notes.touch()
            pid = self.nursery.driver(self.state, self.runtime, self.choose.randrange(1 << 30), notes)
            self.drivers[pid] = notes
        self.figures.callers = len(self.drivers)
        try:
            if self.watched:
                async with Watcher(self.state, self.runtime) as watcher:
                    await self._kill(watcher)
                    await self._all_leave()
                    await self._books()
                    watcher.check()
            else:
                await self._kill(None)
                await self._all_leave()
                await self._books()
        finally:
            for line in self.told.find("did", "fork"):
                kill(line["pid"])
            for pid in self.drivers:
                if _is(pid, self.drivers[pid]):
                    kill(pid)
        for kill_ in self.kills:
            self.figures.kills[f"{kill_.victim} {kill_.about}" if kill_.victim == "runtime" else kill_.victim] += 1
        return self.figures

    # killing

    async def _kill(self, watcher: Watcher | None) -> None:
        choose = self.choose
        if choose.random() < 0.8:  # else they are killed while they begin
            begin = time.monotonic()
            while not self.told.has("did", "make") and time.monotonic() - begin < BEGIN_LIMIT:
                await asyncio.sleep(0.005)
        if self.victim == "runtime":
            count = choose.randrange(1, 5)
            verbs = {choose.choice(VERBS), choose.choice(VERBS)}
            killer = RuntimeKiller(self.state, verbs, [choose.uniform(0.0, 0.012) for _ in range(count)])
            try:
                await asyncio.sleep(choose.uniform(0.3, LONGEST))  # the instant that was chosen, not a wait
            finally:
                await asyncio.to_thread(killer.close)
            self.kills += killer.kills
            return
        await asyncio.sleep(choose.uniform(0.0, LONGEST))
        if self.victim in ("monitor", "init"):
            find = monitors if self.victim == "monitor" else inits
            for _ in range(choose.randrange(1, 4)):
                found = find(self.state)
                if found:
                    id = choose.choice(sorted(found))
                    watched = watcher is not None and id in watcher.waiting
                    if await in_thread_kill(found[id]):
                        self.kills.append(Kill(self.victim, id, watched))
                await asyncio.sleep(choose.uniform(0.0, 0.1))
        elif self.victim == "keeper":
            for _ in range(choose.randrange(1, 3)):
                for line in list(self.told.find("did", "begin")):
                    if "keeper.sh" in _command(line["keeper"]) and await in_thread_kill(line["keeper"]):
                        self.kills.append(Kill("keeper"))
                await asyncio.sleep(choose.uniform(0.0, 0.1))

    async def _all_leave(self) -> None:
        """Owners are killed at random instants, one after the other; or leave in good order."""
        choose = self.choose
        pids = list(self.drivers)
        choose.shuffle(pids)
        both = self.victim == "owner and keeper"
        for number, pid in enumerate(pids):
            killed = both or (number == 0 and self.victim == "owner") or choose.random() < 0.5
            if not killed:
                await self._leave(pid)
                continue
            victims = [(pid, "owner")]
            if both:
                begun = self.told.find("did", "begin", by=self.drivers[pid].name)
                victims += [(line["keeper"], "keeper") for line in begun]
                choose.shuffle(victims)
            for victim, name in victims:
                if (name == "owner" or "keeper.sh" in _command(victim)) and await in_thread_kill(victim):
                    self.kills.append(Kill(name))
            await asyncio.sleep(choose.uniform(0.0, 0.05))

    async def _leave(self, pid: int) -> None:
        notes = self.drivers[pid]
        while not Told([notes]).has("did", "begin") and not Told([notes]).has("bug") and _is(pid, notes):
            await asyncio.sleep(0.005)  # until then it knows no signal
        try:
            await in_thread_kill(pid, signal.SIGTERM)
        except TimeoutError:
            os.kill(pid, signal.SIGUSR1)
            await asyncio.sleep(1)  # for its words, before the round ends
            why = "\n".join(line["why"] for line in Told([notes]).find("bug"))
            raise Wrong(f"driver {notes.name} does not leave: {why}") from None
        if not Told([notes]).has("did", "leave") and not Told([notes]).has("bug"):
            raise Wrong(f"driver {notes.name} did not leave in good order")

    # books

    async def _books(self) -> None:
        deadline = time.monotonic() + KEEPER_LIMIT
        store = Store.at(self.state)
        while any(is_alive(store, lease) for lease in store.names(store.leases)) and time.monotonic() < deadline:
            # a keeper is at work; or what the owner was just starting has not become another program yet, and has the
            # owner's locks until then
            await asyncio.sleep(0.005)
        while keepers := [line for line in processes(self.state) if "keeper.sh" in line]:
            if time.monotonic() > deadline:
                raise Wrong(f"a keeper is still at work: {keepers}")
            await asyncio.sleep(0.005)  # it tells nobody that it is done
        disturbed = self.victim in ("monitor", "runtime", "init")
        told = self.told
        self.figures.containers = await check_the_books(
            self.state, self.runtime, told, self.kills, set(), disturbed=disturbed, restore=self.choose.random() < 0.5
        )
        while (left := leftovers(self.state, engine_open=self.watched)) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if left:
            raise Wrong("left behind: " + "\n".join(left))


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _is(pid: int, notes: Path) -> bool:
    """Whether this pid is (still) that of the driver with these notes, and alive."""
    with suppress(OSError):
        alive = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        return alive and any(os.readlink(f"/proc/{pid}/fd/{fd}") == str(notes) for fd in os.listdir(f"/proc/{pid}/fd"))
    return False


def play(nursery: Nursery, seed: int, probed: Path | None = None, *, keep: bool = False) -> Figures:
    """Play a round. What goes wrong is raised with its seed, and what everybody had written down."""
    directory = Path(tempfile.mkdtemp(prefix=f"longshore-crash-{os.getpid()}-"))
    round = Round(nursery, seed, directory, probed)
    try:
        figures = asyncio.run(round.play())
    except BaseException as error:
        notes = "\n".join(str(line | {"at": "..."}) for line in round.told.lines)
        error.add_note(f"{round}\nkills: {round.kills}\nfiles: {directory}\nnotes:\n{notes}")
        raise
    shutil.rmtree(directory)
    return figures


@contextmanager
def probe_once() -> Iterator[Path]:
    """What this machine can do, found out once for all rounds."""
    with tempfile.TemporaryDirectory(prefix=f"longshore-crash-{os.getpid()}-") as name:
        state = Path(name)

        async def probe() -> None:
            for runtime in ("crun", "runc"):
                async with Engine(state=state, runtime=runtime) as engine:
                    await engine.features()
                    await engine.run("host", ["true"])

        asyncio.run(probe())
        yield state / "lib" / "probe.json"
