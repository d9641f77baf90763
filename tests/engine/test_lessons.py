"""What others have suffered from, and is not to be built in again: cases that no other test here is about.

Others stand where they belong: no lock while waiting, kill during start, pause, teardown (test_two_programs); an exec
or start that fails half-way (test_faults); start before exit, each once (test_events); exits that nobody saw
(test_after_death); stop of what is gone, honest `update` and `pids`, typed errors (test_life); time limits, the end of
input, streams, a grandchild that holds a pipe (test_execs, test_run); slow readers (test_output).
"""

from __future__ import annotations

import asyncio

import pytest

from longshore.compute.values import PIPE
from longshore.engine.engine import Engine
from longshore.errors import InvalidState, LongshoreError, ProcessExists

from .world import FOREVER, Listener, World, history, runs, said, types


async def test_when_wait_returns_all_that_it_used_is_free(engine: Engine, world: World) -> None:
    """Exits were once published before the clean-up: the id, the layer, the address were still in use."""
    for _ in range(20):
        box = await engine.launch("box", args=["true"])
        await box.wait()
        assert world.machine.processes == {}
        await box.delete()


async def test_a_container_that_says_nothing_is_not_taken_for_ended(engine: Engine) -> None:
    box = await engine.launch("box", args=["deaf"])
    await said(box, b"deaf")
    lines = box.logs(follow=True)
    assert await anext(lines)
    more = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0.1)
    assert not more.done()
    more.cancel()
    await asyncio.wait((more,))


async def test_nothing_is_lost_between_a_listing_and_a_subscription(engine: Engine, other: Engine) -> None:
    await engine.run("host", ["true"])
    cursor = (await history(other))[-1].seq
    found = await other.list()
    await engine.launch("box", args=FOREVER)
    assert found == []
    async with Listener(other, since=cursor) as heard:
        assert (await heard.until("start-container")).container == "box"


async def test_the_output_of_a_command_that_ends_at_once_is_whole(engine: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)

    async def one(number: int) -> bytes:
        return (await (await box.exec(["echo", str(number)])).communicate())[0]

    assert await asyncio.gather(*(one(number) for number in range(100))) == [b"%d\n" % n for n in range(100)]


async def test_output_read_only_after_the_end_is_whole(engine: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    process = await box.exec(["both"])
    await process.wait()
    assert process.stdout is not None
    assert process.stderr is not None
    assert (await process.stdout.read(), await process.stderr.read()) == (b"out\n", b"err\n")


async def test_a_large_input_is_not_cut(engine: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    process = await box.exec(["cat"], stdin=PIPE)
    data = bytes(range(256)) * 20_000
    assert (await process.communicate(data))[0] == data


async def test_a_dead_exec_is_none_that_runs_and_its_name_is_free_the_moment_its_waiter_wakes(engine: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    for _ in range(10):
        process = await box.exec(["true"], name="work")
        await process.wait()
        assert (await box.inspect())["processes"]["work"]["exit"]["code"] == 0
    held = await box.exec(FOREVER, name="work")
    with pytest.raises(ProcessExists):
        await box.exec(["true"], name="work")
    await held.kill()


async def test_a_late_end_of_one_container_does_not_touch_its_successor(engine: Engine, other: Engine) -> None:
    """Ends are told apart by more than id and pid."""
    for _ in range(10):
        box = await engine.launch("box", args=FOREVER)
        there = await other.get("box")
        waiting = asyncio.create_task(there.wait())
        await asyncio.sleep(0)
        await box.delete(force=True)
        again = await engine.launch("box", args=FOREVER)
        assert (await waiting).code != 0
        assert (await again.info()).state == "running"
        await again.delete(force=True)


async def test_ends_that_come_all_at_once_come_to_their_own_waiters(engine: Engine) -> None:
    boxes = [await engine.launch(f"box-{number}", args=["trap-exit", str(number)]) for number in range(20)]
    for box in boxes:
        await said(box, b"ready")
    exits = await asyncio.gather(*(box.stop(grace=300) for box in boxes))
    assert [exit.code for exit in exits] == list(range(20))


async def test_time_is_told_in_order_though_a_life_is_shorter_than_the_clocks_ticks(engine: Engine) -> None:
    for number in range(10):
        done = await engine.run("host", ["true"], name=f"box-{number}")
        assert done.exit.started_at is not None
        assert done.exit.at is not None
        assert done.exit.started_at <= done.exit.at
    events = await history(engine)
    assert [event.at for event in events] == sorted(event.at for event in events)


async def test_an_exec_cancelled_at_any_turn_of_the_loop_leaves_nothing(engine: Engine, world: World) -> None:
    box = await engine.launch("box", args=FOREVER)
    for turns in range(50):
        starting = asyncio.create_task(box.exec(FOREVER))
        for _ in range(turns):
            await asyncio.sleep(0)
        done = starting.done()
        starting.cancel()
        try:
            process = await starting
        except asyncio.CancelledError:
            assert await box.processes() == [], turns
            assert len(world.systems["box"].processes) == 1, turns
        else:
            await process.kill()
            await process.wait()
        if done:
            return
    pytest.fail("it never came to an end")


@pytest.mark.usefixtures("threads_take_a_turn")
async def test_a_kill_at_any_turn_of_a_start_ends_it(engine: Engine, other: Engine, world: World) -> None:
    for turns in range(60):
        box = await engine.create("box", args=FOREVER)
        there = await other.get("box")
        starting = asyncio.create_task(box.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        done = starting.done()
        await there.kill()
        try:
            await starting
        except LongshoreError:
            told = await types(engine, "box")
            assert told.count("start-container") == told.count("exit")
        exit = await there.wait()
        assert exit.code != 0
        assert (await box.info()).state == "stopped"
        assert world.machine.processes == {}
        await box.delete()
        if done:
            return
    pytest.fail("it never came to an end")


@pytest.mark.usefixtures("threads_take_a_turn")
async def test_who_deletes_while_somebody_starts_gets_one_of_two_answers(engine: Engine, other: Engine) -> None:
    for turns in range(40):
        box = await engine.create("box", args=FOREVER)
        there = await other.get("box")
        starting = asyncio.create_task(box.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await there.delete()
        except InvalidState:
            await starting
            await there.delete(force=True)
        else:
            with pytest.raises(LongshoreError):
                await starting
        assert await engine.list() == []


async def test_a_service_that_dies_and_comes_back_is_worked_with_again(engine: Engine, world: World) -> None:
    await engine.launch("box", args=FOREVER)
    await runs(world, "box")
    world.faults.disconnect()
    box = await engine.get("box")
    assert (await box.wait()).code is None
    assert (await engine.run("host", ["exit", "3"])).exit_code == 3
    await box.delete()
    await engine.launch("box", args=FOREVER)
