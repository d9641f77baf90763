"""What every compute service does: the protocols of compute/protocols.py as sentences, tried on each service at hand.

Only the protocol is used, no engine. What a service cannot do is known from its features, never from its name;
where a feature is missing, its NotSupported is what is tested.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.protocols import ComputeProcess, ComputeService, ComputeSystem, SystemGone
from longshore.compute.values import DEVNULL, LOG, PIPE, STDOUT, State, Stdio
from longshore.errors import (
    CommandNotExecutable,
    CommandNotFound,
    EngineClosed,
    InvalidState,
    LongshoreError,
    NotSupported,
    ProcessNotFound,
    ServiceError,
)
from longshore.exit_record import Cause, Exit
from longshore.spec import ProcessSpec, Resources

from .services import OWNER, ALease, Station, turns

KEPT = Stdio(stdin=DEVNULL, stdout=LOG, stderr=LOG)
PIPES = Stdio()
FOREVER = ["sleep", "infinity"]
TERM, KILL = 15, 9


async def end(system: ComputeSystem, process: ComputeProcess | None) -> None:
    """End a container as the engine does, whatever state it is in."""
    await system.terminate()
    if process is not None:
        try:
            exit = await process.wait()
        except EngineClosed:
            pass
        else:
            await system.settle(exit, 10)
    await system.delete()
    if process is not None:
        await process.close()
    await system.close()


@asynccontextmanager
async def launched(
    station: Station,
    args: list[str],
    *,
    id: str = "box",
    stdio: Stdio = PIPES,
    lease: ALease | None = None,
    **fields: Any,
) -> AsyncIterator[tuple[ComputeSystem, ComputeProcess]]:
    """A container that runs, and is ended afterwards."""
    system, process = await station.service.launch(
        id, station.spec(args, **fields), stdio, station.place(id, lease=lease)
    )
    try:
        yield system, process
    finally:
        await end(system, process)


@asynccontextmanager
async def started(
    station: Station,
    system: ComputeSystem,
    args: list[str],
    *,
    name: str = "work",
    stdio: Stdio = PIPES,
    **fields: Any,
) -> AsyncIterator[ComputeProcess]:
    """An exec process, which is ended afterwards."""
    process = await system.exec(ProcessSpec(args=args, **fields), stdio, name, station.exec_place(system.id, name))
    try:
        yield process
    finally:
        await process.signal(KILL)
        await process.wait()
        await process.close()


async def output(process: ComputeProcess) -> tuple[bytes, bytes]:
    """All that it writes, to the end of both streams."""
    out, err = process.streams.stdout, process.streams.stderr
    assert out is not None
    assert err is not None
    both = await asyncio.gather(out.read(), err.read())
    return both[0], both[1]


async def line(process: ComputeProcess) -> bytes:
    """The next line that it writes."""
    assert process.streams.stdout is not None
    return await process.streams.stdout.readline()


async def logged(station: Station, process: ComputeProcess, id: str, word: bytes) -> None:
    """Wait until a kept container has said a word: in its log, or to its caller where there is no log."""
    if not (await station.features()).keeps_output:
        assert word in await line(process)
        return
    log = station.found_place(id).log
    while not log.exists() or word not in log.read_bytes():
        await asyncio.sleep(0)


async def until_stopped(service: ComputeService, token: bytes) -> None:
    while await service.state(token) is not State.STOPPED:
        await asyncio.sleep(0)


# what a service says of itself


async def test_probe_gives_a_reason_for_all_that_does_not_work(station: Station) -> None:
    features = await station.service.probe()
    assert features.service
    assert features.version
    assert {"signals", "pause", "update"} <= features.items.keys()
    for name, feature in features.items.items():
        assert feature.name == name
        if not feature.supported:
            assert feature.reason
            with pytest.raises(NotSupported, match=feature.reason.split("(")[0][:20]):
                features.need(name)


async def test_a_feature_that_nobody_heard_of_is_not_supported(station: Station) -> None:
    with pytest.raises(NotSupported):
        (await station.service.probe()).need("time-travel")


async def test_version_names_the_parts_that_do_the_work(station: Station) -> None:
    versions = await station.service.version()
    assert versions
    assert all(isinstance(version, str) and version for version in versions.values())


async def test_plan_changes_nothing_and_is_always_the_same(station: Station) -> None:
    place = station.place("box")
    before = sorted(station.base.rglob("*"))
    spec = station.spec(["true"])
    first = station.service.plan("box", spec, place)
    second = station.service.plan("box", spec, place)
    assert first == second
    assert first.documents
    assert sorted(station.base.rglob("*")) == before
    assert await station.service.leftovers(OWNER) == []


# create and start


async def test_create_runs_no_code_of_the_user(station: Station) -> None:
    system = await station.service.create("box", station.spec(station.commands.both), KEPT, station.place("box"))
    assert system.id == "box"
    assert system.token
    assert await station.service.state(system.token) is State.RUNNING
    assert await station.service.leftovers(OWNER) == ["box"]
    log = station.found_place("box").log
    assert not log.exists() or log.read_bytes() == b""
    await end(system, None)
    assert not log.exists() or log.read_bytes() == b""


async def test_start_runs_init_and_its_end_is_told(station: Station) -> None:
    system = await station.service.create("box", station.spec(station.commands.exit(7)), KEPT, station.place("box"))
    process = await system.start()
    exit = await process.wait()
    assert exit.code == 7
    assert exit.cause is Cause.EXITED
    assert exit.pid == process.pid
    assert exit.at is not None
    assert exit.at.tzinfo is UTC
    assert exit.started_at is not None
    assert exit.started_at <= exit.at
    await end(system, process)


async def test_what_a_kept_container_writes_is_logged_where_the_service_keeps_output(station: Station) -> None:
    features = await station.service.probe()
    place = station.place("box")
    system = await station.service.create("box", station.spec(station.commands.both), KEPT, place)
    process = await system.start()
    if features.keeps_output:
        assert process.streams.stdout is None
        assert process.streams.stderr is None
        await process.wait()
        lines = [text.split(b" ", 3) for text in place.log.read_bytes().splitlines()]
        assert sorted(parts[1:] for parts in lines) == [[b"stderr", b"F", b"err"], [b"stdout", b"F", b"out"]]
    else:
        assert await output(process) == (b"out\n", b"err\n")
    await end(system, process)


async def test_a_system_cannot_be_started_twice(station: Station) -> None:
    system = await station.service.create("box", station.spec(FOREVER), KEPT, station.place("box"))
    process = await system.start()
    with pytest.raises((ServiceError, InvalidState)):
        await system.start()
    await end(system, process)


# exit codes


async def test_exit_codes_are_exact(station: Station) -> None:
    async with launched(station, FOREVER) as (system, _):
        for code in (0, 1, 2, 42, 100, 125, 126, 127, 128, 129, 137, 143, 200, 254, 255):
            async with started(station, system, station.commands.exit(code), name=f"exit-{code}") as process:
                exit = await process.wait()
                assert exit.code == code
                assert exit.signal is None or exit.signal_inferred


@pytest.mark.parametrize("code", [0, 3, 126, 127, 255])
async def test_the_exit_code_of_init_is_exact(station: Station, code: int) -> None:
    async with launched(station, station.commands.exit(code)) as (_, process):
        assert (await process.wait()).code == code


async def test_all_waiters_get_the_same_exit(station: Station) -> None:
    async with launched(station, ["cat"], stdio=Stdio(stdin=PIPE)) as (_, process):
        waiters = [asyncio.create_task(process.wait()) for _ in range(5)]
        await turns(3)
        assert process.streams.stdin is not None
        process.streams.stdin.close()
        exits = await asyncio.gather(*waiters)
        exits.append(await process.wait())
        assert exits == [exits[0]] * 6
        assert exits[0].code == 0


async def test_cancelling_a_wait_only_stops_waiting(station: Station) -> None:
    async with launched(station, ["cat"], stdio=Stdio(stdin=PIPE)) as (_, process):
        other = asyncio.create_task(process.wait())
        waiter = asyncio.create_task(process.wait())
        await turns(3)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert process.streams.stdin is not None
        process.streams.stdin.close()
        assert (await other).code == 0
        assert (await process.wait()).code == 0


# streams


async def test_output_and_errors_come_separately(station: Station) -> None:
    async with launched(station, station.commands.both) as (_, process):
        assert process.streams.stdin is None
        assert await output(process) == (b"out\n", b"err\n")


async def test_errors_join_the_output_if_asked_to(station: Station) -> None:
    async with launched(station, station.commands.both, stdio=Stdio(stderr=STDOUT)) as (_, process):
        assert process.streams.stderr is None
        assert process.streams.stdout is not None
        assert sorted((await process.streams.stdout.read()).split()) == [b"err", b"out"]


async def test_devnull_takes_everything_and_gives_the_end_of_input(station: Station) -> None:
    nowhere = Stdio(stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    async with launched(station, ["cat"], stdio=nowhere) as (_, process):
        assert process.streams.stdout is None
        assert process.streams.stderr is None
        assert (await process.wait()).code == 0
    async with launched(station, station.commands.spew(1 << 20), stdio=nowhere) as (_, process):
        assert (await process.wait()).code == 0


async def test_a_file_descriptor_of_the_caller_is_written_to(station: Station, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as file:
        async with launched(station, ["echo", "to a file"], stdio=Stdio(stdout=file.fileno())) as (_, process):
            assert process.streams.stdout is None
            assert (await process.wait()).code == 0
        file.seek(0)
        assert file.read() == b"to a file\n"


async def test_a_file_descriptor_of_the_caller_is_read_from(station: Station, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as file:
        async with launched(station, ["cat"], stdio=Stdio(stdin=file.fileno())) as (_, process):
            assert process.streams.stdin is None
            assert await output(process) == (b"from a file", b"")


async def test_closing_the_input_is_its_end(station: Station) -> None:
    async with launched(station, ["cat"], stdio=Stdio(stdin=PIPE)) as (_, process):
        assert process.streams.stdin is not None
        process.streams.stdin.write(b"hello\n")
        await process.streams.stdin.drain()
        assert await line(process) == b"hello\n"
        process.streams.stdin.write(b"last words")
        await process.close_stdin()
        assert await output(process) == (b"last words", b"")
        assert (await process.wait()).code == 0
        await process.close_stdin()


async def test_large_data_goes_both_ways_at_once(station: Station) -> None:
    data = os.urandom(1 << 20) * 8
    async with launched(station, ["cat"], stdio=Stdio(stdin=PIPE)) as (_, process):
        stdin = process.streams.stdin
        assert stdin is not None

        async def send() -> None:
            for start in range(0, len(data), 100_000):
                stdin.write(data[start : start + 100_000])
                await stdin.drain()
            stdin.close()

        _, (out, err) = await asyncio.gather(send(), output(process))
        assert out == data
        assert err == b""
        assert (await process.wait()).code == 0


async def test_a_reader_that_stops_makes_the_writer_wait_and_loses_nothing(station: Station) -> None:
    async with launched(station, station.commands.spew(16 << 20)) as (system, process):
        assert process.streams.stdout is not None
        assert len(await process.streams.stdout.readexactly(1000)) == 1000
        async with started(station, system, ["true"]) as other:  # the machine goes on meanwhile
            assert (await other.wait()).code == 0
        rest, _ = await output(process)
        assert len(rest) == (16 << 20) - 1000
        assert (await process.wait()).code == 0


async def test_writing_to_a_process_that_has_ended_hangs_nobody(station: Station) -> None:
    async with launched(station, ["true"], stdio=Stdio(stdin=PIPE)) as (_, process):
        await process.wait()
        assert process.streams.stdin is not None
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await write_on(process.streams.stdin)


async def write_on(stdin: asyncio.StreamWriter) -> None:
    for _ in range(100):
        stdin.write(bytes(1 << 20))
        await stdin.drain()


async def test_wait_is_not_held_by_a_grandchild_that_keeps_the_output_open(station: Station) -> None:
    async with launched(station, FOREVER) as (system, init):
        async with started(station, system, station.commands.hold) as process:
            assert (await process.wait()).code == 0
            assert await output(process) == (b"", b"")  # neither are the streams
        assert await station.service.state(system.token) is State.RUNNING
        assert init.pid != process.pid


async def test_a_terminal_has_its_size_from_the_beginning(station: Station) -> None:
    async with launched(station, station.commands.size, terminal=True, size=(33, 101)) as (_, process):
        assert process.streams.stderr is None
        assert (await line(process)).split() == [b"33", b"101"]


async def test_resizing_needs_a_terminal(station: Station) -> None:
    async with launched(station, FOREVER) as (_, process):
        with pytest.raises(InvalidState):
            await process.resize(50, 100)
    async with launched(station, ["cat"], stdio=Stdio(stdin=PIPE), terminal=True) as (_, process):
        await process.resize(50, 100)


# ending


async def test_terminate_ends_what_was_never_started(station: Station) -> None:
    system = await station.service.create("box", station.spec(FOREVER), KEPT, station.place("box"))
    await system.terminate()
    await until_stopped(station.service, system.token)
    await system.delete()
    await system.close()
    assert await station.service.leftovers(OWNER) == []


async def test_terminate_ends_what_runs(station: Station) -> None:
    async with launched(station, FOREVER) as (system, process):
        await system.terminate()
        exit = await process.wait()
        assert exit.code not in (None, 0)
        assert exit.signal == KILL or exit.cause is Cause.KILLED
        await until_stopped(station.service, system.token)
        await system.terminate()  # already stopped is success


async def test_terminate_ends_what_is_paused(station: Station) -> None:
    async with launched(station, FOREVER, **station.pausable) as (system, process):
        await system.pause()
        await system.terminate()
        assert (await process.wait()).code not in (None, 0)


async def test_kill_works_on_what_is_paused(station: Station) -> None:
    async with launched(station, FOREVER, **station.pausable) as (system, init):
        work = await system.exec(ProcessSpec(args=FOREVER), PIPES, "work", station.exec_place(system.id, "work"))
        await system.pause()
        await work.kill_tree()
        assert (await work.wait()).code not in (None, 0)
        await work.close()
        assert await station.service.state(system.token) is State.PAUSED
        await init.signal(KILL)
        assert (await init.wait()).code not in (None, 0)


async def test_shutdown_asks_and_init_ends_by_itself(station: Station) -> None:
    async with launched(station, station.commands.trap(5)) as (system, process):
        assert await line(process) == b"ready\n"
        assert await system.can_receive(TERM)
        await system.shutdown()
        exit = await process.wait()
        assert exit.code == 5
        assert exit.cause is Cause.EXITED
        await system.shutdown()  # already stopped is success


async def test_settle_completes_the_exit_record(station: Station) -> None:
    async with launched(station, station.commands.exit(9)) as (system, process):
        exit = await process.wait()
        found = await system.settle(exit, 10)
        assert found.exit.code == 9
        assert found.exit.at == exit.at
        assert found.oom is False
        assert found.error is None
        assert found.exit.cpu_time is None or found.exit.cpu_time >= 0
        assert found.exit.peak_memory is None or found.exit.peak_memory >= 0


async def test_nothing_runs_in_it_after_settle(station: Station) -> None:
    async with launched(station, ["cat"], stdio=Stdio(stdin=PIPE)) as (system, process):
        work = await system.exec(ProcessSpec(args=FOREVER), PIPES, "work", station.exec_place(system.id, "work"))
        await process.close_stdin()
        exit = await process.wait()
        await system.settle(exit, 10)
        assert (await work.wait()).code != 0
        await work.close()
        assert await station.service.state(system.token) is State.STOPPED


async def test_delete_leaves_nothing_and_can_be_repeated(station: Station) -> None:
    system, process = await station.service.launch("box", station.spec(["true"]), PIPES, station.place("box"))
    await system.settle(await process.wait(), 10)
    await system.delete()
    assert await station.service.leftovers(OWNER) == []
    await system.delete()
    await process.close()
    await system.close()
    async with launched(station, ["true"]) as (_, again):  # the id is free
        assert (await again.wait()).code == 0


async def test_delete_without_settle_leaves_nothing_either(station: Station) -> None:
    system, process = await station.service.launch("box", station.spec(FOREVER), PIPES, station.place("box"))
    await system.terminate()
    await system.delete()
    assert await station.service.leftovers(OWNER) == []
    assert (await process.wait()).code != 0
    await system.close()


# failing


@pytest.mark.parametrize(
    ("command", "error"), [("no-such-command", CommandNotFound), ("/etc/passwd", CommandNotExecutable)]
)
async def test_a_command_that_cannot_run_leaves_nothing_and_the_id_is_free(
    station: Station, command: str, error: type[LongshoreError]
) -> None:
    with pytest.raises(error, match=command):
        await station.service.launch("box", station.spec([command]), PIPES, station.place("box"))
    assert await station.service.leftovers(OWNER) == []

    with pytest.raises(error, match=command):
        await create_and_start(station, [command])
    assert await station.service.leftovers(OWNER) == []

    async with launched(station, ["true"]) as (_, process):
        assert (await process.wait()).code == 0


async def create_and_start(station: Station, args: list[str]) -> None:
    """One service sees at create that a command cannot run, another at start: then it has to be deleted."""
    system = await station.service.create("box", station.spec(args), KEPT, station.place("box"))
    try:
        await system.start()
    finally:
        await end(system, None)


@pytest.mark.parametrize("kept", [False, True])
async def test_a_cancelled_launch_leaves_nothing_and_the_id_is_free(station: Station, kept: bool) -> None:
    spec = station.spec(FOREVER)
    for count in moments():
        place = station.place("box")
        task = asyncio.create_task(station.service.launch("box", spec, KEPT if kept else PIPES, place))
        await turns(count)
        task.cancel()
        try:
            system, process = await task
        except asyncio.CancelledError:
            assert await station.service.leftovers(OWNER) == []
        else:
            await end(system, process)
            break
    else:
        pytest.fail("it never got done")


async def test_a_cancelled_create_leaves_nothing_and_the_id_is_free(station: Station) -> None:
    spec = station.spec(FOREVER)
    for count in moments():
        place = station.place("box")
        task = asyncio.create_task(station.service.create("box", spec, KEPT, place))
        await turns(count)
        task.cancel()
        try:
            system = await task
        except asyncio.CancelledError:
            assert await station.service.leftovers(OWNER) == []
        else:
            await end(system, None)
            break
    else:
        pytest.fail("it never got done")


async def test_a_cancelled_start_can_be_cleared_away(station: Station) -> None:
    spec = station.spec(FOREVER)
    for count in moments():
        system = await station.service.create("box", spec, KEPT, station.place("box"))
        task = asyncio.create_task(system.start())
        await turns(count)
        task.cancel()
        try:
            process = await task
        except asyncio.CancelledError:
            await end(system, None)
            assert await station.service.leftovers(OWNER) == []
        else:
            await end(system, process)
            break
    else:
        pytest.fail("it never got done")


def moments() -> list[int]:
    """After how many turns of the loop to cancel: until it is too late."""
    return [0, 1, 2, 3, 4, 6, *(1 << n for n in range(3, 24))]


# exec


async def test_exec_runs_a_further_process_with_streams_of_its_own(station: Station) -> None:
    async with launched(station, FOREVER) as (system, init):
        async with started(station, system, ["cat"], stdio=Stdio(stdin=PIPE)) as process:
            assert process.pid != init.pid
            assert process.token not in (b"", init.token)
            assert process.streams.stdin is not None
            process.streams.stdin.write(b"hello\n")
            assert await line(process) == b"hello\n"
            await process.close_stdin()
            assert (await process.wait()).code == 0
        assert await station.service.state(system.token) is State.RUNNING


async def test_exec_adds_to_the_environment_of_the_container(station: Station) -> None:
    async with (
        launched(station, FOREVER, env={"A": "1", "B": "1"}, cwd="/tmp") as (system, _),
        started(station, system, ["env"], env={"B": "2", "C": "3"}) as process,
        started(station, system, ["pwd"], name="here") as here,
        started(station, system, ["pwd"], name="there", cwd="/") as there,
    ):
        out, _ = await output(process)
        assert {b"A=1", b"B=2", b"C=3"} <= set(out.splitlines())
        assert await output(here) == (b"/tmp\n", b"")
        assert await output(there) == (b"/\n", b"")


@pytest.mark.parametrize(
    ("command", "error"), [("no-such-command", CommandNotFound), ("/etc/passwd", CommandNotExecutable)]
)
async def test_exec_of_what_cannot_run_is_told(station: Station, command: str, error: type[LongshoreError]) -> None:
    async with launched(station, FOREVER) as (system, _):
        with pytest.raises(error, match=command):
            await exec_and_wait(station, system, [command])
        async with asyncio.timeout(300):
            while len(await system.processes()) > 1:  # a runtime's own child dies in its own time
                await asyncio.sleep(0.01)


async def exec_and_wait(station: Station, system: ComputeSystem, args: list[str]) -> None:
    """A runtime may know that a command cannot run only after `exec` has begun: then its end says so."""
    process = await system.exec(ProcessSpec(args=args), PIPES, "work", station.exec_place(system.id, "work"))
    exit = await process.wait()
    assert exit.cause is Cause.NEVER_STARTED
    await process.close()
    raise getattr(process, "failure")  # noqa: B009 -- only where a service can know it late


async def test_exec_after_the_end_is_refused(station: Station) -> None:
    async with launched(station, ["true"]) as (system, process):
        await process.wait()
        with pytest.raises(LongshoreError):
            await system.exec(ProcessSpec(args=["true"]), PIPES, "work", station.exec_place(system.id, "work"))


async def test_exec_in_a_paused_container_is_refused(station: Station) -> None:
    async with launched(station, FOREVER, **station.pausable) as (system, _):
        await system.pause()
        with pytest.raises((InvalidState, ServiceError)):
            await system.exec(ProcessSpec(args=["true"]), PIPES, "work", station.exec_place(system.id, "work"))
        await system.resume()


async def test_a_cancelled_exec_leaves_nothing_running(station: Station) -> None:
    async with launched(station, FOREVER) as (system, _):
        for count in moments():
            place = station.exec_place(system.id, f"work-{count}")
            task = asyncio.create_task(system.exec(ProcessSpec(args=FOREVER), PIPES, f"work-{count}", place))
            await turns(count)
            task.cancel()
            try:
                process = await task
            except asyncio.CancelledError:
                assert len(await system.processes()) == 1
            else:
                await process.signal(KILL)
                await process.wait()
                await process.close()
                break
        else:
            pytest.fail("it never got done")


async def test_an_exec_ends_with_its_container(station: Station) -> None:
    async with launched(station, FOREVER) as (system, init):
        work = await system.exec(ProcessSpec(args=FOREVER), PIPES, "work", station.exec_place(system.id, "work"))
        await system.terminate()
        exits = await asyncio.gather(init.wait(), work.wait())
        assert all(exit.code not in (None, 0) for exit in exits)
        await work.close()


# signals


async def test_a_signal_reaches_a_process_that_handles_it(station: Station) -> None:
    features = await station.service.probe()
    async with (
        launched(station, FOREVER) as (system, _),
        started(station, system, station.commands.trap(6)) as process,
    ):
        assert await line(process) == b"ready\n"
        if features.items["signals"].supported:
            await process.signal(TERM)
            assert (await process.wait()).code == 6
        else:
            with pytest.raises(NotSupported):
                await process.signal(TERM)
            await process.signal(KILL)
            assert (await process.wait()).code not in (None, 0, 6)


async def test_an_exec_dies_of_a_signal_that_it_does_not_handle(station: Station) -> None:
    features = await station.service.probe()
    async with launched(station, FOREVER) as (system, _), started(station, system, FOREVER) as process:
        if features.items["signals"].supported:
            await process.signal(TERM)
            exit = await process.wait()
            assert exit.code == 128 + TERM
            assert exit.signal == TERM
            assert exit.cause is Cause.SIGNALLED
        else:
            with pytest.raises(NotSupported):
                await process.signal(TERM)


async def test_kill_ends_a_process_and_killing_the_dead_is_fine(station: Station) -> None:
    features = await station.service.probe()
    async with launched(station, FOREVER) as (system, _), started(station, system, FOREVER) as process:
        await process.signal(KILL)
        exit = await process.wait()
        assert exit.code not in (None, 0)
        assert exit.signal == KILL or exit.cause is Cause.KILLED
        await process.signal(KILL)
        await process.kill_tree()
        with pytest.raises((ProcessNotFound, NotSupported)) as raised:
            await process.signal(TERM)
        assert isinstance(raised.value, ProcessNotFound) is features.items["signals"].supported


# pause, stats, processes, update


async def test_pause_is_complete_when_it_returns_and_resume_undoes_it(station: Station) -> None:
    features = await station.service.probe()
    async with launched(station, ["cat"], stdio=Stdio(stdin=PIPE), **station.pausable) as (system, process):
        if not features.items["pause"].supported:
            with pytest.raises(NotSupported):
                await system.pause()
            assert not await system.paused()
            return
        assert not await system.paused()
        assert await station.service.state(system.token) is State.RUNNING
        await system.pause()
        assert await system.paused()
        assert await station.service.state(system.token) is State.PAUSED
        assert process.streams.stdin is not None
        process.streams.stdin.write(b"wake up\n")
        await system.resume()
        assert not await system.paused()
        assert await station.service.state(system.token) is State.RUNNING
        assert await line(process) == b"wake up\n"


async def test_stats_are_numbers(station: Station) -> None:
    async with launched(station, FOREVER) as (system, _):
        stats = await system.stats()
        async with asyncio.timeout(300):
            while stats.pids not in (None, 1):  # the runtime's own threads, until it has become the program
                await asyncio.sleep(0.01)
                stats = await system.stats()
        assert stats.at.tzinfo is UTC
        assert stats.cpu_time is not None
        assert stats.cpu_time >= 0
        assert stats.memory is not None
        assert stats.memory > 0
        later = await system.stats()
        assert later.at >= stats.at
        assert later.cpu_time is not None
        assert later.cpu_time >= stats.cpu_time


async def test_processes_lists_init_and_the_rest(station: Station) -> None:
    async with launched(station, FOREVER) as (system, init):
        (found,) = await system.processes()
        assert found.pid == init.pid
        while found.command.removesuffix(".exe") != "sleep":  # for a moment it still is its runtime's
            await asyncio.sleep(0)
            (found,) = await system.processes()
        async with started(station, system, ["cat"], stdio=Stdio(stdin=PIPE)) as work:
            assert {info.pid for info in await system.processes()} >= {init.pid, work.pid}


async def test_update_changes_limits_or_says_that_it_cannot(station: Station) -> None:
    features = await station.service.probe()
    limits = {"memory": "256m", "pids": 100} if features.items["update"].supported else {"memory": "256m"}
    async with launched(station, FOREVER, **limits) as (system, _):
        before = await system.stats()
        change = Resources(memory="300m", pids=60)
        if features.items["update"].supported:
            await system.update(change)
            after = await system.stats()
            assert after.memory_limit == 300 << 20
            assert after.pids_limit == 60
        else:
            with pytest.raises(NotSupported):
                await system.update(change)
            after = await system.stats()
            assert (after.memory_limit, after.pids_limit) == (before.memory_limit, before.pids_limit)
        assert await station.service.state(system.token) is State.RUNNING


# found again


async def test_a_container_is_found_again_after_its_maker_died(station: Station) -> None:
    first = station.service
    system = await first.create("box", station.spec(station.commands.trap(37)), KEPT, station.place("box"))
    process = await system.start()
    await logged(station, process, "box", b"ready")
    token, init, pid = system.token, process.token, process.pid

    station.lose(first)
    second = station.another()
    assert await second.state(token) is State.RUNNING
    found = await second.open("box", token, station.found_place("box"))
    assert (found.id, found.token) == ("box", token)
    again = await found.open_process(init)
    assert again.pid == pid
    assert again.streams.stdout is None
    await found.shutdown(TERM)
    assert (await again.wait()).code == 37  # it was there to see it
    await end(found, again)
    assert await second.leftovers(OWNER) == []


async def test_what_was_paused_is_found_paused_and_goes_on_when_resumed(station: Station) -> None:
    first = station.service
    if not (await first.probe()).items["pause"].supported:
        pytest.skip("nothing can be paused here")
    spec = station.spec(station.commands.trap(39), **station.pausable)
    system = await first.create("box", spec, KEPT, station.place("box"))
    process = await system.start()
    await logged(station, process, "box", b"ready")
    await system.pause()
    token, init = system.token, process.token

    station.lose(first)
    second = station.another()
    assert await second.state(token) is State.PAUSED
    found = await second.open("box", token, station.found_place("box"))
    assert await found.paused()
    assert await second.state(token) is State.PAUSED
    await found.resume()
    assert not await found.paused()
    again = await found.open_process(init)
    await found.shutdown(TERM)
    assert (await again.wait()).code == 39
    await end(found, again)
    assert await second.leftovers(OWNER) == []


async def test_what_ended_unseen_has_its_true_code_or_none(station: Station) -> None:
    features = await station.service.probe()
    first = station.service
    system = await first.create("box", station.spec(station.commands.exit(38)), KEPT, station.place("box"))
    process = await system.start()
    token, init = system.token, process.token

    station.lose(first)
    second = station.another()
    await until_stopped(second, token)
    found = await second.open("box", token, station.found_place("box"))
    again = await found.open_process(init)
    exit = await again.wait()
    assert exit.code == (38 if features.keeps_output else None)
    assert exit.cause is not Cause.EXITED or exit.code == 38
    await end(found, again)
    assert await second.leftovers(OWNER) == []


async def test_an_exec_is_found_again_by_its_token(station: Station) -> None:
    async with launched(station, FOREVER) as (system, _), started(station, system, FOREVER) as work:
        other = station.another()
        found = await other.open(system.id, system.token, station.found_place(system.id))
        again = await found.open_process(work.token)
        assert again.pid == work.pid
        await again.signal(KILL)
        first, second = await asyncio.gather(work.wait(), again.wait())
        assert first.code not in (None, 0)
        assert second.code in (None, first.code)  # a stranger may not learn it, but never learns something else
        await again.close()
        await found.close()


@pytest.mark.parametrize("token", [b"", b"nonsense", b"\xff\x00", b"{}"])
async def test_an_unknown_token_means_that_the_system_is_gone(station: Station, token: bytes) -> None:
    place = station.place("box")
    with pytest.raises(SystemGone):
        await station.service.open("box", token, place)
    assert await station.service.state(token) is State.STOPPED


async def test_abandon_undoes_what_a_dead_maker_left(station: Station) -> None:
    first = station.service
    await first.create("box", station.spec(FOREVER), KEPT, station.place("box"))
    station.lose(first)
    second = station.another()
    assert await second.leftovers(OWNER) == ["box"]
    await second.abandon("box", station.found_place("box"))
    assert await second.leftovers(OWNER) == []
    await second.abandon("box", station.found_place("box"))
    system, process = await second.launch("box", station.spec(["true"]), PIPES, station.place("box"))
    assert (await process.wait()).code == 0
    await end(system, process)


async def test_ending_a_lease_ends_what_belongs_to_it_and_nothing_else(station: Station) -> None:
    lease = station.lease()
    async with (
        launched(station, FOREVER, id="ours", lease=lease) as (_, ours),
        launched(station, FOREVER, id="other") as (other_system, _),
    ):
        other = station.another()
        station.let_go(lease)
        await other.end_lease(lease.id, lease.directory)
        assert (await ours.wait()).code not in (None, 0)
        assert await other.state(other_system.token) is State.RUNNING
        await other.end_lease(lease.id, lease.directory)
        await other.end_lease("1-nobody", lease.directory.with_name("1-nobody"))


# letting go


async def test_closing_a_process_wakes_its_waiters_and_lets_it_run(station: Station) -> None:
    system = await station.service.create("box", station.spec(FOREVER), KEPT, station.place("box"))
    process = await system.start()
    waiters = [asyncio.create_task(process.wait()) for _ in range(3)]
    await turns(3)
    await process.close()
    for waiter in waiters:
        with pytest.raises(EngineClosed):
            await waiter
    await process.close()
    assert await station.service.state(system.token) is State.RUNNING
    await end(system, None)


async def test_closing_a_system_wakes_all_waiters_and_lets_it_run(station: Station) -> None:
    system = await station.service.create("box", station.spec(FOREVER), KEPT, station.place("box"))
    process = await system.start()
    waiter = asyncio.create_task(process.wait())
    token, init = system.token, process.token
    await turns(3)
    await system.close()
    with pytest.raises(EngineClosed):
        await waiter
    await system.close()
    assert await station.service.state(token) is State.RUNNING
    found = await station.service.open("box", token, station.found_place("box"))
    await end(found, await found.open_process(init))


# many


async def test_twenty_systems_run_at_once_and_each_has_its_own_end(station: Station) -> None:
    async def one(number: int) -> Exit:
        async with launched(station, station.commands.exit(number), id=f"box-{number}") as (_, process):
            return await process.wait()

    exits = await asyncio.gather(*(one(number) for number in range(20)))
    assert [exit.code for exit in exits] == list(range(20))
    assert await station.service.leftovers(OWNER) == []


async def test_two_programs_see_the_same_end(station: Station) -> None:
    async with launched(station, ["cat"], stdio=Stdio(stdin=PIPE)) as (system, process):
        other = station.another()
        found = await other.open(system.id, system.token, station.found_place(system.id))
        again = await found.open_process(process.token)
        await process.close_stdin()
        first, second = await asyncio.gather(process.wait(), again.wait())
        assert first.code == 0
        assert second.code in (None, 0)
        await again.close()
        await found.close()
