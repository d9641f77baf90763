"""Playing a recording: its operations on an `Engine` over an HcsService, on a double that follows its script.

The recordings' client is one object that a program holds; here an engine takes its place: `create` is `create` and
`start`, `addprocess` is `exec`, and so on. What the double is, `Double` tells: the scripted vmcompute in Python, or
a DLL under Wine.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from longshore import Engine
from longshore.compute.events import Event as EngineEvent
from longshore.compute.limits import HcsLimits
from longshore.compute.values import PIPE, ProcessInfo, Stats, Stdio
from longshore.engine import exec
from longshore.engine.container import Container
from longshore.engine.process import Process
from longshore.errors import ContainerNotFound, LongshoreError, ServiceError
from longshore.exit_record import Exit
from longshore.hcs.dll.vmcompute import Vmcompute
from longshore.hcs.service import HcsService
from longshore.hcs.streams.pipes import Pipes
from longshore.spec import Spec

from . import asked, rules
from .observed import Observed, Outcome, Reentered
from .vectors import UNKNOWN_EXIT_CODE, Attached, Call, Event, Open, Operation, ServiceAction, Stdin, Stream, Vector

ALL_PIPES = Stdio(stdin=PIPE, stdout=PIPE, stderr=PIPE)
QUIET = 0.05  # seconds in which nothing has happened: the double's own delays lie 20 ms apart
LATE = 60.0  # the end of a process whose system has exited is told by the script, or is not to be seen here
OLD_BUILD = 14393  # the recorded documents are what builds of then are sent
USUAL = 15.0  # seconds of each time limit that a recording does not shorten: minutes in the original
BEHIND = 2.0  # seconds by which an operation beside others may be behind the recording
MAKING = ("HcsCreateComputeSystem", "HcsCreateProcess", "HcsRegisterProcessCallback")
FINEST = timedelta(microseconds=1)  # the service tells tenths of that
INLINE = 1 << 16  # streams of more bytes are recorded by their hash


class Double(Protocol):
    """The service that a recording is played on."""

    @property
    def binding(self) -> Vmcompute: ...

    @property
    def pipes(self) -> Pipes: ...

    def act(self, action: ServiceAction, container: str) -> None:
        """The service does something by itself."""
        ...

    def quiet_for(self) -> float:
        """Seconds since anything happened; 0 while something is still to come."""
        ...

    def calls(self) -> list[Call]:
        """The calls so far."""
        ...

    def open(self) -> Open:
        """The handles that are open."""
        ...

    def stdin(self) -> list[Stdin]:
        """What processes were given whose pipe was closed."""
        ...

    def finish(self) -> None:
        """The script is over: whatever still runs ends."""
        ...


class _Attachment:
    """The streams of one process, read to their end."""

    def __init__(self, key: str, process: Process, *, hold: bool) -> None:
        self.key = key
        self.process = process
        self.found: dict[str, bytearray] = {}
        self.ended: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        for name in ("stdout", "stderr"):
            if getattr(process, name) is not None:
                self.found[name] = bytearray()
        if not hold:
            self.read()

    def read(self) -> None:
        for name in self.found:
            self._tasks.append(asyncio.create_task(self._read(name)))

    async def _read(self, name: str) -> None:
        stream: asyncio.StreamReader = getattr(self.process, name)
        while data := await stream.read(1 << 16):
            self.found[name] += data
        self.ended.add(name)

    def streams(self) -> list[Stream]:
        return [self._stream(name) for name in sorted(self.found)]

    def _stream(self, name: str) -> Stream:
        data = bytes(self.found[name])
        end = "EOF" if name in self.ended else ""
        if len(data) > INLINE:
            digest = hashlib.sha256(data).hexdigest()
            return Stream(process=self.key, stream=name, bytes=len(data), sha256=digest, end=end)
        return Stream(process=self.key, stream=name, bytes=len(data), data=data.decode(), end=end)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


class _Player:
    def __init__(self, vector: Vector, double: Double, engine: Engine, service: HcsService) -> None:
        self.vector = vector
        self.service = service
        self.double = double
        self.engine = engine
        self.seen = Observed()
        self.attachments: dict[str, _Attachment] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.pids: dict[str, list[int]] = {}
        self.calls_told = 0
        self.acted = 0  # how often the service has acted by itself
        self.handlers: set[asyncio.Task[None]] = set()

    # the order of things

    def note(self, entry: dict[str, int]) -> None:
        count = len(self.double.calls())
        self.seen.order += [{"call": index} for index in range(self.calls_told, count)]
        self.calls_told = count
        self.seen.order.append(entry)

    async def play(self) -> None:
        listener = asyncio.create_task(self._listen()) if self.vector.reenter else None
        try:
            for index, step in enumerate(self.vector.operations):
                if step.op in rules.SILENT:
                    await self._silent(step)
                elif step.asynchronous:
                    self.tasks[step.label or ""] = asyncio.create_task(self._step(index, step))
                    await asyncio.sleep(0)
                else:
                    await self._step(index, step)
            for task in self.tasks.values():
                await task
            for handler in list(self.handlers):
                await handler
            self.note({"end": 0})
            await self._look()
        finally:
            if listener is not None:
                listener.cancel()
                await asyncio.wait((listener,))
            for attachment in self.attachments.values():
                await attachment.close()

    async def _silent(self, step: Operation) -> None:
        match step.op:
            case "settle":
                await self.settle()
            case "sleep":
                await asyncio.sleep((step.ms or 0) / 1000)
            case "join":
                await self.tasks[step.label or ""]
            case "service":
                assert step.do is not None
                await self._caught_up()
                with suppress(LookupError):  # of what was refused there is nothing that could act
                    self.double.act(step.do, self.vector.create.container)
            case "start_reading":
                with suppress(KeyError):
                    self.attachments[step.name or "init"].read()
            case _:  # gc, drop: of the original's run time
                pass

    async def _caught_up(self) -> None:
        """Until what runs beside has made as many systems and processes as it had in the recording, by now.

        On a slow machine it may be behind; what was refused will not come, so that this has an end.
        """
        self.acted += 1
        places = [place for place, entry in enumerate(self.vector.timeline) if "service" in entry]
        if all(task.done() for task in self.tasks.values()) or len(places) < self.acted:
            return
        before = self.vector.timeline[: places[self.acted - 1]]
        wanted = sum(entry.get("function") in MAKING for entry in before)
        with suppress(TimeoutError):
            async with asyncio.timeout(BEHIND):
                while sum(call.function in MAKING for call in self.double.calls()) < wanted:
                    await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Until the service has nothing left to deliver, no call is on its way, and nothing has happened for a while.

        Time in which this program did not get to run does not count: it may have something to do yet.
        """
        loop = asyncio.get_running_loop()
        calm = 0.0
        while calm < QUIET:
            began = loop.time()
            await asyncio.sleep(0.005)
            took = loop.time() - began
            if self.double.quiet_for() < took or self.service.session.threads.under_way:
                calm = 0.0
            elif took < 0.015:
                calm += took

    async def _step(self, index: int, step: Operation) -> None:
        self.note({"op": index})
        outcome = Outcome()
        self.seen.outcomes[index] = outcome
        try:
            async with asyncio.timeout(step.ms / 1000 if step.ms else patience(self.vector)) as limit:
                outcome.result = await self._do(step)
        except TimeoutError as error:
            if limit.expired():
                outcome.hung = True
            else:
                outcome.error = error
        except (LongshoreError, OSError, RuntimeError) as error:
            outcome.error = error
        self.note({"return": index})

    async def _listen(self) -> None:
        async for event in self.engine.events(since=0):
            if isinstance(event, EngineEvent):
                await self._reenter(event.type, event.container)

    async def _reenter(self, state: str, container: str) -> None:
        op = self.vector.reenter.get(state)
        if op is None:
            return
        outcome = Outcome()
        self.seen.reentries.append(Reentered(state, op, outcome))
        step = Operation(op=op, container=container, sig=15)
        try:
            async with asyncio.timeout(patience(self.vector)):
                outcome.result = await self._do(step)
        except TimeoutError:
            outcome.hung = True
        except LongshoreError as error:
            outcome.error = error

    # operations

    async def _do(self, step: Operation) -> Any:
        if step.op == "create":
            return await self._create(step)
        if step.op in _STREAMS:
            attachment = self.attachments.get(step.name or "init")
            if attachment is None:  # what was refused has no streams
                raise ContainerNotFound(self.vector.container_of(step))
            return await _STREAMS[step.op](attachment, step)
        if "checkpoint" in step.op:
            (await self.engine.features()).need("checkpoint")
            return None
        if step.op == "serverversion":
            return await self.engine.version()
        if step.op == "restore":
            return await self.engine.restore()
        container = await self.engine.get(self.vector.container_of(step))
        return await _VERBS[step.op](self, container, step)

    async def _create(self, step: Operation) -> None:
        full = self.vector.completed(step)
        id = self.vector.container_of(step)
        spec = asked.created(full)
        await self._forget(id)
        if spec.windows is not None and spec.windows.servicing:
            await self.engine.launch(id, spec, stdout=PIPE, stderr=PIPE)
            return
        async with self.engine._state.operation():
            container, _ = await self.engine._make(id, spec, "keep", ALL_PIPES, launch=False)
        try:
            process = await container.start()
        except BaseException:
            with suppress(LongshoreError):  # its caller is told why it did not start
                await container.delete(force=True)
            raise
        self.pids.setdefault(id, []).append(process.pid)
        key = "init" if id == self.vector.create.container else f"{id}:init"
        await self._attach(step, step.name or key, process, spec.terminal, id)

    async def _forget(self, id: str) -> None:
        """Rule `remembered`: the original knew no container that has stopped; here it is deleted first."""
        with suppress(LongshoreError):
            earlier = await self.engine.get(id)
            if (await earlier.info()).state == "stopped":
                await earlier.delete()

    async def _attach(self, step: Operation, key: str, process: Process, terminal: bool, container: str) -> None:
        """What the original did by a callback; ours is called when the process runs."""
        failure = step.attach_error if step.attach == "fail" else None
        self.seen.attached.append(
            Attached(
                process=key,
                stdin=process.stdin is not None,
                stdout=process.stdout is not None,
                stderr=process.stderr is not None,
                terminal=terminal,
                error=failure,
            )
        )
        await self._reenter("attach", container)
        self.attachments[key] = _Attachment(key, process, hold=failure is not None or step.attach == "hold")
        if step.attach == "close_stdin":
            await process.close_stdin()
        if failure is not None:
            raise RuntimeError(failure)

    async def addprocess(self, container: Container, step: Operation) -> int:
        spec = asked.process_spec(step.process or {})
        async with self.engine._state.operation():
            process = await exec.exec_(
                container._ref,
                spec,
                ALL_PIPES,
                name=step.name,
                timeout=None,
            )
        key = step.label if step.label and not step.asynchronous else step.name or ""
        await self._attach(step, key, process, spec.terminal, container.id)
        return process.pid

    async def signalprocess(self, container: Container, step: Operation) -> None:
        """The original ended the process, whatever the signal."""
        process = await container.process(step.name or "")
        await process.kill()

    async def resize(self, container: Container, step: Operation) -> None:
        process = await container.process(step.name or "init")
        await process.resize(step.height, step.width)

    # what was seen

    async def _look(self) -> None:
        seen, double = self.seen, self.double
        seen.calls = double.calls()
        seen.open = double.open()
        seen.stdin = double.stdin()
        for attachment in self.attachments.values():
            seen.streams += attachment.streams()
        async for event in self.engine.events(since=0, follow=False):
            if isinstance(event, EngineEvent) and event.type in _STATES:
                seen.events.append(self._event(event))

    def _event(self, event: EngineEvent) -> Event:
        exit: Exit | None = event.exit
        pid, code = 0, 0
        if exit is not None:
            pid = exit.pid or 0
            code = UNKNOWN_EXIT_CODE if exit.code is None else exit.code
        elif event.type == "start-container":
            known = self.pids.get(event.container)
            pid = known.pop(0) if known else 0
        return Event(
            container=event.container,
            state=event.type,
            pid=pid,
            exit_code=code,
            process_id=event.process or "",
            update_pending=event.type == "exit" and self._updates_pending(event.container),
        )

    def _updates_pending(self, container: str) -> bool:
        with suppress(ContainerNotFound):
            record = self.engine._state.store.container_dir(container).read_exit()
            return record is not None and record.updates_pending
        return False


_STATES = ("start-container", "exit", "exit-process", "pause", "resume")

Verb = Callable[[_Player, Container, Operation], Coroutine[Any, Any, Any]]


def _verb(call: Callable[[Container, Operation], Awaitable[Any]]) -> Verb:
    async def verb(player: _Player, container: Container, step: Operation) -> Any:
        return await call(container, step)

    return verb


async def _stats(container: Container, step: Operation) -> Any:
    return as_recorded_stats(await container.stats(), step.result)


async def _summary(container: Container, step: Operation) -> Any:
    return as_recorded_list(await container.top(), step.result)


_VERBS: dict[str, Verb] = {
    "addprocess": _Player.addprocess,
    "signal": _verb(lambda container, step: container.signal(step.sig or 0)),
    "signalprocess": _Player.signalprocess,
    "resize": _Player.resize,
    "pause": _verb(lambda container, step: container.pause()),
    "resume": _verb(lambda container, step: container.resume()),
    "stats": _verb(_stats),
    "summary": _verb(_summary),
    "pids": _verb(lambda container, step: container.pids()),
    "updateresources": _verb(lambda container, step: container.update(memory="64m")),
}


async def _write(attachment: _Attachment, step: Operation) -> int:
    stdin = attachment.process.stdin
    if stdin is None:
        raise ConnectionResetError("there is no standard input")
    data = step.data.encode()
    stdin.write(data)
    await stdin.drain()
    return len(data)


async def _close_stdin(attachment: _Attachment, step: Operation) -> None:
    await attachment.process.close_stdin()


async def _read_again(attachment: _Attachment, step: Operation) -> int:
    """asyncio's readers give the end again where the original's were closed."""
    stream: asyncio.StreamReader | None = getattr(attachment.process, step.stream or "stdout")
    if stream is None:
        raise ConnectionResetError("there is no such stream")
    data = await stream.read(1)
    if not data and stream.at_eof():
        raise RuntimeError("the stream has ended")
    return len(data)


async def _close_output(attachment: _Attachment, step: Operation) -> None:
    """An asyncio reader has nothing to close; the original's closers did nothing."""


_STREAMS: dict[str, Callable[[_Attachment, Operation], Coroutine[Any, Any, Any]]] = {
    "write_stdin": _write,
    "close_stdin": _close_stdin,
    "read_again": _read_again,
    "close_output": _close_output,
}


# results: what the original passed on as the service's documents, longshore has in words and units of its own


def _moment(text: str | None) -> datetime | None:
    """A recorded time; Go's zero time is none. Its last digit is finer than Python's."""
    if not text or text.startswith("0001-"):
        return None
    zone = text[text.index("T") :]
    digits = zone.partition(".")[2]
    fraction = digits[: next((i for i, c in enumerate(digits) if not c.isdigit()), len(digits))]
    return datetime.fromisoformat(text.replace(f".{fraction}", f".{fraction[:6]}") if fraction else text).astimezone(
        UTC
    )


def _same_moment(ours: datetime | None, recorded: str | None) -> bool:
    theirs = _moment(recorded)
    return ours is theirs is None or (ours is not None and theirs is not None and abs(ours - theirs) <= FINEST)


def as_recorded_stats(ours: Stats, recorded: Any) -> Any:
    """The recorded document, if it says what ours say; else ours."""
    if not isinstance(recorded, dict):
        return ours
    memory, processor = recorded.get("Memory", {}), recorded.get("Processor", {})
    storage, network = recorded.get("Storage", {}), recorded.get("Network") or []
    at = _moment(recorded.get("Timestamp"))
    same = [
        at is None or abs(ours.at - at) <= FINEST,
        ours.cpu_time == processor.get("TotalRuntime100ns", 0) / 1e7,
        ours.cpu_user == processor.get("RuntimeUser100ns", 0) / 1e7,
        ours.cpu_system == processor.get("RuntimeKernel100ns", 0) / 1e7,
        ours.memory == memory.get("MemoryUsagePrivateWorkingSetBytes", 0),
        ours.memory_peak == memory.get("MemoryUsageCommitPeakBytes", 0),
        ours.memory_commit == memory.get("MemoryUsageCommitBytes", 0),
        _same_moment(ours.started_at, recorded.get("ContainerStartTime")),
        ours.uptime == recorded.get("Uptime100ns", 0) / 1e7,
        ours.read_bytes == storage.get("ReadSizeBytes", 0),
        ours.written_bytes == storage.get("WriteSizeBytes", 0),
        ours.read_operations == storage.get("ReadCountNormalized", 0),
        ours.write_operations == storage.get("WriteCountNormalized", 0),
        [
            (each.received_bytes, each.sent_bytes, each.received_packets, each.sent_packets)
            for each in ours.network or []
        ]
        == [
            tuple(each.get(name, 0) for name in ("BytesReceived", "BytesSent", "PacketsReceived", "PacketsSent"))
            for each in network
        ],
        [(each.received_dropped, each.sent_dropped) for each in ours.network or []]
        == [(each.get("DroppedPacketsIncoming", 0), each.get("DroppedPacketsOutgoing", 0)) for each in network],
        [(each.endpoint_id or "", each.instance_id or "") for each in ours.network or []]
        == [(each.get("EndpointId", ""), each.get("InstanceId", "")) for each in network],
    ]
    return recorded if all(same) else ours


def as_recorded_list(ours: list[ProcessInfo], recorded: Any) -> Any:
    """The recorded list of processes, if it says what ours says; else ours."""
    if not isinstance(recorded, list):
        return ours
    mine = [
        (each.pid, each.command, each.cpu_user, each.cpu_system, each.memory, each.memory_shared, each.memory_commit)
        for each in ours
    ]
    theirs = [
        (
            each.get("ProcessId", 0),
            each.get("ImageName", ""),
            each.get("UserTime100ns", 0) / 1e7,
            each.get("KernelTime100ns", 0) / 1e7,
            each.get("MemoryWorkingSetPrivateBytes", 0),
            each.get("MemoryWorkingSetSharedBytes", 0),
            each.get("MemoryCommitBytes", 0),
        )
        for each in recorded
    ]
    same_time = all(
        _same_moment(mine.started_at, theirs.get("CreateTimestamp"))
        for theirs, mine in zip(recorded, ours, strict=False)
    )
    return recorded if mine == theirs and same_time else ours


# all of it


def limits(vector: Vector) -> HcsLimits:
    """The recording's time limits; those that are the original's own are shortened.

    A pause or resume that hung in the original is to come back before its caller would give up: within half that time.
    """
    given = vector.host.timeouts
    hung = [step for step in vector.operations if step.hung and step.op in ("pause", "resume")]
    most = min([step.ms / 2000 for step in hung if step.ms], default=USUAL)

    def seconds(value: int | None) -> float:
        return min(USUAL if value is None else value / 1000, max(0.1, most))

    return HcsLimits(
        default=seconds(given.default_ms),
        shutdown=seconds(given.shutdown_ms),
        terminate=seconds(given.terminate_ms),
        servicing=seconds(given.servicing_ms),
        late_exit=LATE,
        late_output=LATE,
    )


def patience(vector: Vector) -> float:
    """Seconds after which an operation has not come back: more than all limits that it may meet one after the other."""
    given = limits(vector)
    return 10 + 2 * (given.default + given.shutdown + given.terminate + given.servicing)


async def play(vector: Vector, double: Double) -> Observed:
    """Play a recording; what was seen."""
    with tempfile.TemporaryDirectory(prefix="longshore-vector-") as base:
        run = Path(base, "service")
        run.mkdir()
        service = HcsService(
            run,
            vmcompute=double.binding,
            pipes=double.pipes,
            limits=limits(vector),
            cpus=vector.host.cpus,
            build=OLD_BUILD,
            exists=asked.exists(vector),
            end_with_handles=False,  # the original had no leases: its documents do not speak of them
        )
        async with Engine(service, state=Path(base, "state")) as engine:
            player = _Player(vector, double, engine, service)
            try:
                await player.play()
            finally:
                double.finish()
        await service.close()
        return player.seen


__all__ = ["Double", "ServiceError", "Spec", "limits", "play"]
