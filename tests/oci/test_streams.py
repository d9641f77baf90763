"""Streams that the caller gives: a process writes to them or reads from them, and can do nothing else to them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from longshore.compute.values import DEVNULL, LOG, STDOUT
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import InvalidSpec, TimeLimit
from longshore.spec import Security

pytestmark = pytest.mark.real

MEDDLE = """
import fcntl, os, sys
def attempt(do):
    try:
        return do()
    except OSError:
        return None
for fd in (0, 1, 2):
    path = f"/proc/self/fd/{fd}"
    attempt(lambda: os.fchmod(fd, 0o777))
    attempt(lambda: os.fchown(fd, 65534, 65534))
    attempt(lambda: os.set_blocking(fd, False))
    attempt(lambda: os.ftruncate(fd, 0))
    attempt(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    attempt(lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)))
    attempt(lambda: os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), b"forged") if fd == 0 else None)
for fd in (1, 2):
    taken = attempt(lambda: os.read(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK), 99)) or b""
    assert b"caller" not in taken, taken
os.write(1, b"[done]")
"""
MAPPED = Security(userns=(0, 100_000, 65_536))
COMMAND = ["python3", "-S", "-c", MEDDLE]


async def run_in(engine: Engine, verb: str, command: list[str], **streams: int) -> int | None:
    """Run a command with streams of ours, in a container of its own or in one that is there."""
    if verb == "run":
        return (await engine.run("host", command, **streams)).exit_code  # type: ignore[arg-type]
    box: Container = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    return (await (await box.exec(command, **streams)).wait()).code  # type: ignore[arg-type]


verbs = pytest.mark.parametrize("verb", ["run", "exec"])


def seen(fd: int) -> tuple[int, ...]:
    found = os.fstat(fd)
    return found.st_uid, found.st_gid, found.st_mode, fcntl.fcntl(fd, fcntl.F_GETFL)


@contextmanager
def output_of(kind: str, folder: Path) -> Iterator[tuple[int, Callable[[], bytes]]]:
    """A descriptor to write to that has the caller's words in it, and what can be read from it at the end."""
    words = b"words of the caller;"
    with ExitStack() as opened:
        if kind == "pipe":
            read, write = os.pipe()
            opened.callback(os.close, read)
            opened.callback(os.close, write)
            result = lambda: os.read(read, 1 << 16)  # noqa: E731
        elif kind == "fifo":
            os.mkfifo(folder / "fifo")
            write = os.open(folder / "fifo", os.O_RDWR)
            opened.callback(os.close, write)
            result = lambda: os.read(write, 1 << 16)  # noqa: E731
        elif kind == "socket":
            ours, theirs = socket.socketpair()
            opened.enter_context(ours)
            write = opened.enter_context(theirs).fileno()
            result = lambda: ours.recv(1 << 16)  # noqa: E731
        elif kind == "terminal":
            read, write = os.openpty()
            opened.callback(os.close, read)
            opened.callback(os.close, write)
            result = lambda: os.read(read, 1 << 16)  # noqa: E731
        else:
            flags = os.O_RDWR | os.O_CREAT | (os.O_APPEND if kind == "log" else 0)
            write = os.open(folder / "file", flags, 0o640)
            os.fchown(write, 1234, 1234)
            opened.callback(os.close, write)
            result = (folder / "file").read_bytes
        os.write(write, words)
        yield write, result


@verbs
@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket", "terminal", "file", "log"])
async def test_a_stream_given_for_output_is_written_and_not_read_or_changed(
    engine: Engine, tmp_path: Path, kind: str, verb: str
) -> None:
    with output_of(kind, tmp_path) as (fd, result):
        before = seen(fd)
        assert await run_in(engine, verb, COMMAND, stdout=fd, stderr=fd) == 0
        assert seen(fd) == before
        assert result() == b"words of the caller;[done]"


@verbs
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
async def test_a_file_given_for_input_is_read_from_its_position_and_not_written(
    engine: Engine, tmp_path: Path, flags: int, verb: str
) -> None:
    source = tmp_path / "source"
    source.write_text("skipped\nread\n")
    source.chmod(0o666)
    fd, target = os.open(source, flags), os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT)
    try:
        os.lseek(fd, len("skipped\n"), os.SEEK_SET)
        before = seen(fd)
        assert await run_in(engine, verb, ["sh", "-c", 'cat; exec "$@"', "sh", *COMMAND], stdin=fd, stdout=target) == 0
        assert seen(fd) == before
    finally:
        os.close(fd)
        os.close(target)
    assert source.read_text() == "skipped\nread\n"
    assert (tmp_path / "target").read_text() == "read\n[done]"


@verbs
@pytest.mark.parametrize("kind", ["null", "given"])
async def test_the_null_device_of_the_machine_stays_its_own(engine: Engine, kind: str, verb: str) -> None:
    before = os.stat(os.devnull)
    with open(os.devnull, "r+b", buffering=0) as null:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), DEVNULL if kind == "null" else null.fileno())
        assert await run_in(engine, verb, COMMAND, **streams) == 0
    after = os.stat(os.devnull)
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


@pytest.mark.parametrize("kept", [True, False])
async def test_a_container_in_a_user_namespace_gets_no_device_of_the_machine(engine: Engine, kept: bool) -> None:
    before = os.stat(os.devnull)
    output = LOG if kept else DEVNULL
    box = await engine.launch(
        "box", root="host", args=["sleep", "infinity"], security=MAPPED, owner="remove", stdout=output, stderr=output
    )
    assert (await box.run(COMMAND)).exit_code == 0
    after = os.stat(os.devnull)
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


async def test_a_stream_that_takes_no_more_is_named_and_ends_the_writer(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    with open("/dev/full", "wb", buffering=0) as full:
        process = await box.exec(["sh", "-c", "while echo x; do :; done; exit 9"], stdout=full.fileno(), stderr=DEVNULL)
        async with asyncio.timeout(300):
            assert (await process.wait()).code != 0
    assert list(process.unwritten) == ["stdout"]


async def test_an_endless_input_ends_with_the_process(engine: Engine) -> None:
    with open("/dev/zero", "rb", buffering=0) as zero:
        async with asyncio.timeout(300):
            done = await engine.run("host", ["head", "-c", "3000000"], stdin=zero.fileno())
    assert done.stdout == bytes(3_000_000)


async def test_an_input_that_never_comes_holds_nobody(engine: Engine) -> None:
    read, write = os.pipe()
    try:
        async with asyncio.timeout(300):
            assert (await engine.run("host", ["sh", "-c", "exit 3"], stdin=read)).exit_code == 3
        os.write(write, b"still the caller's")
        assert os.read(read, 99) == b"still the caller's"
        assert os.get_blocking(read)
    finally:
        os.close(read)
        os.close(write)


async def test_a_slow_reader_gets_all_that_was_written(engine: Engine) -> None:
    read, write = os.pipe()
    taken = bytearray()

    def take() -> None:
        while data := os.read(read, 4096):
            taken.extend(data)

    reader = threading.Thread(target=take)
    try:
        await asyncio.gather(
            engine.run("host", ["sh", "-c", "seq 200000"], stdout=write, timeout=300),
            asyncio.get_running_loop().run_in_executor(None, reader.start),
        )
        os.close(write)
        write = -1
        reader.join(20)
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    assert bytes(taken) == b"".join(b"%d\n" % number for number in range(1, 200_001))


@pytest.mark.parametrize("size", [300_000, 30_000_000])
async def test_an_output_that_nobody_takes_ends_at_the_time_limit(engine: Engine, size: int) -> None:
    read, write = os.pipe()
    try:
        async with asyncio.timeout(300):
            with pytest.raises(TimeLimit):
                await engine.run("host", ["head", "-c", str(size), "/dev/zero"], stdout=write, timeout=3)
        assert await engine.list() == []
        assert os.get_blocking(write)
    finally:
        os.close(read)
        os.close(write)


async def test_waiting_for_a_container_waits_for_its_output(engine: Engine, tmp_path: Path) -> None:
    target = os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT)
    try:
        command = ["sh", "-c", "seq 100000; echo done"]
        box = await engine.launch("box", root="host", args=command, stdout=target, stderr=DEVNULL, owner="remove")
        assert (await box.wait()).code == 0
    finally:
        os.close(target)
    assert (tmp_path / "target").read_bytes().endswith(b"100000\ndone\n")


@pytest.mark.parametrize("engine", ["crun"], indirect=True)  # runc copies each output by itself, and mixes them
@pytest.mark.parametrize("twice", [True, False])
@verbs
async def test_both_outputs_on_one_stream_keep_their_order(engine: Engine, verb: str, twice: bool) -> None:
    read, write = os.pipe()
    try:
        script = "for i in 1 2 3 4 5 6 7 8 9; do echo out; echo err >&2; done"
        stderr = write if twice else STDOUT
        assert await run_in(engine, verb, ["sh", "-c", script], stdout=write, stderr=stderr) == 0
        assert os.read(read, 1 << 16) == b"out\nerr\n" * 9
    finally:
        os.close(read)
        os.close(write)


@verbs
async def test_an_output_is_passed_on_before_the_end_is_told(engine: Engine, tmp_path: Path, verb: str) -> None:
    target = os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT)
    try:
        assert await run_in(engine, verb, ["sh", "-c", "seq 100000"], stdout=target) == 0
        assert os.fstat(target).st_size == sum(len(str(number)) + 1 for number in range(1, 100_001))
    finally:
        os.close(target)


async def test_what_an_exec_leaves_behind_does_not_hold_its_streams(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    read, write = os.pipe()
    try:
        process = await box.exec(["sh", "-c", "sleep 1000 & echo started"], stdout=write, stderr=write)
        async with asyncio.timeout(300):
            assert (await process.wait()).code == 0
        os.close(write)
        write = -1
        assert os.read(read, 99) == b"started\n"
        assert os.read(read, 99) == b""
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


@pytest.mark.parametrize(
    ("stream", "opened"),
    [
        ("stdin", lambda: 99_999),
        ("stdout", lambda: os.open("/", os.O_RDONLY)),
        ("stdin", lambda: os.open("/etc/passwd", os.O_PATH)),
        ("stdin", lambda: os.open(os.devnull, os.O_WRONLY)),
        ("stderr", lambda: os.open(os.devnull, os.O_RDONLY)),
        ("stdout", lambda: os.eventfd(0)),
        ("stdin", lambda: os.pidfd_open(os.getpid())),
    ],
    ids=["closed", "folder", "path-alone", "write-only", "read-only", "eventfd", "pidfd"],
)
async def test_what_cannot_be_a_stream_is_refused(engine: Engine, stream: str, opened: Callable[[], int]) -> None:
    fd = opened()
    try:
        with pytest.raises(InvalidSpec) as caught:
            await engine.run("host", ["true"], **{stream: fd})  # type: ignore[arg-type]
    finally:
        if fd != 99_999:
            os.close(fd)
    assert caught.value.field == stream
    assert await engine.list() == []


async def test_the_kind_of_a_stream_is_that_of_a_pipe(engine: Engine, tmp_path: Path) -> None:
    script = "import os, stat; print([stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in (0, 1)])"
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        await engine.run("host", ["python3", "-S", "-c", script], stdin=fd, stdout=fd)
    finally:
        os.close(fd)
    assert (tmp_path / "file").read_text() == "[True, True]\n"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o755
