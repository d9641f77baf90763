"""Notifications on threads of the service's own, at moments when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

from longshore import Engine
from longshore.errors import LongshoreError
from longshore.hcs.dll.vmcompute import NotificationCallback

from .conftest import spec

UNKNOWN, EXITED, DISCONNECT = 0xB, 0x1, 0x1000000
LONG = ("rule\tHcsCreateProcess", "stdout\tout")


async def test_eight_threads_call_back_at_once(machine: Any) -> None:
    vmcompute = machine().client().binding
    together = threading.Barrier(8)
    told: list[int] = []

    @NotificationCallback  # type: ignore[untyped-decorator]
    def callback(type: int, context: int, status: int, data: int) -> None:
        together.wait(10)  # all eight are in here, or it breaks
        told.append(context)

    systems = []
    for number in range(8):
        system, _ = vmcompute.create_compute_system(f"box-{number}", '{"Owner":"test"}')
        systems.append((system, vmcompute.register_compute_system_callback(system, callback, number + 1)))
    while len(told) < 8:  # the completions
        await asyncio.sleep(0.01)
    assert sorted(told) == list(range(1, 9))
    for system, registration in systems:
        vmcompute.unregister_compute_system_callback(registration)
        vmcompute.close_compute_system(system)


async def test_unregistering_waits_for_a_callback_that_is_under_way(machine: Any) -> None:
    made = machine()
    vmcompute = made.client().binding
    inside, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    @NotificationCallback  # type: ignore[untyped-decorator]
    def callback(type: int, context: int, status: int, data: int) -> None:
        if type == UNKNOWN:
            inside.set()
            go_on.wait(10)
            order.append("called back")

    system, _ = vmcompute.create_compute_system("box", '{"Owner":"test"}')
    registration = vmcompute.register_compute_system_callback(system, callback, 1)
    made.notify_system("box", UNKNOWN)
    made.notify_system("box", UNKNOWN)  # and one that is still to be delivered: it never is
    assert inside.wait(10)

    def unregister() -> None:
        vmcompute.unregister_compute_system_callback(registration)
        order.append("unregistered")

    thread = threading.Thread(target=unregister)
    thread.start()
    time.sleep(0.1)
    assert order == []
    go_on.set()
    thread.join(10)
    assert order == ["called back", "unregistered"]
    vmcompute.close_compute_system(system)


async def test_systems_can_be_closed_amid_a_flood_of_notifications(machine: Any, service: Any, tmp_path: Path) -> None:
    """Types that nobody knows, told again and again while registrations are undone."""
    made = machine(*LONG)
    stop = threading.Event()

    def flood() -> None:
        while not stop.wait(0.001):
            made.notify_system(None, UNKNOWN)

    thread = threading.Thread(target=flood)
    async with Engine(service(made), state=tmp_path / "state") as engine:
        thread.start()
        try:
            for _ in range(5):
                boxes = await asyncio.gather(*[engine.launch(f"box-{n}", spec("x")) for n in range(10)])
                await asyncio.gather(*[box.delete(force=True) for box in boxes])
            assert await engine.list() == []
        finally:
            stop.set()
            thread.join()


async def test_losing_the_service_in_the_middle_of_everything_ends_every_call(
    machine: Any, service: Any, tmp_path: Path
) -> None:
    """Containers that are made, started, waited for, stopped: each call returns, or says that the service is lost."""
    made = machine(*LONG, "rule\tHcsStartComputeSystem", "match\t", "system\tslow", "no notifications")
    async with Engine(service(made), state=tmp_path / "state") as engine:
        running = [await engine.launch(f"run-{number}", spec("x")) for number in range(10)]
        fresh = [await engine.create(f"new-{number}", spec("x")) for number in range(10)]
        calls = [
            *[box.wait() for box in running],
            *[box.stop(grace=300) for box in running[:5]],
            *[box.exec(["y"]) for box in running[5:]],
            *[box.start() for box in fresh],
            engine.launch("slow", spec("x")),
            *[engine.create(f"more-{number}", spec("x")) for number in range(10)],
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0.003)
        for _ in range(400):  # whoever registers later hears of it, too
            made.notify_system(None, DISCONNECT)
            if (await asyncio.wait(tasks, timeout=0.1))[1] == set():
                break
        hanging = [index for index, task in enumerate(tasks) if not task.done()]
        assert hanging == []
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        wrong = [end for end in ends if isinstance(end, BaseException) and not isinstance(end, LongshoreError)]
        assert wrong == []
        made.finish()


def test_a_program_may_end_with_systems_open_and_notifications_on_their_way(tmp_path: Path) -> None:
    """Threads of the service's must not enter an interpreter that is gone."""
    source = f"""
        import asyncio, sys, threading, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from longshore import Engine
        from longshore.hcs.service import HcsService
        from longshore.hcs.streams.pipes import WindowsPipes
        from tests.hcs.wine_double import Machine
        from tests.wine.conftest import spec
        machine = Machine("rule\\tHcsCreateProcess\\nstdout\\tout\\n")
        run = Path({str(tmp_path)!r}, "run")
        run.mkdir()
        def flood():
            while True:
                machine.notify_system(None, 0xB)
                time.sleep(0.0005)
        async def main():
            engine = Engine(
                HcsService(run, vmcompute=machine.client().binding, pipes=WindowsPipes(), exists=lambda path: True),
                state=Path({str(tmp_path)!r}, "state"))
            for number in range(20):
                await engine.launch(f"box-{{number}}", spec("x"))
            threading.Thread(target=flood, daemon=True).start()
            print("open", flush=True)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=300, check=False
        )
        assert (done.stdout, done.returncode) == ("open\n", 0), done.stderr
        (tmp_path / "run").rename(tmp_path / f"run-{time.monotonic_ns()}")
        (tmp_path / "state").rename(tmp_path / f"state-{time.monotonic_ns()}")


PROGRAM = """
import asyncio, atexit, gc, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])

def left():
    while any("hr" not in call for call in machine.calls() if "Register" in call["function"]):
        time.sleep(0.001)
    print(machine.open_handles()["callbacks"], machine.errors)

atexit.register(left)  # the first registered is the last called
from longshore.compute.values import PIPE, Place, Stdio
from longshore.hcs.service import HcsService
from longshore.hcs.streams.pipes import WindowsPipes
from tests.hcs.wine_double import Machine
from tests.wine.conftest import spec

machine = Machine(sys.argv[3])
here = Path(sys.argv[2])

def flood():
    while True:
        machine.notify_system(None, 0xB)
        time.sleep(0.0005)

threading.Thread(target=flood, daemon=True).start()

async def launch():
    service = HcsService(here, vmcompute=machine.client().binding, pipes=WindowsPipes(), exists=lambda path: True)
    return await service.launch("box", spec("x"), Stdio(), Place(run=here, data=here))

def wait_for(function):
    while not any(call["function"] == function for call in machine.calls()):
        time.sleep(0.001)
"""


def _run(tmp_path: Path, source: str, *rules: str) -> str:
    """What a program says of which `source` is the rest; at its end, which registrations are left."""
    done = subprocess.run(
        [
            *(sys.executable, "-X", "faulthandler", "-c", PROGRAM + textwrap.dedent(source)),
            *(str(Path(__file__).parents[2]), str(tmp_path), "".join(f"{rule}\n" for rule in rules)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_told_to_an_engine_that_was_forgotten_hurts_nobody(tmp_path: Path) -> None:
    source = """
        asyncio.run(launch())  # and nobody closes it
        gc.collect()
        time.sleep(0.1)  # some two hundred notifications
        print(len(machine.open_handles()["callbacks"]))
    """
    assert _run(tmp_path, source) == "2\n[] []\n"


def test_a_program_that_ends_amid_a_call_is_told_of_nothing_any_more(tmp_path: Path) -> None:
    source = """
        async def main():
            system, _ = await launch()
            asking = asyncio.create_task(system.stats())
            await asyncio.to_thread(wait_for, "HcsGetComputeSystemProperties")

        asyncio.run(main())
    """
    assert _run(tmp_path, source, "rule\tHcsGetComputeSystemProperties", "delay\t5000") == "[] []\n"


def test_a_registration_that_is_being_made_when_the_program_ends_is_undone(tmp_path: Path) -> None:
    source = """
        threading.Thread(target=lambda: asyncio.run(launch()), daemon=True).start()
        wait_for("HcsRegisterProcessCallback")
    """
    assert _run(tmp_path, source, "rule\tHcsRegisterProcessCallback", "delay\t500") == "[] []\n"


def test_an_engine_that_a_program_leaves_open_ends_its_containers_before_their_handles_are_taken(
    tmp_path: Path,
) -> None:
    """The machine's own service is loaded by the thread of the engine, after that has registered for the end."""
    source = """
        import atexit, ctypes, sys
        sys.path.insert(0, sys.argv[1])

        def look():
            dll = ctypes.WinDLL("vmcompute.dll")  # that of the machine
            dll.DoubleCalls.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
            calls = ctypes.create_string_buffer(1 << 16)
            dll.DoubleCalls(0, calls, len(calls))
            for line in calls.value.decode().splitlines():
                if "System" in line:
                    print(line.partition("\\t")[0])

        atexit.register(look)
        import longshore.sync
        from tests.wine.conftest import LAYERS
        engine = longshore.sync.Engine(state=sys.argv[2])
        engine.launch("box", args=["x"], windows=LAYERS, owner="remove")
        print("open")
    """
    (tmp_path / "script").write_text("rule\tHcsCreateProcess\nstdout\tout\n")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), str(Path(__file__).parents[2]), str(tmp_path / "state")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"VMCOMPUTE_DOUBLE": str(tmp_path / "script")},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    before = said[: said.index("HcsUnregisterComputeSystemCallback")]
    assert {"HcsTerminateComputeSystem", "HcsShutdownComputeSystem"} & set(before)
