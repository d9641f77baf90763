"""Bytes through a process's standard output on Windows: by longshore, and by the Proactor loop's pipe reader alone.

Run by the row `windows-stdout` in Windows' Python under Wine; arguments: ROUNDS MEGABYTES INMATE. The compute service
is the double in C, its containers' processes are real ones. Prints one JSON document: MB/s of each round.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time

from longshore import Engine
from longshore.compute.values import DEVNULL, PIPE
from longshore.spec import Spec, WindowsOptions

PIPE_SIZE = 1 << 16  # as the double's
LAYERS = WindowsOptions(layer_paths=[r"C:\layers\base"], layer_folder=r"C:\layers\box")  # names only


class Counting(asyncio.Protocol):
    """The least that a reader of a pipe can be."""

    def __init__(self) -> None:
        self.count = 0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.count += len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def bare(inmate: str, size: int) -> float:
    """Seconds, with the same program, pipe and loop."""
    if sys.platform != "win32":
        raise SystemExit("for Windows' Python")
    import msvcrt
    from asyncio import windows_utils as utils

    ours, theirs = utils.pipe(overlapped=(True, False), bufsize=PIPE_SIZE)
    descriptor = msvcrt.open_osfhandle(theirs, 0)
    child = subprocess.Popen([inmate, "spew", str(size)], stdin=subprocess.DEVNULL, stdout=descriptor)
    os.close(descriptor)
    begin = time.perf_counter()
    _, counting = await asyncio.get_running_loop().connect_read_pipe(Counting, utils.PipeHandle(ours))
    await counting.lost
    took = time.perf_counter() - begin
    child.wait()
    assert counting.count == size, counting.count
    return took


async def by_engine(engine: Engine, size: int, *, chunk: int = 1 << 18) -> float:
    """Seconds, from the start of the container's process to the end of its output."""
    spec = Spec.of(args=["inmate", "spew", str(size)], windows=LAYERS)
    box = await engine.launch("box", spec, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    begin = time.perf_counter()
    assert box.init is not None
    assert box.init.stdout is not None
    count = 0
    while data := await box.init.stdout.read(chunk):
        count += len(data)
    took = time.perf_counter() - begin
    await box.wait()
    await box.delete()
    assert count == size, count
    return took


async def main(rounds: int, megabytes: int, inmate: str) -> None:
    size = megabytes << 20
    rates: dict[str, list[float]] = {"bare": [], "API": []}
    with tempfile.TemporaryDirectory() as state:
        async with Engine(state=state) as engine:
            for number in range(rounds + 1):
                turns = [("bare", bare(inmate, size)), ("API", by_engine(engine, size))]
                for name, turn in turns if number % 2 else reversed(turns):
                    took = await turn
                    if number:  # the first round is to warm up
                        rates[name].append(size / took / 1e6)
    print(json.dumps(rates))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
