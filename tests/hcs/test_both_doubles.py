"""What the two doubles of vmcompute.dll must agree on: the one in Python here, the one in C in Windows' Python."""

from __future__ import annotations

import os
import queue
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from longshore.hcs.dll.hresults import HcsError
from longshore.hcs.dll.vmcompute import NotificationCallback, Vmcompute
from longshore.hcs.system.layers import LayerFunctions, Scratch, make, take_away

CREATED, EXITED, PROCESS_EXITED, UNKNOWN = 0x2, 0x1, 0x10000, 0xB
LAYER_FUNCTIONS = [
    *("LayerExists", "CreateSandboxLayer", "ExpandSandboxSize", "ActivateLayer", "PrepareLayer", "GetLayerMountPath"),
    *("UnprepareLayer", "DeactivateLayer", "DestroyLayer"),
]


class Double:
    """One of the two, as far as these tests need it."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()  # context, type
        self.callback = NotificationCallback(lambda type, context, status, data: self.told.put((context, type)))
        if os.name == "nt":
            from .wine_double import Machine

            machine: Any = Machine()
            self.exit: Callable[[int, int], None] = machine.process_exit
            self.notify_process: Callable[..., None] = machine.notify_process
            self.notify_system: Callable[..., None] = machine.notify_system
            self.errors: Callable[[], list[Any]] = lambda: machine.errors
            self.calls: Callable[[], list[dict[str, Any]]] = machine.calls
        else:
            from .scripted import Hcs

            hcs = machine = Hcs()
            self.exit = lambda pid, code: hcs.process_exit(hcs.process(pid), code)
            self.notify_process = lambda pid, type: hcs.notify_process(hcs.process(pid), type, 0)
            self.notify_system = lambda id, type: hcs.notify_system(hcs.systems[id], type)
            self.errors = lambda: hcs.errors
            self.calls = lambda: hcs.calls
        self._machine: Any = machine
        self.vmcompute: Vmcompute = machine.client().binding

    def next(self) -> tuple[int, int]:
        return self.told.get(timeout=300)

    def close(self) -> None:
        self._machine.close()


@pytest.fixture
def double() -> Iterator[Double]:
    made = Double()
    yield made
    errors = list(made.errors())
    made.close()
    assert errors == []


@pytest.fixture
def system(double: Double) -> Iterator[Any]:
    handle, _ = double.vmcompute.create_compute_system("box", '{"Owner":"test","Name":"box"}')
    yield handle
    double.vmcompute.close_compute_system(handle)


@pytest.fixture
def process(double: Double, system: Any) -> Iterator[tuple[Any, int]]:
    """Its handle and its pid."""
    handle, pid, _ = double.vmcompute.create_process(system, '{"CommandLine":"x"}')
    yield handle, pid
    double.vmcompute.close_process(handle)


def test_the_end_of_a_process_waits_for_its_registration(double: Double, process: tuple[Any, int]) -> None:
    handle, pid = process
    double.exit(pid, 3)
    registration = double.vmcompute.register_process_callback(handle, double.callback, 1)
    assert double.next() == (1, PROCESS_EXITED)
    double.vmcompute.unregister_process_callback(registration)


def test_what_waits_for_a_registration_keeps_its_order(double: Double, process: tuple[Any, int]) -> None:
    handle, pid = process
    double.notify_process(pid, UNKNOWN)
    double.exit(pid, 3)
    registration = double.vmcompute.register_process_callback(handle, double.callback, 1)
    assert [double.next(), double.next()] == [(1, UNKNOWN), (1, PROCESS_EXITED)]
    double.vmcompute.unregister_process_callback(registration)


def test_who_registers_late_is_told_though_others_have_been_told(
    double: Double, system: Any, process: tuple[Any, int]
) -> None:
    """Each handle hears of the end, whenever it registers: two programs may hold one process."""
    handle, pid = process
    early = double.vmcompute.register_process_callback(handle, double.callback, 1)
    other = double.vmcompute.open_process(system, pid)
    double.exit(pid, 3)
    assert double.next() == (1, PROCESS_EXITED)
    late = double.vmcompute.register_process_callback(other, double.callback, 2)
    assert double.next() == (2, PROCESS_EXITED)
    double.vmcompute.unregister_process_callback(early)
    double.vmcompute.unregister_process_callback(late)
    double.vmcompute.close_process(other)


def test_what_was_told_is_not_told_again(double: Double, process: tuple[Any, int]) -> None:
    handle, pid = process
    first = double.vmcompute.register_process_callback(handle, double.callback, 1)
    double.exit(pid, 3)
    assert double.next() == (1, PROCESS_EXITED)
    double.vmcompute.unregister_process_callback(first)
    second = double.vmcompute.register_process_callback(handle, double.callback, 2)
    double.notify_process(pid, UNKNOWN)
    assert double.next() == (2, UNKNOWN)  # and not the end before it
    double.vmcompute.unregister_process_callback(second)


def test_what_befalls_a_system_waits_for_the_first_registration_alone(double: Double, system: Any) -> None:
    double.notify_system("box", UNKNOWN)
    first = double.vmcompute.register_compute_system_callback(system, double.callback, 1)
    told = [double.next(), double.next()]
    assert sorted(told) == [(1, CREATED), (1, UNKNOWN)]
    other = double.vmcompute.open_compute_system("box")
    second = double.vmcompute.register_compute_system_callback(other, double.callback, 2)
    double.notify_system("box", EXITED)
    assert sorted([double.next(), double.next()]) == [(1, EXITED), (2, EXITED)]
    double.vmcompute.unregister_compute_system_callback(first)
    double.vmcompute.unregister_compute_system_callback(second)
    double.vmcompute.close_compute_system(other)


def test_the_layer_functions_are_given_what_windows_reads(double: Double) -> None:
    """Both look at the structures by Windows' layout: the driver, and each parent's id, which is its name's."""
    functions, path = LayerFunctions(double.vmcompute), r"C:\layers\scratch"
    parents, size = [r"C:\layers\app", r"C:\layers\über", r"C:\layers\base"], (40 << 30) + 7
    scratch = Scratch(path=path, mounted=True, made=True)
    assert not functions.exists(path)
    volume = make(functions, scratch, parents, size=size)
    assert functions.exists(path)
    assert re.fullmatch(r"\\\\\?\\Volume\{[0-9a-f-]{36}\}", volume)
    take_away(functions, scratch)
    assert not functions.exists(path)

    said = {call["function"]: call for call in double.calls()}
    assert all(said[name]["name"] == path for name in LAYER_FUNCTIONS)
    assert said["CreateSandboxLayer"]["parents"] == parents
    assert said["PrepareLayer"]["parents"] == parents
    assert said["ExpandSandboxSize"]["size"] == size


def test_a_layer_that_is_not_there_is_told_so(double: Double) -> None:
    functions, path = LayerFunctions(double.vmcompute), r"C:\layers\scratch"
    for call in (functions.activate, functions.unprepare, functions.deactivate, functions.destroy):
        with pytest.raises(HcsError, match="FILE_NOT_FOUND"):
            call(path)
    with pytest.raises(HcsError, match="FILE_NOT_FOUND"):
        functions.prepare(path, [r"C:\layers\base"])
    take_away(functions, Scratch(path=path, mounted=True, made=True))
