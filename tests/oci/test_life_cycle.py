"""The engine on real containers, with each runtime: the life of a container from create to delete."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from longshore.compute.events import Event
from longshore.compute.values import DEVNULL, PIPE
from longshore.engine.engine import Engine
from longshore.errors import (
    ContainerExists,
    ContainerNotFound,
    InvalidState,
    OutputLimit,
    ProcessExists,
    TimeLimit,
)
from longshore.exit_record import Cause
from longshore.logs.reader import LogRecord
from longshore.oci.runtimes.direct_process import DirectProcess
from longshore.oci.runtimes.watch import ended

from ..conftest import crun_is_modern
from ..leftovers import leftovers
from ..pace import LONGER, slower

pytestmark = pytest.mark.real
LOOKS_LIKE_CRUN = '{"msg":"no such file","level":"error","time":"2026-11-26T12:58:44.940275Z"}'
SLEEP = ["sleep", "infinity"]


@pytest.mark.modern
async def test_run_gives_code_and_both_streams(engine: Engine) -> None:
    done = await engine.run("host", ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.exit_code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert done.exit.cause is Cause.EXITED
    assert done.exit.pid
    assert done.exit.started_at is not None
    assert done.exit.at is not None
    assert done.exit.started_at <= done.exit.at
    assert done.exit.cpu_time
    assert done.exit.peak_memory


@pytest.mark.modern
async def test_run_leaves_nothing(engine: Engine, state: Path) -> None:
    await engine.run("host", ["true"])
    await engine.close()
    assert leftovers(state) == []


@pytest.mark.modern
async def test_exit_137_and_sigkill_differ(engine: Engine) -> None:
    features = await engine.features()
    box = await engine.launch("box", root="host", args=SLEEP)
    left = await (await box.exec(["sh", "-c", "sleep 0.3; exit 137"])).wait()
    killed = await (await box.exec(["sh", "-c", "sleep 0.3; kill -9 $$"])).wait()
    assert left.code == killed.code == 137
    if features.items["wait-status"].supported:
        assert (left.signal, left.cause) == (None, Cause.EXITED)
        assert (killed.signal, killed.cause, killed.signal_inferred) == (9, Cause.SIGNALLED, False)


@pytest.mark.modern
async def test_a_signal_that_a_small_init_passes_on_as_a_code_is_marked_as_inferred(engine: Engine) -> None:
    done = await engine.run("host", ["sh", "-c", "kill -9 $$"], init=True)
    assert (done.exit_code, done.exit.signal, done.exit.signal_inferred) == (137, 9, True)


@pytest.mark.modern
async def test_a_python_program_of_the_machine_runs(engine: Engine) -> None:
    done = await engine.run("host", ["python3", "-c", "print(6*7)"], timeout=300)
    assert (done.exit_code, done.text) == (0, "42\n"), done.error_text


@pytest.mark.modern
async def test_input_reaches_the_command_and_ends(engine: Engine) -> None:
    data = os.urandom(3 << 20)
    done = await engine.run("host", ["cat"], input=data)
    assert done.stdout == data


@pytest.mark.modern
async def test_run_is_killed_at_its_time_limit_and_tells_what_it_had_said(engine: Engine, state: Path) -> None:
    for seconds in LONGER:
        begin = time.monotonic()
        with pytest.raises(TimeLimit) as caught:
            await engine.run("host", ["sh", "-c", "echo before; sleep 1000"], timeout=seconds)
        assert time.monotonic() - begin < seconds + 10 * slower()
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.result is not None
        assert caught.value.result.exit.cause is Cause.TIME_LIMIT
        said = caught.value.result.stdout
        if said:
            break
    assert said == b"before\n"
    assert await engine.list() == []


@pytest.mark.modern
async def test_output_over_the_bound_is_an_error_that_carries_what_there_was(engine: Engine) -> None:
    with pytest.raises(OutputLimit) as caught:
        await engine.run("host", ["cat", "/dev/zero"], max_output=100_000)
    assert caught.value.result is not None
    assert len(caught.value.result.stdout) <= 100_000


@pytest.mark.modern
async def test_a_reader_that_never_reads_holds_nobody(engine: Engine) -> None:
    flood = ["cat", "/dev/zero"]
    box = await engine.launch("box", root="host", args=flood, stdout=PIPE, stderr=DEVNULL)
    process = await box.exec(flood, stdout=PIPE, stderr=DEVNULL)
    await process.kill()
    assert (await asyncio.wait_for(process.wait(), 30)).code == 137
    await box.kill()
    assert (await asyncio.wait_for(box.wait(), 30)).cause is Cause.KILLED


@pytest.mark.modern
async def test_cancelling_run_kills_and_cleans(engine: Engine) -> None:
    task = asyncio.create_task(engine.run("host", ["sleep", "100"], name="victim"))
    async with aclosing(engine.events()) as events:
        async for event in events:
            if isinstance(event, Event) and event.type == "start-container":
                break
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await engine.list() == []


@pytest.mark.modern
async def test_the_life_of_a_kept_container(engine: Engine) -> None:
    box = await engine.create("box", root="host", args=["sh", "-c", "echo up; exec sleep infinity"], labels={"a": "b"})
    assert (await box.info()).state == "created"
    with pytest.raises(ContainerExists):
        await engine.create("box", root="host", args=SLEEP)
    with pytest.raises(InvalidState):
        await box.exec(["true"])
    await box.start()
    assert (await box.info()).state == "running"
    with pytest.raises(InvalidState):
        await box.start()
    with pytest.raises(InvalidState):
        await box.delete()

    await box.pause()
    assert (await box.info()).state == "paused"
    with pytest.raises(InvalidState):
        await box.exec(["true"])
    await box.resume()

    stats = await box.stats()
    assert stats.memory
    assert stats.cpu_time
    assert stats.pids == 1
    top = await box.top()
    assert [info.pid for info in top] == await box.pids()
    assert [info.id for info in await engine.list(labels={"a": "b"}, states=["running"])] == ["box"]

    exit = await box.stop(grace=300)
    assert exit.cause is Cause.KILLED
    assert (await box.info()).state == "stopped"
    assert (await (await engine.get("box")).wait()) == exit
    await box.delete()
    with pytest.raises(ContainerNotFound):
        await engine.get("box")


@crun_is_modern
async def test_stop_does_not_wait_for_an_init_that_cannot_receive_the_signal(engine: Engine) -> None:
    for _ in range(10):  # asked at once, while the runtime's own code, which can, may still be there
        box = await engine.launch("box", root="host", args=SLEEP)
        async with asyncio.timeout(300):
            assert (await box.stop(grace=1000)).cause is Cause.KILLED
        await box.delete()


@crun_is_modern
async def test_a_signal_right_after_the_start_is_for_the_program(engine: Engine) -> None:
    for _ in range(10):
        box = await engine.launch("box", root="host", args=SLEEP, init=False)
        await box.signal("USR1")
        process = await box.exec(SLEEP)
        await process.signal("TERM")
        assert (await process.wait()).signal == 15
        assert (await box.info()).state == "running"  # as pid 1 it does not even notice
        await box.delete(force=True)


@pytest.mark.modern
async def test_stop_lets_init_end_by_itself(engine: Engine) -> None:
    box = await engine.launch(
        "box", root="host", args=["sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; sleep 100 & wait"]
    )
    async for record in box.logs(follow=True):
        if isinstance(record, LogRecord) and record.data == b"up\n":
            break
    exit = await box.stop(grace=300)
    assert (exit.code, exit.cause) == (5, Cause.EXITED)
    assert [r.data for r in [r async for r in box.logs()] if isinstance(r, LogRecord)] == [b"up\n", b"bye\n"]


@pytest.mark.modern
@pytest.mark.parametrize("operation", ["stop", "kill", "delete"])
async def test_a_paused_container_can_be_ended(engine: Engine, operation: str) -> None:
    box = await engine.launch("box", root="host", args=SLEEP)
    await box.pause()
    if operation == "stop":
        assert (await box.stop(grace=1)).cause is Cause.KILLED
    elif operation == "kill":
        await box.kill()
        assert (await box.wait()).cause is Cause.KILLED
    else:
        await box.delete(force=True)
        with pytest.raises(ContainerNotFound):
            await engine.get("box")


@pytest.mark.modern
async def test_exec_has_code_streams_environment_and_directory(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP, env={"A": "1"}, cwd="/usr")
    process = await box.exec(["sh", "-c", 'echo "$A$B $PWD"; echo err >&2; exit 9'], env={"B": "2"})
    assert await process.communicate() == (b"12 /usr\n", b"err\n")
    assert (await process.wait()).code == 9


@pytest.mark.modern
async def test_a_named_exec_is_found_by_another_program(engine: Engine, state: Path) -> None:
    box = await engine.launch("box", root="host", args=SLEEP)
    process = await box.exec(SLEEP, name="work")
    with pytest.raises(ProcessExists):
        await box.exec(SLEEP, name="work")
    async with Engine(state=state) as other:
        found = await (await other.get("box")).process("work")
        assert found.pid == process.pid
        await found.kill()
        exit = await found.wait()
    assert (await process.wait()).code == exit.code == 137


@pytest.mark.modern
async def test_an_exec_is_killed_at_its_time_limit_with_its_children(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP)
    process = await box.exec(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.5)
    assert (await process.wait()).cause is Cause.TIME_LIMIT
    async with asyncio.timeout(300):
        while len(await box.pids()) > 1:  # init alone is left; its children die in their own time
            await asyncio.sleep(0)


@pytest.mark.modern
async def test_a_grandchild_that_keeps_the_pipe_open_does_not_keep_wait(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP)
    process = await box.exec(["sh", "-c", "sleep 1000 & echo done"])
    assert (await process.communicate(timeout=300))[0] == b"done\n"


@pytest.mark.modern
async def test_a_terminal_has_its_size_from_the_start_and_can_be_resized(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP)
    # several: both runtimes prepare it beside the program that they have started, and may be late on a busy machine
    for _ in range(5):
        process = await box.exec(["sh", "-c", "stty size; read x; stty size"], terminal=True, size=(33, 77))
        assert process.stdout is not None
        assert process.stdin is not None
        if await process.stdout.readline() == b"33 77\r\n":
            break
        process.stdin.write(b"\n")
        await process.wait()
    else:
        pytest.fail("it has no size at the start")
    await process.resize(40, 100)
    process.stdin.write(b"\n")
    rest = await process.stdout.read()
    assert b"40 100" in rest


@pytest.mark.parametrize("engine", ["crun"], indirect=True)  # runc 1.1.5 loses it: three in a thousand under load
@pytest.mark.parametrize(
    ("printing", "printed"),
    [
        ("seq 1", ["1"]),
        ("seq 100", [str(number + 1) for number in range(100)]),
        (f"echo '{LOOKS_LIKE_CRUN}'; exit 1", [LOOKS_LIKE_CRUN]),
    ],
    ids=["a line", "more than one piece", "an error as crun would log it"],
)
async def test_what_a_program_wrote_last_at_a_terminal_comes_though_its_runtime_was_late(
    engine: Engine, printing: str, printed: list[str]
) -> None:
    """crun that finds its child dead before it has read the terminal says the rest in another place."""
    box = await engine.launch("box", root="host", args=SLEEP)
    process = await box.exec(["sh", "-c", f"read x; sleep 0.3; {printing}"], terminal=True)
    compute = process._compute
    assert isinstance(compute, DirectProcess)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"\r\n"  # the echo: what was typed has arrived
    pidfd = os.pidfd_open(process.pid or 0)
    compute.child.kill(signal.SIGSTOP)
    await ended(pidfd)
    os.close(pidfd)
    compute.child.kill(signal.SIGCONT)
    assert await process.stdout.read() == "".join(f"{line}\r\n" for line in printed).encode()
    assert (await process.wait()).code == (1 if "exit 1" in printing else 0)


@crun_is_modern
@pytest.mark.parametrize("text", [b"", b"one\n", b"one\ntwo"])
async def test_the_end_of_input_reaches_a_program_at_a_terminal(engine: Engine, text: bytes) -> None:
    done = await engine.run("host", ["cat"], terminal=True, input=text, timeout=300)
    assert done.exit_code == 0
    assert done.stdout.count(b"one\r\n" if b"one" in text else b"") >= 1
    box = await engine.launch("box", root="host", args=SLEEP)
    typed = await box.exec(["cat"], terminal=True)
    await typed.communicate(text, timeout=300)
    assert (await typed.wait()).code == 0


@pytest.mark.modern
async def test_update_takes_effect_while_it_lives(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP, memory="64m", pids=50)
    before = await box.stats()
    assert (before.memory_limit, before.pids_limit) == (64 << 20, 50)
    await box.update(memory="128m", pids=60, cpus=0.5, cpu_weight=200)
    after = await box.stats()
    assert (after.memory_limit, after.pids_limit) == (128 << 20, 60)


@pytest.mark.modern
async def test_out_of_memory_is_told(engine: Engine) -> None:
    hog = ["python3", "-c", "x = bytearray(200 << 20)"]
    done = await engine.run("host", hog, memory="32m", memory_swap="32m", init=False)
    assert (done.exit_code, done.exit.cause) == (137, Cause.OOM)
    box = await engine.launch("box", root="host", args=hog, memory="32m", memory_swap="32m")
    assert (await box.wait()).cause is Cause.OOM
    async with aclosing(engine.events(since=0, follow=False)) as events:
        types = [event.type async for event in events if isinstance(event, Event) and event.container == "box"]
    assert types == ["start-container", "oom", "exit"]


@pytest.mark.modern
async def test_events_are_in_order_and_each_is_told_once(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP)
    await box.pause()
    await box.resume()
    process = await box.exec(["sh", "-c", "exit 3"], name="three")
    await process.wait()
    await box.stop(grace=0)
    await box.delete()
    async with aclosing(engine.events(since=0, follow=False)) as stream:
        events = [event async for event in stream if isinstance(event, Event)]
    assert [event.type for event in events] == ["start-container", "pause", "resume", "exit-process", "exit", "delete"]
    assert [event.seq for event in events] == list(range(1, 7))
    assert events[3].exit is not None
    assert (events[3].process, events[3].exit.code) == ("three", 3)


@pytest.mark.modern
async def test_logs_can_be_followed_from_another_program(engine: Engine, state: Path) -> None:
    box = await engine.create("box", root="host", args=["sh", "-c", "for i in 1 2 3; do echo $i; done; echo e >&2"])
    async with Engine(state=state) as other:

        async def follow() -> list[tuple[str, bytes]]:
            found = (await other.get("box")).logs(follow=True)
            return [(record.stream, record.data) async for record in found if isinstance(record, LogRecord)]

        task = asyncio.create_task(follow())
        await box.start()
        records = await asyncio.wait_for(task, 20)
    assert b"".join(data for stream, data in records if stream == "stdout") == b"1\n2\n3\n"
    assert b"".join(data for stream, data in records if stream == "stderr") == b"e\n"


@pytest.mark.modern
async def test_attach_gives_output_and_takes_input(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["cat"], stdin=PIPE)
    async with await box.attach(stdin=True, logs=True) as attached:
        assert attached.stdin is not None
        attached.stdin.write(b"x" * 100_000 + b"\nend\n")
        await attached.stdin.drain()
        attached.stdin.write_eof()
        assert await attached.stdout.read() == b"x" * 100_000 + b"\nend\n"
        assert (await attached.wait()).code == 0


@crun_is_modern
async def test_two_starts_at_once_give_one_start(engine: Engine, state: Path) -> None:
    await engine.create("box", root="host", args=SLEEP)
    async with Engine(state=state) as other:
        first, second = await engine.get("box"), await other.get("box")
        results = await asyncio.gather(first.start(), second.start(), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["InvalidState", "Process"]


async def test_a_start_while_another_program_kills_it_is_done_or_told_as_its_state(engine: Engine, state: Path) -> None:
    async with Engine(state=state) as other:
        for step in range(20):
            box = await engine.create("box", root="host", args=SLEEP)
            there = await other.get("box")
            starting = asyncio.create_task(box.start())
            while not starting.done() and (await there.info()).state == "created":
                await asyncio.sleep(0)
            await asyncio.sleep(0.0005 * step)
            await there.kill()
            [result] = await asyncio.gather(starting, return_exceptions=True)
            assert not isinstance(result, BaseException) or isinstance(result, InvalidState), result
            await there.delete(force=True)


@pytest.mark.modern
async def test_a_start_here_is_seen_there(engine: Engine, state: Path) -> None:
    async with Engine(state=state) as other, aclosing(other.events()) as events:
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        await engine.launch("box", root="host", args=SLEEP)
        event = await asyncio.wait_for(waiting, 20)
        assert isinstance(event, Event)
        assert (event.type, event.container) == ("start-container", "box")
        assert [info.state for info in await other.list()] == ["running"]


@pytest.mark.modern
@pytest.mark.parametrize(("owner", "state_after"), [("keep", "running"), ("stop", "stopped"), ("remove", None)])
async def test_what_becomes_of_a_container_when_its_engine_is_left(
    engine: Engine, state: Path, owner: str, state_after: str | None
) -> None:
    async with Engine(state=state) as owning:
        await owning.launch("box", root="host", args=SLEEP, owner=owner)  # type: ignore[arg-type]
    assert [info.state for info in await engine.list()] == ([state_after] if state_after else [])


@crun_is_modern
async def test_many_execs_at_once(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=SLEEP)

    async def one(number: int) -> int | None:
        process = await box.exec(["sh", "-c", f"exit {number}"], stdout=DEVNULL, stderr=DEVNULL)
        return (await process.wait()).code

    assert await asyncio.gather(*(one(number) for number in range(20))) == list(range(20))


@pytest.fixture(autouse=True)
async def cleared(engine: Engine) -> AsyncIterator[None]:
    """What a test leaves running is taken away before the look at what is left."""
    yield
    if not engine._state.closed:
        for info in await engine.list():
            await (await engine.get(info.id)).delete(force=True)
