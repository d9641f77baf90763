"""Rows about finding containers, and about how soon the command line is there."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import peers
from context import Bench, Sample, awaited, blocking, peer
from measure import Aim, Row, RowMaker, Subject
from rows_processes import SLEEP

from longshore.engine.engine import Engine

NUMBERS = (1, 100, 1000)


async def _fill(engine: Engine, state: Path, number: int) -> Callable[[], None]:
    """Make `number` stopped containers: one that ran, and copies of its files. Returns what removes the copies."""
    box = await engine.launch("record-0", root="host", args=["true"])
    await box.wait()
    halves = [state / "run" / "containers", state / "lib" / "containers"]
    made = []
    for count in range(1, number):
        for half in halves:
            path = half / f"record-{count}"
            shutil.copytree(half / "record-0", path, ignore=shutil.ignore_patterns("bundle", "scratch*", "began"))
            made.append(path)
        record_path = path / "record.json"
        record = json.loads(record_path.read_bytes())
        record |= {"id": path.name, "uid": f"{count:016x}"}
        record_path.write_text(json.dumps(record))

    def clear() -> None:
        for path in made:
            shutil.rmtree(path)

    return clear


async def _list(engine: Engine, number: int) -> None:
    found = await engine.list()
    if len(found) != number:
        raise RuntimeError(f"{len(found)} listed of {number}")


async def _inspect(engine: Engine) -> None:
    await (await engine.get("record-0")).inspect()


async def _list_row(bench: Bench, number: int) -> AsyncIterator[Row]:
    runtime = bench.preferred
    engine = bench.engine(runtime)
    with ExitStack() as undo:
        undo.callback(await _fill(engine, bench.state(runtime), number))
        subjects = [
            Subject("API list", awaited(_list, engine, number)),
            Subject("API inspect", awaited(_inspect, engine)),
            Subject("CLI ps -a", blocking(bench.cli, runtime, "ps", "-a")),
            Subject("CLI inspect", blocking(bench.cli, runtime, "inspect", "record-0")),
        ]
        if number == 1:  # to fill others with 1,000 containers takes minutes
            for other in bench.peers:
                if not other.why_not:
                    peers.call(other.create("bench-record", ["true"]))
                    undo.callback(other.remove, "bench-record")
                subjects += [
                    peer(other, " ps -a", peers.timed, other.verb("ps", "-a")),
                    peer(other, " inspect", peers.timed, other.verb("inspect", "bench-record")),
                ]
        yield Row(subjects, rounds=bench.rounds(11))
    await (await engine.get("record-0")).delete()


def _list_maker(number: int) -> Callable[[Bench], AsyncIterator[Row]]:
    async def make(bench: Bench) -> AsyncIterator[Row]:
        async for row in _list_row(bench, number):
            yield row

    return make


@asynccontextmanager
async def cli_start(bench: Bench) -> AsyncIterator[Row]:
    python, environment, runtime = bench.python, bench.python_environment(), bench.preferred

    def code(text: str, *flags: str) -> Sample:
        return blocking(peers.timed, [python, *flags, "-c", text], environment=environment)

    box = await bench.engine(runtime).launch("standing", root="host", args=SLEEP)
    subjects = [
        Subject("python3 -S -c pass", code("pass", "-S")),
        Subject("python3 -c pass", code("pass")),
        Subject("import msgspec", code("import msgspec")),
        Subject("import asyncio", code("import asyncio")),
        Subject("import longshore", code("import longshore")),
        Subject("import longshore's Engine", code("from longshore.engine.engine import Engine")),
        Subject("longshore --help", blocking(bench.cli, runtime, "--help")),
        Subject("longshore version", blocking(bench.cli, runtime, "version")),
        Subject("longshore ps", blocking(bench.cli, runtime, "ps")),
        Subject("longshore exec … true", blocking(bench.cli, runtime, "exec", "standing", "true")),
    ]
    for other in bench.peers:
        subjects.append(peer(other, " version", peers.timed, other.verb("version")))
        subjects.append(peer(other, " ps", peers.timed, other.verb("ps")))
    yield Row(subjects, rounds=bench.rounds(21))
    await box.delete(force=True)


def _pss(pid: int) -> float:
    """A process's share of memory, shared pages divided among their users; MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no Pss of {pid}")


def _monitors(engine: peers.Engine, number: int) -> float:
    found = engine.monitors()
    if len(found) != number:
        raise RuntimeError(f"{len(found)} monitors of {number} containers")
    return sum(map(_pss, found)) / number


def _daemons(engine: peers.Engine) -> float:
    return sum(map(_pss, engine.daemons()))


@asynccontextmanager
async def memory(bench: Bench) -> AsyncIterator[Row]:
    number = 2 if bench.quick else 10
    runtime = bench.preferred
    engine = bench.engine(runtime)
    boxes = [await engine.launch(f"memory-{count}", root="host", args=SLEEP) for count in range(number)]
    folders = (bench.state(runtime) / "run" / "containers").glob("memory-*/monitor.pid")
    monitors = [int(path.read_text()) for path in folders]
    if len(monitors) != number:
        raise RuntimeError(f"{len(monitors)} monitors of {number} containers")
    with ExitStack() as undo:
        for other in bench.peers:
            if not other.why_not:
                for count in range(number):
                    other.keep(f"bench-memory-{count}", SLEEP)
                    undo.callback(other.remove, f"bench-memory-{count}")

        def own() -> float:
            return sum(map(_pss, monitors)) / number

        subjects = [
            Subject("longshore: conmon, for each", blocking(own), aim=Aim(at_most=3)),
            *(peer(other, ": for each", _monitors, other, number) for other in bench.peers),
            peer(bench.docker, ": daemons, once", _daemons, bench.docker),
        ]
        yield Row(subjects, unit="MB", rounds=bench.rounds(3), warm_up=0)
    for box in boxes:
        await box.delete(force=True)


ROWS = [
    *(
        RowMaker(f"list-{number}", f"list and inspect, {number} records", asynccontextmanager(_list_maker(number)))
        for number in NUMBERS
    ),
    RowMaker("cli-start", "start of the command line, and of what it imports", cli_start),
    RowMaker("memory", "resident beside each detached container (PSS)", memory),
]
