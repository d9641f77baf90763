"""A machine with a scripted vmcompute, a service on it, and what a store would give that: for tests of `hcs`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from longshore.compute.limits import HcsLimits
from longshore.compute.values import PIPE, Place, Stdio
from longshore.hcs.service import HcsService
from longshore.hcs.system.process import HcsProcess
from longshore.hcs.system.system import HcsSystem
from longshore.spec import HyperV, Spec, WindowsOptions
from tests.conformance.vectors import Rule, Service

from .crew import Crew
from .exports import Client
from .plumbing import PosixPipes
from .scripted import Hcs, ScriptedProcess

BASE = r"C:\layers\base"
ALL = Stdio(stdin=PIPE, stdout=PIPE, stderr=PIPE)


def script(**functions: list[dict[str, Any]]) -> Service:
    """The service's script, as vectors write it: `script(HcsStartComputeSystem=[{"hr": 0x80070005}])`."""
    return Service(
        functions={name: [msgspec.convert(rule, Rule) for rule in rules] for name, rules in functions.items()}
    )


def windows(*, hyperv: bool = False, **fields: Any) -> WindowsOptions:
    """Options over layers that somebody else has prepared."""
    isolation: dict[str, Any] = {"hyperv": HyperV()} if hyperv else {}
    return WindowsOptions(layer_paths=[BASE], layer_folder=r"C:\layers\box", **isolation, **fields)


class World:
    """One machine; `service` is the first program on it."""

    def __init__(
        self,
        base: Path,
        rules: Service | None = None,
        *,
        crew: bool = False,
        modern: bool = False,
        missing: tuple[str, ...] = (),
        limits: HcsLimits | None = None,
        end_with_handles: bool = True,
    ) -> None:
        self.base = base
        self.hcs = Hcs(rules, crew=Crew() if crew else None, modern=modern, missing=missing)
        self.limits = limits or HcsLimits(terminate=5, late_exit=0.2)
        self.end_with_handles = end_with_handles
        self.clients: dict[HcsService, Client] = {}
        self.service = self.another()

    def another(self) -> HcsService:
        """One more program on the machine."""
        client = self.hcs.client()
        service = HcsService(
            self.base,
            vmcompute=client.binding,
            pipes=PosixPipes(),
            limits=self.limits,
            cpus=4,
            exists=lambda path: True,
            end_with_handles=self.end_with_handles,
        )
        self.clients[service] = client
        return service

    def die(self, service: HcsService) -> None:
        """A program is killed."""
        self.clients[service].die()
        service.drop_streams()

    def script(self, **functions: list[dict[str, Any]]) -> None:
        """What the service does from now on."""
        self.hcs.script = script(**functions)

    def place(self, id: str = "box", lease: Any = None) -> Place:
        path = self.base / "places" / id
        path.mkdir(parents=True, exist_ok=True)
        return Place(run=path, data=path, lease=lease)

    def remove_place(self, id: str = "box") -> None:
        shutil.rmtree(self.base / "places" / id)

    def spec(self, *args: str, hyperv: bool = False, **fields: Any) -> Spec:
        """A container's spec, `cmd` unless told otherwise."""
        options = fields.pop("windows", None) or windows(hyperv=hyperv)
        return Spec.of(args=list(args) or ["cmd"], windows=options, **fields)

    def servicing(self) -> Spec:
        """The spec of a container that installs updates into its layer."""
        return Spec.of(windows=windows(servicing=True))

    async def launch(
        self, *args: str, id: str = "box", lease: Any = None, **fields: Any
    ) -> tuple[HcsSystem, HcsProcess]:
        return await self.service.launch(id, self.spec(*args, **fields), ALL, self.place(id, lease))

    # what the service does by itself, or has seen

    @property
    def functions(self) -> list[str]:
        """The functions that were called, in order."""
        return [call["function"] for call in self.hcs.calls]

    def count(self, function: str) -> int:
        return self.functions.count(function)

    def documents(self, function: str) -> list[str]:
        return [call["document"] for call in self.hcs.calls if call["function"] == function]

    def process(self, pid: int) -> ScriptedProcess:
        return self.hcs.process(pid)

    def exit(self, pid: int, code: int = 0, **more: Any) -> None:
        """A process ends."""
        self.hcs.process_exit(self.process(pid), code, **more)

    def notify(self, type: int, status: int = 0, id: str = "box") -> None:
        """A notification about a system."""
        self.hcs.notify_system(self.hcs.systems[id], type, status)

    @property
    def open_handles(self) -> int:
        return sum(map(len, self.hcs.open_handles().values()))

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(300):
            while not true():
                await asyncio.sleep(0.001)

    async def quiet(self) -> None:
        """Wait until nothing is under way."""
        await self.until(lambda: self.hcs.quiet_for > 0.02)

    async def close(self, *, clean: bool = True) -> None:
        """End everything. Nothing may be left: no handle, no text, no mistake that the double saw."""
        self.hcs.finish()
        for service in self.clients:
            if not self.clients[service].dead:
                await service.close()
        left, texts = self.hcs.open_handles(), [len(client.texts) for client in self.clients.values()]
        self.hcs.close()
        assert self.hcs.errors == []
        if clean:
            assert left == {"systems": [], "processes": [], "callbacks": []}
            assert sum(texts) == 0


@asynccontextmanager
async def world(base: Path, rules: Service | None = None, **options: Any) -> AsyncIterator[World]:
    """A machine that is looked through at the end."""
    made = World(base, rules, **options)
    try:
        yield made
    except BaseException:
        made.hcs.finish()
        made.hcs.close()
        raise
    await made.close()
