"""A clock that jumps decides nothing but what is written as a time; what a later version wrote is refused."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import longshore
from longshore.compute import values
from longshore.engine.engine import Engine
from longshore.errors import LongshoreError, StoreError, TimeLimit
from longshore.simulator import Machine, Simulator

from ..engine.world import FOREVER, PROGRAMS

SOURCE = Path(longshore.__file__).parent


def wall_clocks() -> set[str]:
    """The functions of longshore that read the wall clock."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        module = str(path.relative_to(SOURCE))[:-3]
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.unparse(function)
                if "time.time()" in text or "datetime.now(" in text or "utcnow" in text:
                    found.add(f"{module}.{function.name}")
    return found


def test_nothing_waits_by_the_wall_clock() -> None:
    """Time limits are the monotonic clock's: who reads the other has none."""
    for function in wall_clocks():
        source = (SOURCE / f"{function.rpartition('.')[0]}.py").read_text()
        tree = next(
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function.rpartition(".")[2]
        )
        text = ast.unparse(tree)
        assert not any(word in text for word in ("deadline", "asyncio.timeout", "asyncio.sleep")), function


@pytest.mark.parametrize("hours", [-24 * 365 * 20, -1, 1, 24 * 365 * 20])
async def test_a_clock_that_jumps_ends_nothing_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    real = time.time
    moved = timedelta()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(real(), UTC) + moved

    monkeypatch.setattr(values, "datetime", Clock)
    monkeypatch.setattr(time, "time", lambda: real() + moved.total_seconds())
    async with (
        asyncio.timeout(300),
        Engine(Simulator(machine=Machine("oci", programs=PROGRAMS)), state=tmp_path) as engine,
    ):
        box = await engine.launch("box", args=FOREVER)
        running = asyncio.create_task(engine.run("host", FOREVER, timeout=0.3))
        waiting = asyncio.create_task(box.wait())
        await asyncio.sleep(0.05)
        moved = timedelta(hours=hours)
        begin = time.monotonic()
        with pytest.raises(TimeLimit):
            await running
        assert 0.1 < time.monotonic() - begin < 300
        assert not waiting.done()
        await box.pause()
        await box.resume()
        exit = await box.stop(grace=0)
        assert (await waiting) == exit
        assert exit.started_at is not None
        assert exit.at is not None
        assert exit.started_at <= exit.at, "no life is shorter than nothing"
        await box.delete()
        sequence = [event.seq async for event in engine.events(since=0, follow=False)]  # type: ignore[union-attr]
        assert sequence == list(range(1, len(sequence) + 1)), "the order is that of the journal, not of the clock"


def later(document: dict[str, object]) -> dict[str, object]:
    return {**document, "version": 2, "something": {"new": [1]}}


FILES: dict[str, Callable[[Path], Path]] = {
    "the store": lambda state: state / "lib" / "store.json",
    "a record": lambda state: state / "lib" / "containers" / "box" / "record.json",
    "an exit record": lambda state: state / "lib" / "containers" / "done" / "exit.json",
}


@pytest.mark.parametrize("what", FILES)
async def test_what_a_later_version_wrote_is_refused_and_not_changed(tmp_path: Path, what: str) -> None:
    machine = Machine("oci", programs=PROGRAMS)
    async with Engine(Simulator(machine=machine), state=tmp_path) as engine:
        await engine.launch("box", args=FOREVER)
        await (await engine.launch("done", args=["exit", "3"])).wait()
        await engine.launch("neighbour", args=FOREVER)
    path = FILES[what](tmp_path)
    path.write_text(json.dumps(later(json.loads(path.read_text()))))
    before = {each: hashlib.sha256(each.read_bytes()).digest() for each in (path, *path.parent.glob("*.json"))}
    with pytest.raises(StoreError, match="version 2") as caught:
        async with Engine(Simulator(machine=machine), state=tmp_path) as engine:
            neighbour = await engine.get("neighbour")
            assert (await neighbour.info()).state == "running"
            await engine.list()
            await engine.restore()
            id = path.parent.name
            for call in ("info", "inspect", "kill", "wait"):
                try:
                    await getattr(await engine.get(id), call)()
                except LongshoreError:
                    pass
            await (await engine.get(id)).delete(force=True)
    assert caught.value.hint is not None
    assert "the longshore version that wrote it" in caught.value.hint
    assert {each: hashlib.sha256(each.read_bytes()).digest() for each in before} == before
    if what != "the store":
        async with Engine(Simulator(machine=machine), state=tmp_path) as engine:
            await (await engine.get("neighbour")).delete(force=True)
