"""A model of the original client, after its own source: what it would do where nobody recorded it.

It plays a scenario on the scripted double and writes down what the recordings have: calls, events, outcomes, handles.
That it is the original's twin is a test: it plays every public recording and must come to what was recorded
(test_original.py). So that its word counts for what lies between the recordings (more.py), and nowhere else.

As the original it holds a lock for each container, waits with threads, and leaves open what that one left open. Its
crashes are told as `panic`. Its threads take turns, on a time of their own (turns.py): what it does is the same on
every machine, however busy that is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import ntpath
from contextlib import suppress
from ctypes import byref, c_void_p
from typing import Any

import msgspec

from longshore.hcs.dll.vmcompute import Guid, NotificationCallback, ProcessInformation
from tests.hcs.scripted import TYPES

from . import asked
from .scripted_double import act
from .turns import Lock, Over, Turns, TurnTakingHcs
from .vectors import PENDING, Operation, Option, Vector

HCS_NAMES = {value: name for name, value in TYPES.items()}
SYSTEM_TYPES = (0x1, 0x2, 0x3, 0x4, 0x5, 0x1000000)
PROCESS_TYPES = (0x10000, 0x1000000)
STOPPED = (0xC0370110, 0x490, 0x7F)
NOT_THERE = (0xC037010E, 0x490, 0x7F)
INVALID_STATE = 0xC0370105
INLINE = 1 << 16


class Failed(Exception):
    """An error of the original's: its text, and the HCS or Win32 code behind it."""

    def __init__(self, text: str, code: int | None = None, **members: Any) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.members = members

    def recorded(self) -> dict[str, Any]:
        found = {"text": self.text, **self.members}
        return found if self.code is None else {**found, "code": f"{self.code:#x}"}


class Panic(Exception):
    """The original crashes here."""


def win32(hr: int) -> int:
    hr &= 0xFFFFFFFF
    return hr & 0xFFFF if hr & 0x1FFF0000 == 0x00070000 else hr


def go_json(value: Any) -> str:
    """JSON as Go's encoder writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for name, code in (("\\b", 8), ("\\f", 12)):  # Go has no short forms of these
        text = _outside_escapes(text, name, f"\\u{code:04x}")
    for each in "<>&\u2028\u2029":
        text = text.replace(each, f"\\u{ord(each):04x}")
    return text


def _outside_escapes(text: str, short: str, long: str) -> str:
    found, index = [], 0
    while index < len(text):
        pair = text[index : index + 2]
        if pair[:1] == "\\":
            found.append(long if pair == short else pair)
            index += 2
        else:
            found.append(text[index])
            index += 1
    return "".join(found)


def _number(least: int, most: int) -> Any:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return fits


def _is(kind: type) -> Any:
    return lambda value: isinstance(value, kind)


_U32, _U64, _I32 = _number(0, (1 << 32) - 1), _number(0, (1 << 64) - 1), _number(-(1 << 31), (1 << 31) - 1)
_TEXT, _FLAG = _is(str), _is(bool)
STATUS: dict[str, Any] = {"ProcessId": _U32, "Exited": _FLAG, "ExitCode": _U32, "LastWaitResult": _I32}
PROPERTIES: dict[str, Any] = {
    **dict.fromkeys("Id Name SystemType Owner SiloGuid RuntimeId RuntimeImagePath ExitType".split(), _TEXT),
    **dict.fromkeys("IsDummy IsRuntimeTemplate Stopped AreUpdatesPending".split(), _FLAG),
    "Statistics": {
        "Timestamp": _TEXT,
        "ContainerStartTime": _TEXT,
        "Uptime100ns": _U64,
        "Memory": dict.fromkeys(
            ("MemoryUsageCommitBytes", "MemoryUsageCommitPeakBytes", "MemoryUsagePrivateWorkingSetBytes"), _U64
        ),
        "Processor": dict.fromkeys(("TotalRuntime100ns", "RuntimeUser100ns", "RuntimeKernel100ns"), _U64),
        "Storage": dict.fromkeys(
            ("ReadCountNormalized", "ReadSizeBytes", "WriteCountNormalized", "WriteSizeBytes"), _U64
        ),
        "Network": [
            {
                **dict.fromkeys(("BytesReceived", "BytesSent", "PacketsReceived", "PacketsSent"), _U64),
                **dict.fromkeys(("DroppedPacketsIncoming", "DroppedPacketsOutgoing"), _U64),
                "EndpointId": _TEXT,
                "InstanceId": _TEXT,
            }
        ],
    },
    "ProcessList": [
        {
            "CreateTimestamp": _TEXT,
            "ImageName": _TEXT,
            **dict.fromkeys(("KernelTime100ns", "UserTime100ns", "MemoryCommitBytes"), _U64),
            **dict.fromkeys(("MemoryWorkingSetPrivateBytes", "MemoryWorkingSetSharedBytes"), _U64),
            "ProcessId": _U32,
        }
    ],
}
"""The original's types: members of an answer that it knew, and what fits into each. A list has one element's."""


def fitted(value: Any, kind: Any) -> Any:
    """An answer as Go's decoder reads it into a type: null is skipped. TypeError for what does not fit."""
    if isinstance(kind, dict):
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise TypeError("into a struct")
        known = {name: member for name, member in value.items() if name in kind and member is not None}
        return {name: fitted(member, kind[name]) for name, member in known.items()}
    if isinstance(kind, list):
        if not isinstance(value, list):
            raise TypeError("into a slice")
        return [fitted(element, kind[0]) for element in value]
    if not kind(value):
        raise TypeError(f"{type(value).__name__} into its type")
    return value


class Channels:
    """What a registration's callback writes to: a channel with one place for each type that it knows."""

    def __init__(self, turns: Turns, types: tuple[int, ...]) -> None:
        self.turns = turns
        self.full: dict[int, int] = {}
        self.types = types
        self.closed = False

    def put(self, type: int, status: int) -> None:
        if type not in self.types or type in self.full:
            self.turns.wait(lambda: self.closed)  # the original's callback never comes back
            return
        self.full[type] = status

    def wait(self, expected: int, seconds: float | None) -> str | int | None:
        """None: it came with success; an int: with that status; a text: something else came."""
        if not self.turns.wait(lambda: self.closed or bool(self.full.keys() & {expected, 0x1, 0x1000000}), seconds):
            return "hcsshim: timeout waiting for notification"
        if self.closed:
            return "hcsshim: the handle generating this notification has been closed"
        if expected in self.full:
            return win32(self.full.pop(expected)) or None
        if 0x1 in self.full:
            self.full.pop(0x1)
            return "unexpected container exit"
        self.full.pop(0x1000000)
        return "lost communication with compute service"

    def close(self) -> None:
        self.closed = True


class Process:
    def __init__(self, container: Container, handle: int, pid: int, pipes: list[int], name: str) -> None:
        self.container, self.handle, self.pid, self.pipes, self.name = container, handle, pid, pipes, name
        self.channels: Channels | None = None
        self.registration = 0
        self.handle_name = ""

    def failed(self, operation: str, code: int | str) -> Failed:
        where = f"process {self.pid} in container {self.container.id} encountered an error during {operation}: "
        return _failure(where, operation, code)


class Container:
    def __init__(self, id: str, options: list[Option], spec: dict[str, Any]) -> None:
        self.id, self.options, self.spec = id, options, spec
        self.handle = 0
        self.channels: Channels | None = None
        self.registration = 0
        self.processes: dict[str, Process] = {}
        self.init: Process | None = None

    def failed(self, operation: str, code: int | str, extra: str = "") -> Failed:
        where = f"container {self.id} encountered an error during {operation}: "
        return _failure(where, operation, code, extra)


def _failure(where: str, operation: str, code: int | str, extra: str = "") -> Failed:
    more = f" extra info: {extra}" if extra else ""
    if isinstance(code, str):
        return Failed(where + code + more, None, operation=operation, inner=code, extraInfo=extra)
    said = f"failure in a Windows system call: {{message}} ({code:#x})"
    return Failed(where + said + more, code, operation=operation, extraInfo=extra)


class Original:
    """The client, and the recorder around it."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        self.timeline: list[dict[str, Any]] = []
        self.turns = Turns()
        self.hcs = TurnTakingHcs(self.turns, vector.service, missing=vector.host.missing_functions)
        self.pipes = self.hcs.plumbing
        self.hcs.calls = _Told(self.timeline)
        self.dll = self.hcs.client()
        self.exists = asked.exists(vector)
        self.locks: dict[str, Lock] = {}
        self.containers: dict[str, Container] = {}
        self.contexts: dict[int, tuple[Channels, dict[str, Any]]] = {}
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.attached: list[dict[str, Any]] = []
        self.stdin: list[dict[str, Any]] = []
        self.streams: dict[tuple[str, str], dict[str, Any]] = {}
        self.given: dict[str, tuple[Process, dict[str, int]]] = {}
        self.outcomes: dict[int, dict[str, Any]] = {}
        self.running: set[str] = set()  # labels of what runs beside
        self.callback = NotificationCallback(self._told)
        self.busy = 0
        limits = vector.host.timeouts
        self.limits = {
            name: (value if value is not None else usual) / 1000
            for name, value, usual in (
                ("default", limits.default_ms, 240_000),
                ("shutdown", limits.shutdown_ms, 300_000),
                ("terminate", limits.terminate_ms, 300_000),
                ("servicing", limits.servicing_ms, 300_000),
            )
        }

    # the recorder

    def note(self, entry: dict[str, Any]) -> None:
        self.timeline.append(entry)
        self.hcs.touch()

    def lock(self, id: str) -> Lock:
        return self.locks.setdefault(id, Lock(self.turns))

    def record(self) -> dict[str, Any]:
        """Play it; what was seen, as the members that a recording adds."""
        try:
            for index, step in enumerate(self.vector.operations):
                self._step(index, step)
            self.turns.wait(lambda: not self.running, 30)
            open_at_end = self.hcs.open_handles()
            return self._seen(open_at_end)
        finally:
            self.turns.end()

    def _seen(self, open_at_end: dict[str, list[str]]) -> dict[str, Any]:
        streams = {key: dict(stream) for key, stream in self.streams.items()}  # they go on
        for stream in streams.values():
            data = bytes(stream.pop("raw"))
            stream["bytes"] = len(data)
            if len(data) > INLINE:
                stream["sha256"] = hashlib.sha256(data).hexdigest()
            else:
                stream["data"] = data.decode()
        calls = [
            {name: f"0x{value:08X}" if name == "hr" else value for name, value in call.items()}
            for call in self.hcs.calls
        ]
        return {
            "operations": [
                {**step, **self.outcomes.get(index, {})}
                for index, step in enumerate(msgspec.to_builtins(list(self.vector.operations)))
            ],
            "calls": calls,
            "events": list(self.events),
            "attached": self.attached,
            "streams": [streams[key] for key in sorted(streams)],
            "stdin": sorted(self.stdin, key=lambda entry: int(entry["process"])),
            "openAtEnd": open_at_end,
            "timeline": list(self.timeline),
        }

    def _step(self, index: int, step: Operation) -> None:
        match step.op:
            case "settle":
                self.settle(0.16)
            case "sleep":
                self.turns.sleep((step.ms or 0) / 1000)
            case "join":
                self.turns.wait(lambda: step.label not in self.running, 30)
            case "service":
                assert step.do is not None
                self.note({"service": {"action": step.do.action}})
                with suppress(LookupError):  # of what failed there is nothing that could act
                    self._act(step)
            case "start_reading":
                self._read(step.name or "init")
            case "gc" | "drop":
                raise NotImplementedError("the collector is the original's run time's")
            case _ if step.asynchronous:
                self.running.add(step.label or "")
                self.turns.spawn(lambda: self._beside(index, step))
                self.turns.sleep(0.01)
            case _:
                self._outcome(index, step)

    def _beside(self, index: int, step: Operation) -> None:
        try:
            self._outcome(index, step)
        finally:
            self.running.discard(step.label or "")

    def _outcome(self, index: int, step: Operation) -> None:
        found: dict[str, Any] = {}
        state = {"done": False, "given up": False}

        def run() -> None:
            self.note({"op": index})
            try:
                result = self._do(step)
                found.update({"error": None} if result is None else {"error": None, "result": result})
            except Failed as failure:
                found["error"] = failure.recorded()
                if step.op == "addprocess":
                    found["result"] = -1
            except Panic as panic:
                found["panic"] = str(panic)
            state["done"] = True
            if not state["given up"]:
                self.note({"return": index})

        self.turns.spawn(run)
        if not self.turns.wait(lambda: state["done"], step.ms / 1000 if step.ms else 20):
            state["given up"] = True  # whatever it comes to
            self.note({"return": index})
            self.outcomes[index] = {"hung": True}
        else:
            self.outcomes[index] = dict(found)

    def settle(self, calm: float) -> None:
        end = self.turns.now + 15
        while self.turns.now < end:
            self.turns.sleep(0.005)
            if self.hcs.quiet_for >= calm and not self.busy:
                return

    def _act(self, step: Operation) -> None:
        assert step.do is not None
        act(self.hcs, step.do, self.vector.create.container)

    # vmcompute, as hcsshim called it

    def _told(self, type: int, context: int, status: int, data: int | None) -> None:
        known = self.contexts.get(context)
        if known is None:
            return
        channels, names = known
        self.note(
            {"notify": {**names, "type": HCS_NAMES.get(type, hex(type)), "status": f"0x{status & 0xFFFFFFFF:08X}"}}
        )
        with suppress(Over):  # into a callback nothing may be raised
            channels.put(type, status)

    def call(self, name: str, *arguments: Any) -> int | str:
        """An export's HRESULT reduced to a code; 0 is success. A text: it is missing."""
        if not self.dll.binding.has(name):
            return f"Failed to find {name} procedure in vmcompute.dll: {{message}}"
        hr = self.dll.binding.export(name)(*arguments) & 0xFFFFFFFF
        return win32(hr) if hr & 0x80000000 else 0

    def verb(self, name: str, *arguments: Any) -> int | str:
        result = c_void_p()
        code = self.call(name, *arguments, byref(result))
        self.dll.binding.take(result)
        return code

    def register(self, name: str, of: Container | Process, types: tuple[int, ...], names: dict[str, Any]) -> int | str:
        channels, context, out = Channels(self.turns, types), next(self.numbers), c_void_p()
        self.contexts[context] = (channels, names)
        of.channels = channels
        code = self.call(name, of.handle, self.callback, context, byref(out))
        of.registration = out.value or 0
        return code

    def completed(self, code: int | str, container: Container, expected: str) -> int | str | None:
        """The end of a call that may be pending. None: success."""
        if code == PENDING:
            assert container.channels is not None
            return container.channels.wait(TYPES[expected], self.limits["default"])
        return code or None

    # the client

    def _do(self, step: Operation) -> Any:
        id = self.vector.container_of(step)
        name = step.name or "init"
        match step.op:
            case "create":
                return self.create(id, step)
            case "write_stdin":
                return self.write(name, step.data)
            case "close_stdin":
                return self.close_stdin(name)
            case "read_again":
                return self._read_again(name, step.stream or "stdout")
            case "close_output" | "updateresources":
                return None
            case "serverversion":
                return {}
            case "pids":
                raise Failed("not implemented on Windows")
            case "restore":
                return self.event(id, "exit", code=1 << 31)
            case op if "checkpoint" in op:
                raise Failed("Windows: Containers do not support checkpoints")
        return self.locked(id, step)

    def locked(self, id: str, step: Operation) -> Any:
        told: str | None = None
        with self.lock(id):
            container = self.containers.get(id)
            if container is None:
                raise Failed(f"invalid container: {id}")
            match step.op:
                case "addprocess":
                    return self.add(container, step)
                case "signal":
                    verb = "Terminate" if step.sig == 9 else "Shutdown"
                    self.verb(f"Hcs{verb}ComputeSystem", container.handle, "")
                case "signalprocess":
                    process = container.processes.get(step.name or "")
                    if process is None:
                        raise Failed(f"SignalProcess could not find process {step.name} in {id}")
                    if code := self.verb("HcsTerminateProcess", process.handle):
                        raise process.failed("Kill", code)
                case "resize":
                    process = container.init if step.name == "init" else container.processes.get(step.name or "")
                    if process is None:
                        raise Failed(f"Resize could not find containerID {id} to resize")
                    size = {"Height": step.height & 0xFFFF, "Width": step.width & 0xFFFF}
                    request = go_json({"Operation": "ConsoleSize", "ConsoleSize": size})
                    if code := self.verb("HcsModifyProcess", process.handle, request):
                        raise process.failed("ResizeConsole", code)
                case "pause" | "resume":
                    for option in container.options:
                        if option.type == "HyperVIsolation":
                            if not option.is_hyper_v:
                                raise Failed(f"cannot {step.op} Windows Server Containers")
                            break
                    verb = step.op.capitalize()
                    code = self.verb(f"Hcs{verb}ComputeSystem", container.handle, "")
                    if why := self.completed(code, container, f"System{verb}Completed"):
                        raise container.failed(verb, why)
                    told = step.op
                case "stats":
                    return self.statistics(container)
                case "summary":
                    return self.process_list(container)
                case unknown:
                    raise ValueError(f"the original cannot {unknown}")
        return None if told is None else self.event(id, told)

    def create(self, id: str, step: Operation) -> None:
        full = self.vector.completed(step)
        spec, options = full.spec or {}, full.options or []
        with self.lock(id):
            container = Container(id, options, spec)
            document = self.configuration(id, spec, options)
            out, result = c_void_p(), c_void_p()
            name = "HcsCreateComputeSystem"
            code = self.call(name, id, document, None, byref(out), byref(result))
            self.dll.binding.take(result)
            container.handle = out.value or 0
            if code in (0, PENDING):
                names = {"system": id}
                failed = self.register("HcsRegisterComputeSystemCallback", container, SYSTEM_TYPES, names)
                if failed:
                    raise container.failed("CreateContainer", failed)
            if why := self.completed(code, container, "SystemCreateCompleted"):
                raise container.failed("CreateContainer", why, document)
            try:
                self.start(container, step, full)
            except Failed:
                self.containers.pop(id, None)
                raise

    def start(self, container: Container, step: Operation, full: Operation) -> None:
        servicing = any(option.type == "Servicing" and option.is_servicing for option in container.options)
        code = self.verb("HcsStartComputeSystem", container.handle, "")
        if why := self.completed(code, container, "SystemStartCompleted"):
            self.terminate(container)
            raise container.failed("Start", why)
        process = container.spec.get("process") or {}
        try:
            made = self.create_process(container, process, process.get("cwd") or "", servicing, "")
        except Failed:
            self.terminate(container)
            raise
        container.init = made
        if servicing:
            exit_code = self.exit_code_of(made)
            if exit_code != 0:
                self.terminate(container)
                text = f"libcontainerd: servicing container {container.id} returned non-zero exit code {exit_code}"
                raise Failed(text)
            assert container.channels is not None
            if why := container.channels.wait(TYPES["SystemExited"], self.limits["servicing"]):
                raise container.failed("WaitTimeout", why)
            return
        usual = "init" if container.id == self.vector.create.container else f"{container.id}:init"
        self._wait_exit(container, made, is_init=True)
        self.containers[container.id] = container
        self.attach(step, step.name or usual, made, bool(process.get("terminal")))
        self.event(container.id, "start-container", pid=made.pid)

    def create_process(
        self, container: Container, process: dict[str, Any], cwd: str, servicing: bool, name: str
    ) -> Process:
        terminal, size = bool(process.get("terminal")), process.get("consoleSize") or {}
        environment: dict[str, str] = {}
        for entry in process.get("env") or []:
            key, equals, value = entry.partition("=")
            if equals:
                environment[key] = value
        config = {
            "ApplicationName": "",
            "CommandLine": " ".join(process.get("args") or []),
            "User": (process.get("user") or {}).get("username") or "",
            "WorkingDirectory": cwd,
            "Environment": dict(sorted(environment.items(), key=lambda item: item[0].encode())),
            "EmulateConsole": terminal,
            "CreateStdInPipe": not servicing,
            "CreateStdOutPipe": not servicing,
            "CreateStdErrPipe": not servicing and not terminal,
            "ConsoleSize": [size.get("height", 0), size.get("width", 0)] if terminal else [0, 0],
        }
        text = go_json(config)
        information, out = ProcessInformation(), c_void_p()
        code = self.verb("HcsCreateProcess", container.handle, text, byref(information), byref(out))
        if code:
            raise container.failed("CreateProcess", code, text)
        pipes = [information.stdin or 0, information.stdout or 0, information.stderr or 0]
        made = Process(container, out.value or 0, information.process_id, pipes, name)
        names = {"system": container.id, "process": made.pid}
        if failed := self.register("HcsRegisterProcessCallback", made, PROCESS_TYPES, names):
            raise container.failed("CreateProcess", failed)
        if 0x7FFFFF00 in pipes:  # the original closed what it had opened before, and fell over the rest
            for pipe in pipes[: pipes.index(0x7FFFFF00)]:
                self.pipes.close_end(pipe)
            if pipes[0] != 0x7FFFFF00:
                self.stdin.append({"process": made.pid, "data": ""})
            raise Panic("invalid memory address or nil pointer dereference")
        return made

    def add(self, container: Container, step: Operation) -> int:
        process = step.process or {}
        cwd = process.get("cwd") or (container.spec.get("process") or {}).get("cwd") or ""
        made = self.create_process(container, process, cwd, False, step.name or "")
        container.processes[made.name] = made
        key = step.label if step.label and not step.asynchronous else step.name or ""
        self.attach(step, key, made, bool(process.get("terminal")))
        self._wait_exit(container, made, is_init=False)
        return made.pid

    def attach(self, step: Operation, key: str, process: Process, terminal: bool) -> None:
        names = ("stdin", "stdout", "stderr")
        pipes = {name: pipe for name, pipe in zip(names, process.pipes, strict=True) if pipe}
        told: dict[str, Any] = {name: name in pipes for name in names}
        told |= {"process": key, "terminal": terminal}
        told["stdin"] = True  # the original wrapped even a pipe that it had not
        if step.attach == "fail":
            told["error"] = step.attach_error
        self.given[key] = (process, pipes)
        for name in ("stdout", "stderr"):
            if name in pipes:
                self.streams[(key, name)] = {"process": key, "stream": name, "raw": bytearray(), "end": ""}
        self.attached.append(told)
        self.note({"attach": len(self.attached) - 1, "process": key})
        if step.attach == "fail":
            raise Failed(step.attach_error)
        if step.attach != "hold":
            self._read(key)
        if step.attach == "close_stdin":
            self.close_stdin(key)

    def _wait_exit(self, container: Container, process: Process, *, is_init: bool) -> None:
        self.turns.spawn(lambda: self._exit(container, process, is_init))

    def _exit(self, container: Container, process: Process, is_init: bool) -> None:
        code = self.exit_code_of(process)
        self.busy += 1
        pending = False
        with self.lock(container.id):
            if is_init:
                pending = self.pending_updates(container)
                self.shutdown(container)
                self.close(container, "ComputeSystem")
                self.containers.pop(container.id, None)
            else:
                container.processes.pop(process.name, None)
            self.close(process, "Process")
        state = "exit" if is_init else "exit-process"
        with suppress(Failed):
            self.event(container.id, state, process.pid, code, process.name if not is_init else "init", pending)
        self.busy -= 1
        self.hcs.touch()

    def exit_code_of(self, process: Process) -> int:
        assert process.channels is not None
        process.channels.wait(TYPES["ProcessExited"], None)
        properties, result = c_void_p(), c_void_p()
        code = self.call("HcsGetProcessProperties", process.handle, byref(properties), byref(result))
        self.dll.binding.take(result)
        text = self.dll.binding.take(properties)
        try:
            status = fitted(json.loads(text or ""), STATUS)
            if code or not status.get("Exited") or status.get("LastWaitResult"):
                return -1
            return int(status.get("ExitCode", 0))
        except (TypeError, ValueError):
            return -1

    def properties(self, container: Container, operation: str, kind: str) -> Any:
        properties, result = c_void_p(), c_void_p()
        query = f'{{ "PropertyTypes" : ["{kind}"]}}'
        name = "HcsGetComputeSystemProperties"
        code = self.call(name, container.handle, query, byref(properties), byref(result))
        self.dll.binding.take(result)
        text = self.dll.binding.take(properties)
        if code:
            raise container.failed(operation, code)
        if text is None:
            raise container.failed(operation, "unexpected value returned from hcs")
        try:
            return fitted(json.loads(text), PROPERTIES)
        except TypeError as error:
            raise container.failed(operation, f"json: cannot unmarshal {error}") from None
        except ValueError:
            raise container.failed(operation, "invalid character") from None

    def statistics(self, container: Container) -> Any:
        return self.properties(container, "Statistics", "Statistics").get("Statistics", {})

    def process_list(self, container: Container) -> Any:
        return self.properties(container, "ProcessList", "ProcessList").get("ProcessList") or []

    def pending_updates(self, container: Container) -> bool:
        try:
            return bool(self.properties(container, "HasPendingUpdates", "PendingUpdates").get("AreUpdatesPending"))
        except Failed:
            return False

    def ended(self, container: Container, verb: str, limit: str) -> bool:
        code = self.verb(f"Hcs{verb}ComputeSystem", container.handle, "")
        if code == PENDING:
            assert container.channels is not None
            return container.channels.wait(TYPES["SystemExited"], self.limits[limit]) is None
        return code in (0, *STOPPED)

    def shutdown(self, container: Container) -> None:
        if not self.ended(container, "Shutdown", "shutdown"):
            self.terminate(container)

    def terminate(self, container: Container) -> None:
        self.ended(container, "Terminate", "terminate")

    def close(self, of: Container | Process, kind: str) -> None:
        if self.call(f"HcsUnregister{kind}Callback", of.registration):
            return
        if of.channels is not None:
            of.channels.close()
        if not self.call(f"HcsClose{kind}", of.handle):
            of.handle = 0

    def event(self, id: str, state: str, pid: int = 0, code: int = 0, process: str = "", pending: bool = False) -> None:
        told: dict[str, Any] = {"container": id, "state": state, "pid": pid, "exitCode": code & 0xFFFFFFFF}
        told |= {"processID": process, "updatePending": pending}
        error = self.vector.backend.get(state)
        if error is not None:
            told["backendError"] = error
        self.events.append(told)
        self.note({"event": len(self.events) - 1, "state": state})
        if error is not None:
            raise Failed(error)

    # streams

    def _read(self, key: str) -> None:
        _, pipes = self.given[key]
        for name in ("stdout", "stderr"):
            if name in pipes:
                self._spawn_reader(key, name, pipes.pop(name))

    def _spawn_reader(self, key: str, name: str, pipe: int) -> None:
        self.turns.spawn(lambda: self._read_one(key, name, pipe))

    def _read_one(self, key: str, name: str, descriptor: int) -> None:
        stream = self.streams[(key, name)]
        while data := self.pipes.read(descriptor):
            stream["raw"] += data
        stream["end"] = "EOF"

    def _read_again(self, key: str, name: str) -> Any:
        if self.streams[(key, name)]["end"] == "EOF":
            raise Failed("file has already been closed")
        return 0

    def write(self, key: str, data: str) -> int:
        _, pipes = self.given[key]
        if "stdin" not in pipes:
            raise Failed("file has already been closed")
        try:
            return int(self.pipes.give(pipes["stdin"], data.encode()))
        except BrokenPipeError:
            raise Failed("write: broken pipe", 0x6D) from None

    def close_stdin(self, key: str) -> None:
        process, pipes = self.given[key]
        if not process.pipes[0]:
            raise Panic("invalid memory address or nil pointer dereference")
        descriptor = pipes.pop("stdin", None)
        if descriptor is not None:
            self.pipes.close_end(descriptor)
            scripted = self.hcs.process(process.pid)
            if scripted.input_closed:
                self.stdin.append({"process": process.pid, "data": scripted.given.decode()})
        if process.handle == 0:
            return
        request = go_json({"Operation": "CloseHandle", "CloseHandle": {"Handle": "StdIn"}})
        code = self.verb("HcsModifyProcess", process.handle, request)
        if code and code not in (*NOT_THERE, INVALID_STATE):
            raise process.failed("CloseStdin", code)

    # the configuration

    def configuration(self, id: str, spec: dict[str, Any], options: list[Option]) -> str:
        if "windows" not in spec:
            raise Panic("invalid memory address or nil pointer dereference")
        given = _merged(options)
        layers: Option | None = given["layer"]
        if layers is None or layers.layer_paths is None:
            raise Failed("no layer option or paths were supplied to the runtime")
        image, volume = "", ""
        if given["HvPartition"]:
            image = self.utility_vm(layers.layer_paths)
        else:
            volume = (spec.get("root") or {}).get("path") or ""
        ids = [self.guid(_last(path)) for path in layers.layer_paths]
        resources = _resources(spec, self.vector.host.cpus)
        mounts = [
            {
                "HostPath": mount.get("source") or "",
                "ContainerPath": mount.get("destination") or "",
                "ReadOnly": any(each.lower() == "ro" for each in mount.get("options") or []),
                "BandwidthMaximum": 0,
                "IOPSMaximum": 0,
            }
            for mount in spec.get("mounts") or []
        ]
        listed = [{"ID": each, "Path": path} for each, path in zip(ids, layers.layer_paths, strict=True)]
        members: list[tuple[str, Any, bool]] = [  # whether it is left out when empty
            ("SystemType", "Container", False),
            ("Name", id, False),
            ("Owner", "docker", False),
            ("IsDummy", False, False),
            ("VolumePath", volume, True),
            ("IgnoreFlushesDuringBoot", given["Flush"], False),
            ("LayerFolderPath", layers.layer_folder_path, True),
            ("Layers", listed or None, False),
            ("Credentials", given["Credentials"], True),
            ("ProcessorCount", resources["count"], True),
            ("ProcessorWeight", resources["shares"], True),
            ("ProcessorMaximum", resources["percent"] * 100, True),
            ("StorageIOPSMaximum", resources["iops"], True),
            ("StorageBandwidthMaximum", resources["bps"], True),
            ("MemoryMaximumInMB", resources["megabytes"], True),
            ("HostName", spec.get("hostname") or "", False),
            ("MappedDirectories", mounts, False),
            ("SandboxPath", given["SandboxPath"], True),
            ("HvPartition", given["HvPartition"], False),
            ("EndpointList", given["EndpointList"], False),
            ("HvRuntime", {"ImagePath": image} if image else None, True),
            ("Servicing", given["Servicing"], False),
            ("AllowUnqualifiedDNSQuery", given["AllowUnqualifiedDNSQuery"], False),
            ("DNSSearchList", given["DNSSearchList"], True),
        ]
        return go_json({name: value for name, value, optional in members if value or not optional})

    def utility_vm(self, paths: list[str]) -> str:
        for path in paths:
            full = _joined(path, "UtilityVM")
            try:
                if self.exists(full):
                    return full
            except OSError as error:
                text = f"CreateFile {full}: {{message}}"
                raise Failed(text, error.winerror, operation="CreateFile", path=full) from None  # type: ignore[attr-defined]
        raise Failed("utility VM image could not be found")

    def guid(self, name: str) -> str:
        out = Guid()
        code = self.call("NameToGuid", name, byref(out))
        if isinstance(code, str):
            raise Failed(f"hcsshim::NameToGuid failed in Win32: {code} (0x1f) name={name}", inner=code)
        if code:
            raise Failed(f"hcsshim::NameToGuid failed in Win32: {{message}} ({code:#x}) name={name}", code)
        return str(out.uuid)


class _Told(list[dict[str, Any]]):
    """The double's list of calls, which the timeline has, too."""

    def __init__(self, timeline: list[dict[str, Any]]) -> None:
        super().__init__()
        self.timeline = timeline

    def append(self, call: dict[str, Any]) -> None:
        super().append(call)
        self.timeline.append({"call": len(self) - 1, "function": call["function"]})


def _merged(options: list[Option]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Servicing": False, "Flush": False, "HvPartition": False, "SandboxPath": "", "layer": None,
        "EndpointList": None, "AllowUnqualifiedDNSQuery": False, "DNSSearchList": "", "Credentials": "",
    }  # fmt: skip
    for option in options:
        match option.type:
            case "Servicing":
                found["Servicing"] = option.is_servicing
            case "Flush":
                found["Flush"] = option.ignore_flushes_during_boot
            case "HyperVIsolation":
                found |= {"HvPartition": option.is_hyper_v, "SandboxPath": option.sandbox_path}
            case "Layer":
                found["layer"] = option
            case "NetworkEndpoints":
                found["EndpointList"] = option.endpoints
                found["AllowUnqualifiedDNSQuery"] = option.allow_unqualified_dns_query
                if option.dns_search_list is not None:
                    found["DNSSearchList"] = ",".join(option.dns_search_list)
            case "Credentials":
                found["Credentials"] = option.credentials
            case unknown:
                raise ValueError(f"an option of type {unknown!r} is not known here")
    return found


def _resources(spec: dict[str, Any], cpus: int) -> dict[str, int]:
    resources = (spec.get("windows") or {}).get("resources") or {}
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    storage = resources.get("storage") or {}
    limit = memory.get("limit") or 0
    if limit >= 1 << 63:
        limit -= 1 << 64
    return {
        "count": min(cpu.get("count") or 0, cpus),
        "shares": cpu.get("shares") or 0,
        "percent": cpu.get("percent") or 0,
        "iops": storage.get("iops") or 0,
        "bps": storage.get("bps") or 0,
        "megabytes": (abs(limit) >> 20) * (-1 if limit < 0 else 1),
    }


def _last(path: str) -> str:
    """The part behind the last separator, as Go's filepath.Split on Windows."""
    cut = max(path.rfind("\\"), path.rfind("/"))
    if cut < 0 and path[1:2] == ":":
        cut = 1
    return path[cut + 1 :]


def _joined(path: str, name: str) -> str:
    """Go's filepath.Join on Windows: cleaned."""
    return ntpath.normpath(f"{path}\\{name}") if path else name


def record(vector: Vector) -> dict[str, Any]:
    """What the original would be seen to do."""
    return Original(vector).record()
