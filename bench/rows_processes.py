"""Rows about one container or process at a time: run and remove, the detached life cycle, exec, exit to event."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager

import peers
from bare import MILLI, Bare, Bundle
from context import Bench, awaited, blocking, peer
from measure import Aim, Row, RowMaker, Subject

from longshore.compute.events import Event
from longshore.compute.values import LOG, PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.machine import has_init
from longshore.spec import Spec

SLEEP = ["sleep", "3600"]


@asynccontextmanager
async def run_true(bench: Bench) -> AsyncIterator[Row]:
    subjects = []
    for runtime in bench.runtimes:
        bare, engine = bench.bare(runtime), bench.engine(runtime)
        id, bundle = bare.bundle(Spec(args=["true"], init=has_init()))
        aim = Aim(plus=4) if runtime == "crun" else Aim(factor=1.15)
        subjects += [
            Subject(f"bare {runtime}", blocking(bare.run, id, bundle)),
            Subject(f"API, {runtime}", awaited(engine.run, "host", ["true"]), f"bare {runtime}", aim),
        ]
    for runtime in bench.runtimes:
        cli = blocking(bench.cli, runtime, "run", "host", "--", "true")
        subjects.append(Subject(f"CLI, {runtime}", cli, "docker", Aim(factor=0.5)))
    subjects += [peer(engine, "", peers.timed, engine.run(["true"])) for engine in bench.peers]
    subjects.append(bench.bwrap(["true"]))
    yield Row(subjects, rounds=bench.rounds(31))


async def _life(engine: Engine) -> None:
    box = await engine.create("life", root="host", args=["true"])
    await box.start()
    await box.wait()
    await box.delete()


def _cli_life(bench: Bench, runtime: str) -> float:
    took = bench.cli(runtime, "create", "--name", "cli-life", "host", "--", "true")
    took += bench.cli(runtime, "start", "cli-life")
    took += bench.cli(runtime, "wait", "cli-life")
    return took + bench.cli(runtime, "rm", "cli-life")


@asynccontextmanager
async def life(bench: Bench) -> AsyncIterator[Row]:
    subjects = []
    for runtime in bench.runtimes:
        bare, baseline = bench.bare(runtime), f"bare conmon + {runtime}"
        id, bundle = bare.bundle(Spec(args=["true"]))
        subjects += [
            Subject(baseline, blocking(bare.life, id, bundle)),
            Subject(f"API, {runtime}", awaited(_life, bench.engine(runtime)), baseline, Aim(factor=1.15)),
        ]
    cli = blocking(_cli_life, bench, bench.preferred)
    subjects.append(Subject(f"CLI, {bench.preferred}, 4 commands", cli, "docker, 4 commands"))
    subjects += [peer(engine, ", 4 commands", engine.life, "bench-life", ["true"]) for engine in bench.peers]
    yield Row(subjects, rounds=bench.rounds(21))


class Standing:
    """A bare container that stays up, to exec in. A context manager."""

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        self.id, self.bundle = bare.bundle(Spec(args=SLEEP))
        self._place = bare.create(self.id, self.bundle)
        bare.verb("start", self.id)

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *exc: object) -> None:
        self.bare.remove(self.id, self._place, self.bundle, force=True)


def standing_peers(bench: Bench, undo: ExitStack) -> None:
    """The same at the peers, under the name `bench-standing`."""
    for engine in bench.peers:
        if not engine.why_not:
            engine.keep("bench-standing", SLEEP)
            undo.callback(engine.remove, "bench-standing")


async def _exec(box: Container) -> None:
    await (await box.exec(["true"])).communicate()


@asynccontextmanager
async def exec_true(bench: Bench) -> AsyncIterator[Row]:
    subjects = []
    with ExitStack() as undo:
        for runtime in bench.runtimes:
            bare = bench.bare(runtime)
            standing = undo.enter_context(Standing(bare))
            document = bare.process(standing.bundle, ["true"])
            box = await bench.engine(runtime).launch("standing", root="host", args=SLEEP)
            aim = Aim(factor=1.1, plus=2)
            subjects += [
                Subject(f"bare {runtime}", blocking(bare.exec, standing.id, document)),
                Subject(f"API, {runtime}", awaited(_exec, box), f"bare {runtime}", aim),
            ]
        for runtime in bench.runtimes:
            cli = blocking(bench.cli, runtime, "exec", "standing", "true")
            subjects.append(Subject(f"CLI, {runtime}", cli, "docker", Aim(factor=1.6)))
        standing_peers(bench, undo)
        subjects += [peer(engine, "", peers.timed, engine.exec("bench-standing", ["true"])) for engine in bench.peers]
        yield Row(subjects, rounds=bench.rounds(31))
        for runtime in bench.runtimes:
            await (await bench.engine(runtime).get("standing")).delete(force=True)


# from exit to event


async def _exit_of(watching: Engine, id: str, subscribed: asyncio.Event) -> float:
    """The time at which a program that waits for events has the exit of a container."""
    async with aclosing(watching.events(container=id)) as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        subscribed.set()
        while True:
            event = await waiting
            if isinstance(event, Event) and event.type == "exit":
                return time.perf_counter()
            waiting = asyncio.ensure_future(anext(events))


async def _event_delay(engine: Engine, watching: Engine, stream: int) -> float:
    """From the kill of a container's init, by nobody of longshore's, to its exit event in a program. Milliseconds."""
    box = await engine.launch("event", root="host", args=SLEEP, stdout=stream, stderr=stream)
    pid = (await box.info()).pid
    assert pid is not None
    subscribed = asyncio.Event()
    watch = asyncio.create_task(_exit_of(watching, "event", subscribed))
    await subscribed.wait()
    await asyncio.sleep(0.05)  # what is measured is the delay of one that waits, not its subscription
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    delay = (await watch - begin) * MILLI
    await box.wait()
    await box.delete()
    return delay


def _bare_exit_delay(bare: Bare, id: str, bundle: Bundle) -> float:
    place = bare.create(id, bundle)
    bare.verb("start", id)
    begin = time.perf_counter()
    os.kill(int((place / "pid").read_text()), signal.SIGKILL)
    bare.await_exit(id, place)
    delay = (time.perf_counter() - begin) * MILLI
    bare.remove(id, place, bundle)
    return delay


@asynccontextmanager
async def exit_event(bench: Bench) -> AsyncIterator[Row]:
    runtime = bench.preferred
    bare, engine = bench.bare(runtime), bench.engine(runtime)
    id, bundle = bare.bundle(Spec(args=SLEEP))
    async with Engine(state=bench.state(runtime), runtime=runtime) as stranger:

        async def own() -> float:
            return await _event_delay(engine, engine, LOG)

        async def foreign() -> float:
            return await _event_delay(engine, stranger, LOG)

        async def direct() -> float:
            return await _event_delay(engine, engine, PIPE)

        aim = Aim(at_most=5)
        subjects = [
            Subject("bare conmon: to its exit file", blocking(_bare_exit_delay, bare, id, bundle)),
            Subject("kept, in its own program", own, aim=aim),
            Subject("kept, in another program", foreign, aim=aim),
            Subject("run for its caller", direct, aim=aim),
        ]
        yield Row(subjects, rounds=bench.rounds(21))


ROWS = [
    RowMaker("run-true", "run and remove `true`", run_true),
    RowMaker("life", "create, start, exit and delete a detached `true`", life),
    RowMaker("exec-true", "exec of `true`", exec_true),
    RowMaker("exit-event", "from the kill of init to its exit event", exit_event),
]
