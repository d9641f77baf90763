"""Further processes: started, named, found again, limited, ended, told."""

from __future__ import annotations

import asyncio

import pytest

from longshore.compute.values import DEVNULL, PIPE, STDOUT
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import (
    CommandNotExecutable,
    CommandNotFound,
    InvalidSpec,
    InvalidState,
    NotSupported,
    OutputLimit,
    ProcessExists,
    ProcessNotFound,
    ServiceError,
    TimeLimit,
)
from longshore.exit_record import Cause

from .world import FOREVER, World, history, types


@pytest.fixture
async def box(engine: Engine) -> Container:
    """A container that runs."""
    return await engine.launch("box", args=FOREVER, env={"A": "1"}, cwd="/usr")


async def test_it_has_streams_and_a_code_of_its_own(box: Container) -> None:
    process = await box.exec(["both", "9"])
    assert await process.communicate() == (b"out\n", b"err\n")
    exit = await process.wait()
    assert (exit.code, exit.cause, process.returncode, process.exit) == (9, Cause.EXITED, 9, exit)
    assert exit.pid == process.pid
    assert exit.started_at is not None
    assert exit.at is not None
    assert exit.started_at <= exit.at


async def test_it_inherits_environment_directory_and_adds(box: Container) -> None:
    process = await box.exec(["env"], env={"B": "2"})
    assert (await process.communicate())[0] == b"A=1\nB=2\n"
    assert (await (await box.exec(["pwd"])).communicate())[0] == b"/usr\n"
    assert (await (await box.exec(["pwd"], cwd="/etc")).communicate())[0] == b"/etc\n"
    assert (await (await box.exec(["whoami"], user="bin")).communicate())[0] == b"bin\n"


async def test_input_reaches_it_and_ends(box: Container) -> None:
    process = await box.exec(["cat"], stdin=PIPE)
    data = b"x" * (1 << 20)
    assert (await process.communicate(data))[0] == data
    by_hand = await box.exec(["cat"], stdin=PIPE)
    assert by_hand.stdin is not None
    assert by_hand.stdout is not None
    by_hand.stdin.write(b"hello\n")
    await by_hand.stdin.drain()
    assert await by_hand.stdout.readline() == b"hello\n"
    await by_hand.close_stdin()
    assert (await by_hand.wait()).code == 0
    await by_hand.close_stdin()  # again is fine


async def test_streams_that_are_not_wanted_are_not_there(box: Container) -> None:
    process = await box.exec(["both"], stdout=DEVNULL, stderr=DEVNULL)
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
    assert await process.communicate() == (b"", b"")
    together = await box.exec(["both"], stderr=STDOUT)
    assert await together.communicate() == (b"out\nerr\n", b"")


async def test_a_named_one_is_found_by_another_program(box: Container, other: Engine) -> None:
    process = await box.exec(FOREVER, name="work")
    there = await (await other.get("box")).process("work")
    assert (there.pid, there.name, there.args, there.exit) == (process.pid, "work", FOREVER, None)
    assert await box.process("work") is process
    assert await box.processes() == ["work"]
    waiting = asyncio.create_task(there.wait())
    await there.kill()
    exit = await process.wait()
    assert await waiting == exit
    assert exit.code not in (0, None)
    ended = await (await other.get("box")).process("work")
    assert ended.exit == exit == await ended.wait()


async def test_killed_by_its_owner_another_program_hears_the_same(box: Container, other: Engine) -> None:
    process = await box.exec(FOREVER)  # without a name of its own: it is forgotten when it has ended
    there = await (await other.get("box")).process(process.name)
    waiting = asyncio.create_task(there.wait())
    await asyncio.sleep(0.01)
    await process.kill()
    assert await waiting == await process.wait()
    with pytest.raises(ProcessNotFound):
        await (await other.get("box")).process(process.name)


async def test_a_name_is_taken_while_its_process_runs_and_free_afterwards(box: Container, other: Engine) -> None:
    first = await box.exec(FOREVER, name="work")
    for engine_box in (box, await other.get("box")):
        with pytest.raises(ProcessExists, match="work"):
            await engine_box.exec(FOREVER, name="work")
    with pytest.raises(ProcessExists):
        await box.exec(FOREVER, name="init")
    await first.kill()
    await first.wait()
    second = await box.exec(["true"], name="work")
    assert (await second.wait()).code == 0


async def test_two_of_one_name_at_once_give_one(box: Container) -> None:
    results = await asyncio.gather(*(box.exec(FOREVER, name="work") for _ in range(5)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Process"] + ["ProcessExists"] * 4


async def test_an_illegal_name_is_refused(box: Container) -> None:
    with pytest.raises(InvalidSpec, match="name"):
        await box.exec(["true"], name="a/b")


async def test_init_is_found_by_its_name(box: Container, other: Engine) -> None:
    assert await box.process("init") is box.init
    there = await (await other.get("box")).process("init")
    assert box.init is not None
    assert there.pid == box.init.pid
    await there.kill()
    assert await there.wait() == await box.wait()


async def test_an_unknown_name_is_told(box: Container) -> None:
    with pytest.raises(ProcessNotFound, match="nobody"):
        await box.process("nobody")


async def test_its_end_is_told_once_with_name_and_record(box: Container, engine: Engine, other: Engine) -> None:
    watching = await other.get("box")
    named = await box.exec(["exit", "3"], name="three")
    there = await watching.process("three")
    exit = await named.wait()
    assert await there.wait() == exit
    unnamed = await box.exec(["true"])
    await unnamed.wait()
    events = [event for event in await history(engine) if event.type == "exit-process"]
    assert [(event.process, event.exit.code if event.exit else None) for event in events] == [
        ("three", 3),
        (unnamed.name, 0),
    ]


async def test_a_time_limit_kills_it_with_what_it_started(box: Container, world: World) -> None:
    process = await box.exec(["deaf"], timeout=0.05)
    with pytest.raises(TimeLimit) as caught:
        await process.communicate()
    assert caught.value.seconds == 0.05
    assert caught.value.result is not None
    assert caught.value.result.stdout == b"deaf\n"
    assert (await process.wait()).cause is Cause.TIME_LIMIT
    if world.oci:
        tree = await box.exec(["hold", "0"], timeout=0.05)  # ends at once, and leaves a child
        assert (await tree.wait()).code == 0


async def test_communicate_has_limits_of_its_own(box: Container) -> None:
    process = await box.exec(FOREVER)
    with pytest.raises(TimeLimit):
        await process.communicate(timeout=0.05)
    assert (await process.wait()).cause is Cause.TIME_LIMIT
    much = await box.exec(["spew", "1000000"])
    with pytest.raises(OutputLimit) as caught:
        await much.communicate(max_output=1000)
    assert caught.value.result is not None
    assert len(caught.value.result.stdout) == 1000
    assert (await much.wait()).cause in (Cause.KILLED, Cause.EXITED, Cause.SIGNALLED)


async def test_cancelling_communicate_does_not_kill(box: Container) -> None:
    process = await box.exec(FOREVER)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await process.communicate()
    assert process.exit is None
    await process.kill()
    assert (await process.wait()).cause is Cause.KILLED


async def test_a_child_that_holds_the_streams_does_not_keep_wait(box: Container) -> None:
    process = await box.exec(["hold", "4"])
    assert (await process.communicate(timeout=300))[0] == b""
    assert (await process.wait()).code == 4


async def test_signals(box: Container, world: World) -> None:
    process = await box.exec(["trap-exit", "6"])
    assert process.stdout is not None
    await process.stdout.readline()
    if world.oci:
        await process.terminate()
        assert (await process.wait()).code == 6
        with pytest.raises(ProcessNotFound):
            await process.signal("TERM")
    else:
        with pytest.raises(NotSupported, match="signals"):
            await process.terminate()
    await process.kill()
    await process.kill()


async def test_a_terminal_has_its_size_and_can_be_resized(box: Container) -> None:
    process = await box.exec(["stty", "size"], terminal=True, size=(33, 77))
    assert (await process.communicate())[0] == b"33 77\n"
    plain = await box.exec(FOREVER)
    with pytest.raises(InvalidState, match="terminal"):
        await plain.resize(1, 2)


@pytest.mark.parametrize(("command", "error"), [("nosuch", CommandNotFound), ("/tmp", CommandNotExecutable)])
async def test_a_command_that_cannot_run_is_told_and_its_name_is_free(
    box: Container, engine: Engine, command: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=command):
        await box.exec([command], name="work")
    assert await box.processes() == []
    assert await types(engine) == ["start-container"]
    await (await box.exec(["true"], name="work")).wait()


async def test_a_string_for_a_command_is_a_type_error(box: Container) -> None:
    with pytest.raises(TypeError, match="list"):
        await box.exec("echo hi")


@pytest.mark.parametrize("state", ["created", "stopped"])
async def test_a_container_that_does_not_run_takes_none(engine: Engine, state: str) -> None:
    made = await engine.create("other", args=["true"])
    if state == "stopped":
        await made.start()
        await made.wait()
    with pytest.raises(InvalidState, match=state):
        await made.exec(["true"])


async def test_they_end_with_their_container_and_that_is_told_in_order(box: Container, engine: Engine) -> None:
    process = await box.exec(FOREVER, name="work")
    await box.kill()
    await box.wait()
    exit = await process.wait()
    assert exit.code != 0
    told = [(event.type, event.process) for event in await history(engine)]
    assert told[0] == ("start-container", None)
    assert sorted(told[1:], key=str) == [("exit", "init"), ("exit-process", "work")]


async def test_many_at_once(box: Container) -> None:
    async def one(number: int) -> int | None:
        process = await box.exec(["exit", str(number)], stdout=DEVNULL, stderr=DEVNULL)
        return (await process.wait()).code

    assert await asyncio.gather(*(one(number) for number in range(50))) == list(range(50))
    assert await box.processes() == []


async def test_a_service_that_fails_leaves_nothing(box: Container, world: World) -> None:
    world.faults.fail_at("exec", ServiceError("exec", "box", "no memory"))
    with pytest.raises(ServiceError, match="memory"):
        await box.exec(["true"], name="work")
    assert await box.processes() == []
    assert len(world.systems["box"].processes) == 1
    await (await box.exec(["true"], name="work")).wait()
