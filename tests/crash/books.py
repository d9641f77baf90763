"""After a round another program checks the books: what each program wrote down against what is there."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from longshore.compute.events import Event
from longshore.engine.container import Container, ContainerInfo
from longshore.engine.engine import Engine
from longshore.errors import LongshoreError
from longshore.exit_record import Cause, Exit
from longshore.logs.format import LogGap

from .notes import Told
from .programs import PAD
from .victims import Kill

EPIPE_CODE = 2  # dash, when it cannot write
LIMIT = 300.0


class Wrong(AssertionError):
    """The books do not tell what happened."""


class Books:
    """The look at one store after a round."""

    def __init__(self, engine: Engine, told: Told, kills: Iterable[Kill], living: set[str], *, disturbed: bool) -> None:
        self.engine = engine
        self.told = told
        self.kills = list(kills)
        self.living = living  # drivers that were not killed
        self.disturbed = disturbed  # a monitor, a runtime or an init was killed: operations may fail for it
        self.exits: dict[str, Exit] = {}  # by uid, as the store has them
        self.wrong: list[str] = []
        self.containers = 0

    def say(self, *words: object) -> None:
        self.wrong.append(" ".join(str(word) for word in words))

    def killed(self, victim: str, about: str) -> bool:
        return any(kill.victim == victim and kill.about == about for kill in self.kills)

    async def check(self) -> None:
        """All of it; raises Wrong with everything that was found."""
        self.check_the_drivers_own_words()
        infos = await self.what_is_there()
        self.containers = len(self.told.ids("did", "make"))
        self.check_who_is_there(infos)
        for info in infos.values():
            await self.check_state(info)
        await asyncio.gather(*(self.end(info) for info in infos.values()))
        await self.check_journal(final=False)
        for id in infos:
            await (await self.engine.get(id)).delete(force=True)
        await self.check_journal(final=True)
        if self.wrong:
            raise Wrong("\n".join(self.wrong))

    async def what_is_there(self) -> dict[str, ContainerInfo]:
        """By id; once a keeper that is still undoing something half-made is done."""
        deadline = asyncio.get_running_loop().time() + LIMIT
        while True:
            infos = {info.id: info for info in await self.engine.list()}
            half_made = any(info.state == "creating" for info in infos.values())
            if not half_made or asyncio.get_running_loop().time() > deadline:
                return infos
            await asyncio.sleep(0.02)

    def check_the_drivers_own_words(self) -> None:
        for line in self.told.find("bug"):
            self.say("a driver failed:", line["why"])
        for line in self.told.find("failed", expected=False):
            # a runtime may say many things of a container that is just ending
            if not self.disturbed and not self._may_have_ended(line["id"]):
                self.say("an operation failed:", line["operation"], line["at"])
        for line in self.told.find("saw", "exec"):
            if not self._may_have_ended(line["id"]) and (line["code"], line["bytes"]) != (4, 5000):
                self.say("an exec ended wrongly:", line)

    def _may_have_ended(self, id: str) -> bool:
        """Whether a container may have ended, or been ended, while something was done in it."""
        return (
            self.told.has("try", "make", id=id, ends=True)
            or self.told.has("try", "kill", id=id)
            or self.told.has("try", "delete", id=id)
            or self.killed("init", id)
            or any(kill.victim == "runtime" for kill in self.kills)
        )

    # who is there

    def check_who_is_there(self, infos: dict[str, ContainerInfo]) -> None:
        for id in infos.keys() - self.told.ids("try", "make"):
            self.say("a container that nobody made:", id)
        for line in self.told.find("try", "make"):
            id, owner = line["id"], line["owner"]
            made = self.told.has("did", "make", id=id)
            if owner == "remove" and id in infos:
                self.say("a container outlived its owner:", infos[id])
            elif owner in ("keep", "stop") and made and id not in infos and not self.told.has("try", "delete", id=id):
                self.say("a container is gone:", line)
            elif id in infos and self.told.has("did", "delete", id=id):
                self.say("a container was deleted and is there:", infos[id])
            elif id in infos and owner == "stop" and infos[id].state != "stopped":
                self.say("a container that was to be stopped with its owner is not:", infos[id])

    async def check_state(self, info: ContainerInfo) -> None:
        started = self.told.has("try", "make", id=info.id, started=True) or self.told.has("try", "start", id=info.id)
        if info.state not in ("created", "running", "paused", "stopped"):
            self.say("nobody makes it any more:", info)
        if info.state == "created" and started and not self.disturbed and self.told.has("did", "start", id=info.id):
            self.say("it was started, and says it was not:", info)
        if info.state == "running" and not started:
            self.say("nobody started it:", info)
        if info.state == "paused" and not self.told.has("try", "pause", id=info.id):
            self.say("nobody paused it:", info)
        if info.state == "running":
            await self._use(info)

    async def _use(self, info: ContainerInfo) -> None:
        """What runs can be worked in."""
        box = await self.engine.get(info.id)
        try:
            async with asyncio.timeout(LIMIT):
                done = await box.run(["sh", "-c", "cat; exit 7"], input=b"still there")
            if (done.exit_code, done.stdout) != (7, b"still there") and not await self._ended(box, info):
                self.say("an exec in it went wrong:", info.id, done)
        except LongshoreError as error:
            if not await self._ended(box, info):
                self.say("no exec is possible in it:", info, repr(error))

    async def _ended(self, box: Container, info: ContainerInfo) -> bool:
        """Whether it had an end of its own meanwhile, or is about to; or was told to end, and has begun to: it cannot
        before the kernel has found a parent for every process that was brought into it."""
        if self.told.has("try", "kill", id=info.id) or self.killed("init", info.id):
            return True
        return info.labels["ends"] == "1" and (await box.wait()).code is not None

    # how each ends

    async def end(self, info: ContainerInfo) -> None:
        """Let it end as it would, or end it; then its record, the journal and what `wait` says have to agree."""
        box = await self.engine.get(info.id)
        exit = info.exit
        ours = False
        async with asyncio.timeout(LIMIT):
            if info.state == "paused":
                await box.resume()
            if info.state in ("running", "paused") and info.labels["ends"] != "1":
                ours = True
                if info.labels["handles_term"] == "1":
                    exit = await box.stop(grace=300)
                else:
                    await box.kill()
            if info.state != "created":
                exit = await box.wait()
        now = await box.info()
        if info.state != "created":
            if now.exit != exit:
                self.say("wait and record differ:", exit, now.exit)
            assert exit is not None
            self.exits[info.uid] = exit
            self.check_exit(info, exit, ours=ours)
        for line in self.told.find("saw", "exit", id=info.id):
            if exit is None or line["code"] != exit.code:
                self.say("a driver saw another end:", line, exit)
        await self.check_log(box, info, exit)

    def check_exit(self, info: ContainerInfo, exit: Exit, *, ours: bool) -> None:
        """The right code, or why there is none."""
        id, labels = info.id, info.labels
        code = int(labels["code"])
        made = self.told.has("did", "make", id=id)
        right = {code} if labels["ends"] == "1" or labels["handles_term"] == "1" else {137}
        by_force = self.told.has("try", "kill", id=id) or self.told.has("try", "delete", id=id) or ours
        if by_force or self.killed("init", id) or info.owner == "stop" or not made or self._start_was_cut(id):
            right |= {137, 143 if labels["init"] == "1" else 137}
        if self.killed("monitor", id):
            if labels["writes"] != "0":
                right |= {141, EPIPE_CODE}
            if not self._watched(id):
                right.add(None)  # type: ignore[arg-type]
        never = exit.cause is Cause.NEVER_STARTED
        if never and exit.code is None:
            told = self.told.has("did", "start", id=id) or self.told.has("did", "make", id=id, started=True)
            if told:
                self.say("it was started, and its record says never:", info, exit)
            return
        if exit.code not in right:
            self.say("a wrong code:", info, exit, f"(right: {right})")
        elif exit.code is None and exit.cause is not Cause.MONITOR_LOST:
            self.say("a wrong reason:", info, exit)
        elif self.killed("init", id) and labels["kind"] == "sleeper" and exit.signal != 9:
            self.say("its init was killed, and its record does not say so:", exit)

    def _start_was_cut(self, id: str) -> bool:
        """Whether whoever started it was killed meanwhile, or failed: it is then ended."""
        return self.told.has("try", "start", id=id) and not self.told.has("did", "start", id=id)

    def _watched(self, id: str) -> bool:
        """Whether an engine that lives was waiting for its end when its monitor was killed."""
        return any(kill.watched for kill in self.kills if (kill.victim, kill.about) == ("monitor", id))

    async def check_log(self, box: Container, info: ContainerInfo, exit: Exit | None) -> None:
        """No byte is lost or doubled: its lines are numbered."""
        data: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        async for record in box.logs():
            if isinstance(record, LogGap):
                self.say("a gap in the log of", info.id, record)
            else:
                data[record.stream] += record.data
        monitored = not self.killed("monitor", info.id)
        for stream, expected in (("stdout", f"out %d {PAD}\n"), ("stderr", "err %d\n")):
            found = data[stream]
            if info.labels["writes"] == "0":
                whole = ""
            else:
                whole = "".join(expected % number for number in range(found.count(b"\n") + 1))
            if not whole.startswith(found.decode(errors="replace")):
                if stream == "stderr" and not monitored:
                    continue  # the shell's own words about its broken pipe
                self.say("the log of", info.id, "is wrong:", _first_difference(found, whole.encode()))
            natural = exit is not None and exit.cause is Cause.EXITED
            count = int(info.labels["writes"])
            if natural and monitored and count > 0 and found.count(b"\n") != count:
                self.say("the log of", info.id, "lacks lines:", found.count(b"\n"), "of", count, exit)

    # what was told

    async def check_journal(self, *, final: bool) -> None:
        """Every start, exit and deletion is told once, in this order, and as the records have it."""
        events: list[Event] = []
        async for event in self.engine.events(since=0, follow=False):
            if isinstance(event, Event):
                events.append(event)
            else:
                self.say("a gap in the journal:", event)
        if [event.seq for event in events] != list(range(1, len(events) + 1)):
            self.say("the journal's numbers have holes or doubles")
        lives: dict[str, list[Event]] = {}
        for event in events:
            lives.setdefault(event.uid, []).append(event)
        for uid, life in lives.items():
            self._check_life(uid, life, final=final)
        for line in self.told.find("saw", "events"):
            if line["last"] > len(events):
                self.say("a driver saw events that are not there:", line)

    def _check_life(self, uid: str, life: list[Event], *, final: bool) -> None:
        id = life[0].container
        kinds = Counter(event.type for event in life)
        order = [event.type for event in life if event.type in ("start-container", "exit", "delete")]
        if order != [kind for kind in ("start-container", "exit", "delete") if kind in order] or len(order) != len(
            set(order)
        ):
            self.say("its life was told wrongly:", id, order)
        exit = next((event.exit for event in life if event.type == "exit"), None)
        if uid in self.exits and self.exits[uid].cause is not Cause.NEVER_STARTED and exit != self.exits[uid]:
            self.say("record and journal differ:", id, self.exits[uid], exit)
        ended = final or kinds["delete"]
        if ended and kinds["start-container"] and not kinds["exit"]:
            self.say("its end was not told:", id, order)
        if final and (kinds["start-container"] or kinds["exit"]) and not kinds["delete"]:
            self.say("its deletion was not told:", id, order)
        names = Counter(event.process for event in life if event.type == "exit-process")
        if any(count > 1 for count in names.values()):
            self.say("an exec's end was told more than once:", id, names)
        self._check_execs(id, life, deleted=bool(self.told.has("try", "delete", id=id)))

    def _check_execs(self, id: str, life: list[Event], *, deleted: bool) -> None:
        told = {event.process: event.exit for event in life if event.type == "exit-process"}
        for line in self.told.find("did", "exec", id=id):
            if line["name"] is not None and line["name"] not in told and not deleted and not self._removed(id):
                self.say("an exec's end was not told:", line)
        for line in self.told.find("saw", "exec", id=id):
            exit: Any = told.get(line["name"])
            if exit is not None and exit.code != line["code"]:
                self.say("an exec's end was told wrongly:", line, exit)

    def _removed(self, id: str) -> bool:
        return not self.told.has("try", "make", id=id, owner="keep") and not self.told.has(
            "try", "make", id=id, owner="stop"
        )


def _first_difference(found: bytes, expected: bytes) -> str:
    position = next(
        (place for place, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), len(expected)
    )
    lines = re.split(rb"\n", found[max(0, position - 150) : position + 150])
    return f"at byte {position} of {len(found)}: {lines}"


async def check_the_books(
    state: Path, runtime: str, told: Told, kills: Iterable[Kill], living: set[str], *, disturbed: bool, restore: bool
) -> int:
    """Look with a fresh engine; returns how many containers had been made. Raises Wrong."""
    async with asyncio.timeout(LIMIT * 2), Engine(state=state, runtime=runtime) as engine:
        if restore:
            await engine.restore()
        books = Books(engine, told, kills, living, disturbed=disturbed)
        await books.check()
        return books.containers
