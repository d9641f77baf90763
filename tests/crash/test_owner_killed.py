"""The owner is killed at any instant: what was its own is gone, what it asked to keep is there, nothing else is."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from longshore.engine import Engine

from ..conftest import wait_for_nothing_left
from ..leftovers import leftovers, processes

pytestmark = pytest.mark.real
ROUNDS = int(os.environ.get("LONGSHORE_KILLS", "100"))
PER_TEST = 25


class Nursery:
    """Forks owners."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("owner.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def owner(self, state: Path, runtime: str, seed: int, report: Path) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        report.touch()
        self.process.stdin.write(f"{state} {runtime} {seed} {report}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


def notes(report: Path, word: str) -> list[str]:
    lines = report.read_text().splitlines()
    return [line.split(" ", 1)[1] for line in lines if line.startswith(f"{word} ")]


def kill(pid: int) -> None:
    """Kill it, and wait until it is dead: until then it has its locks."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([pidfd], [], [])
        os.close(pidfd)


async def check_the_books(state: Path, runtime: str, report: Path) -> None:
    """Another program looks: the kept ones run, all else is gone; then it takes the kept ones away."""
    kept = set(notes(report, "kept"))
    tried = set(notes(report, "trying"))
    async with asyncio.timeout(60), Engine(state=state, runtime=runtime) as engine:
        await engine.restore()
        found = {info.id: info for info in await engine.list()}
        assert kept <= found.keys() <= tried
        for name in kept:
            assert found[name].state == "running", found[name]
        for name in found:
            await (await engine.get(name)).delete(force=True)
    assert wait_for_nothing_left(state) == []


@pytest.mark.parametrize("batch", range(ROUNDS // PER_TEST))
@pytest.mark.parametrize("victim", ["owner"])
def test_a_killed_owner_leaves_only_what_it_asked_to_keep(
    nursery: Nursery, state: Path, tmp_path: Path, batch: int, victim: str
) -> None:
    kill_owners(nursery, state, tmp_path, PER_TEST, also_keeper=False)


def test_a_killed_owner_and_keeper_leave_it_to_who_comes_next(nursery: Nursery, state: Path, tmp_path: Path) -> None:
    kill_owners(nursery, state, tmp_path, PER_TEST, also_keeper=True)


def kill_owners(nursery: Nursery, state: Path, tmp_path: Path, rounds: int, *, also_keeper: bool) -> None:
    base = random.randrange(1 << 30)
    for number in range(rounds):
        seed = base + number
        choose = random.Random(seed)
        runtime = choose.choice(["crun", "runc"])
        report = tmp_path / f"{seed}"
        pid = nursery.owner(state, runtime, seed, report)
        time.sleep(choose.uniform(0.0, 0.35))  # the random instant, not a wait
        victims = [pid]
        if also_keeper:
            victims += [int(keeper) for keeper in notes(report, "keeper")]
            choose.shuffle(victims)
        for victim in victims:
            kill(victim)
        children = [int(child) for child in notes(report, "child")]
        try:
            end_by_keeper(state)
            asyncio.run(check_the_books(state, runtime, report))
        except BaseException as error:
            error.add_note(f"seed {seed}, {runtime}, notes: {report.read_text()}")
            raise
        finally:
            for child in children:
                kill(child)
        assert notes(report, "failed") == [], f"seed {seed}"


def end_by_keeper(state: Path) -> None:
    """The keeper alone ends what the owner had. An owner killed before it had one leaves that to who comes next."""
    deadline = time.monotonic() + 15
    while any("keeper.sh" in line for line in processes(state)):
        assert time.monotonic() < deadline, f"the keeper is still at work: {leftovers(state)}"
        time.sleep(0.005)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_who_comes_next_ends_a_lease_whose_owner_and_keeper_were_killed_at_once(
    state: Path, runtime: str, tmp_path: Path
) -> None:
    program = f"""
import asyncio, sys
from longshore.engine import Engine
async def main():
    async with Engine(state={str(state)!r}, runtime={runtime!r}) as engine:
        await engine.launch("kept", root="host", args=["sleep", "1000"])
        await (await engine.get("kept")).exec(["sleep", "1001"])
        await engine.launch("mine", root="host", args=["sleep", "1002"], owner="remove")
        await engine.launch("stopped", root="host", args=["sleep", "1003"], owner="stop")
        print(engine._core.lease.keeper_pid, flush=True)
        await engine.run("host", ["sleep", "1004"])
asyncio.run(main())
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    keeper = int(owner.stdout.readline())
    os.kill(keeper, signal.SIGSTOP)  # so that it cannot come to the end, nor another take its place, before both die
    kill(owner.pid)
    owner.wait()
    kill(keeper)

    async def look() -> None:
        async with asyncio.timeout(60), Engine(state=state, runtime=runtime) as engine:
            states = {info.id: info.state for info in await engine.list()}
            assert states == {"kept": "running", "stopped": "stopped"}
            kept = await engine.get("kept")
            assert [process.command for process in await kept.top()] == ["sleep"]  # its exec is gone
            for name in states:
                await (await engine.get(name)).delete(force=True)

    asyncio.run(look())
    assert wait_for_nothing_left(state) == []


def test_nothing_is_left_of_a_store_that_nobody_uses(state: Path) -> None:
    assert wait_for_nothing_left(state, 0) == []
