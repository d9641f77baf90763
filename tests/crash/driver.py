"""A program that does everything one can do with longshore, until it is killed or told to leave.

Run as a nursery: each line on standard input, `STATE RUNTIME SEED NOTES`, forks one driver (so that none has to import
everything again), whose pid is printed.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import os
import random
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from longshore.compute.events import Event
from longshore.compute.values import DEVNULL, PIPE, Owner
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound, InvalidState, LongshoreError, ProcessNotFound, TimeLimit

from .notes import Notes
from .programs import KINDS, Program

EXPECTED = (InvalidState, ContainerNotFound, ProcessNotFound)  # with several programs at work on the same containers


class Driver:
    """What one driver holds. Each operation is a method; its notes say what others may hold it to."""

    def __init__(self, engine: Engine, notes: Notes, seed: int, name: str) -> None:
        self.engine = engine
        self.notes = notes
        self.choose = random.Random(seed)
        self.name = name
        self.number = 0
        self.about = ""  # the container that the present operation is about
        self.boxes: list[tuple[Container, Program]] = []

    async def work(self) -> None:
        if self.choose.random() < 0.15:
            fork_a_child_that_lives_on(self.notes, self.choose)
        operations: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (3, self.launch),
            (2, self.create),
            (3, self.run),
            (1, self.run_too_long),
            (1, self.run_many),
            (3, self.exec),
            (2, self.exec_too_long),
            (1, self.exec_and_leave),
            (2, self.pause),
            (1, self.update),
            (2, self.look),
            (2, self.stop),
            (1, self.kill),
            (2, self.wait),
            (2, self.attach),
            (2, self.delete),
            (1, self.events),
            (2, self.meddle),
        ]
        weights = [weight for weight, _ in operations]
        while True:
            self.number += 1
            self.about = ""
            operation = self.launch if not self.boxes else self.choose.choices(operations, weights)[0][1]
            try:
                await operation()
            except EXPECTED as error:
                self.notes.write("failed", operation.__name__, id=self.about, expected=True, why=repr(error))
            except LongshoreError as error:
                at = traceback.format_exc()
                self.notes.write("failed", operation.__name__, id=self.about, expected=False, why=repr(error), at=at)
            await asyncio.sleep(0)

    # making

    def _program(self) -> Program:
        return KINDS[self.choose.choice(list(KINDS))](self.choose)

    async def _make(self, make: Callable[..., Awaitable[Container]], *, started: bool) -> tuple[Container, Program]:
        program, id, owner = self._program(), self._new_id(), self._owner()
        self.notes.write("try", "make", id=id, owner=owner, started=started, ends=program.ends)
        box = await make(id, root="host", args=program.args, labels=program.labels, owner=owner, init=program.init)
        self.notes.write("did", "make", id=id, owner=owner, started=started)
        return box, program

    async def launch(self) -> None:
        self.boxes.append(await self._make(self.engine.launch, started=True))

    async def create(self) -> None:
        box, program = await self._make(self.engine.create, started=False)
        if self.choose.random() < 0.7:
            self.notes.write("try", "start", id=box.id)
            await box.start()
            self.notes.write("did", "start", id=box.id)
            self.boxes.append((box, program))

    def _new_id(self) -> str:
        return f"{self.name}-{self.number}"

    def _owner(self) -> Owner:
        owners: list[Owner] = ["keep", "remove", "stop"]
        return self.choose.choices(owners, [6, 2, 1])[0]

    async def run(self) -> None:
        done = await self.engine.run("host", ["sh", "-c", "cat; echo hi; exit 3"], input=b"x" * 1000)
        assert (done.exit_code, done.stdout) == (3, b"x" * 1000 + b"hi\n"), done

    async def run_too_long(self) -> None:
        with suppress(TimeLimit):
            await self.engine.run("host", ["sleep", "1000"], timeout=self.choose.uniform(0.01, 0.1))

    async def run_many(self) -> None:
        await asyncio.gather(*(self.engine.run("host", ["true"]) for _ in range(3)))

    # further processes

    def _box(self) -> tuple[Container, Program]:
        if not self.boxes:
            raise ContainerNotFound("none yet")
        box, program = self.choose.choice(self.boxes)
        self.about = box.id
        return box, program

    async def exec(self) -> None:
        box, _ = self._box()
        name = f"{self.name}-exec-{self.number}" if self.choose.random() < 0.7 else None
        self.notes.write("try", "exec", id=box.id, name=name)
        process = await box.exec(["sh", "-c", "cat; exit 4"], stdin=PIPE, name=name)
        self.notes.write("did", "exec", id=box.id, name=name)
        out, _ = await process.communicate(b"x" * 5000)
        exit = await process.wait()
        self.notes.write("saw", "exec", id=box.id, name=name, code=exit.code, bytes=len(out))

    async def exec_too_long(self) -> None:
        box, _ = self._box()
        name = f"{self.name}-late-{self.number}"
        self.notes.write("try", "exec", id=box.id, name=name)
        process = await box.exec(
            ["sh", "-c", "sleep 1000 & sleep 1000"],
            stdout=DEVNULL,
            stderr=DEVNULL,
            name=name,
            timeout=self.choose.uniform(0.0, 0.05),
        )
        self.notes.write("did", "exec", id=box.id, name=name)
        exit = await process.wait()
        self.notes.write("saw", "exec-killed", id=box.id, name=name, code=exit.code)

    async def exec_and_leave(self) -> None:
        box, _ = self._box()
        name = f"{self.name}-left-{self.number}"
        self.notes.write("try", "exec", id=box.id, name=name)
        await box.exec(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL, name=name)
        self.notes.write("did", "exec", id=box.id, name=name)

    # what is done to a container

    async def pause(self) -> None:
        box, _ = self._box()
        self.notes.write("try", "pause", id=box.id)
        await box.pause()
        self.notes.write("did", "pause", id=box.id)
        if self.choose.random() < 0.8:
            await box.resume()
            self.notes.write("did", "resume", id=box.id)

    async def update(self) -> None:
        box, _ = self._box()
        await box.update(pids=self.choose.randrange(500, 1000))

    async def look(self) -> None:
        box, _ = self._box()
        await self.engine.list()
        await box.inspect()
        await box.stats()
        await box.top()

    async def stop(self) -> None:
        box, program = self._box()
        self.notes.write("try", "kill", id=box.id)
        exit = await box.stop(grace=300 if program.handles_term else 0.02)
        self.notes.write("saw", "exit", id=box.id, code=exit.code)

    async def kill(self) -> None:
        box, _ = self._box()
        self.notes.write("try", "kill", id=box.id)
        await box.kill()

    async def wait(self) -> None:
        ending = [(box, program) for box, program in self.boxes if program.ends]
        if ending:
            box, _ = self.choose.choice(ending)
            try:
                async with asyncio.timeout(0.5):
                    exit = await box.wait()
            except TimeoutError:
                return
            self.notes.write("saw", "exit", id=box.id, code=exit.code)

    async def attach(self) -> None:
        writing = [(box, program) for box, program in self.boxes if program.writes]
        if writing:
            box, _ = self.choose.choice(writing)
            async with await box.attach(logs=True) as attachment:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        for number in range(50):
                            line = await attachment.stdout.readline()
                            if line.endswith(b"\n"):
                                assert line.startswith(b"out %d " % number), (number, line)

    async def delete(self) -> None:
        if len(self.boxes) > 1:
            box, _ = self.boxes.pop(self.choose.randrange(len(self.boxes)))
            self.notes.write("try", "delete", id=box.id)
            await box.delete(force=True)
            self.notes.write("did", "delete", id=box.id)

    async def events(self) -> None:
        numbers = [
            event.seq if isinstance(event, Event) else -1 async for event in self.engine.events(since=0, follow=False)
        ]
        self.notes.write("saw", "events", last=numbers[-1] if numbers else 0)
        assert numbers == list(range(1, len(numbers) + 1)), numbers

    async def meddle(self) -> None:
        """Do something to whatever there is, whoever made it."""
        infos = await self.engine.list(states=["running", "created", "stopped", "paused"])
        infos = [info for info in infos if not info.id.startswith("run-")]  # whoever runs that knows how it must end
        if infos:
            info = self.choose.choice(infos)
            self.about = info.id
            box = await self.engine.get(info.id)
            what = self.choose.choice(["run", "signal", "delete", "look", "logs"])
            if what == "run":
                self.notes.write("try", "meddle", id=info.id)
                await box.run(["true"])
            elif what == "signal":
                self.notes.write("try", "kill", id=info.id)
                await box.signal("TERM")
            elif what == "delete" and self.choose.random() < 0.3:
                self.notes.write("try", "delete", id=info.id)
                await box.delete(force=True)
                self.notes.write("did", "delete", id=info.id)
            elif what == "logs":
                async for _ in box.logs():
                    pass
            else:
                await box.info()


def fork_a_child_that_lives_on(notes: Notes, choose: random.Random) -> None:
    execs = choose.random() < 0.5
    pid = os.fork()
    if pid == 0:
        os.close(0)
        if execs:
            os.execvp("sleep", ["sleep", "1000"])
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        while True:
            signal.pause()
    notes.write("did", "fork", pid=pid)


class Forks:
    """Forks children at random instants, amid whatever the driver is at: they live on, or unwind at once.

    Chosen from a sequence of its own: the driver's operations are the same with and without.
    """

    def __init__(self, notes: Notes, seed: int) -> None:
        self.notes = notes
        self.choose = random.Random(f"{seed} forks")
        self.left = self.choose.choice([0, 0, 0, 1, 1, 2])

    def begin(self) -> None:
        """Have the first come when its time has come. A signal handler interrupts what no task of the loop would."""
        if self.left:
            signal.signal(signal.SIGALRM, lambda *_: self._fork())
            self._set()

    def _set(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self.choose.uniform(0.001, 0.5))

    def _fork(self) -> None:
        self.left -= 1
        unwinds = self.choose.random() < 0.4
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            # what it would write down is its parent's to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.notes.fd)
            if unwinds:
                raise SystemExit(0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            close_pipes()
            while True:
                signal.pause()
        self.notes.write("did", "fork", pid=pid)
        if self.left:
            self._set()


def close_pipes() -> None:
    """Else what reads from one waits, while this child lives, for an end that its writer has told: so it is with every
    pipe of every program. Locks, and all else, are kept."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
                os.close(int(name))


def tell_what_is_waited_for(notes: Notes) -> None:
    for task in asyncio.all_tasks():
        text = io.StringIO()
        task.print_stack(file=text)
        notes.write("bug", "waits", why=text.getvalue())


async def drive(state: str, runtime: str, seed: int, path: Path) -> None:
    notes = Notes(path)
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, leave.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    loop.add_signal_handler(signal.SIGUSR1, tell_what_is_waited_for, notes)
    async with Engine(state=state, runtime=runtime) as engine:
        await engine._state.hold_lease()
        assert engine._state.lease is not None
        notes.write("did", "begin", keeper=engine._state.lease.keeper_pid)
        Forks(notes, seed).begin()
        working = asyncio.create_task(Driver(engine, notes, seed, path.name).work())
        leaving = asyncio.create_task(leave.wait())
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        leaving.cancel()
        results = await asyncio.gather(working, leaving, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
    notes.write("did", "leave")


def nursery() -> None:
    for line in sys.stdin:
        state, runtime, seed, path = line.split()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it may be told to leave before it can listen
        pid = os.fork()
        if pid == 0:
            code = 1
            driver = os.getpid()
            try:
                os.setsid()
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody else would end it
                asyncio.run(drive(state, runtime, int(seed), Path(path)))
                code = 0
            except BaseException:
                if os.getpid() != driver:
                    os._exit(0)  # a child that it forked, unwound
                Notes(Path(path)).write("bug", "drive", why=traceback.format_exc())
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        print(pid, flush=True)


if __name__ == "__main__":
    nursery()
