"""Rows about bytes: out of a container to the caller, into one and back, and through the log of a kept one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import peers
from bare import MILLI, Bare, Bundle
from context import Bench
from measure import Aim, Row, RowMaker, Subject
from rows_processes import SLEEP, blocking, peer

from longshore.compute import PIPE
from longshore.container import Container, Process
from longshore.engine import Engine
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


async def _launched(engine: Engine, size: int) -> float:
    """`launch` with pipes, read by the program as it comes."""
    begin = time.perf_counter()
    box = await engine.launch("stream", root="host", args=producer(size), stdout=PIPE, stderr=PIPE)
    assert box.init is not None
    _check(await _drop(box.init), size)
    await box.delete()
    return (time.perf_counter() - begin) * MILLI


async def _collected(engine: Engine, size: int) -> float:
    """`run`, which returns the output as one piece."""
    begin = time.perf_counter()
    done = await engine.run("host", producer(size), init=False, max_output=NO_BOUND)
    _check(len(done.stdout), size)
    return (time.perf_counter() - begin) * MILLI


async def _executed(box: Container, size: int) -> float:
    begin = time.perf_counter()
    _check(await _drop(await box.exec(producer(size))), size)
    return (time.perf_counter() - begin) * MILLI


class Standing:
    """A container of each kind that stays up, to exec in."""

    def __init__(self, bare: Bare, spec: Spec) -> None:
        self.bare = bare
        self.id, self.bundle = bare.bundle(spec)
        self._place = bare.create(self.id, self.bundle)
        bare.verb("start", self.id)

    def exec(self, args: list[str]) -> Callable[..., tuple[float, bytes]]:
        document = self.bare.process(self.bundle, args)
        return lambda **how: self.bare.exec(self.id, document, **how)

    def close(self) -> None:
        self.bare.remove(self.id, self._place, self.bundle, force=True)


@asynccontextmanager
async def stdout(bench: Bench) -> AsyncIterator[Row]:
    size = (8 if bench.quick else 256) * MIB
    runtime = bench.preferred
    bare, engine = bench.bare(runtime), bench.engine(runtime)
    id, bundle = bare.bundle(Spec(args=producer(size)))
    command = [argument for argument in producer(size) if argument != "status=none"]  # busybox has no such word

    def collected() -> float:
        took, output = bare.run(id, bundle, collect=True)
        _check(len(output), size)
        return took

    yield Row(
        [
            Subject("bare, dropped", blocking(lambda: bare.run(id, bundle)[0])),
            Subject("API launch, dropped", lambda: _launched(engine, size), against="bare, dropped", aim=AIM),
            Subject("bare, collected", blocking(collected)),
            Subject("API run, collected", lambda: _collected(engine, size), against="bare, collected", aim=AIM),
            Subject(
                f"CLI run, {runtime}",
                blocking(lambda: bench.cli(runtime, "run", "host", "--", *producer(size))),
                against="docker run",
            ),
            peer(bench.docker, lambda: peers.timed(bench.docker.run(command)), "docker run"),
            peer(bench.podman, lambda: peers.timed(bench.podman.run(command)), "podman run"),
        ],
        rounds=bench.rounds(9),
    )


@asynccontextmanager
async def exec_stdout(bench: Bench) -> AsyncIterator[Row]:
    size = (8 if bench.quick else 256) * MIB
    runtime = bench.preferred
    engine = bench.engine(runtime)
    standing = Standing(bench.bare(runtime), Spec(args=SLEEP))
    bare_exec = standing.exec(producer(size))
    box = await engine.launch("standing", root="host", args=SLEEP)
    command = [argument for argument in producer(size) if argument != "status=none"]
    engines = [engine for engine in (bench.docker, bench.podman) if not engine.why_not]
    for other in engines:
        other.keep("bench-standing", SLEEP)
    try:
        yield Row(
            [
                Subject("bare", blocking(lambda: bare_exec()[0])),
                Subject("API", lambda: _executed(box, size), against="bare", aim=AIM),
                Subject(
                    "CLI",
                    blocking(lambda: bench.cli(runtime, "exec", "standing", *producer(size))),
                    against="docker",
                ),
                peer(bench.docker, lambda: peers.timed(bench.docker.exec("bench-standing", command))),
                peer(bench.podman, lambda: peers.timed(bench.podman.exec("bench-standing", command))),
            ],
            rounds=bench.rounds(9),
        )
    finally:
        await box.delete(force=True)
        standing.close()
        for other in engines:
            other.remove("bench-standing")


@asynccontextmanager
async def echo(bench: Bench) -> AsyncIterator[Row]:
    size = (2 if bench.quick else 64) * MIB
    data = os.urandom(MIB) * (size // MIB)
    runtime = bench.preferred
    bare, engine = bench.bare(runtime), bench.engine(runtime)
    id, bundle = bare.bundle(Spec(args=["cat"]))
    standing = Standing(bare, Spec(args=SLEEP))
    bare_exec = standing.exec(["cat"])
    box = await engine.launch("standing", root="host", args=SLEEP)

    def bare_run() -> float:
        took, output = bare.run(id, bundle, input=data, collect=True)
        _check(len(output), size)
        return took

    def bare_execed() -> float:
        took, output = bare_exec(input=data, collect=True)
        _check(len(output), size)
        return took

    async def run() -> float:
        begin = time.perf_counter()
        done = await engine.run("host", ["cat"], init=False, input=data, max_output=NO_BOUND)
        took = (time.perf_counter() - begin) * MILLI
        if done.stdout != data:
            raise RuntimeError("what came back is not what was sent")
        return took

    async def execed() -> float:
        begin = time.perf_counter()
        process = await box.exec(["cat"], stdin=PIPE)
        output, _ = await process.communicate(data, max_output=NO_BOUND)
        _check(len(output), size)
        return (time.perf_counter() - begin) * MILLI

    try:
        yield Row(
            [
                Subject("bare run", blocking(bare_run)),
                Subject("API run", run, against="bare run", aim=AIM),
                Subject("bare exec", blocking(bare_execed)),
                Subject("API exec", execed, against="bare exec", aim=AIM),
                Subject(
                    f"CLI run -i, {runtime}",
                    blocking(lambda: bench.cli(runtime, "run", "-i", "host", "--", "cat", input=data)),
                    against="docker run -i",
                ),
                peer(
                    bench.docker,
                    lambda: peers.timed(bench.docker.run(["cat"], interactive=True), input=data),
                    "docker run -i",
                ),
                peer(
                    bench.podman,
                    lambda: peers.timed(bench.podman.run(["cat"], interactive=True), input=data),
                    "podman run -i",
                ),
            ],
            rounds=bench.rounds(9),
        )
    finally:
        await box.delete(force=True)
        standing.close()


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


async def _kept(engine: Engine, args: list[str], size: int, read: Callable[[Container], Awaitable[int]]) -> float:
    begin = time.perf_counter()
    box = await engine.launch("kept", root="host", args=args, log_size=NO_BOUND)
    _check(await read(box), size)
    await box.wait()
    await box.delete()
    return (time.perf_counter() - begin) * MILLI


async def _attached(box: Container) -> int:
    count = 0
    async with await box.attach(logs=True) as attachment:
        while data := await attachment.stdout.read(1 << 18):
            count += len(data)
    return count


def _kept_row(args_of: Callable[[int], list[str]]) -> Callable[[Bench], AsyncIterator[Row]]:
    async def make(bench: Bench) -> AsyncIterator[Row]:
        size = (4 if bench.quick else 256) * MIB
        runtime = bench.preferred
        bare, engine = bench.bare(runtime), bench.engine(runtime)
        id, bundle = bare.bundle(Spec(args=args_of(size)))

        async def waited(box: Container) -> int:
            await box.wait()
            return size

        yield Row(
            [
                Subject("bare conmon, log only", blocking(lambda: _bare_kept(bare, id, bundle, size, attached=False))),
                Subject(
                    "API, log only",
                    lambda: _kept(engine, args_of(size), size, waited),
                    against="bare conmon, log only",
                    aim=Aim(factor=1.2),
                ),
                Subject(
                    "bare conmon, log and client", blocking(lambda: _bare_kept(bare, id, bundle, size, attached=True))
                ),
                Subject(
                    "API, read by attach",
                    lambda: _kept(engine, args_of(size), size, _attached),
                    against="bare conmon, log and client",
                    aim=Aim(factor=1.2),
                ),
            ],
            rounds=bench.rounds(5),
        )

    return make


ROWS = [
    RowMaker("stdout-run", "256 MiB from a container's stdout to its caller", stdout),
    RowMaker("stdout-exec", "256 MiB from an exec's stdout to its caller", exec_stdout),
    RowMaker("echo", "64 MiB into `cat` and back", echo),
    RowMaker("stdout-kept", "256 MiB of zeros out of a kept container", asynccontextmanager(_kept_row(producer))),
    RowMaker(
        "lines-kept",
        "256 MiB of lines of 80 characters out of a kept container",
        asynccontextmanager(_kept_row(text_producer)),
    ),
]
