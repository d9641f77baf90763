"""Rows about finding containers, and about how soon the command line is there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import peers
from context import Bench, milliseconds
from measure import Aim, Row, RowMaker, Subject
from rows_processes import SLEEP, blocking, peer

from longshore.engine import Engine
from longshore.store import Store

NUMBERS = (1, 100, 1000)


async def _fill(engine: Engine, state: Path, number: int) -> Callable[[], None]:
    """Make `number` stopped containers: one that ran, and copies of its records. Returns what removes the copies."""
    box = await engine.launch("record-0", root="host", args=["true"])
    await box.wait()
    store = Store.at(state)
    store.open()
    original = store.entry("record-0")
    record = original.read()
    made: list[Path] = []
    for count in range(1, number):
        entry = store.reserve(f"record-{count}", durable=True)
        for name in ("spec.json", "exit.json", "log"):
            shutil.copyfile(original.home / name, entry.home / name)
        document = msgspec.structs.replace(record, id=entry.id, uid=f"{count:016x}")
        (entry.home / "record.json").write_bytes(msgspec.json.encode(document))
        made += [entry.run, entry.home]

    def clear() -> None:
        for path in made:
            shutil.rmtree(path)

    return clear


def _list_row(number: int) -> Callable[[Bench], AsyncIterator[Row]]:
    async def make(bench: Bench) -> AsyncIterator[Row]:
        runtime = bench.preferred
        engine = bench.engine(runtime)
        clear = await _fill(engine, bench.state(runtime), number)
        box = await engine.get("record-0")

        async def listed() -> None:
            found = await engine.list()
            if len(found) != number:
                raise RuntimeError(f"{len(found)} listed of {number}")

        async def inspected() -> None:
            await (await engine.get("record-0")).inspect()

        subjects = [
            Subject("API list", lambda: milliseconds(listed())),
            Subject("API inspect", lambda: milliseconds(inspected())),
            Subject("CLI ps -a", blocking(lambda: bench.cli(runtime, "ps", "-a"))),
            Subject("CLI inspect", blocking(lambda: bench.cli(runtime, "inspect", "record-0"))),
        ]
        engines = []
        if number == 1:  # to fill others with 1,000 containers takes minutes
            for other in (bench.docker, bench.podman):
                if not other.why_not:
                    peers.call(other.create("bench-record", ["true"]))
                    engines.append(other)
                subjects.append(
                    peer(other, lambda other=other: peers.timed(other.verb("ps", "-a")), f"{other.name} ps -a")
                )
                subjects.append(
                    peer(
                        other,
                        lambda other=other: peers.timed(other.verb("inspect", "bench-record")),
                        f"{other.name} inspect",
                    )
                )
        try:
            yield Row(subjects, rounds=bench.rounds(11))
        finally:
            clear()
            await box.delete()
            for other in engines:
                other.remove("bench-record")

    return make


@asynccontextmanager
async def cli_start(bench: Bench) -> AsyncIterator[Row]:
    python, environment = bench.python, bench.python_environment()
    runtime = bench.preferred

    def code(text: str, *flags: str) -> Callable[[], Awaitable[float]]:
        return blocking(lambda: peers.timed([python, *flags, "-c", text], environment=environment))

    box = await bench.engine(runtime).launch("cli-start", root="host", args=SLEEP)
    subjects = [
        Subject("python3 -S -c pass", code("pass", "-S")),
        Subject("python3 -c pass", code("pass")),
        Subject("import msgspec", code("import msgspec")),
        Subject("import asyncio", code("import asyncio")),
        Subject("import longshore", code("import longshore")),
        Subject("import longshore's Engine", code("from longshore.engine import Engine")),
        Subject("longshore --help", blocking(lambda: bench.cli(runtime, "--help"))),
        Subject("longshore version", blocking(lambda: bench.cli(runtime, "version"))),
        Subject("longshore ps", blocking(lambda: bench.cli(runtime, "ps"))),
        Subject("longshore exec CONTAINER true", blocking(lambda: bench.cli(runtime, "exec", "cli-start", "true"))),
    ]
    for other in (bench.docker, bench.podman):
        subjects.append(peer(other, lambda other=other: peers.timed(other.verb("version")), f"{other.name} version"))
        subjects.append(peer(other, lambda other=other: peers.timed(other.verb("ps")), f"{other.name} ps"))
    try:
        yield Row(subjects, rounds=bench.rounds(21))
    finally:
        await box.delete(force=True)


def _pss(pid: int) -> float:
    """A process's share of memory, shared pages divided among their users; MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no Pss of {pid}")


@asynccontextmanager
async def memory(bench: Bench) -> AsyncIterator[Row]:
    number = 2 if bench.quick else 10
    runtime = bench.preferred
    engine = bench.engine(runtime)
    boxes = [await engine.launch(f"memory-{count}", root="host", args=SLEEP) for count in range(number)]
    containers = bench.state(runtime) / "run" / "containers"
    monitors = [int(path.read_text()) for path in containers.glob("memory-*/monitor.pid")]
    if len(monitors) != number:
        raise RuntimeError(f"{len(monitors)} monitors of {number} containers")
    engines = [other for other in (bench.docker, bench.podman) if not other.why_not]
    for other in engines:
        for count in range(number):
            other.keep(f"bench-memory-{count}", SLEEP)

    async def own() -> float:
        return sum(map(_pss, monitors)) / number

    def others(engine: peers.Engine) -> float:
        found = engine.monitors()
        if len(found) != number:
            raise RuntimeError(f"{len(found)} monitors of {number} containers")
        return sum(map(_pss, found)) / number

    subjects = [Subject("longshore: conmon, for each", own, aim=Aim(at_most=3))]
    for other in (bench.docker, bench.podman):
        name = f"{other.name}: for each"
        subjects.append(peer(other, lambda other=other: others(other), name))
    subjects.append(peer(bench.docker, lambda: sum(map(_pss, bench.docker.daemons())), "docker: daemons, once"))
    try:
        yield Row(subjects, unit="MB", rounds=bench.rounds(3), warm_up=0)
    finally:
        for box in boxes:
            await box.delete(force=True)
        for other in engines:
            for count in range(number):
                other.remove(f"bench-memory-{count}")


ROWS = [
    *(
        RowMaker(f"list-{number}", f"list and inspect, {number} records", asynccontextmanager(_list_row(number)))
        for number in NUMBERS
    ),
    RowMaker("cli-start", "start of the command line, and of what it imports", cli_start),
    RowMaker("memory", "resident beside each detached container (PSS)", memory),
]
