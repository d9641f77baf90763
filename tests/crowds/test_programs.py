"""Many programs on one state directory: nothing is lost, nothing told twice, of those who want the same one gets it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from longshore.engine.engine import Engine

from .measure import tell
from .sizes import PROGRAMS, ROUNDS

ROOT = Path(__file__).parents[2]
SHARED = ["sh", "-c", "trap 'exit 33' TERM; sleep 10000 & wait"]


class Worker:
    """One of the programs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, state: Path, number: int) -> Worker:
        argv = [sys.executable, "-m", "tests.crowds.worker", str(state), "crun", str(number), str(ROUNDS)]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdin=pipe, stdout=pipe, limit=1 << 24)
        worker = cls(process)
        assert await worker.answer() == "ready"
        return worker

    async def ask(self, part: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(part.encode() + b"\n")
        answer = await self.answer()
        assert "failed" not in answer, answer["failed"]
        return answer

    async def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(await self.process.stdout.readline())

    async def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await self.process.wait() == 0


async def test_many_programs_share_one_state_directory_and_agree_on_what_happened(state: Path) -> None:
    async with asyncio.timeout(1500), Engine(state=state, runtime="crun") as engine:
        await engine.launch("shared", root="host", args=SHARED)
        workers = await asyncio.gather(*(Worker.start(state, number) for number in range(PROGRAMS)))

        async def all_do(part: str) -> list[Any]:
            return await asyncio.gather(*(worker.ask(part) for worker in workers))

        begin = time.perf_counter()
        done = await all_do("work")
        took = time.perf_counter() - begin
        ends = await all_do("end")
        deletions = await all_do("delete")
        books = [answer["told"] for answer in await all_do("events")]
        await asyncio.gather(*(worker.leave() for worker in workers))

        tell(f"{PROGRAMS} programs: {PROGRAMS * ROUNDS} lives, as many runs and execs, {ROUNDS} ids that all wanted")
        tell(f"in {took:.1f} s; {len(books[0])} events")
        won = [id for each in done for id in each["won"]]
        assert sorted(won) == sorted(f"prize-{count}" for count in range(ROUNDS)), "each id was somebody's, and one's"
        assert len({(end["code"], end["at"]) for end in ends}) == 1
        assert ends[0]["code"] == 33
        assert None in {each["error"] for each in deletions}

        assert all(book == books[0] for book in books), "everybody reads the same"
        check_books(books[0], done)
        left = {info.id for info in await engine.list()}
        lives = {id: code for each in done for id, code in each["lives"].items()}
        assert left == set(won) | {id for id in lives if int(id.rpartition("-")[2]) % 2 == 0}
        await asyncio.gather(*[(await engine.get(id)).delete() for id in left])


def check_books(told: list[Any], done: list[Any]) -> None:
    """Each life, run and exec has its events, once, in order, with its own code."""
    assert [seq for seq, *_ in told] == sorted({seq for seq, *_ in told}), "in order, none twice"
    events: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    execs: dict[str, int] = {}
    for _, container, type_, process, code in told:
        if type_ == "exit-process":
            assert process not in execs
            execs[process] = code
        else:
            events[container].append((type_, code))
    for each in done:
        for id, code in each["lives"].items():
            life = [("start-container", None), ("exit", code)]
            assert events.pop(id) == life + ([("delete", None)] if int(id.rpartition("-")[2]) % 2 else [])
    assert execs == {
        f"p-{number}-{count}": (number * ROUNDS + count) % 256 for number in range(PROGRAMS) for count in range(ROUNDS)
    }
    assert events.pop("shared") == [("start-container", None), ("exit", 33), ("delete", None)]
    runs = [life for id, life in events.items() if id.startswith("run-")]
    assert all([type_ for type_, _ in life] == ["start-container", "exit", "delete"] for life in runs)
    assert sorted(life[1][1] for life in runs) == sorted(
        (number * ROUNDS + count) % 256 for number in range(PROGRAMS) for count in range(ROUNDS)
    )
