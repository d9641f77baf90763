"""What a kept container writes: its log, whoever writes it, and views of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound, InvalidState, NotSupported
from longshore.logs.reader import LogGap, LogRecord

from ..needs import needs
from .world import FOREVER, World, hung, only_hcs, only_oci, said


async def text(box: Container, stream: str = "stdout", **options: object) -> bytes:
    """All that a log has of one stream."""
    parts = []
    async for record in box.logs(**options):  # type: ignore[arg-type]
        assert isinstance(record, LogRecord), record
        if record.stream == stream:
            parts.append(record.data)
    return b"".join(parts)


async def test_both_streams_are_in_the_log_to_the_last_byte_once_its_end_is_known(engine: Engine) -> None:
    box = await engine.launch("box", args=["both", "3"])
    await box.wait()
    assert (await text(box), await text(box, "stderr")) == (b"out\n", b"err\n")


@pytest.mark.parametrize("size", [1, 8191, 8192, 65536, 3_000_000])
async def test_any_amount_is_there_exactly(engine: Engine, size: int) -> None:
    box = await engine.launch("box", args=["spew", str(size)])
    await box.wait()
    assert len(await text(box)) == size


async def test_a_log_is_read_by_another_program_and_after_the_writer_has_gone(world: World) -> None:
    async with world.engine() as engine:
        box = await engine.launch("box", args=["both"])
        await box.wait()
    async with world.engine() as other:
        assert await text(await other.get("box")) == b"out\n"


async def test_followed_from_before_the_start_it_comes_live_and_ends_with_the_container(
    engine: Engine, other: Engine
) -> None:
    box = await engine.create("box", args=["trap-exit", "0"])
    following = asyncio.create_task(text(await other.get("box"), follow=True))
    await asyncio.sleep(0.02)
    await box.start()
    await said(box, b"ready")
    assert not following.done()
    await box.stop(grace=300)
    assert await following == b"ready\n"


async def test_a_follower_of_what_is_never_started_ends_when_it_is_deleted(engine: Engine, other: Engine) -> None:
    box = await engine.create("box", args=FOREVER)
    following = asyncio.create_task(text(await other.get("box"), follow=True))
    await asyncio.sleep(0.02)
    await box.delete()
    assert await following == b""


async def test_a_follower_ends_when_the_container_is_deleted(engine: Engine, other: Engine) -> None:
    box = await engine.launch("box", args=["deaf"])
    await said(box, b"deaf")
    following = asyncio.create_task(text(await other.get("box"), follow=True))
    await asyncio.sleep(0.02)
    await box.delete(force=True)
    assert await following == b"deaf\n"
    with pytest.raises(ContainerNotFound):
        await text(box)


async def test_tail_and_since(engine: Engine) -> None:
    box = await engine.launch("box", args=["spew", "640"])
    await box.wait()
    assert len(await text(box, tail=3)) == 3 * 64
    assert await text(box, tail=0) == b""
    assert await text(box, since=datetime.now(UTC) + timedelta(seconds=1)) == b""
    assert len(await text(box, since=datetime.now(UTC) - timedelta(hours=1))) == 640


@needs("a mark on a file")
async def test_a_log_has_a_bound_and_what_that_costs_is_told(engine: Engine) -> None:
    box = await engine.launch("box", args=["spew", "1000000"], log_size="64k")
    await box.wait()
    records = [record async for record in box.logs()]
    assert isinstance(records[0], LogGap)
    assert all(isinstance(record, LogRecord) for record in records[1:])
    assert box._ref.directory.place().log.stat().st_size <= 64 << 10


async def test_a_reader_that_stops_reading_stalls_nobody(engine: Engine) -> None:
    box = await engine.create("box", args=["spew", "3000000"])
    attached = await box.attach()
    await box.start()
    assert (await box.wait()).code == 0  # though nobody reads what was attached
    assert len(await attached.stdout.read()) == 3_000_000
    assert await attached.stderr.read() == b""
    await attached.close()


async def test_who_reads_one_stream_only_is_not_held_up_by_the_other(engine: Engine) -> None:
    box = await engine.create("box", args=["spew", "3000000", "stderr"])
    async with await box.attach() as attached:
        await box.start()
        assert await attached.stdout.read() == b""  # nobody reads the other three million


async def test_attached_it_gives_what_comes_and_with_logs_what_was(engine: Engine, other: Engine) -> None:
    box = await engine.launch("box", args=["trap-exit", "1"])
    await said(box, b"ready")
    there = await other.get("box")
    async with await there.attach() as now, await there.attach(logs=True) as whole:
        await box.stop(grace=300)
        assert await now.stdout.read() == b""
        assert await whole.stdout.read() == b"ready\n"
        assert (await whole.wait()).code == 1


@needs("a mark on a file")
async def test_what_the_bound_costs_an_attached_reader_is_told(engine: Engine) -> None:
    box = await engine.launch("box", args=["spew", "1000000"], log_size="64k")
    await box.wait()
    async with await box.attach(logs=True) as attached:
        assert len(await attached.stdout.read()) < 1_000_000
        assert attached.gaps["stdout"]


async def test_input_is_attached_where_there_is_one(engine: Engine) -> None:
    box = await engine.launch("box", args=["cat"], stdin=PIPE)
    async with await box.attach(stdin=True, logs=True) as attached:
        assert attached.stdin is not None
        attached.stdin.write(b"hello\n")
        await attached.stdin.drain()
        assert await attached.stdout.readline() == b"hello\n"
        attached.stdin.write_eof()
        assert (await attached.wait()).code == 0


@only_oci
async def test_input_is_attached_from_another_program(engine: Engine, other: Engine) -> None:
    box = await engine.launch("box", args=["cat"], stdin=PIPE)
    async with await (await other.get("box")).attach(stdin=True) as attached:
        assert attached.stdin is not None
        attached.stdin.write(b"there\n")
        await attached.stdin.drain()
        assert await attached.stdout.readline() == b"there\n"
    assert (await box.stop(grace=0)).code is not None


@only_hcs
async def test_input_that_ended_with_its_program_is_told(engine: Engine, other: Engine) -> None:
    await engine.launch("box", args=["cat"], stdin=PIPE)
    with pytest.raises(NotSupported, match="end with the program"):
        await (await other.get("box")).attach(stdin=True)


async def test_input_is_refused_where_there_is_none(engine: Engine) -> None:
    box = await engine.launch("box", args=["cat"])
    with pytest.raises(InvalidState, match="it has no input"):
        await box.attach(stdin=True)


@only_oci
async def test_a_monitor_goes_on_writing_when_every_program_has_died(world: World) -> None:
    engine = world.engine()
    box = await engine.create("box", args=["trap-exit", "0"])
    world.faults.delay("start", 0.05)
    starting = asyncio.create_task(box.start())
    await hung(world, "start")
    await starting
    await world.die(engine)
    async with world.engine() as other:
        found = await other.get("box")
        await said(found, b"ready")
        await found.stop(grace=300)
        assert await text(found) == b"ready\n"


@only_hcs
async def test_where_no_monitor_writes_the_log_it_is_written_while_the_engine_lives(world: World) -> None:
    engine = world.engine()
    box = await engine.launch("box", args=["deaf"])
    assert box.init is not None
    assert (box.init.stdout, box.init.stderr) == (None, None)  # they go to the log
    await said(box, b"deaf")
    await world.die(engine)
    async with world.engine() as other:
        assert await text(await other.get("box")) == b"deaf\n"
