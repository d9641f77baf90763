"""What the simulator's users can make go wrong, and that longshore's promises hold then: on both temperaments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from longshore import Engine, LongshoreError, ServiceError
from longshore.compute.events import Event
from longshore.exit_record import Cause, Exit
from longshore.simulator import Process, Simulator

NO_MEMORY = ServiceError("start", "job", "no memory")


async def say(process: Process) -> int:
    await process.stdout.write(b"said\n")
    return 7


PROGRAMS = {"say": say}


@pytest.fixture(params=["oci", "hcs"])
def simulator(request: pytest.FixtureRequest) -> Simulator:
    return Simulator(request.param, programs=PROGRAMS)


@pytest.fixture
async def engine(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine(simulator, state=tmp_path) as engine:
        yield engine


async def test_the_third_of_its_kind_can_be_the_one_that_fails(simulator: Simulator, engine: Engine) -> None:
    simulator.fail_at("start", NO_MEMORY, after=2)
    for name in ("one", "two"):
        await engine.launch(name, root="host", args=["sleep", "60"])
    with pytest.raises(ServiceError, match="no memory"):
        await engine.launch("three", root="host", args=["sleep", "60"])
    assert sorted(simulator.systems) == ["one", "two"]
    await engine.launch("three", root="host", args=["sleep", "60"])


async def test_whichever_step_fails_a_run_leaves_nothing_but_what_the_service_did_not_delete(
    simulator: Simulator, engine: Engine
) -> None:
    failed, left = 0, 0
    for after in count():
        simulator.machine.calls.clear()
        simulator.fail_at("any", NO_MEMORY, after=after)
        try:
            done = await engine.run("host", ["say"], name="job")
        except ServiceError as error:
            failed += error is NO_MEMORY
        else:
            assert done.exit_code == 7
        simulator.clear_faults()
        calls = simulator.machine.calls.copy()
        assert simulator.processes == {}
        assert sorted(simulator.systems) in ([], [info.id for info in await engine.list()])
        for info in await engine.list():
            left += 1
            assert (info.state, calls["delete"]) == ("stopped", 1)
            await (await engine.get(info.id)).delete()
        if calls.total() <= after:  # it never came to that step
            break
    assert failed >= 2
    assert left == 1


async def test_an_end_that_is_told_late_is_told_right(simulator: Simulator, engine: Engine) -> None:
    told = asyncio.Event()
    box = await engine.launch("job", root="host", args=["sleep", "60"])
    simulator.delay("exit notification", told)
    process = await box.exec(["say"])
    ended = simulator.processes[process.pid].ended
    waiting = asyncio.ensure_future(process.wait())
    await ended
    assert not (await asyncio.wait((waiting,), timeout=0.05))[0]
    told.set()
    assert (await waiting).code == 7


async def test_a_container_whose_end_is_told_late_has_one_record_and_one_event(
    simulator: Simulator, engine: Engine
) -> None:
    simulator.delay("exit notification", 0.05)
    box = await engine.launch("job", root="host", args=["say"])
    assert (await box.wait()).code == 7
    assert [exit and exit.code for exit in await told(engine, "exit")] == [7]


async def test_the_end_of_the_system_comes_before_an_end_that_is_told_too_late(
    simulator: Simulator, engine: Engine
) -> None:
    box = await engine.launch("job", root="host", args=["sleep", "60"])
    simulator.delay("exit notification", asyncio.Event())
    process = await box.exec(["say"])
    await simulator.processes[process.pid].ended
    await box.delete(force=True)
    exit = await asyncio.wait_for(process.wait(), 5)
    assert (exit.code, exit.cause) in [(None, Cause.SYSTEM_GONE), (None, Cause.KILLED)]


async def test_an_end_that_is_told_twice_is_one_end(simulator: Simulator, engine: Engine) -> None:
    simulator.double("exit notification", times=2)
    box = await engine.launch("job", root="host", args=["sleep", "60"])
    process = await box.exec(["say"])
    assert (await process.wait()).code == 7
    await box.stop(grace=0)
    await asyncio.sleep(0.05)  # the doubles come 10 ms later
    assert len(await told(engine, "exit")) == 1
    assert len(await told(engine, "exit-process")) == 1


async def test_an_end_that_is_not_told_is_known_as_unknown_once_the_system_has_ended(
    simulator: Simulator, engine: Engine
) -> None:
    box = await engine.launch("job", root="host", args=["sleep", "60"])
    simulator.drop()
    process = await box.exec(["say"])
    await simulator.processes[process.pid].ended
    await box.delete(force=True)
    assert (await asyncio.wait_for(process.wait(), 5)).code is None


async def test_a_service_that_is_lost_ends_every_wait(simulator: Simulator, engine: Engine) -> None:
    boxes = [await engine.launch(f"job-{number}", root="host", args=["sleep", "60"]) for number in range(20)]
    simulator.delay("stats", asyncio.Event())
    asking = asyncio.ensure_future(boxes[0].stats())
    waiting = [asyncio.ensure_future(box.wait()) for box in boxes]
    while not simulator.machine.disconnects:  # it hangs by now
        await asyncio.sleep(0)
    simulator.disconnect()
    for exit in await asyncio.wait_for(asyncio.gather(*waiting), 10):
        assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
    with pytest.raises(LongshoreError):
        await asyncio.wait_for(asking, 5)


def test_what_cannot_go_wrong_is_refused_by_name(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="'sart' is not a step: any, abandon"):
        simulator.fail_at("sart", NO_MEMORY)
    with pytest.raises(ValueError, match="'start' cannot be dropped: only `exit notification`"):
        simulator.drop("start")
    with pytest.raises(ValueError, match="cannot be doubled"):
        simulator.double("start")


async def told(engine: Engine, kind: str) -> list[Exit | None]:
    """What the journal has of one kind of event."""
    events = [event async for event in engine.events(since=0, follow=False)]
    return [event.exit for event in events if isinstance(event, Event) and event.type == kind]


async def test_what_the_simulator_cannot_make_happen_is_refused_by_name(simulator: Simulator, engine: Engine) -> None:
    await engine.launch("box", root="host", args=["sleep", "60"])
    with pytest.raises(ValueError, match="no container `bix`; it has `box`"):
        simulator.crash("bix")
    with pytest.raises(TypeError, match="an exception only"):
        simulator.fail_at("start", "no memory")  # type: ignore[arg-type]
    assert (await engine.run("host", ["say"])).exit_code == 7
