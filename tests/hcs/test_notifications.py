"""Notifications: from threads of the service's to whoever waits, and nothing that comes at the wrong moment hurts.

Each test names the entry of the list of old bugs (moby's and hcsshim's, numbered as in the project's notes) that it
would have caught, where there is one.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from longshore.compute.limits import HcsLimits
from longshore.compute.values import PIPE, State, Stdio
from longshore.errors import EngineClosed, TimeLimit
from longshore.exit_record import Cause
from longshore.hcs.dll.hresults import HcsError
from longshore.spec import ProcessSpec

from .scripted import TYPES
from .world import ALL, World, script, world

EXITED, DISCONNECTED = TYPES["SystemExited"], TYPES["ServiceDisconnect"]
PENDING = 0xC0370103
PATIENT = HcsLimits(terminate=0.3, late_exit=0.2)


async def test_an_unknown_type_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bug 40: a notification of a type that came with a newer Windows blocked the callback thread for ever."""
    caplog.set_level(logging.WARNING)  # what is raised into the loop, or on the service's thread, is logged
    async with world(tmp_path) as it:
        system, init = await it.launch()
        for type in (0x0, 0x6, 0xE, 0x12345, 0xFFFFFFFF):
            it.notify(type)
        it.hcs.notify_process(it.process(init.pid), 0x77, 0)
        it.exit(init.pid, 3)
        assert (await init.wait()).code == 3
        await system.settle(await init.wait(), 10)
        await system.close()
    assert caplog.messages == []


async def test_an_exit_that_is_told_twice_is_one_exit(tmp_path: Path) -> None:
    """Bugs 30 and 41: the second of two equal notifications hung, or was taken for a new event."""
    async with world(tmp_path) as it:
        system, init = await it.launch()
        it.notify(EXITED)
        it.notify(EXITED)
        process = it.process(init.pid)
        it.hcs.notify_process(process, TYPES["ProcessExited"], 0)
        it.exit(init.pid, 4)
        it.hcs.notify_process(process, TYPES["ProcessExited"], 0)
        first, second = await asyncio.gather(init.wait(), init.wait())
        assert first is second
        await system.settle(first, 10)
        assert it.count("HcsGetProcessProperties") == 1
        await system.close()


async def test_one_notification_wakes_all_who_wait_for_it(tmp_path: Path) -> None:
    """Bug 41: two waiters, one notification: one of them hung."""
    async with world(tmp_path, script(HcsPauseComputeSystem=[{"hr": PENDING, "notify": []}])) as it:
        system, _ = await it.launch(hyperv=True)
        waiting = [asyncio.create_task(system.pause()) for _ in range(3)]
        await it.until(lambda: it.count("HcsPauseComputeSystem") == 3)
        await it.quiet()
        it.notify(TYPES["SystemPauseCompleted"])
        await asyncio.gather(*waiting)
        assert await system.paused()
        await system.close()


async def test_a_completion_that_comes_before_the_call_returns_is_not_lost(tmp_path: Path) -> None:
    rule = {"hr": PENDING, "notify": [{"type": "SystemStartCompleted", "after_ms": 0}], "delay_ms": 30}
    async with world(tmp_path, script(HcsStartComputeSystem=[rule])) as it:
        system, _ = await it.launch()
        await system.close()


async def test_a_completion_of_an_earlier_try_is_not_taken_for_that_of_a_later_one(tmp_path: Path) -> None:
    rules = script(HcsPauseComputeSystem=[{"hr": PENDING, "notify": []}])
    async with world(tmp_path, rules, limits=HcsLimits(default=0.2, terminate=5, late_exit=0.2)) as it:
        system, _ = await it.launch(hyperv=True)
        with pytest.raises(TimeLimit):
            await system.pause()
        it.notify(TYPES["SystemPauseCompleted"])  # of the first
        await it.quiet()
        with pytest.raises(TimeLimit):
            await system.pause()
        await system.close()


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize("type", [EXITED, DISCONNECTED])
async def test_the_end_of_the_system_or_the_service_ends_every_wait(tmp_path: Path, verb: str, type: int) -> None:
    """Bug 41: a crash of the service woke nobody."""
    name = f"Hcs{verb.capitalize()}ComputeSystem"
    async with world(tmp_path, script(**{name: [{"hr": PENDING, "notify": []}]})) as it:
        system, init = await it.launch(hyperv=True)
        work = asyncio.create_task(getattr(system, verb)())
        await it.until(lambda: it.count(name))
        await it.quiet()
        it.notify(type, 0xC0370106)
        with pytest.raises(HcsError) as raised:
            await work
        assert raised.value.name == ("UNEXPECTED_EXIT" if type == EXITED else "SERVICE_DISCONNECT")
        exit = await init.wait()  # its own notification never comes
        assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
        await system.close()


async def test_closing_wakes_whoever_waits(tmp_path: Path) -> None:
    """Bug 41: `Close` woke nobody."""
    async with world(tmp_path, script(HcsPauseComputeSystem=[{"hr": PENDING, "notify": []}])) as it:
        system, init = await it.launch(hyperv=True)
        waiting = [asyncio.create_task(init.wait()), asyncio.create_task(init.wait())]
        pausing = asyncio.create_task(system.pause())
        await it.until(lambda: it.count("HcsPauseComputeSystem"))
        await it.quiet()
        await system.close()
        for task in (*waiting, pausing):
            with pytest.raises(EngineClosed):
                await task
        assert it.process(init.pid).exited is False


async def test_the_loss_of_the_service_ends_processes_without_inventing_a_code(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.launch()
        work = await system.exec(ProcessSpec(args=["cmd"]), ALL, "work", it.place("work"))
        for pid in (init.pid, work.pid):
            it.hcs.notify_process(it.process(pid), DISCONNECTED, 0x800706BA)
        exits = await asyncio.gather(init.wait(), work.wait())
        assert [(exit.code, exit.cause) for exit in exits] == [(None, Cause.SYSTEM_GONE)] * 2
        await system.close()


async def test_a_system_that_exits_takes_its_processes_along_even_if_nobody_says_so(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.launch()
        work = await system.exec(ProcessSpec(args=["cmd"]), ALL, "work", it.place("work"))
        it.exit(init.pid, 5, silent=True)  # its notification is lost; the status can still be asked for
        it.notify(EXITED)
        assert (await init.wait()).code == 5
        exit = await work.wait()
        assert (exit.code, exit.cause) == (None, Cause.SYSTEM_GONE)
        assert await it.service.state(system.token) is State.STOPPED
        await system.close()


async def test_unregistering_waits_for_a_notification_that_is_being_delivered(tmp_path: Path) -> None:
    """Callbacks from many threads while handles are unregistered and closed: none meets a handle that is gone."""
    async with world(tmp_path) as it:

        async def one(number: int) -> None:
            system, init = await it.launch(id=f"box-{number}")
            for _ in range(5):
                it.notify(0x7, id=f"box-{number}")
            it.exit(init.pid, number)
            for _ in range(5):
                it.notify(0x7, id=f"box-{number}")
            assert (await init.wait()).code == number
            await system.settle(await init.wait(), 10)
            await system.close()

        await asyncio.gather(*(one(number) for number in range(40)))
        assert it.open_handles == 0


async def test_what_is_told_after_the_end_of_the_loop_hurts_nobody(tmp_path: Path) -> None:
    def another_loop() -> tuple[World, int]:
        async def start() -> tuple[World, int]:
            it = World(tmp_path)
            _, init = await it.launch()
            return it, init.pid

        return asyncio.run(start())

    it, pid = await asyncio.to_thread(another_loop)
    it.exit(pid, 0)
    it.notify(EXITED)
    await it.until(lambda: not it.hcs.post.busy)
    it.hcs.finish()
    for client in it.clients.values():
        client.die()
    it.hcs.close()
    assert it.hcs.errors == []


async def test_ten_thousand_notifications_are_handled(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.launch()
        begin = asyncio.get_running_loop().time()
        delivered = it.hcs.post.delivered
        for _ in range(10_000):
            it.notify(0x7)
        it.exit(init.pid, 1)
        assert (await init.wait()).code == 1
        await it.until(lambda: it.hcs.post.delivered >= delivered + 10_001)
        assert asyncio.get_running_loop().time() - begin < 10
        await system.close()


PROGRAM = """
import atexit, asyncio, contextlib, gc, sys, threading
from pathlib import Path

def left():
    handles = world.hcs.open_handles()
    print(handles["callbacks"], handles["systems"], handles["processes"], world.hcs.errors)

if sys.argv[2] == "look":
    atexit.register(left)  # the first registered is the last called

from tests.hcs.world import World

world = World(Path(sys.argv[1]))
"""
"""Begins a program of its own on a machine; at its end it says what is left open there, if that is asked for."""


def run(tmp_path: Path, source: str, *, look: bool = True) -> str:
    """What a program says that goes on with `source`, and ends well."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(source), str(tmp_path), "look" if look else ""],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.strip()


def test_a_program_ends_with_systems_open_and_notifications_on_their_way(tmp_path: Path) -> None:
    """Threads of the service must not enter an interpreter that is gone: registrations are undone at its end."""
    source = """
        async def main():
            await asyncio.gather(*(world.launch(id=f"box-{number}") for number in range(5)))

        asyncio.run(main())

        def nag():
            while world.open_handles:
                for number in range(5):
                    world.notify(0x7, id=f"box-{number}")

        threading.Thread(target=nag, daemon=True).start()
    """
    assert run(tmp_path, source) == "[] [] [] []"


def test_what_is_forgotten_is_not_closed_by_the_garbage_collector_and_can_still_be_told(tmp_path: Path) -> None:
    """Bug 38: finalizers closed handles that were in use.

    And an engine that is forgotten without being closed: the service calls back as long as it was not told to stop.
    """
    source = """
        asyncio.run(world.launch())
        client = world.clients.pop(world.service)
        world.service = None
        gc.collect()
        world.notify(0x6)
        world.exit(1004)
        while world.hcs.post.busy:
            pass
        print(world.hcs.open_handles())
    """
    said = "{'systems': ['s1'], 'processes': ['p1'], 'callbacks': ['c1', 'c2']}\n[] [] [] []"
    assert run(tmp_path, source) == said


def test_a_program_that_ends_amid_a_call_is_told_of_nothing_any_more(tmp_path: Path) -> None:
    """What a call still uses stays open; but the service must not call back."""
    source = """
        world.script(HcsGetComputeSystemProperties=[{"delay_ms": 5000}])

        async def main():
            system, _ = await world.launch()
            asking = asyncio.create_task(system.stats())
            await world.until(lambda: world.count("HcsGetComputeSystemProperties"))

        asyncio.run(main())
    """
    assert run(tmp_path, source) == "[] ['s1'] [] []"


@pytest.mark.parametrize("of", ["ComputeSystem", "Process"])
def test_a_registration_that_is_being_made_when_the_program_ends_is_undone(tmp_path: Path, of: str) -> None:
    source = f"""
        world.script(HcsRegister{of}Callback=[{{"delay_ms": 500}}])
        def launch():
            with contextlib.suppress(BaseException):  # it may see that handles are taken from it
                asyncio.run(world.launch())

        threading.Thread(target=launch, daemon=True).start()
        while not world.count("HcsRegister{of}Callback"):
            pass
    """
    assert run(tmp_path, source).startswith("[] ")


async def test_streams_and_ends_of_many_at_once(tmp_path: Path) -> None:
    """200 systems at once, callbacks from 8 threads: each has its own output and its own code."""
    rules = script(HcsCreateProcess=[{"stdout": "hello", "repeat": 100}])
    async with world(tmp_path, rules) as it:

        async def one(number: int) -> None:
            system, init = await it.service.launch(
                f"box-{number}", it.spec("cmd"), Stdio(stdout=PIPE, stderr=PIPE), it.place(f"box-{number}")
            )
            it.hcs.clock.after(number % 7 + 1, lambda: it.exit(init.pid, number))
            assert init.streams.stdout is not None
            assert await init.streams.stdout.read() == b"hello" * 100
            exit = await init.wait()
            assert exit.code == number
            assert (await system.settle(exit, 10)).error is None
            await system.close()

        await asyncio.gather(*(one(number) for number in range(200)))
        assert it.open_handles == 0
