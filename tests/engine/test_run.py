"""`run`: like subprocess.run, in a container of its own that leaves nothing."""

from __future__ import annotations

import asyncio
import os

import pytest

from longshore.compute.values import STDOUT
from longshore.engine.engine import Engine
from longshore.errors import (
    CommandFailed,
    CommandNotExecutable,
    CommandNotFound,
    ContainerExists,
    InvalidSpec,
    OutputLimit,
    ServiceError,
    TimeLimit,
)
from longshore.exit_record import Cause

from .world import FOREVER, World, history, hung, runs, types


async def test_it_gives_the_code_and_both_streams(engine: Engine) -> None:
    done = await engine.run("host", ["both", "7"])
    assert (done.exit_code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert (done.text, done.error_text, done.args) == ("out\n", "err\n", ["both", "7"])
    assert done.exit.cause is Cause.EXITED
    assert done.exit.pid
    assert done.exit.started_at is not None
    assert done.exit.at is not None
    assert done.exit.started_at <= done.exit.at
    assert done.exit.peak_memory
    assert done.exit.cpu_time is not None


async def test_it_leaves_nothing(engine: Engine, world: World) -> None:
    await engine.run("host", ["true"])
    assert world.systems == {}
    assert await engine.list() == []
    assert list((world.state / "run" / "containers").iterdir()) == []
    assert list((world.state / "lib" / "containers").iterdir()) == []


async def test_start_exit_and_delete_are_told(engine: Engine) -> None:
    await engine.run("host", ["exit", "3"], name="once")
    events = await history(engine)
    assert [event.type for event in events] == ["start-container", "exit", "delete"]
    assert {event.container for event in events} == {"once"}
    assert len({event.uid for event in events}) == 1
    assert events[1].exit is not None
    assert (events[1].process, events[1].exit.code) == ("init", 3)
    assert events[0].at <= events[1].at <= events[2].at


async def test_input_reaches_the_command_and_ends(engine: Engine) -> None:
    data = os.urandom(3 << 20)
    assert (await engine.run("host", ["cat"], input=data)).stdout == data


async def test_input_that_nobody_reads_is_no_error(engine: Engine) -> None:
    assert (await engine.run("host", ["true"], input=b"x" * (1 << 20))).exit_code == 0


async def test_stderr_can_go_with_stdout(engine: Engine) -> None:
    done = await engine.run("host", ["both"], stderr=STDOUT)
    assert (done.stdout, done.stderr) == (b"out\nerr\n", b"")


async def test_much_output_on_both_streams_does_not_lock_up(engine: Engine) -> None:
    one, two = await asyncio.gather(
        engine.run("host", ["spew", str(4 << 20)]), engine.run("host", ["spew", str(4 << 20), "stderr"])
    )
    assert (len(one.stdout), len(two.stderr)) == (4 << 20, 4 << 20)


async def test_at_its_time_limit_it_is_killed_and_tells_what_it_had_said(engine: Engine, world: World) -> None:
    with pytest.raises(TimeLimit) as caught:
        await engine.run("host", ["deaf"], timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.seconds == 0.05
    result = caught.value.result
    assert result is not None
    assert result.stdout == b"deaf\n"
    assert result.exit.cause is Cause.TIME_LIMIT
    assert world.systems == {}
    assert await engine.list() == []


async def test_the_time_limit_counts_from_the_call_not_from_the_start(engine: Engine, world: World) -> None:
    world.faults.delay("create", 0.1)
    with pytest.raises(TimeLimit):
        await engine.run("host", FOREVER, timeout=0.05)


async def test_output_over_the_bound_is_an_error_that_carries_what_there_was(engine: Engine, world: World) -> None:
    with pytest.raises(OutputLimit) as caught:
        await engine.run("host", ["spew", "1000000"], max_output=100_000)
    assert caught.value.result is not None
    assert len(caught.value.result.stdout) == 100_000
    assert world.systems == {}


async def test_checked_a_failure_is_an_error_that_carries_the_result(engine: Engine) -> None:
    with pytest.raises(CommandFailed) as caught:
        await engine.run("host", ["both", "9"], check=True)
    assert (caught.value.result.exit_code, caught.value.result.stdout) == (9, b"out\n")
    assert (await engine.run("host", ["true"], check=True)).exit_code == 0


@pytest.mark.parametrize(("command", "error"), [("nosuch", CommandNotFound), ("/etc/passwd", CommandNotExecutable)])
async def test_a_command_that_cannot_run_is_told_and_nothing_is_left(
    engine: Engine, world: World, command: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=command):
        await engine.run("host", [command], name="box")
    assert world.systems == {}
    assert await engine.list() == []
    assert await types(engine) == []
    await engine.run("host", ["true"], name="box")


async def test_a_name_that_is_taken_is_refused(engine: Engine) -> None:
    await engine.create("box", args=FOREVER)
    with pytest.raises(ContainerExists):
        await engine.run("host", ["true"], name="box")
    assert [info.id for info in await engine.list()] == ["box"]


async def test_a_string_for_a_command_is_a_type_error(engine: Engine) -> None:
    with pytest.raises(TypeError, match="list"):
        await engine.run("host", "echo hi")


async def test_a_bad_setting_is_refused_before_anything_is_made(engine: Engine, world: World) -> None:
    with pytest.raises(InvalidSpec, match="memory"):
        await engine.run("host", ["true"], memory="much")
    assert world.machine.calls["create"] == 0


async def test_cancelled_it_kills_and_cleans(engine: Engine, world: World) -> None:
    task = asyncio.create_task(engine.run("host", FOREVER))
    await hung(world, "start")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.systems == {}
    assert await engine.list() == []


async def test_asyncio_timeout_works_on_it(engine: Engine, world: World) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine.run("host", FOREVER)
    assert world.systems == {}
    await asyncio.sleep(0)  # nothing of the cancellation is left


async def test_a_container_that_crashes_is_never_a_success(engine: Engine, world: World) -> None:
    task = asyncio.create_task(engine.run("host", FOREVER, name="box"))
    await runs(world, "box")
    world.faults.crash("box")
    exit = (await task).exit
    assert exit.code != 0
    assert exit.cause is (Cause.SIGNALLED if world.oci else Cause.SYSTEM_GONE)


async def test_a_lost_service_ends_it(engine: Engine, world: World) -> None:
    task = asyncio.create_task(engine.run("host", FOREVER, name="box"))
    await runs(world, "box")
    world.faults.disconnect()
    exit = (await task).exit
    assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
    assert await engine.list() == []


async def test_many_at_once(engine: Engine) -> None:
    runs = await asyncio.gather(*(engine.run("host", ["exit", str(number)]) for number in range(50)))
    assert [done.exit_code for done in runs] == list(range(50))


async def test_a_failed_run_says_what_the_service_said(engine: Engine, world: World) -> None:
    world.faults.fail_at("start", ServiceError("start", "box", "the moon is wrong"))
    with pytest.raises(ServiceError, match="moon"):
        await engine.run("host", ["true"], name="box")
    assert world.systems == {}
    await engine.run("host", ["true"], name="box")
