"""The services that the contract is tried on: every one that this machine has. To add one, add a line to STATIONS."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longshore.compute.protocols import ComputeService
from longshore.compute.values import Features, Place
from longshore.fs.files import open_lock, try_lock
from longshore.fs.trees import remove_though_open
from longshore.simulator import Machine, Process, Simulator, Temperament
from longshore.spec import HyperV, Spec, WindowsOptions

OWNER = "longshore"


@dataclass(frozen=True)
class Commands:
    """How each service spells the few commands that the contract needs; the rest are the same words everywhere."""

    exit: Callable[[int], list[str]]  # ends with the code
    trap: Callable[[int], list[str]]  # says `ready`, ends with the code on TERM
    spew: Callable[[int], list[str]]  # writes so many bytes
    both: list[str]  # writes `out` to stdout and `err` to stderr
    hold: list[str]  # ends with 0, and a child of it holds its streams
    size: list[str]  # writes rows and columns of its terminal


SHELL = Commands(
    exit=lambda code: ["sh", "-c", f"exit {code}"],
    trap=lambda code: ["sh", "-c", f"trap 'exit {code}' TERM; echo ready; sleep infinity & wait"],
    spew=lambda count: ["head", "-c", str(count), "/dev/zero"],
    both=["sh", "-c", "echo out; echo err >&2"],
    hold=["sh", "-c", "sleep infinity & exit 0"],
    size=["stty", "size"],
)
INMATE = Commands(
    exit=lambda code: ["inmate", "exit", str(code)],
    trap=lambda code: ["inmate", "trap", str(code)],
    spew=lambda count: ["inmate", "spew", str(count)],
    both=["inmate", "both"],
    hold=["inmate", "hold"],
    size=["inmate", "size"],
)
SIMULATED = Commands(
    exit=lambda code: ["exit", str(code)],
    trap=lambda code: ["trap-exit", str(code)],
    spew=lambda count: ["spew", str(count)],
    both=["both"],
    hold=["hold"],
    size=["stty", "size"],
)


async def trap_exit(process: Process) -> int:
    process.signals.catch(15)
    await process.stdout.write(b"ready\n")
    await process.signals.get()
    return int(process.args[1])


async def both(process: Process) -> int:
    await process.stdout.write(b"out\n")
    await process.stderr.write(b"err\n")
    return 0


@dataclass
class ALease:
    """An owner, as a service needs to know it: its directory is as the store makes it."""

    directory: Path
    lock_fd: int

    @property
    def id(self) -> str:
        return self.directory.name


@dataclass
class Station:
    """One service, the directories that a store would give it, and what its machine calls things."""

    name: str
    base: Path
    commands: Commands
    connect: Callable[[], ComputeService]  # one more program on the same machine
    abandon: Callable[[ComputeService], None]  # a program dies without closing anything
    fields: dict[str, Any]  # what every spec needs here
    pausable: dict[str, Any]  # and one that can be paused
    services: list[ComputeService] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    making: list[int] = field(default_factory=list)  # locks that a maker holds as long as it lives
    end: Callable[[], None] = lambda: None  # the machine is looked at, and switched off

    @property
    def service(self) -> ComputeService:
        return self.services[0]

    def another(self) -> ComputeService:
        self.services.append(self.connect())
        return self.services[-1]

    def lose(self, service: ComputeService) -> None:
        """The program that used `service` dies; what it held breaks, the rest goes on."""
        self.services.remove(service)
        self.abandon(service)
        while self.making:
            os.close(self.making.pop())

    async def features(self) -> Features:
        return await self.services[-1].probe()

    def spec(self, args: list[str], **fields: Any) -> Spec:
        return Spec.of(args=args, **(self.fields | fields))

    def place(self, id: str, *, lease: ALease | None = None) -> Place:
        """The places of a container that is about to be made; what an earlier one of this id left there is gone."""
        run, data = self.base / "run" / "containers" / id, self.base / "lib" / "containers" / id
        for path in (run, data):
            if path.exists():  # with a lock in it that its maker still has
                (self.base / "trash").mkdir(exist_ok=True)
                remove_though_open(path, self.base / "trash")
            path.mkdir(parents=True, mode=0o700)
        lock = self._lock(run / "making.lock", self.making)
        return Place(run=run, data=data, lease=lease, lock_fd=lock)

    def found_place(self, id: str) -> Place:
        """The places of a container that somebody made."""
        return Place(run=self.base / "run" / "containers" / id, data=self.base / "lib" / "containers" / id)

    def exec_place(self, id: str, name: str, *, lease: ALease | None = None) -> Place:
        path = self.base / "run" / "containers" / id / "processes" / name
        path.mkdir(parents=True, mode=0o700)
        return Place(run=path, data=path, lease=lease)

    def lease(self) -> ALease:
        directory = self.base / "run" / "leases" / f"1-{secrets.token_hex(4)}"
        (directory / "execs").mkdir(parents=True)
        return ALease(directory, self._lock(directory / "lease.lock", self.fds, shared=True))

    def let_go(self, lease: ALease) -> None:
        """The owner of a lease is dead: only its helpers still have the lock."""
        self.fds.remove(lease.lock_fd)
        os.close(lease.lock_fd)

    @staticmethod
    def _lock(path: Path, holder: list[int], *, shared: bool = False) -> int:
        fd = open_lock(path)
        assert try_lock(fd, shared=shared)
        holder.append(fd)
        return fd

    async def close(self) -> list[str]:
        """End all; returns the ids of systems that were left behind."""
        service = self.another()
        left = await service.leftovers(OWNER)
        for id in left:
            await service.abandon(id, self.found_place(id))
        for each in self.services:
            await each.close()
        for fd in [*self.fds, *self.making]:
            os.close(fd)
        self.end()
        return left


def simulated(name: str, base: Path, temperament: Temperament) -> Station:
    machine = Machine(temperament, programs={"trap-exit": trap_exit, "both": both})

    def die(service: ComputeService) -> None:
        assert isinstance(service, Simulator)
        service.caller_died()

    hyperv = {"windows": WindowsOptions(hyperv=HyperV())} if temperament == "hcs" else {}
    return Station(name, base, SIMULATED, lambda: Simulator(machine=machine), die, {}, hyperv)


def real(name: str, base: Path, runtime: str) -> Station:
    from longshore.oci.service import OciService

    store_id = f"contract-{secrets.token_hex(4)}"
    (base / "run").mkdir(parents=True, exist_ok=True)
    (base / "lib").mkdir(parents=True, exist_ok=True)
    return Station(
        name,
        base,
        SHELL,
        lambda: OciService(store_id, base / "run", base / "lib", runtime=runtime),
        lambda service: None,  # its children go on; it is only never used again
        {"root": "host"},
        {},
    )


def scripted(name: str, base: Path) -> Station:
    """HCS on the scripted vmcompute, with this machine's own programs as the processes."""
    from longshore.hcs.service import HcsService
    from tests.hcs.crew import Crew
    from tests.hcs.exports import Client
    from tests.hcs.plumbing import PosixPipes
    from tests.hcs.scripted import Hcs

    base.joinpath("run").mkdir(parents=True, exist_ok=True)
    hcs = Hcs(crew=Crew())
    clients: dict[ComputeService, Client] = {}

    def connect() -> ComputeService:
        client = hcs.client()
        service = HcsService(
            base / "run", vmcompute=client.binding, pipes=PosixPipes(), exists=lambda path: True, cpus=4
        )
        clients[service] = client
        return service

    def die(service: ComputeService) -> None:
        assert isinstance(service, HcsService)
        clients[service].die()
        service.drop_streams()  # the kernel closes them with everything else

    def end() -> None:
        left = hcs.open_handles()
        texts = [text.value for client in clients.values() for text in client.texts.values()]
        hcs.close()
        assert hcs.errors == []
        assert texts == []
        assert left == {"systems": [], "processes": [], "callbacks": []}

    layers: dict[str, Any] = {"layer_paths": [r"C:\layers\base"], "layer_folder": r"C:\layers\box"}
    plain = {"windows": WindowsOptions(**layers)}
    isolated = {"windows": WindowsOptions(**layers, hyperv=HyperV())}
    return Station(name, base, SHELL, connect, die, plain, isolated, end=end)


def on_dll(name: str, base: Path) -> Station:
    """HCS by the real binding, on the double in C; its processes are programs of this Windows (double/inmate.c)."""
    from longshore.hcs.service import HcsService
    from longshore.hcs.streams.pipes import WindowsPipes
    from tests.hcs.wine_double import BUILT, Client, Machine

    base.joinpath("run").mkdir(parents=True, exist_ok=True)
    machine = Machine(f"crew\npath\t{str(BUILT).replace(chr(92), chr(92) * 2)}\n")
    clients: dict[ComputeService, Client] = {}

    def connect() -> ComputeService:
        client = machine.client()
        service = HcsService(
            base / "run", vmcompute=client.binding, pipes=WindowsPipes(), exists=lambda path: True, cpus=4
        )
        clients[service] = client
        return service

    def die(service: ComputeService) -> None:
        assert isinstance(service, HcsService)
        clients[service].die()
        service.drop_streams()

    def end() -> None:
        errors, texts, left = machine.errors, machine.texts_out, machine.open_handles()
        machine.close()
        assert errors == []
        assert texts == 0
        assert left == {"systems": [], "processes": [], "callbacks": []}

    layers: dict[str, Any] = {"layer_paths": [r"C:\layers\base"], "layer_folder": r"C:\layers\box"}
    plain = {"windows": WindowsOptions(**layers)}
    isolated = {"windows": WindowsOptions(**layers, hyperv=HyperV())}
    return Station(name, base, INMATE, connect, die, plain, isolated, end=end)


STATIONS: dict[str, Callable[[Path], Station]] = {
    "simulator-oci": lambda base: simulated("simulator-oci", base, "oci"),
    "simulator-hcs": lambda base: simulated("simulator-hcs", base, "hcs"),
    **({"hcs": lambda base: scripted("hcs", base)} if os.name == "posix" else {}),
    **({"hcs-wine": lambda base: on_dll("hcs-wine", base)} if os.name == "nt" else {}),
}
"""Every service that can be tried here."""

if os.name == "posix" and os.geteuid() == 0 and shutil.which("conmon"):
    if shutil.which("runc"):
        STATIONS["runc"] = lambda base: real("runc", base, "runc")
    if shutil.which("crun"):
        STATIONS["crun"] = lambda base: real("crun", base, "crun")


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)
