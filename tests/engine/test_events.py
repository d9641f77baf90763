"""Events: in order, each once, from now on or since a cursor; gaps are told."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from longshore.compute.events import Event, Gap
from longshore.engine.engine import Engine
from longshore.errors import InvalidSpec
from longshore.store import journal as journal_module

from .world import FOREVER, Listener, World, history, said, types


async def test_they_come_live_and_in_order(engine: Engine, world: World) -> None:
    async with Listener(engine) as heard:
        box = await engine.launch("box", args=["trap-exit", "1"], **world.pausable)
        await said(box, b"ready")
        await box.pause()
        await box.resume()
        await (await box.exec(["true"], name="work")).wait()
        await box.stop(grace=300)
        await box.delete()
        await heard.until("delete")
    told = [event for event in heard.events if isinstance(event, Event)]
    assert [event.type for event in told] == [
        "start-container",
        "pause",
        "resume",
        "exit-process",
        "exit",
        "delete",
    ]
    assert [event.seq for event in told] == list(range(1, 7))
    assert await history(engine) == told


async def test_what_happens_between_the_call_and_the_first_look_is_not_lost(engine: Engine) -> None:
    events = engine.events()
    await engine.run("host", ["true"], name="box")
    first = await anext(events)
    assert isinstance(first, Event)
    assert (first.type, first.container, first.seq) == ("start-container", "box", 1)
    await events.aclose()


async def test_another_program_sees_them(engine: Engine, other: Engine) -> None:
    async with Listener(other) as heard:
        await engine.run("host", ["exit", "7"], name="box")
        exit = await heard.until("exit")
        assert exit.exit is not None
        assert exit.exit.code == 7


async def test_from_a_cursor_on_nothing_is_missed_and_nothing_comes_twice(engine: Engine, other: Engine) -> None:
    for number in range(5):
        await engine.run("host", ["true"], name=f"box-{number}")
    every = await history(engine)
    assert len(every) == 15
    for cursor in (0, 1, 7, 15):
        assert await history(other, since=cursor) == every[cursor:]
    async with Listener(other, since=10) as heard:
        await engine.run("host", ["true"], name="late")
        await heard.until("delete", "late")
        assert [event.seq for event in heard.events if isinstance(event, Event)] == list(range(11, 19))


async def test_a_cursor_that_no_event_has_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidSpec, match="since"):
        await history(engine, since=1)


async def test_of_one_container_only(engine: Engine) -> None:
    await engine.run("host", ["true"], name="a")
    await engine.run("host", ["true"], name="b")
    assert {event.container for event in await history(engine, "b")} == {"b"}


async def test_dropped_by_age_they_are_one_gap(engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_SIZE", 1000)
    monkeypatch.setattr(journal_module, "SEGMENTS_KEPT", 2)
    for number in range(10):
        await engine.run("host", ["true"], name=f"box-{number}")
    gap, *rest = [event async for event in other.events(since=0, follow=False)]
    assert isinstance(gap, Gap)
    numbers = [event.seq for event in rest if isinstance(event, Event)]
    assert (gap.since, gap.until + 1, numbers[-1]) == (1, numbers[0], 30)
    assert numbers == list(range(numbers[0], 31))


async def test_a_reader_that_fell_behind_is_told_of_the_gap(
    engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_SIZE", 1000)
    monkeypatch.setattr(journal_module, "SEGMENTS_KEPT", 2)
    events = other.events()
    for number in range(10):
        await engine.run("host", ["true"], name=f"box-{number}")
    first = await anext(events)
    assert isinstance(first, Gap)
    assert first.since == 1
    second = await anext(events)
    assert isinstance(second, Event)
    assert second.seq == first.until + 1
    await events.aclose()


async def test_a_handler_may_call_the_engine(engine: Engine) -> None:
    """Also create the id anew, the moment its deletion is told."""
    again = 0
    box = await engine.launch("box", args=["true"])
    async with aclosing(engine.events(since=0)) as events:
        async for event in events:
            assert isinstance(event, Event)
            if event.type == "start-container":
                box = await engine.get(event.container)
            elif event.type == "exit":
                assert (await box.info()).state == "stopped"
                await box.delete()
            elif event.type == "delete":
                again += 1
                if again == 5:
                    break
                await engine.launch("box", args=["true"])
    assert await engine.list() == []


async def test_the_start_is_told_before_the_end_however_short_the_life(engine: Engine, other: Engine) -> None:
    async def one(number: int) -> None:
        box = await engine.create(f"box-{number}", args=["true"])
        await box.start()
        await box.wait()

    async with Listener(other):
        await asyncio.gather(*(one(number) for number in range(30)))
    for number in range(30):
        assert await types(engine, f"box-{number}") == ["start-container", "exit"]


async def test_the_exit_is_recorded_before_it_is_told_and_before_any_waiter_wakes(
    engine: Engine, other: Engine
) -> None:
    async with Listener(other) as heard:
        box = await engine.launch("box", args=["exit", "9"])
        event = await heard.until("exit")
        there = await (await other.get("box")).info()
        assert there.exit == event.exit == await box.wait()


async def test_many_engines_watch_and_each_end_is_told_once(engine: Engine, world: World) -> None:
    engines = [world.engine() for _ in range(5)]
    listeners = [Listener(each) for each in engines]
    boxes = [await engine.launch(f"box-{number}", args=FOREVER) for number in range(10)]
    for listener in listeners:
        await listener.until("start-container", "box-9")
    await asyncio.gather(*(box.kill() for box in boxes))
    for listener in listeners:
        for number in range(10):
            await listener.until("exit", f"box-{number}")
        await listener.close()
    assert sorted(await types(engine)) == ["exit"] * 10 + ["start-container"] * 10


async def test_a_subscription_ends_with_its_engine(world: World) -> None:
    engine = world.engine()
    await engine.restore()
    heard = Listener(engine)
    await asyncio.sleep(0.01)
    await engine.close()
    await asyncio.wait((heard._task,))
    assert heard.ended
    assert heard._task.exception() is None


async def test_a_container_that_starts_later_and_whose_starter_dies_is_watched(engine: Engine, world: World) -> None:
    async with Listener(engine) as heard:
        starter = world.engine()
        await starter.launch("box", args=FOREVER)
        await heard.until("start-container")
        await world.die(starter)
        world.faults.crash("box")
        assert (await heard.until("exit")).exit is not None
