"""The scripted vmcompute in Python as the double that a recording is played on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.hcs.plumbing import PosixPipes
from tests.hcs.scripted import Hcs, type_number

from .vectors import Call, Open, ServiceAction, Stdin, Vector, number


def act(hcs: Hcs, action: ServiceAction, container: str) -> None:
    """The service acts by itself; on `container`, where the step names none."""
    if action.action == "notify_system":
        system = hcs.systems[action.system or container]
        hcs.notify_system(system, type_number(action.type or ""), number(action.status))
        return
    process = hcs.process(action.process or 0)
    match action.action:
        case "process_exit":
            hcs.process_exit(process, action.exit_code, status=number(action.status), silent=action.silent)
        case "notify_process":
            hcs.notify_process(process, type_number(action.type or ""), number(action.status))
        case "write":
            hcs.write(process, action.stream or "stdout", action.data.encode())
        case "end":
            hcs.end(process, action.stream or "stdout")
        case unknown:
            raise ValueError(f"the service cannot {unknown}")


class ScriptedDouble:
    """One machine with one client."""

    def __init__(self, vector: Vector) -> None:
        self.hcs = Hcs(vector.service, missing=vector.host.missing_functions)
        self.client = self.hcs.client()
        self.binding = self.client.binding
        self.pipes = PosixPipes()

    def act(self, action: ServiceAction, container: str) -> None:
        act(self.hcs, action, container)

    def finish(self) -> None:
        self.hcs.finish()

    def quiet_for(self) -> float:
        return self.hcs.quiet_for

    def calls(self) -> list[Call]:
        with self.hcs.lock:
            known: list[dict[str, Any]] = [dict(call) for call in self.hcs.calls]
        return [msgspec.convert(call, Call) for call in known]

    def open(self) -> Open:
        return msgspec.convert(self.hcs.open_handles(), Open)

    def stdin(self) -> list[Stdin]:
        hcs = self.hcs
        with hcs.lock:
            processes = list(hcs.processes.values())
        return [
            Stdin(process=process.pid, data=process.given.decode())
            for process in sorted(processes, key=lambda process: process.pid)
            if process.input_closed
        ]


@contextmanager
def scripted(vector: Vector) -> Iterator[ScriptedDouble]:
    """A double for one recording. Afterwards it must have freed and closed what it handed out."""
    double = ScriptedDouble(vector)
    try:
        yield double
    finally:
        double.hcs.close()
    assert double.hcs.errors == []
    assert [text.value for text in double.client.texts.values()] == []
