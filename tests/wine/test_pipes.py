"""Input pipes as HCS gives them: handles that can be written to, and not read."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from longshore import Engine
from longshore.aio.streams import WriteProtocol
from longshore.hcs.streams.pipes import WindowsPipes

from ..hcs.wine_double import BUILT
from .conftest import LAYERS

CREW = ("crew", f"path\t{str(BUILT).replace(chr(92), chr(92) * 2)}")
OUTBOUND, OVERLAPPED = 0x2, 0x40000000
GENERIC_READ, OPEN_EXISTING = 0x80000000, 3
BUFFER = 4096

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")
"""As an error it would keep a transport that was given up from closing the handle, as it does in a program."""


class Input:
    """A pipe that we write to, and a program at its other end."""

    def __init__(self, name: str) -> None:
        self._winapi: Any = importlib.import_module("_winapi")
        path = rf"\\.\pipe\longshore-test-{os.getpid()}-{name}"
        self.handle = self._winapi.CreateNamedPipe(path, OUTBOUND | OVERLAPPED, 0, 1, BUFFER, BUFFER, 0, 0)
        self._end: int | None = self._winapi.CreateFile(path, GENERIC_READ, 0, 0, OPEN_EXISTING, 0, 0)
        self.protocol = WriteProtocol()

    async def connect(self) -> asyncio.StreamWriter:
        transport = await WindowsPipes().writer(self.handle, self.protocol)
        gc.collect()  # a transport that was given up would close the handle now
        return asyncio.StreamWriter(transport, self.protocol, None, asyncio.get_running_loop())

    async def read(self, size: int) -> bytes:
        """What comes out, b"" at the end."""
        try:
            data, _ = await asyncio.to_thread(self._winapi.ReadFile, self._end, size)
        except BrokenPipeError:
            return b""
        return bytes(data)

    def end(self) -> None:
        """The program has ended."""
        if self._end is not None:
            self._winapi.CloseHandle(self._end)
        self._end = None


@pytest_asyncio.fixture
async def input(request: pytest.FixtureRequest) -> AsyncIterator[Input]:
    made = Input(request.node.name)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    yield made
    made.end()
    await asyncio.sleep(0)
    assert complaints == []  # of asyncio: what its own callbacks ran into


async def test_the_handle_of_these_tests_cannot_be_read(input: Input) -> None:
    with pytest.raises(PermissionError):
        importlib.import_module("_overlapped").Overlapped(0).ReadFile(input.handle, 1)
    WindowsPipes().close(input.handle)


async def test_what_is_written_arrives_and_then_the_end(input: Input) -> None:
    writer = await input.connect()
    sent = bytes(range(256)) * 400
    writer.write(sent)
    got = b""
    while len(got) < len(sent):
        got += await input.read(10_000)
    assert got == sent
    await writer.drain()
    assert not writer.is_closing()
    writer.close()
    assert await input.read(1) == b""
    await writer.wait_closed()


async def test_a_program_that_ends_wakes_whoever_waits_to_write_to_it(input: Input) -> None:
    writer = await input.connect()
    writer.write(bytes(1 << 20))  # more than the pipe and the transport take
    draining = asyncio.ensure_future(writer.drain())
    await input.read(BUFFER)
    assert not draining.done()
    input.end()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await draining
    await input.protocol.lost


async def test_writing_to_a_program_that_has_ended_closes_the_writer(input: Input) -> None:
    writer = await input.connect()
    input.end()
    writer.write(b"x")
    await input.protocol.lost
    assert writer.is_closing()


async def test_a_container_reads_what_it_is_given_to_the_end(machine: Any, service: Any, tmp_path: Path) -> None:
    async with Engine(service(machine(*CREW)), state=tmp_path / "state") as engine:
        sent = os.urandom(1 << 20)
        done = await engine.run("", ["cat"], input=sent, windows=LAYERS)
        assert (done.exit_code, done.stdout) == (0, sent)


async def test_a_container_that_does_not_read_ends_nevertheless(machine: Any, service: Any, tmp_path: Path) -> None:
    async with Engine(service(machine(*CREW)), state=tmp_path / "state") as engine:
        done = await engine.run("", ["inmate", "exit", "3"], input=bytes(1 << 20), windows=LAYERS)
        assert (done.exit_code, done.stdout) == (3, b"")
