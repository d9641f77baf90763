"""Rows about bytes: out of a container to the caller, into one and back, and through the log of a kept one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import peers
from bare import MILLI, Bare, Bundle
from context import Bench, awaited, blocking, peer
from measure import Aim, Row, RowMaker, Subject
from rows_processes import SLEEP, Standing, standing_peers

from longshore.compute.values import PIPE
from longshore.engine.container import Container, Process
from longshore.engine.engine import Engine
from longshore.spec import Spec

MIB = 1 << 20
NO_BOUND = 1 << 40  # of a log or of collected output: nothing is to be dropped
AIM = Aim(factor=1.1)


def producer(size: int) -> list[str]:
    """A command that writes `size` zeros as fast as it can."""
    return ["dd", "if=/dev/zero", "bs=65536", f"count={size // 65536}", "status=none"]


def text_producer(size: int) -> list[str]:
    """The same amount in lines of 80 characters."""
    return ["sh", "-c", f"yes {'x' * 79} | head -c {size}"]


async def _drop(process: Process) -> int:
    """Read a process's output to its end and drop it; how much it was."""
    assert process.stdout is not None
    count = 0
    while data := await process.stdout.read(1 << 18):
        count += len(data)
    exit = await process.wait()
    if exit.code != 0:
        raise RuntimeError(f"the producer ended with {exit.code}")
    return count


def _check(count: int, size: int) -> None:
    if count != size:
        raise RuntimeError(f"{count} bytes arrived of {size}")


def _for_busybox(size: int) -> list[str]:
    return [argument for argument in producer(size) if argument != "status=none"]  # it has no such word


async def _launched(engine: Engine, size: int) -> None:
    """`launch` with pipes, read by the program as it comes."""
    box = await engine.launch("stream", root="host", args=producer(size), stdout=PIPE, stderr=PIPE)
    assert box.init is not None
    _check(await _drop(box.init), size)
    await box.delete()


async def _collected(engine: Engine, size: int) -> None:
    """`run`, which returns the output as one piece."""
    done = await engine.run("host", producer(size), init=False, max_output=NO_BOUND)
    _check(len(done.stdout), size)


async def _executed(box: Container, size: int) -> None:
    _check(await _drop(await box.exec(producer(size))), size)


def _bare_collected(bare: Bare, id: str, bundle: Bundle, size: int, input: bytes | None = None) -> float:
    took, output = bare.run_with(id, bundle, input, collect=True)
    _check(len(output), size)
    return took


@asynccontextmanager
async def stdout(bench: Bench) -> AsyncIterator[Row]:
    size = (8 if bench.quick else 256) * MIB
    runtime = bench.preferred
    bare, engine = bench.bare(runtime), bench.engine(runtime)
    id, bundle = bare.bundle(Spec(args=producer(size)))
    cli = blocking(bench.cli, runtime, "run", "host", "--", *producer(size))
    subjects = [
        Subject("bare, dropped", blocking(bare.run, id, bundle)),
        Subject("API launch, dropped", awaited(_launched, engine, size), "bare, dropped", AIM),
        Subject("bare, collected", blocking(_bare_collected, bare, id, bundle, size)),
        Subject("API run, collected", awaited(_collected, engine, size), "bare, collected", AIM),
        Subject(f"CLI run, {runtime}", cli, "docker run"),
        *(peer(other, " run", peers.timed, other.run(_for_busybox(size))) for other in bench.peers),
    ]
    yield Row(subjects, rounds=bench.rounds(9))


@asynccontextmanager
async def exec_stdout(bench: Bench) -> AsyncIterator[Row]:
    size = (8 if bench.quick else 256) * MIB
    runtime = bench.preferred
    bare, engine = bench.bare(runtime), bench.engine(runtime)
    box = await engine.launch("standing", root="host", args=SLEEP)
    with ExitStack() as undo:
        standing = undo.enter_context(Standing(bare))
        standing_peers(bench, undo)
        document = bare.process(standing.bundle, producer(size))
        cli = blocking(bench.cli, runtime, "exec", "standing", *producer(size))
        busybox = _for_busybox(size)
        subjects = [
            Subject("bare", blocking(bare.exec, standing.id, document)),
            Subject("API", awaited(_executed, box, size), "bare", AIM),
            Subject("CLI", cli, "docker"),
            *(peer(other, "", peers.timed, other.exec("bench-standing", busybox)) for other in bench.peers),
        ]
        yield Row(subjects, rounds=bench.rounds(9))
    await box.delete(force=True)


async def _echoed(engine: Engine, data: bytes) -> None:
    done = await engine.run("host", ["cat"], init=False, input=data, max_output=NO_BOUND)
    _check(len(done.stdout), len(data))


async def _exec_echoed(box: Container, data: bytes) -> None:
    process = await box.exec(["cat"], stdin=PIPE)
    output, _ = await process.communicate(data, max_output=NO_BOUND)
    _check(len(output), len(data))


@asynccontextmanager
async def echo(bench: Bench) -> AsyncIterator[Row]:
    size = (2 if bench.quick else 64) * MIB
    data = os.urandom(MIB) * (size // MIB)
    runtime = bench.preferred
    bare, engine = bench.bare(runtime), bench.engine(runtime)
    id, bundle = bare.bundle(Spec(args=["cat"]))
    box = await engine.launch("standing", root="host", args=SLEEP)
    with Standing(bare) as standing:
        document = bare.process(standing.bundle, ["cat"])

        def bare_exec() -> float:
            took, output = bare.exec_with(standing.id, document, data, collect=True)
            _check(len(output), size)
            return took

        cli = blocking(bench.cli, runtime, "run", "-i", "host", "--", "cat", input=data)
        subjects = [
            Subject("bare run", blocking(_bare_collected, bare, id, bundle, size, data)),
            Subject("API run", awaited(_echoed, engine, data), "bare run", AIM),
            Subject("bare exec", blocking(bare_exec)),
            Subject("API exec", awaited(_exec_echoed, box, data), "bare exec", AIM),
            Subject(f"CLI run -i, {runtime}", cli, "docker run -i"),
            *(
                peer(other, " run -i", peers.timed, other.run(["cat"], interactive=True), input=data)
                for other in bench.peers
            ),
        ]
        yield Row(subjects, rounds=bench.rounds(9))
    await box.delete(force=True)


# kept containers: through the monitor


def _bare_kept(bare: Bare, id: str, bundle: Bundle, size: int, *, attached: bool) -> float:
    """create, start, output into the log (and to a client of the monitor's socket), exit, delete."""
    begin = time.perf_counter()
    place = bare.create(id, bundle, log_size=NO_BOUND)
    client = None
    if attached:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directory = os.open(bundle.path, os.O_PATH)
        client.connect(f"/proc/self/fd/{directory}/attach")
        os.close(directory)
    bare.verb("start", id)
    if client is not None:
        buffer, count = bytearray(8193), 0
        try:
            while got := client.recv_into(buffer):
                count += got - 1  # the first byte of a packet says which stream it is
        except ConnectionResetError:  # the monitor ends: that, too, is the end
            pass
        client.close()
        _check(count, size)
    bare.await_exit(id, place)
    bare.remove(id, place, bundle)
    return (time.perf_counter() - begin) * MILLI


async def _kept(engine: Engine, args: list[str], size: int, *, attached: bool) -> None:
    box = await engine.launch("kept", root="host", args=args, log_size=NO_BOUND)
    if attached:
        count = 0
        async with await box.attach(logs=True) as attachment:
            while data := await attachment.stdout.read(1 << 18):
                count += len(data)
        _check(count, size)
    await box.wait()
    await box.delete()


async def _kept_row(bench: Bench, args: list[str], size: int) -> AsyncIterator[Row]:
    runtime = bench.preferred
    bare, engine = bench.bare(runtime), bench.engine(runtime)
    id, bundle = bare.bundle(Spec(args=args))
    aim = Aim(factor=1.2)
    log, client = "bare conmon, log only", "bare conmon, log and client"
    subjects = [
        Subject(log, blocking(_bare_kept, bare, id, bundle, size, attached=False)),
        Subject("API, log only", awaited(_kept, engine, args, size, attached=False), log, aim),
        Subject(client, blocking(_bare_kept, bare, id, bundle, size, attached=True)),
        Subject("API, read by attach", awaited(_kept, engine, args, size, attached=True), client, aim),
    ]
    yield Row(subjects, rounds=bench.rounds(5))


def _kept_size(bench: Bench) -> int:
    return (4 if bench.quick else 256) * MIB


@asynccontextmanager
async def kept(bench: Bench) -> AsyncIterator[Row]:
    size = _kept_size(bench)
    async for row in _kept_row(bench, producer(size), size):
        yield row


@asynccontextmanager
async def kept_lines(bench: Bench) -> AsyncIterator[Row]:
    size = _kept_size(bench)
    async for row in _kept_row(bench, text_producer(size), size):
        yield row


ROWS = [
    RowMaker("stdout-run", "256 MiB from a container's stdout to its caller", stdout),
    RowMaker("stdout-exec", "256 MiB from an exec's stdout to its caller", exec_stdout),
    RowMaker("echo", "64 MiB into `cat` and back", echo),
    RowMaker("stdout-kept", "256 MiB of zeros out of a kept container", kept),
    RowMaker("lines-kept", "256 MiB of lines of 80 characters out of a kept container", kept_lines),
]
