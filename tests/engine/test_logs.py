"""The log of a container, as a program that reads it sees it: every byte, or a gap where some may be missing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore.fs import watching
from longshore.fs.files import replace_open
from longshore.logs import format, rotation
from longshore.logs.reader import LogGap, LogReader, LogRecord, Stream, mark_first
from longshore.logs.writer import LogWriter

from ..descriptors import open_files, remove_as_after_a_program
from ..needs import needs

LIMIT = 1 << 20
STAMP = b"2026-03-01T12:00:00.%09d+00:00"


@pytest.fixture
def log() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="longshore-test-log-"))
    yield directory / "log"
    remove_as_after_a_program(directory)


def line(number: int, text: bytes, stream: bytes = b"stdout", tag: bytes = b"F") -> bytes:
    return STAMP % number + b" %s %s %s\n" % (stream, tag, text)


def piece(number: int, text: bytes, stream: bytes = b"stdout") -> bytes:
    return line(number, text, stream, b"P")


async def items(path: Path, expected: int | None = None, **how: object) -> list[LogRecord | LogGap]:
    reader = LogReader(path, expected)
    return [item async for item in reader.records(**how)]  # type: ignore[arg-type]


async def chunks(path: Path, expected: int | None = None, **how: object) -> list[tuple[Stream, bytes] | LogGap]:
    reader = LogReader(path, expected)
    return [item async for item in reader.chunks(**how)]  # type: ignore[arg-type]


def texts(found: list[LogRecord | LogGap]) -> list[bytes | str]:
    return ["gap" if isinstance(item, LogGap) else item.data for item in found]


def data_of(found: list[LogRecord | LogGap] | list[tuple[Stream, bytes] | LogGap], stream: str) -> bytes:
    parts = []
    for item in found:
        if isinstance(item, LogRecord) and item.stream == stream:
            parts.append(item.data)
        elif isinstance(item, tuple) and item[0] == stream:
            parts.append(item[1])
    return b"".join(parts)


class Follower:
    """A reader that follows, and what it has got up to now."""

    def __init__(self, path: Path, expected: int | None = None, *, tail: int | None = None) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.found: list[LogRecord | LogGap] = []
        self._more = asyncio.Event()
        self.reader = LogReader(path, expected)
        self._records = self.reader.records(tail=tail, until=self.end)
        self.task = asyncio.create_task(self._run(self._records))

    async def _run(self, records: AsyncIterator[LogRecord | LogGap]) -> None:
        async for item in records:
            self.found.append(item)
            self._more.set()

    async def until(self, condition: Callable[[list[LogRecord | LogGap]], bool]) -> None:
        async with asyncio.timeout(300):
            while not condition(self.found):
                self._more.clear()
                await self._more.wait()

    async def finish(self) -> list[LogRecord | LogGap]:
        if not self.end.done():
            self.end.set_result(None)
        async with asyncio.timeout(300):
            await self.task
        return self.found


# what a program wrote is what a reader gets

written = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stderr"]),
        st.one_of(
            st.binary(max_size=200),
            st.lists(st.sampled_from([b"\n", b"a", b"\x00", b"\xff\xfe", b" stdout F ", b"\x1b[0m", b"\r"])).map(
                b"".join
            ),
            st.integers(1, 40).map(lambda n: b"one line of many\n" * n),
            st.integers(8000, 20000).map(lambda n: b"x" * n),
        ),
    ),
    max_size=30,
)


@given(written)
@settings(max_examples=150, deadline=None)
def test_every_byte_of_both_streams_comes_back_as_it_was_written(pieces: list[tuple[Stream, bytes]]) -> None:
    with tempfile.TemporaryDirectory(prefix="longshore-test-log-") as directory:
        path = Path(directory) / "log"
        writer = LogWriter(path, 1 << 30)
        for stream, data in pieces:
            writer.write(stream, data)
        writer.close()

        found = asyncio.run(items(path))
        joined = asyncio.run(chunks(path))

    for stream in ("stdout", "stderr"):
        exact = b"".join(data for name, data in pieces if name == stream)
        assert data_of(found, stream) == exact
        assert data_of(joined, stream) == exact
    assert all(isinstance(item, LogRecord) for item in found)


@given(
    st.lists(st.tuples(st.sampled_from([b"stdout", b"stderr"]), st.integers(0, 1), st.integers(0, 1500)), max_size=40)
)
@settings(max_examples=100, deadline=None)
def test_a_coarse_clock_that_gives_one_time_to_many_reads_mixes_nothing(lines: list[tuple[bytes, int, int]]) -> None:
    block = b"".join(line(at, b"y" * size, stream) for stream, at, size in lines)
    found = [record for run in format.runs(block) if run for record in run.records()]
    assert [(record.at, record.nanoseconds, record.stream.encode(), record.data) for record in found] == [
        (format.moment(STAMP % at), format.fraction(STAMP % at), stream, b"y" * size + b"\n")
        for stream, at, size in lines
    ]


async def test_streams_stay_in_the_order_in_which_they_were_read(log: Path) -> None:
    writer = LogWriter(log, LIMIT)
    writer.write("stdout", b"1\n2\n")
    writer.write("stderr", b"3\n")
    writer.write("stdout", b"4")
    found = await items(log)
    assert texts(found) == [b"1\n", b"2\n", b"3\n", b"4"]
    assert await chunks(log) == [("stdout", b"1\n2\n"), ("stderr", b"3\n"), ("stdout", b"4")]


async def test_a_record_tells_its_time_in_utc(log: Path) -> None:
    log.write_bytes(b"2026-03-01T12:30:00.123456789+05:30 stderr F late\n")
    (record,) = await items(log)
    assert isinstance(record, LogRecord)
    assert record.at == datetime(2026, 3, 1, 7, 0, 0, 123456, tzinfo=UTC)
    assert record.at.tzinfo is UTC
    assert record.nanoseconds == 123_456_789
    assert record.stream == "stderr"


async def test_a_log_that_does_not_exist_yet_is_empty(log: Path) -> None:
    assert await items(log) == []
    assert await items(log / "no" / "directory") == []


# tail and since


async def test_tail_gives_the_last_lines_across_both_streams(log: Path) -> None:
    log.write_bytes(b"".join(line(n, b"%d" % n, (b"stdout", b"stderr")[n % 2]) for n in range(100)))
    assert texts(await items(log, tail=3)) == [b"97\n", b"98\n", b"99\n"]
    assert texts(await items(log, tail=1000)) == [b"%d\n" % n for n in range(100)]
    assert await items(log, tail=0) == []


async def test_tail_gives_a_line_with_all_its_parts(log: Path) -> None:
    log.write_bytes(
        line(1, b"before")
        + line(2, b"a", tag=b"P")
        + line(3, b"error", b"stderr")
        + line(4, b"b", tag=b"P")
        + line(5, b"c")
        + line(6, b"last, without an end", tag=b"P")
    )
    assert texts(await items(log, tail=2)) == [b"a", b"b", b"c\n", b"last, without an end"]
    assert texts(await items(log, tail=3)) == [b"a", b"error\n", b"b", b"c\n", b"last, without an end"]


@given(
    st.lists(st.tuples(st.sampled_from([b"stdout", b"stderr"]), st.sampled_from([b"F", b"P"])), max_size=30),
    st.integers(0, 12),
    st.sampled_from([64, 200, 1 << 18]),
)
@settings(max_examples=200, deadline=None)
def test_tail_agrees_with_reading_all_and_taking_the_last_lines(
    shape: list[tuple[bytes, bytes]], lines: int, block: int
) -> None:
    content = b"".join(line(n, b"%d" % n, stream, tag) for n, (stream, tag) in enumerate(shape))
    owner: list[int] = []
    open_lines: dict[bytes, int] = {}  # the line of each record, lines by their last record
    for number, (stream, tag) in enumerate(shape):
        owner.append(open_lines.setdefault(stream, number))
        if tag == b"F":
            del open_lines[stream]
    last = {name: number for number, name in enumerate(owner)}
    order = sorted(last, key=lambda name: last[name])
    wanted = set(order[max(0, len(order) - lines) :])
    expected = [b"%d" % n + (b"\n" if shape[n][1] == b"F" else b"") for n in range(len(shape)) if owner[n] in wanted]

    before = rotation.BLOCK
    with tempfile.TemporaryDirectory(prefix="longshore-test-log-") as directory:
        path = Path(directory) / "log"
        path.write_bytes(content)
        try:
            rotation.BLOCK = block  # so that a short log has many
            found = asyncio.run(items(path, tail=lines))
        finally:
            rotation.BLOCK = before
    assert texts(found) == expected


async def test_tail_does_not_read_a_long_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(log, "wb") as file:
        block = b"".join(line(n, b"a line of the log") for n in range(10_000))
        file.writelines(block for _ in range(40))
        file.write(line(1, b"error", b"stderr"))
    read = 0
    real = rotation.read_at

    def counting(fd: int, size: int, offset: int) -> bytes:
        nonlocal read
        data = real(fd, size, offset)
        read += len(data)
        return data

    monkeypatch.setattr(rotation, "read_at", counting)
    assert len(await items(log, tail=100)) >= 100
    assert read < log.stat().st_size / 3

    read = 0
    assert texts(await items(log, tail=1)) == ["gap", b"error\n"]  # its first part may be anywhere before
    assert read < log.stat().st_size / 3


async def test_since_gives_what_came_at_that_time_or_later(log: Path) -> None:
    log.write_bytes(b"".join(line(n * 1000, b"%d" % n) for n in range(10)))
    at = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(microseconds=7)
    assert texts(await items(log, since=at)) == [b"7\n", b"8\n", b"9\n"]
    assert texts(await items(log, since=at, tail=2)) == [b"8\n", b"9\n"]
    assert await chunks(log, since=at) == [("stdout", b"7\n8\n9\n")]


# following


async def test_a_follower_gets_each_record_when_it_is_written(log: Path) -> None:
    writer = LogWriter(log, LIMIT)
    writer.write("stdout", b"old\n")
    follower = Follower(log)
    await follower.until(lambda found: len(found) == 1)
    for number in range(5):
        writer.write("stderr", b"%d" % number)
        await follower.until(lambda found: len(found) == number + 2)  # noqa: B023
    assert data_of(await follower.finish(), "stderr") == b"01234"


async def test_a_follower_of_now_gets_nothing_of_before(log: Path) -> None:
    writer = LogWriter(log, LIMIT)
    writer.write("stdout", b"old\n")
    follower = Follower(log, tail=0)
    await asyncio.sleep(0)  # it has begun
    writer.write("stdout", b"new\n")
    await follower.until(bool)
    assert texts(await follower.finish()) == [b"new\n"]


async def test_a_follower_notices_that_the_log_is_made(log: Path) -> None:
    follower = Follower(log)
    await asyncio.sleep(0)
    LogWriter(log, LIMIT).write("stdout", b"first\n")
    await follower.until(bool)
    assert texts(await follower.finish()) == [b"first\n"]


async def test_what_was_written_before_the_end_is_read_after_it(log: Path) -> None:
    writer = LogWriter(log, LIMIT)
    follower = Follower(log)
    await asyncio.sleep(0)
    writer.write("stdout", b"a\nb\nc")
    assert texts(await follower.finish()) == [b"a\n", b"b\n", b"c"]


async def test_a_record_that_is_half_written_waits_for_its_rest(log: Path) -> None:
    whole = line(1, b"one") + line(2, b"two")
    with open(log, "ab", buffering=0) as file:
        follower = Follower(log)
        for start in range(0, len(whole), 7):
            file.write(whole[start : start + 7])
            await asyncio.sleep(0.002)
        assert texts(await items(log)) == [b"one\n", b"two\n"]
        file.write(line(3, b"three")[:-3])
        assert texts(await items(log)) == [b"one\n", b"two\n"]  # it may be ended yet: nothing is lost
        await follower.until(lambda found: len(found) == 2)
    # the writer is gone: what there is of it is told, and that its rest is missing
    assert texts(await follower.finish()) == [b"one\n", b"two\n", b"thr", "gap"]


async def test_a_follower_ends_when_its_reader_is_closed(log: Path) -> None:
    LogWriter(log, LIMIT).write("stdout", b"a\n")
    follower = Follower(log)
    await follower.until(bool)
    follower.reader.close()
    await asyncio.wait_for(follower.task, 5)


async def test_followers_leave_no_descriptor_behind(log: Path) -> None:
    writer = LogWriter(log, 4096)
    gc.collect()  # what earlier tests left to it would be closed meanwhile
    before = len(open_files())
    for _ in range(5):
        follower = Follower(log)
        for _ in range(30):
            writer.write("stdout", b"x" * 100 + b"\n")
            await asyncio.sleep(0)
        await follower.finish()
        records = LogReader(log).records(until=asyncio.get_running_loop().create_future())
        await anext(records)
        await records.aclose()
    assert len(open_files()) == before


# a log that reaches its bound


@pytest.mark.parametrize("counted", [True, False])
async def test_a_follower_loses_nothing_when_the_log_begins_anew(
    log: Path, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    if not counted:  # as where the platform does not tell of renames: the seam proves it
        monkeypatch.setattr(watching.DirectoryWatch, "moves", lambda _: None)
    writer = LogWriter(log, 1 << 16)
    expected = mark_first(log)
    follower = Follower(log, expected)
    written = b""
    inodes = set()
    for number in range(200):
        data = b"%d: a piece of output\n" % number * 40
        writer.write("stdout", data)
        written += data
        inodes.add(log.stat().st_ino)
        await asyncio.sleep(0)
        if number % 16 == 0:
            size = len(written)
            await follower.until(lambda found: len(data_of(found, "stdout")) == size)  # noqa: B023
    found = await follower.finish()
    assert data_of(found, "stdout") == written
    assert not any(isinstance(item, LogGap) for item in found)
    assert len(inodes) > 1
    assert log.stat().st_size <= 1 << 16


@pytest.mark.parametrize("counted", [True, False])
async def test_a_follower_that_was_too_slow_is_told_that_something_is_missing(
    log: Path, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    if not counted:
        monkeypatch.setattr(watching.DirectoryWatch, "moves", lambda _: None)
    writer = LogWriter(log, 4096)
    follower = Follower(log, mark_first(log))
    writer.write("stdout", b"seen\n")
    await follower.until(bool)
    for number in range(200):  # the follower does not run meanwhile
        writer.write("stdout", b"%d %s\n" % (number, b"x" * 100))
    await follower.until(lambda found: isinstance(found[-1], LogRecord) and found[-1].data.startswith(b"199 "))
    found = texts(await follower.finish())
    assert found.count("gap") == 1
    assert found[:2] == [b"seen\n", "gap"] or found.index("gap") < 60  # the rest of the first file, then the gap


@needs("counted renames")
@given(st.lists(st.sampled_from(["write", "replace", "look", "read"]), max_size=60), st.integers(2, 4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_follower_gets_all_in_order_or_a_gap_just_where_something_is_missing(
    steps: list[str], held: int, torn: bool
) -> None:
    async def follow(path: Path) -> None:
        path.write_bytes(line(0, b"0"))
        rotating = rotation.RotatingLog(path, mark_first(path), follow=True)
        written, seen = 1, 0
        told = False

        def read() -> bool:
            nonlocal seen, told
            block = rotating.read()
            if isinstance(block, LogGap):
                assert not told
                told = True
            elif block is not None:
                for run in format.runs(block):
                    assert run is not None
                    for record in run.records():
                        assert (int(record.data) != seen) == told
                        seen, told = int(record.data) + 1, False
            return block is not None

        for step in [*steps, "write"]:
            if step == "replace":
                path.with_name("log.tmp").write_bytes(b"")
                replace_open(path.with_name("log.tmp"), path)
            if step in ("write", "replace"):
                with open(path, "ab", buffering=0) as file:
                    text = line(written, b"%d" % written)
                    file.write(text[:20])
                    if torn:
                        rotating.look()
                    file.write(text[20:])
                written += 1
            elif step == "look":
                rotating.look()
            else:
                read()
        while read() or rotating.look():
            rotating.look()
        rotating.close()
        assert seen == written

    before = rotation.HELD
    with tempfile.TemporaryDirectory(prefix="longshore-test-log-") as directory:
        try:
            rotation.HELD = held
            asyncio.run(follow(Path(directory) / "log"))
        finally:
            rotation.HELD = before


@needs("counted renames")
async def test_a_file_that_came_and_went_is_told_whatever_its_inode_is(log: Path) -> None:
    log.write_bytes(line(1, b"first"))
    follower = Follower(log, mark_first(log))
    await follower.until(bool)
    for number in (2, 3):
        fresh = log.with_name("log.tmp")
        fresh.write_bytes(line(number, b"%d" % number))
        replace_open(fresh, log)
    await follower.until(lambda found: len(found) == 3)
    assert texts(await follower.finish()) == [b"first\n", "gap", b"3\n"]


@needs("counted renames")
async def test_one_replacement_is_no_gap(log: Path) -> None:
    log.write_bytes(line(1, b"first"))
    follower = Follower(log, mark_first(log))
    await follower.until(bool)
    with open(log, "ab") as old:
        old.write(line(2, b"second"))
    fresh = log.with_name("log.tmp")
    fresh.write_bytes(line(3, b"third"))
    replace_open(fresh, log)
    await follower.until(lambda found: len(found) == 3)
    assert texts(await follower.finish()) == [b"first\n", b"second\n", b"third\n"]


async def test_who_comes_after_the_log_began_anew_is_told_once(log: Path) -> None:
    writer = LogWriter(log, 4096)
    expected = mark_first(log)
    for number in range(40):
        writer.write("stdout", b"%d %s\n" % (number, b"x" * 100))
    found = texts(await items(log, expected))
    assert found.count("gap") == 1
    assert found[0] == "gap"

    # what is asked for is there: nothing of it was lost
    assert texts(await items(log, expected, tail=2)) == [b"38 %s\n" % (b"x" * 100), b"39 %s\n" % (b"x" * 100)]
    assert texts(await items(log, expected, tail=1000))[0] == "gap"
    assert await items(log, expected, tail=0) == []
    assert await items(log, expected, since=datetime.now(UTC) + timedelta(hours=1)) == []


@needs("a mark on a file")
async def test_an_inode_that_is_used_again_is_not_taken_for_the_first_file(log: Path) -> None:
    log.write_bytes(line(1, b"first"))
    expected = mark_first(log)
    assert texts(await items(log, expected)) == [b"first\n"]
    for number in range(2, 12):  # ext4 gives the same two numbers in turn
        fresh = log.with_name("log.tmp")
        fresh.write_bytes(line(number, b"%d" % number))
        replace_open(fresh, log)
        assert texts(await items(log, expected)) == ["gap", b"%d\n" % number]


async def test_a_log_that_was_cut_in_place_is_told(log: Path) -> None:
    log.write_bytes(line(1, b"one") + line(2, b"two"))
    follower = Follower(log)
    await follower.until(lambda found: len(found) == 2)
    with open(log, "r+b") as file:
        file.truncate(0)
        file.write(line(3, b"new"))
    await follower.until(lambda found: len(found) == 4)
    assert texts(await follower.finish()) == [b"one\n", b"two\n", "gap", b"new\n"]


async def test_a_log_that_vanished_is_a_gap(log: Path) -> None:
    log.write_bytes(line(1, b"one"))
    expected = mark_first(log)
    log.unlink()
    assert texts(await items(log, expected)) == ["gap"]


# damage


async def test_lines_that_are_no_records_are_one_gap(log: Path) -> None:
    noise = (
        b"\x00\x01\x02\n"
        + b"2026-13-45 stdout F x\n"
        + b"\n"
        + STAMP % 1
        + b" stdin F x\n"
        + STAMP % 1
        + b" stdout X x\n"
    )
    log.write_bytes(line(1, b"one") + noise + line(2, b"two"))
    assert texts(await items(log)) == [b"one\n", "gap", b"two\n"]
    assert [type(item) for item in await chunks(log)] == [tuple, LogGap, tuple]
    assert texts(await items(log, tail=2)) == [b"one\n", "gap", b"two\n"]


async def test_noise_without_an_end_is_passed_over(log: Path) -> None:
    log.write_bytes(line(1, b"one") + b"z" * (3 << 18) + b"\n" + line(2, b"two"))
    found = texts(await items(log))
    assert (found[0], found[-1]) == (b"one\n", b"two\n")
    assert set(found[1:-1]) == {"gap"}
    assert texts(await items(log, tail=1)) == ["gap", b"two\n"]  # who knows what stood there


@given(st.binary(max_size=2000))
@settings(max_examples=100, deadline=None)
def test_no_noise_raises(noise: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="longshore-test-log-") as directory:
        path = Path(directory) / "log"
        path.write_bytes(noise)
        asyncio.run(items(path))
        asyncio.run(items(path, tail=2))
        asyncio.run(chunks(path, since=datetime.now(UTC)))


async def test_a_day_that_does_not_exist_raises_nothing(log: Path) -> None:
    log.write_bytes(b"2026-02-31T00:00:00Z stdout F x\n")
    (record,) = await items(log)
    assert isinstance(record, LogRecord)
    assert record.at < datetime(2000, 1, 1, tzinfo=UTC)


# writing


async def test_a_writer_goes_on_after_one_that_was_killed(log: Path) -> None:
    log.write_bytes(line(1, b"one") + line(2, b"two")[:-2])
    writer = LogWriter(log, LIMIT)
    writer.write("stdout", b"three\n")
    assert texts(await items(log)) == [b"one\n", "gap", b"three\n"]


async def test_a_full_disk_costs_output_not_the_container(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(log, LIMIT)
    writer.write("stdout", b"one\n")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:10]))  # what write(2) does then
    writer.write("stdout", b"two\n")
    monkeypatch.undo()
    writer.write("stdout", b"three\n")
    assert texts(await items(log)) == [b"one\n", "gap", b"three\n"]


async def test_a_log_that_cannot_be_replaced_stays_bounded(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(13, "somebody reads it")  # as Windows does, where a reader does not share

    writer = LogWriter(log, 4096)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    for number in range(200):
        writer.write("stdout", b"%d %s\n" % (number, b"x" * 100))
        assert log.stat().st_size <= 3 * 4096
    found = texts(await items(log))
    assert found[0] == "gap"
    assert found[-1] == b"199 %s\n" % (b"x" * 100)
    assert os.listdir(log.parent) == ["log"]


async def test_many_empty_lines_stay_within_the_bound(log: Path) -> None:
    writer = LogWriter(log, 1 << 16)
    follower = Follower(log)
    writer.write("stdout", b"\n" * 5000)
    found = await follower.finish()
    assert log.stat().st_size <= 1 << 16
    assert found


# the real monitor

CONMON, RUNC, PYTHON = shutil.which("conmon"), shutil.which("runc"), Path("/usr/bin/python3")


@pytest.mark.real
@pytest.mark.skipif(
    not CONMON or not RUNC or not PYTHON.exists() or os.getuid() != 0, reason="needs conmon, runc, python3 and root"
)
async def test_the_log_of_a_real_monitor_is_followed_across_its_bound(log: Path) -> None:
    assert CONMON is not None
    assert RUNC is not None
    bundle = log.parent / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    script = (
        "for i in range(600):\n os.write(1 + i % 2, b'%d %s\\n' % (i, b'o' * (i % 90)) * 4)\n"
        " time.sleep(0.001)\nos.write(1, b'end')"
    )
    machine = [path for path in ("bin", "lib", "lib64", "usr") if Path("/", path).is_dir()]
    document = {
        "ociVersion": "1.0.2",
        "process": {
            "args": [str(PYTHON), "-c", f"import os, time\n{script}"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}]
        + [
            {"destination": f"/{name}", "type": "bind", "source": f"/{name}", "options": ["rbind", "ro"]}
            for name in machine
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }
    (bundle / "config.json").write_text(json.dumps(document))
    id = f"longshore-test-log-{os.getpid()}"
    runc = [RUNC, "--root", str(log.parent / "runc")]
    read, write = os.pipe()
    monitor = [CONMON, "--api-version", "1", "--cid", id, "--cuuid", f"{id}-0", "--runtime", RUNC]
    monitor += ["--bundle", str(bundle), "--full-attach", "--container-pidfile", str(log.parent / "pid")]
    monitor += ["--exit-dir", str(log.parent / "exits"), "--log-path", f"k8s-file:{log}"]
    monitor += ["--log-size-max", str(1 << 16), "--no-sync-log", f"--runtime-arg={runc[1]}", f"--runtime-arg={runc[2]}"]
    (log.parent / "exits").mkdir()
    subprocess.run(
        monitor, check=True, pass_fds=[write], env={**os.environ, "_OCI_SYNCPIPE": str(write)}, cwd=bundle, timeout=300
    )
    os.close(write)
    with open(read, "rb") as answer:
        assert b'"data": -1' not in answer.readline()
    try:
        expected = mark_first(log)
        follower = Follower(log, expected)
        subprocess.run([*runc, "start", id], check=True, timeout=300)
        deadline = time.monotonic() + 60
        while not (log.parent / "exits" / id).exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        found = await follower.finish()
    finally:
        subprocess.run([*runc, "delete", "--force", id], check=True, timeout=300)
    for stream, first in (("stdout", 0), ("stderr", 1)):
        exact = b"".join(b"%d %s\n" % (i, b"o" * (i % 90)) * 4 for i in range(first, 600, 2))
        assert data_of(found, stream) == exact + (b"end" if first == 0 else b"")
    assert not any(isinstance(item, LogGap) for item in found)
    assert texts(await items(log, expected))[0] == "gap"  # it did begin anew


async def lines_of(path: Path, **how: object) -> list[tuple[str, bytes] | str]:
    found = await items(path, lines=True, **how)  # type: ignore[arg-type]
    return [(item.stream, item.data) if isinstance(item, LogRecord) else item.reason for item in found]


async def test_pieces_of_lines_are_put_together_for_each_stream(log: Path) -> None:
    writer = LogWriter(log, LIMIT)
    for stream, text in (
        ("stdout", b"a"),
        ("stderr", b"x"),
        ("stdout", b"b\nc\nd"),
        ("stderr", b"y\n"),
        ("stdout", b"e"),
    ):
        writer.write(stream, text)  # type: ignore[arg-type]
    assert await lines_of(log) == [
        ("stdout", b"ab\n"), ("stdout", b"c\n"), ("stderr", b"xy\n"), ("stdout", b"de"),
    ]  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=12).map(lambda b: b.replace(b"a", b"\n")))
    )
)
@settings(max_examples=100, deadline=None)
def test_lines_hold_each_byte_once_and_end_where_the_program_ended_them(written: list[tuple[Stream, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        writer = LogWriter(path, LIMIT)
        for stream, data in written:
            writer.write(stream, data)
        writer.close()
        found = asyncio.run(items(path, lines=True))
    for name in ("stdout", "stderr"):
        whole = b"".join(data for stream, data in written if stream == name)
        mine = [item.data for item in found if isinstance(item, LogRecord) and item.stream == name]
        assert mine == re.findall(rb"[^\n]*\n|[^\n]+", whole)
    ended = [item for item in found if isinstance(item, LogRecord) and item.data.endswith(b"\n")]
    times = [(item.at, item.nanoseconds) for item in ended]
    assert times == sorted(times)


async def test_a_line_without_an_end_is_bounded(log: Path) -> None:
    writer = LogWriter(log, 1 << 30)
    writer.write("stdout", b"x" * 5_000_000)
    writer.write("stdout", b"\n")
    found = [item for item in await items(log, lines=True) if isinstance(item, LogRecord)]
    assert sum(len(item.data) for item in found) == 5_000_001
    assert len(found) == 5
    assert max(len(item.data) for item in found) <= format.MAX_LINE


async def test_a_gap_cuts_a_line_and_stands_between_its_parts(log: Path) -> None:
    log.write_bytes(piece(1, b"before") + b"rubbish\n" + line(2, b"after"))
    assert await lines_of(log) == [("stdout", b"before"), format.DAMAGE, ("stdout", b"after\n")]


async def test_a_line_counts_for_since_by_its_end(log: Path) -> None:
    log.write_bytes(line(1000, b"early") + piece(1000, b"begun ") + line(3000, b"and ended"))
    since = format.moment(STAMP % 2000)
    assert await lines_of(log, since=since) == [("stdout", b"begun and ended\n")]
    assert await lines_of(log, since=format.moment(STAMP % 4000)) == []


async def test_the_tail_is_of_whole_lines(log: Path) -> None:
    log.write_bytes(line(1, b"one") + piece(2, b"t") + piece(3, b"w") + line(4, b"o") + piece(5, b"thr"))
    assert await lines_of(log, tail=2) == [("stdout", b"two\n"), ("stdout", b"thr")]


async def test_a_line_is_followed_to_its_end(log: Path) -> None:
    writer = LogWriter(log, LIMIT)
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with aclosing(LogReader(log).records(until=end, lines=True)) as records:
        writer.write("stdout", b"half")
        first = asyncio.ensure_future(anext(records))
        writer.write("stderr", b"other\n")
        assert texts([await first]) == [b"other\n"]
        writer.write("stdout", b" whole\nrest")
        assert texts([await anext(records)]) == [b"half whole\n"]
        end.set_result(None)
        assert texts([item async for item in records]) == [b"rest"]
