"""The double of vmcompute.dll (double/), for tests in Windows' Python: its script, its clients, and what it has seen.

It has the real interface, so the real binding is used on it; beside that it exports a few functions for tests, which
`Machine` calls. There is one machine in a process: making another forgets the one before.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from longshore.hcs.dll.vmcompute import PROTOTYPES, Vmcompute
from longshore.hcs.streams.pipes import WindowsPipes
from tests.conformance.vectors import Call, Open, Rule, Service, ServiceAction, Stdin, Vector, number

from .scripted import NOT_IN_2017, type_number

BUILT = Path(__file__).parents[2] / ".wine-env" / "double"
"""Where scripts/test-wine has built it."""

STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
_MARKS = {"\t": r"\t", "\n": r"\n", "\\": r"\\", "\r": r"\r", "\0": r"\0"}
_PLAIN = {mark[1]: plain for plain, mark in _MARKS.items()}


def escaped(value: str) -> str:
    """A value as a field of a line."""
    return re.sub(r"[\t\n\\\r\0]", lambda found: _MARKS[found[0]], value)


def plain(field: str) -> str:
    """The value of a field."""
    return re.sub(r"\\(.)", lambda found: _PLAIN[found[1]], field)


def script_of(service: Service, *words: str) -> str:
    """A vector's `service` as the lines that double/script.c reads; `words` are lines of their own."""
    lines = [*words]
    lines += [f"guid\t{escaped(name)}\t{guid}" for name, guid in service.guids.items()]
    for function, rules in service.functions.items():
        for rule in rules:
            lines.append(f"rule\t{function}")
            lines += _rule(rule)
    return "".join(f"{line}\n" for line in lines)


def _text(value: Any) -> str:
    return escaped(value if isinstance(value, str) else json.dumps(value))


def _rule(rule: Rule) -> Iterator[str]:
    for word in ("match", "system"):
        value = getattr(rule, word)
        if value is not None:
            yield f"{word}\t{escaped(value)}"
    numbers = {"times": rule.times, "pid": rule.pid, "code": rule.exit_code, "after": rule.after_ms}
    yield from (f"{word}\t{value}" for word, value in numbers.items() if value is not None)
    if rule.hr is not UNSET:
        yield f"hr\t{number(rule.hr)}"
    if rule.result is not UNSET and rule.result is not None:
        yield f"result\t{_text(rule.result)}"
    if rule.properties is not UNSET:
        yield "no properties" if rule.properties is None else f"properties\t{_text(rule.properties)}"
    if rule.notify is not UNSET:
        yield "no notifications"
        for each in rule.notify:
            data = "" if each.data is None else f"\t{escaped(each.data)}"
            yield f"notify\t{type_number(each.type)}\t{number(each.status)}\t{each.after_ms}{data}"
    if rule.kill is not None:
        yield f"kill\t{rule.kill.exit_code}\t{rule.kill.after_ms}"
    if rule.delay_ms:
        yield f"delay\t{rule.delay_ms}"
    for name in ("stdout", "stderr"):
        if getattr(rule, name):
            yield f"{name}\t{escaped(getattr(rule, name))}"
    yield f"repeat\t{rule.repeat}"
    yield from (word for word, said in (("close_output", rule.close_output), ("echo", rule.echo)) if said)
    yield from (f"withhold\t{name}" for name in rule.withhold)
    yield from (f"invalid\t{name}" for name in rule.invalid)
    if rule.exit is not None:
        word = "exit" if rule.exit.on is None else "exit on close"
        yield f"{word}\t{rule.exit.code}\t{rule.exit.after_ms}\t{number(rule.exit.status)}"


@cache
def library() -> Any:
    """The double, loaded once."""
    dll = ctypes.WinDLL(str(BUILT / "vmcompute.dll"))  # type: ignore[attr-defined]
    dll.DoubleReset.argtypes = [c_char_p]
    dll.DoubleClient.argtypes = dll.DoubleDie.argtypes = [c_int]
    dll.DoubleFree.argtypes = [c_void_p]
    dll.DoubleFree.restype = dll.DoubleReset.restype = dll.DoubleClient.restype = dll.DoubleDie.restype = None
    dll.DoubleQuiet.restype = c_uint32
    for name in ("Open", "Given", "Errors"):
        function = getattr(dll, f"Double{name}")
        function.argtypes, function.restype = [c_void_p, c_size_t], c_size_t
    dll.DoubleCalls.argtypes, dll.DoubleCalls.restype = [c_int, c_void_p, c_size_t], c_size_t
    dll.DoubleProcessExit.argtypes = [c_uint32, c_uint32, c_int32, c_int]
    dll.DoubleNotifyProcess.argtypes = [c_uint32, c_uint32, c_int32]
    dll.DoubleNotifySystem.argtypes = [c_char_p, c_uint32, c_int32]
    dll.DoubleWrite.argtypes = [c_uint32, c_int, c_char_p, c_size_t]
    dll.DoubleEnd.argtypes = [c_uint32, c_int]
    return dll


class Export:
    """One export, as it is called by one client: the double hears which before the call, in the same thread."""

    def __init__(self, name: str, client: int) -> None:
        self._function = getattr(library(), name)
        self._client = client
        self._function.argtypes, self._function.restype = PROTOTYPES[name], c_int32

    restype: Any = None
    argtypes: Any = None

    def __call__(self, *arguments: Any) -> int:
        library().DoubleClient(self._client)
        return int(self._function(*arguments))


class Client:
    """A program that uses the service."""

    def __init__(self, number: int, missing: set[str]) -> None:
        self.number = number
        self.dll = type("Dll", (), {})()
        for name in PROTOTYPES:
            if name not in missing:
                setattr(self.dll, name, Export(name, number))
        self.binding = Vmcompute(self.dll, library().DoubleFree)

    def die(self) -> None:
        """It is killed: its handles are closed by the kernel, its callbacks never called again."""
        library().DoubleDie(self.number)


def signed(value: int) -> int:
    return value - (1 << 32) if value & 0x80000000 else value


class Machine:
    """The service of one machine; `Client`s are programs that use it."""

    def __init__(self, script: str = "", missing: tuple[str, ...] | list[str] = (), *, modern: bool = False) -> None:
        self._missing = set(missing) | (set() if modern else NOT_IN_2017)
        self._clients = 0
        self._calls: list[dict[str, Any]] = []
        library().DoubleReset(script.encode())

    def client(self) -> Client:
        self._clients += 1
        return Client(self._clients, self._missing)

    def close(self) -> None:
        """Nothing of it is left."""
        library().DoubleReset(b"")

    # what was seen

    @staticmethod
    def _told(function: Callable[..., int], *arguments: Any) -> str:
        room = 1 << 16
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = function(*arguments, buffer, room)
            if size < room:
                return buffer.raw[:size].decode(errors="surrogateescape")
            room = size + (1 << 16)

    def calls(self, first: int = 0) -> list[dict[str, Any]]:
        """The calls from the first so many on: their function and members."""
        found = []
        for line in self._told(library().DoubleCalls, first).split("\n")[:-1]:
            function, _, *members = line.split("\t")
            call: dict[str, Any] = {"function": function}
            for member in members:
                name, given, value = member.partition("=")
                call[name] = plain(value) if given else None
            for name in ("process", "hr"):
                if name in call:
                    call[name] = int(call[name])
            if "parents" in call:
                call["parents"] = call["parents"].split("|")
            if "size" in call:
                call["size"] = int(call["size"], 16)
            if "pipes" in call:
                call["pipes"] = call["pipes"].split(",") if call["pipes"] else []
            found.append(call)
        return found

    @property
    def call_count(self) -> int:
        return int(library().DoubleCallCount())

    @property
    def quiet_for(self) -> float:
        """Seconds since anything happened, 0 while something is still to come."""
        return float(library().DoubleQuiet()) / 1000

    @property
    def errors(self) -> list[str]:
        """What was wrong in the use of the service: there must be nothing."""
        return self._told(library().DoubleErrors).splitlines()

    @property
    def texts_out(self) -> int:
        """How many texts it has handed out that were not given back."""
        return int(library().DoubleTextsOut())

    def open_handles(self) -> dict[str, list[str]]:
        """Names of the handles that are still open, as the recordings have them."""
        kinds = {"s": "systems", "p": "processes", "c": "callbacks"}
        found: dict[str, list[str]] = {kind: [] for kind in kinds.values()}
        for name in sorted(self._told(library().DoubleOpen).split(), key=lambda name: int(name[1:])):
            found[kinds[name[0]]].append(name)
        return found

    def given(self) -> list[tuple[int, str]]:
        """What processes were told on their standard input, of those whose pipe was closed; by pid."""
        lines = self._told(library().DoubleGiven).split("\n")[:-1]
        found = [line.partition("\t") for line in lines]
        return sorted((int(pid), plain(data)) for pid, _, data in found)

    # what it does by itself

    def finish(self) -> None:
        """The script is over: whatever still runs ends."""
        library().DoubleFinish()

    def process_exit(self, pid: int, code: int, status: int = 0, *, silent: bool = False) -> None:
        _found(library().DoubleProcessExit(pid, code & 0xFFFFFFFF, signed(status), silent))

    def notify_process(self, pid: int, type: int, status: int = 0) -> None:
        _found(library().DoubleNotifyProcess(pid, type, signed(status)))

    def notify_system(self, id: str | None, type: int, status: int = 0) -> None:
        """None: on every registration there is."""
        _found(library().DoubleNotifySystem(None if id is None else id.encode(), type, signed(status)))

    def write(self, pid: int, stream: str, data: bytes) -> None:
        _found(library().DoubleWrite(pid, STREAMS[stream], data, len(data)))

    def end(self, pid: int, stream: str) -> None:
        _found(library().DoubleEnd(pid, STREAMS[stream]))


def _found(done: int) -> None:
    if not done:
        raise LookupError("there is no such system or process")


class WineDouble:
    """A machine with one client, for the runner of recordings."""

    def __init__(self, vector: Vector) -> None:
        self.machine = Machine(script_of(vector.service), vector.host.missing_functions)
        self.binding = self.machine.client().binding
        self.pipes = WindowsPipes()
        self._known: list[Call] = []

    def act(self, action: ServiceAction, container: str) -> None:
        machine = self.machine
        pid, status = action.process or 0, number(action.status)
        match action.action:
            case "notify_system":
                machine.notify_system(action.system or container, type_number(action.type or ""), status)
            case "process_exit":
                machine.process_exit(pid, action.exit_code, status, silent=action.silent)
            case "notify_process":
                machine.notify_process(pid, type_number(action.type or ""), status)
            case "write":
                machine.write(pid, action.stream or "stdout", action.data.encode())
            case "end":
                machine.end(pid, action.stream or "stdout")
            case unknown:
                raise ValueError(f"the service cannot {unknown}")

    def finish(self) -> None:
        self.machine.finish()

    def quiet_for(self) -> float:
        return self.machine.quiet_for

    def calls(self) -> list[Call]:
        if self.machine.call_count != len(self._known) or any("hr" not in call for call in self._raw):
            self._raw = self.machine.calls()
            self._known = [msgspec.convert(call, Call) for call in self._raw]
        return list(self._known)

    _raw: list[dict[str, Any]] = []

    def open(self) -> Open:
        return msgspec.convert(self.machine.open_handles(), Open)

    def stdin(self) -> list[Stdin]:
        return [Stdin(process=pid, data=data) for pid, data in self.machine.given()]


@contextmanager
def under_wine(vector: Vector) -> Iterator[WineDouble]:
    """The DLL for one recording. Afterwards everything it handed out must have been given back."""
    double = WineDouble(vector)
    try:
        yield double
        assert double.machine.errors == []
        assert double.machine.texts_out == 0
    finally:
        double.machine.close()


def is_here() -> bool:
    """Whether this Python can load it."""
    return os.name == "nt" and (BUILT / "vmcompute.dll").exists()
