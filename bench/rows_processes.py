"""Rows about one container or process at a time: run and remove, the detached life cycle, exec, exit to event."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import peers
from bare import MILLI, Bare
from context import Bench, milliseconds
from measure import Aim, Row, RowMaker, Subject

from longshore.compute import PIPE
from longshore.engine import Engine
from longshore.events import Event
from longshore.host import has_init
from longshore.spec import Spec

Sample = Callable[[], Awaitable[float]]
SLEEP = ["sleep", "3600"]


def blocking(function: Callable[[], float]) -> Sample:
    """A sample that nothing else runs beside."""

    async def sample() -> float:
        return function()

    return sample


def peer(engine: peers.Engine, function: Callable[[], float], name: str = "") -> Subject:
    """A peer's subject, or why there is none."""
    sample = None if engine.why_not else blocking(function)
    return Subject(name or engine.name, sample, why_not=engine.why_not)


def aim_of_run(runtime: str) -> Aim:
    return Aim(plus=4) if runtime == "crun" else Aim(factor=1.15)


@asynccontextmanager
async def run_true(bench: Bench) -> AsyncIterator[Row]:
    subjects = []
    for runtime in bench.runtimes:
        bare, engine = bench.bare(runtime), bench.engine(runtime)
        id, bundle = bare.bundle(Spec(args=["true"], init=has_init()))
        subjects += [
            Subject(f"bare {runtime}", blocking(lambda bare=bare, id=id, bundle=bundle: bare.run(id, bundle)[0])),
            Subject(
                f"API, {runtime}",
                lambda engine=engine: milliseconds(engine.run("host", ["true"])),
                against=f"bare {runtime}",
                aim=aim_of_run(runtime),
            ),
        ]
    for runtime in bench.runtimes:
        subjects.append(
            Subject(
                f"CLI, {runtime}",
                blocking(lambda runtime=runtime: bench.cli(runtime, "run", "host", "--", "true")),
                against="docker",
                aim=Aim(factor=0.5),
            )
        )
    for engine in (bench.docker, bench.podman):
        subjects.append(peer(engine, lambda engine=engine: peers.timed(engine.run(["true"]))))
    bwrap = bench.bwrap(["true"])
    subjects.append(
        Subject(
            "bwrap",
            None if bwrap is None else blocking(lambda: peers.timed(bwrap)),
            why_not="bubblewrap is not installed" if bwrap is None else "",
        )
    )
    yield Row(subjects, rounds=bench.rounds(31))


async def _life(engine: Engine) -> None:
    box = await engine.create("life", root="host", args=["true"])
    await box.start()
    await box.wait()
    await box.delete()


def _cli_life(bench: Bench, runtime: str) -> float:
    total = bench.cli(runtime, "create", "--name", "cli-life", "host", "--", "true")
    total += bench.cli(runtime, "start", "cli-life")
    total += bench.cli(runtime, "wait", "cli-life")
    return total + bench.cli(runtime, "rm", "cli-life")


@asynccontextmanager
async def life(bench: Bench) -> AsyncIterator[Row]:
    subjects = []
    for runtime in bench.runtimes:
        bare, engine = bench.bare(runtime), bench.engine(runtime)
        id, bundle = bare.bundle(Spec(args=["true"]))
        subjects += [
            Subject(
                f"bare conmon + {runtime}", blocking(lambda bare=bare, id=id, bundle=bundle: bare.life(id, bundle))
            ),
            Subject(
                f"API, {runtime}",
                lambda engine=engine: milliseconds(_life(engine)),
                against=f"bare conmon + {runtime}",
                aim=Aim(factor=1.15),
            ),
        ]
    runtime = bench.preferred
    subjects.append(
        Subject(
            f"CLI, {runtime} (4 commands)", blocking(lambda: _cli_life(bench, runtime)), against="docker (4 commands)"
        )
    )
    for engine in (bench.docker, bench.podman):
        name = f"{engine.name} (4 commands)"
        subjects.append(peer(engine, lambda engine=engine: engine.life("bench-life", ["true"]), name))
    yield Row(subjects, rounds=bench.rounds(21))


@asynccontextmanager
async def exec_true(bench: Bench) -> AsyncIterator[Row]:
    subjects, undo = [], []
    for runtime in bench.runtimes:
        bare, engine = bench.bare(runtime), bench.engine(runtime)
        id, bundle = bare.bundle(Spec(args=SLEEP))
        place = bare.create(id, bundle)
        bare.verb("start", id)
        undo.append(lambda bare=bare, id=id, place=place, bundle=bundle: bare.remove(id, place, bundle, force=True))
        document = bare.process(bundle, ["true"])
        box = await engine.launch("exec", root="host", args=SLEEP)

        async def api(box: object = box) -> float:
            begin = time.perf_counter()
            process = await box.exec(["true"])  # type: ignore[attr-defined]
            await process.communicate()
            return (time.perf_counter() - begin) * MILLI

        subjects += [
            Subject(
                f"bare {runtime}", blocking(lambda bare=bare, id=id, document=document: bare.exec(id, document)[0])
            ),
            Subject(f"API, {runtime}", api, against=f"bare {runtime}", aim=Aim(factor=1.1, plus=2)),
        ]
    for runtime in bench.runtimes:
        subjects.append(
            Subject(
                f"CLI, {runtime}",
                blocking(lambda runtime=runtime: bench.cli(runtime, "exec", "exec", "true")),
                against="docker",
                aim=Aim(factor=1.6),
            )
        )
    for engine in (bench.docker, bench.podman):
        if not engine.why_not:
            engine.keep("bench-exec", SLEEP)
            undo.append(lambda engine=engine: engine.remove("bench-exec"))
        subjects.append(peer(engine, lambda engine=engine: peers.timed(engine.exec("bench-exec", ["true"]))))
    try:
        yield Row(subjects, rounds=bench.rounds(31))
    finally:
        for runtime in bench.runtimes:
            await (await bench.engine(runtime).get("exec")).delete(force=True)
        for step in undo:
            step()


async def _event_delay(engine: Engine, watching: Engine, *, kept: bool) -> float:
    """From the kill of a container's init, by nobody of longshore's, to its exit event in a program."""
    streams = {} if kept else {"stdout": PIPE, "stderr": PIPE}
    box = await engine.launch("event", root="host", args=SLEEP, **streams)
    pid = (await box.info()).pid
    assert pid is not None
    ready = asyncio.Event()

    async def watch() -> float:
        events = watching.events()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        ready.set()
        while True:
            event = await first
            if isinstance(event, Event) and (event.container, event.type) == ("event", "exit"):
                at = time.perf_counter()
                await events.aclose()  # type: ignore[attr-defined]
                return at
            first = asyncio.ensure_future(anext(events))

    task = asyncio.create_task(watch())
    await ready.wait()
    await asyncio.sleep(0.05)  # the subscription is up: what is measured is the delay of one that waits
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    delay = (await task - begin) * MILLI
    await box.wait()
    await box.delete()
    return delay


def _bare_exit_delay(bare: Bare, spec: Spec) -> Callable[[], float]:
    id, bundle = bare.bundle(spec)

    def sample() -> float:
        place = bare.create(id, bundle)
        bare.verb("start", id)
        begin = time.perf_counter()
        os.kill(int((place / "pid").read_text()), signal.SIGKILL)
        bare.await_exit(id, place)
        delay = (time.perf_counter() - begin) * MILLI
        bare.remove(id, place, bundle)
        return delay

    return sample


@asynccontextmanager
async def exit_event(bench: Bench) -> AsyncIterator[Row]:
    runtime = bench.preferred
    engine = bench.engine(runtime)
    async with Engine(state=bench.state(runtime), runtime=runtime) as stranger:
        yield Row(
            [
                Subject(
                    "bare conmon: kill to its exit file",
                    blocking(_bare_exit_delay(bench.bare(runtime), Spec(args=SLEEP))),
                ),
                Subject("kept, its own program", lambda: _event_delay(engine, engine, kept=True), aim=Aim(at_most=5)),
                Subject("kept, another program", lambda: _event_delay(engine, stranger, kept=True), aim=Aim(at_most=5)),
                Subject("run for its caller", lambda: _event_delay(engine, engine, kept=False), aim=Aim(at_most=5)),
            ],
            rounds=bench.rounds(21),
        )


ROWS = [
    RowMaker("run-true", "run and remove `true`", run_true),
    RowMaker("life", "create, start, exit and delete a detached `true`", life),
    RowMaker("exec-true", "exec of `true`", exec_true),
    RowMaker("exit-event", "from the kill of init to its exit event", exit_event),
]
