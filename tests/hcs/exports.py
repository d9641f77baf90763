"""What a program sees of the scripted service: the exports of its vmcompute.dll, and the handles and texts it holds."""

from __future__ import annotations

import ctypes
import hashlib
import json
import ntpath
import time
import uuid
from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from longshore.hcs.dll.vmcompute import PROTOTYPES, Vmcompute
from tests.conformance.vectors import PENDING, Rule, number

from .postmen import Mailbox
from .scripted import (
    ABORTED,
    CONTROL_C,
    E_EXISTS,
    E_FAIL,
    E_HANDLE,
    E_INVALID_STATE,
    E_NO_PROCESS,
    E_NOT_FOUND,
    E_STOPPED,
    INVALID_PIPE,
    Hcs,
    ScriptedHandle,
    ScriptedProcess,
    ScriptedSystem,
)


class Client:
    """A program that uses the service: the exports that it sees, and what it holds. `dll` goes to the binding."""

    def __init__(self, hcs: Hcs) -> None:
        self.hcs = hcs
        self.texts: dict[int, Any] = {}  # allocated for the caller, not freed yet
        self.dead = False
        self.dll = type("Dll", (), {})()
        for name, arguments in PROTOTYPES.items():
            if name not in hcs.missing and hasattr(self, name):
                setattr(self.dll, name, ctypes.CFUNCTYPE(ctypes.c_int32, *arguments)(self._guarded(name)))
        self.binding = Vmcompute(self.dll, self._free)

    def _free(self, address: int) -> None:
        with self.hcs.lock:
            del self.texts[address]

    def _text(self, text: str) -> int:
        buffer = ctypes.create_unicode_buffer(text)
        address = ctypes.addressof(buffer)
        self.texts[address] = buffer
        return address

    def _guarded(self, name: str) -> Callable[..., int]:
        function = getattr(self, name)

        def export(*arguments: Any) -> int:
            hcs = self.hcs
            with hcs.lock:
                hcs.in_call += 1
                hcs.touch()
            hr = E_FAIL
            try:
                hr = E_FAIL if self.dead else function(*arguments)
            except BaseException as error:
                hcs.errors.append(error)
            finally:
                with hcs.lock:
                    hcs.in_call -= 1
                    hcs.touch()
            return hr - (1 << 32) if hr & 0x80000000 else hr

        return export

    def die(self) -> None:
        """The program is killed: its handles are closed by the kernel, its callbacks never called again."""
        with self.hcs.lock:
            self.dead = True
            for handle in [each for each in self.hcs.handles.values() if each.client is self]:
                if handle.name[0] == "c":
                    self._close(handle)
            for handle in [each for each in self.hcs.handles.values() if each.client is self]:
                self._close(handle)

    # handles

    def _new(self, kind: str, of: ScriptedSystem | ScriptedProcess) -> ScriptedHandle:
        handle = ScriptedHandle(self, self.hcs.next_name(kind), of, None)
        handle.value = self.hcs.next_value()
        self.hcs.handles[handle.value] = handle
        of.handles.append(handle)
        return handle

    def _close(self, handle: ScriptedHandle) -> None:
        hcs = self.hcs
        hcs.handles.pop(handle.value, None)
        if handle.on is not None:
            assert handle.on.box is not None
            hcs.post.close_box(handle.on.box)
            handle.on.box = None
            return
        if handle.box is not None:
            hcs.errors.append(AssertionError(f"{handle.name} was closed before its callback was unregistered"))
        handle.of.handles.remove(handle)
        if isinstance(handle.of, ScriptedProcess) and handle.of.exited and not hcs.keep_calls:
            hcs.processes.pop(handle.of.pid, None)
        system = handle.of
        if isinstance(system, ScriptedSystem) and not system.handles:
            if system.state == "Stopped" and hcs.systems.get(system.id) is system:
                del hcs.systems[system.id]
            elif system.document.get("TerminateOnLastHandleClosed") and system.state != "Stopped":
                self._terminate_now(system)

    def _terminate_now(self, system: ScriptedSystem) -> None:
        hcs = self.hcs
        if hcs.crew is not None:
            hcs.crew.terminate(system)
        else:
            hcs.kill_all(system, ABORTED)
            hcs._exit_later(system)

    def _system(self, value: int | None) -> tuple[ScriptedHandle | None, ScriptedSystem | None]:
        handle = self.hcs.handles.get(value or 0)
        if handle is None or not isinstance(handle.of, ScriptedSystem):
            return None, None
        return handle, handle.of

    def _process(self, value: int | None) -> tuple[ScriptedHandle | None, ScriptedProcess | None]:
        handle = self.hcs.handles.get(value or 0)
        if handle is None or not isinstance(handle.of, ScriptedProcess):
            return None, None
        return handle, handle.of

    # calls

    def _begin(self, function: str, **known: Any) -> dict[str, Any]:
        entry = {"function": function, **known}
        with self.hcs.lock:
            if self.hcs.keep_calls:
                self.hcs.calls.append(entry)
        return entry

    def _answer(
        self, entry: dict[str, Any], rule: Rule | None, default: int, result: Any = None, text: str = ""
    ) -> int:
        """The HRESULT of a call by its rule, or the default one; hands out its result text."""
        if rule is not None and rule.delay_ms:
            self.hcs.sleep(rule.delay_ms / 1000)
        hr = default if rule is None or rule.hr is UNSET else number(rule.hr)
        entry["hr"] = hr
        if rule is not None and rule.result is not UNSET and rule.result is not None:
            told = rule.result if isinstance(rule.result, str) else json.dumps(rule.result)
            entry["result"] = told
            if result is not None:
                with self.hcs.lock:
                    result[0] = self._text(told)
        return hr

    def _named(self, handle: ScriptedHandle | None) -> dict[str, Any]:
        if handle is None:
            return {}
        if isinstance(handle.of, ScriptedSystem):
            return {"system": handle.of.id, "systemHandle": handle.name}
        process = handle.of
        name = {"process": process.pid, "processHandle": handle.name}
        return {"system": process.system.id, "systemHandle": handle.through, **name}

    # systems

    def HcsEnumerateComputeSystems(self, query: str, systems: Any, result: Any) -> int:
        entry = self._begin("HcsEnumerateComputeSystems", document=query)
        hcs = self.hcs
        rule = hcs.rule("HcsEnumerateComputeSystems", query, None)
        hr = self._answer(entry, rule, 0, result)
        wanted = json.loads(query or "{}").get("Owners")
        with hcs.lock:
            found = [
                {
                    "Id": system.id,
                    "Owner": system.document.get("Owner"),
                    "SystemType": "Container",
                    "State": system.state,
                }
                for system in hcs.systems.values()
                if not wanted or system.document.get("Owner") in wanted
            ]
            systems[0] = self._text(json.dumps(found))
        return hr

    def HcsCreateComputeSystem(self, id: str, configuration: str, identity: Any, out: Any, result: Any) -> int:
        hcs = self.hcs
        entry = self._begin("HcsCreateComputeSystem", system=id, document=configuration)
        rule = hcs.rule("HcsCreateComputeSystem", configuration, id)
        hr = self._answer(entry, rule, PENDING, result)
        if hr & 0x80000000 and hr != PENDING:
            return hr
        with hcs.lock:
            if id in hcs.systems and hcs.crew is not None:
                entry["hr"] = E_EXISTS
                return E_EXISTS
            system = ScriptedSystem(id, json.loads(configuration))
            hcs.systems[id] = system
            handle = self._new("s", system)
            entry["systemHandle"] = handle.name
            out[0] = handle.value
            hcs.follow_up(rule, "HcsCreateComputeSystem", hr, system)
        return hr

    def HcsOpenComputeSystem(self, id: str, out: Any, result: Any) -> int:
        hcs = self.hcs
        entry = self._begin("HcsOpenComputeSystem", system=id)
        rule = hcs.rule("HcsOpenComputeSystem", id, id)
        with hcs.lock:
            system = hcs.systems.get(id)
            hr = self._answer(
                entry, rule, 0 if system is not None and system.state != "Stopped" else E_NOT_FOUND, result
            )
            if not hr & 0x80000000 and system is not None:
                handle = self._new("s", system)
                entry["systemHandle"] = handle.name
                out[0] = handle.value
        return hr

    def HcsCloseComputeSystem(self, value: int) -> int:
        return self._close_call("HcsCloseComputeSystem", value)

    def HcsCloseProcess(self, value: int) -> int:
        return self._close_call("HcsCloseProcess", value)

    def _close_call(self, function: str, value: int) -> int:
        hcs = self.hcs
        with hcs.lock:
            handle = hcs.handles.get(value)
            named = self._named(handle)
            entry = self._begin(function, **named)
            if handle is None:
                hcs.errors.append(AssertionError(f"{function} of a handle that is not open"))
                return E_HANDLE
            hr = self._answer(entry, hcs.rule(function, "", named.get("system")), 0)
            if not hr & 0x80000000:
                self._close(handle)
            return hr

    def _verb(self, function: str, value: int, options: str, result: Any) -> int:
        hcs = self.hcs
        with hcs.lock:
            handle, system = self._system(value)
            entry = self._begin(function, options=options, **self._named(handle))
            if system is None:
                hcs.errors.append(AssertionError(f"{function} of a handle that is not open"))
                return E_HANDLE
            rule = hcs.rule(function, options, system.id)
            default = self._default(function, system)
        hr = self._answer(entry, rule, default, result)
        with hcs.lock:
            if hcs.crew is not None and rule is None:
                if hr == PENDING:
                    hcs.crew.verb(function, system)
            else:
                hcs.follow_up(rule, function, hr, system)
            if not hr & 0x80000000 or hr == PENDING:
                system.state = {
                    "HcsStartComputeSystem": "Running",
                    "HcsPauseComputeSystem": "Paused",
                    "HcsResumeComputeSystem": "Running",
                }.get(function, system.state)
        return hr

    def _default(self, function: str, system: ScriptedSystem) -> int:
        if function in ("HcsShutdownComputeSystem", "HcsTerminateComputeSystem"):
            return E_STOPPED if system.exit_delivered or self._is_down(system) else PENDING
        if self.hcs.crew is not None:
            wanted = {"HcsStartComputeSystem": "Created", "HcsPauseComputeSystem": "Running"}.get(function, "Paused")
            if system.state != wanted:
                return E_INVALID_STATE
        return PENDING

    def _is_down(self, system: ScriptedSystem) -> bool:
        return self.hcs.crew is not None and system.state == "Stopped"

    def HcsStartComputeSystem(self, value: int, options: str, result: Any) -> int:
        return self._verb("HcsStartComputeSystem", value, options, result)

    def HcsShutdownComputeSystem(self, value: int, options: str, result: Any) -> int:
        return self._verb("HcsShutdownComputeSystem", value, options, result)

    def HcsTerminateComputeSystem(self, value: int, options: str, result: Any) -> int:
        return self._verb("HcsTerminateComputeSystem", value, options, result)

    def HcsPauseComputeSystem(self, value: int, options: str, result: Any) -> int:
        return self._verb("HcsPauseComputeSystem", value, options, result)

    def HcsResumeComputeSystem(self, value: int, options: str, result: Any) -> int:
        return self._verb("HcsResumeComputeSystem", value, options, result)

    def _properties(self, entry: dict[str, Any], rule: Rule | None, default: str, properties: Any) -> None:
        told: str | None = default
        if rule is not None and rule.properties is not UNSET:
            told = rule.properties if isinstance(rule.properties, str | None) else json.dumps(rule.properties)
        entry["properties"] = told
        if told is not None:
            with self.hcs.lock:
                properties[0] = self._text(told)

    def HcsGetComputeSystemProperties(self, value: int, query: str, properties: Any, result: Any) -> int:
        hcs = self.hcs
        with hcs.lock:
            handle, system = self._system(value)
            entry = self._begin("HcsGetComputeSystemProperties", document=query, **self._named(handle))
            if system is None:
                hcs.errors.append(AssertionError("HcsGetComputeSystemProperties of a handle that is not open"))
                return E_HANDLE
            rule = hcs.rule("HcsGetComputeSystemProperties", query, system.id)
        hr = self._answer(entry, rule, E_INVALID_STATE if self._is_down(system) else 0, result)
        if hr & 0x80000000:
            return hr
        base = {
            "Id": system.id,
            "SystemType": "Container",
            "Owner": system.document.get("Owner"),
            "Name": system.document.get("Name"),
        }
        if hcs.crew is not None:
            base |= hcs.crew.properties(system, query)
        self._properties(entry, rule, json.dumps(base), properties)
        return hr

    def HcsModifyComputeSystem(self, value: int, configuration: str, result: Any) -> int:
        with self.hcs.lock:
            handle, system = self._system(value)
            entry = self._begin("HcsModifyComputeSystem", document=configuration, **self._named(handle))
            rule = self.hcs.rule("HcsModifyComputeSystem", configuration, None if system is None else system.id)
        return self._answer(entry, rule, 0, result)

    def HcsRegisterComputeSystemCallback(self, value: int, callback: Any, context: int, out: Any) -> int:
        return self._register("HcsRegisterComputeSystemCallback", value, callback, context, out)

    def HcsRegisterProcessCallback(self, value: int, callback: Any, context: int, out: Any) -> int:
        return self._register("HcsRegisterProcessCallback", value, callback, context, out)

    def _register(self, function: str, value: int, callback: Any, context: int, out: Any) -> int:
        hcs = self.hcs
        with hcs.lock:
            handle = hcs.handles.get(value)
            named = self._named(handle)
            entry = self._begin(function, **named)
            hr = self._answer(entry, hcs.rule(function, "", named.get("system")), 0)
            if handle is None or hr & 0x80000000:
                return hr if handle is not None else E_HANDLE
            registration = ScriptedHandle(self, hcs.next_name("c"), handle.of, None)
            registration.value = hcs.next_value()
            registration.on = handle
            hcs.handles[registration.value] = registration
            handle.box = Mailbox(registration.name, callback, context)
            entry["callback"] = registration.name
            out[0] = registration.value
            holder = handle.of if isinstance(handle.of, ScriptedSystem) else handle
            untold, holder.untold = holder.untold, []
            for each in untold:
                hcs._send(handle, *each)
        return hr

    def HcsUnregisterComputeSystemCallback(self, value: int) -> int:
        return self._unregister("HcsUnregisterComputeSystemCallback", value)

    def HcsUnregisterProcessCallback(self, value: int) -> int:
        return self._unregister("HcsUnregisterProcessCallback", value)

    def _unregister(self, function: str, value: int) -> int:
        hcs = self.hcs
        with hcs.lock:
            registration = hcs.handles.get(value)
            on = registration.on if registration is not None else None
            entry = self._begin(function, **self._named(on))
            if registration is None or on is None:
                hcs.errors.append(AssertionError(f"{function} of a registration that is not there"))
                return E_HANDLE
            entry["callback"] = registration.name
            hr = self._answer(entry, hcs.rule(function, "", entry.get("system")), 0)
            if not hr & 0x80000000:
                self._close(registration)
            return hr

    # processes

    def HcsCreateProcess(self, value: int, parameters: str, information: Any, out: Any, result: Any) -> int:
        hcs = self.hcs
        with hcs.lock:
            handle, system = self._system(value)
            entry = self._begin("HcsCreateProcess", document=parameters, **self._named(handle))
            if handle is None or system is None:
                hcs.errors.append(AssertionError("HcsCreateProcess of a handle that is not open"))
                return E_HANDLE
            rule = hcs.rule("HcsCreateProcess", parameters, system.id)
        default = 0
        if hcs.crew is not None and system.state != "Running":
            default = E_INVALID_STATE
        hr = self._answer(entry, rule, default, result)
        if hr & 0x80000000:
            return hr
        rule = rule or Rule()
        with hcs.lock:
            document = json.loads(parameters)
            pid = hcs.next_pid() if rule.pid is None else rule.pid
            process = ScriptedProcess(system, pid, document)
            if hcs.crew is not None:
                failure: int = hcs.crew.start(process)
                if failure:
                    entry["hr"] = failure
                    return failure
            self._make_pipes(process, rule, information.contents, entry)
            system.processes[process.pid] = process
            hcs.processes[process.pid] = process
            made = self._new("p", process)
            made.through = handle.name
            entry |= {"process": process.pid, "processHandle": made.name}
            information.contents.process_id = process.pid & 0xFFFFFFFF
            out[0] = made.value
            self._act(process, rule)
        return hr

    def _make_pipes(self, process: ScriptedProcess, rule: Rule, information: Any, entry: dict[str, Any]) -> None:
        hcs, document = self.hcs, process.document
        pipes = []
        for name, member in (
            ("stdin", "CreateStdInPipe"),
            ("stdout", "CreateStdOutPipe"),
            ("stderr", "CreateStdErrPipe"),
        ):
            if not document.get(member) or name in rule.withhold:
                continue
            pipes.append(name)
            if process.child is not None:
                theirs = process.child.pipes[name]
            elif name == "stdin":
                theirs, process.inlet = hcs.plumbing.inlet(lambda data: self._told(process, data))
            else:
                theirs, process.outlets[name] = hcs.plumbing.outlet()
            if name in rule.invalid:
                hcs.plumbing.discard(theirs)
                theirs = INVALID_PIPE
            setattr(information, name, theirs)
        entry["pipes"] = pipes

    def _act(self, process: ScriptedProcess, rule: Rule) -> None:
        hcs = self.hcs
        process.echo = rule.echo
        for name in ("stdout", "stderr"):
            data = getattr(rule, name).encode() * (rule.repeat if name == "stdout" else 1)
            if data:
                hcs.write(process, name, data)
            if rule.close_output:
                hcs.end(process, name)
        if rule.exit is not None:
            exit = rule.exit
            if exit.on is not None:
                process.on_stdin_close = exit
            else:
                status = number(exit.status)
                hcs.clock.after(exit.after_ms, lambda: hcs.process_exit(process, exit.code, status=status))

    def _told(self, process: ScriptedProcess, data: bytes) -> None:
        with self.hcs.lock:
            self.hcs.touch()
            process.given += data
            if not data:
                process.input_closed = True
            elif process.echo and "stdout" in process.outlets:
                self.hcs.plumbing.write(process.outlets["stdout"], data)

    def HcsOpenProcess(self, value: int, pid: int, out: Any, result: Any) -> int:
        hcs = self.hcs
        with hcs.lock:
            handle, system = self._system(value)
            entry = self._begin("HcsOpenProcess", process=pid, **self._named(handle))
            rule = hcs.rule("HcsOpenProcess", str(pid), None if system is None else system.id)
            process = None if system is None else system.processes.get(pid)
            hr = self._answer(entry, rule, 0 if process is not None else E_NO_PROCESS, result)
            if process is not None and handle is not None and not hr & 0x80000000:
                made = self._new("p", process)
                made.through = handle.name
                entry["processHandle"] = made.name
                out[0] = made.value
        return hr

    def _process_call(
        self, function: str, value: int, text: str, result: Any
    ) -> tuple[int, ScriptedProcess | None, Any]:
        hcs = self.hcs
        with hcs.lock:
            handle, process = self._process(value)
            entry = self._begin(function, **self._named(handle))
            if process is None:
                hcs.errors.append(AssertionError(f"{function} of a handle that is not open"))
                return E_HANDLE, None, None
            rule = hcs.rule(function, text or str(process.pid), process.system.id)
        if text:
            entry["document"] = text
        return self._answer(entry, rule, 0, result), process, (entry, rule)

    def HcsTerminateProcess(self, value: int, result: Any) -> int:
        hr, process, more = self._process_call("HcsTerminateProcess", value, "", result)
        if process is not None and not hr & 0x80000000:
            rule = more[1] or Rule()
            code = 1 if rule.exit_code is None else rule.exit_code
            after = 40 if rule.after_ms is None else rule.after_ms
            if self.hcs.crew is not None:
                self.hcs.crew.kill(process)
            else:
                self.hcs.clock.after(after, lambda: self.hcs.process_exit(process, code))
        return hr

    def HcsSignalProcess(self, value: int, options: str, result: Any) -> int:
        hr, process, _ = self._process_call("HcsSignalProcess", value, options, result)
        if process is not None and not hr & 0x80000000:
            if self.hcs.crew is not None:
                self.hcs.crew.control(process, json.loads(options)["Signal"])
            else:
                self.hcs.process_exit(process, CONTROL_C)
        return hr

    def HcsGetProcessProperties(self, value: int, properties: Any, result: Any) -> int:
        hr, process, more = self._process_call("HcsGetProcessProperties", value, "", result)
        if process is not None and not hr & 0x80000000:
            exited = "true" if process.exited else "false"
            default = (
                f'{{"ProcessId":{process.pid},"Exited":{exited},"ExitCode":{process.exit_code},"LastWaitResult":0}}'
            )
            entry, rule = more
            self._properties(entry, rule, default, properties)
        return hr

    def HcsModifyProcess(self, value: int, settings: str, result: Any) -> int:
        hr, process, _ = self._process_call("HcsModifyProcess", value, settings, result)
        if process is None or hr & 0x80000000:
            return hr
        request = json.loads(settings)
        if request.get("Operation") == "CloseHandle" and process.inlet is not None:
            process.pipe_closed_first = self.hcs.plumbing.is_hung_up(process.inlet)
        if request.get("Operation") == "CloseHandle" and process.on_stdin_close is not None:
            exit = process.on_stdin_close
            status = number(exit.status)
            self.hcs.clock.after(exit.after_ms, lambda: self.hcs.process_exit(process, exit.code, status=status))
        if self.hcs.crew is not None and request.get("Operation") == "ConsoleSize":
            return 0 if process.document.get("EmulateConsole") else E_INVALID_STATE
        return hr

    # the service, layers

    def HcsGetServiceProperties(self, query: str, properties: Any, result: Any) -> int:
        entry = self._begin("HcsGetServiceProperties", document=query)
        rule = self.hcs.rule("HcsGetServiceProperties", query, None)
        hr = self._answer(entry, rule, 0, result)
        basic = {"SupportedSchemaVersions": [{"Major": 1, "Minor": 0}, {"Major": 2, "Minor": 1}]}
        self._properties(entry, rule, json.dumps({"Properties": [basic]}), properties)
        return hr

    def NameToGuid(self, name: str, out: Any) -> int:
        entry = self._begin("NameToGuid", name=name)
        rule = self.hcs.rule("NameToGuid", name, None)
        hr = self._answer(entry, rule, 0)
        if not hr & 0x80000000:
            given = self.hcs.script.guids.get(name)
            found = uuid.UUID(given) if given else _version_five(name)
            out.contents.bytes[:] = found.bytes_le
            entry["guid"] = str(found)
        return hr

    def _layer(
        self, function: str, info: Any, path: str, needs: str | None, change: Callable[[set[str]], None], **said: Any
    ) -> int:
        hcs = self.hcs
        entry = self._begin(function, name=path, **said)
        self._check_driver(function, info)
        hr = self._answer(entry, hcs.rule(function, path, None), 0)
        with hcs.lock:
            if not hr & 0x80000000:
                have = hcs.layers.get(path)
                if have is None or (needs is not None and needs not in have):
                    entry["hr"] = 0x80070002
                    return 0x80070002
                change(have)
        return hr

    def _check_driver(self, function: str, info: Any) -> None:
        if info.contents.flavour != 1 or info.contents.home != "":
            self.hcs.errors.append(AssertionError(f"{function}: not the filter driver with full paths"))

    def _chain(self, function: str, layers: Any, count: int) -> list[str]:
        """The paths of parent layers; each must bear the id of its folder's name."""
        hcs = self.hcs
        for layer in (layers[i] for i in range(count)):
            name = ntpath.split(layer.path)[1]
            given = hcs.script.guids.get(name)
            if layer.layer_id.uuid != (uuid.UUID(given) if given else _version_five(name)) or layer.flags:
                hcs.errors.append(AssertionError(f"{function}: {layer.path} has another id, or flags"))
        return [layers[i].path for i in range(count)]

    def CreateSandboxLayer(self, info: Any, path: str, parent: Any, layers: Any, count: int) -> int:
        parents = self._chain("CreateSandboxLayer", layers, count)
        entry = self._begin("CreateSandboxLayer", name=path, parents=parents)
        self._check_driver("CreateSandboxLayer", info)
        hr = self._answer(entry, self.hcs.rule("CreateSandboxLayer", path, None), 0)
        if not hr & 0x80000000:
            self.hcs.layers[path] = {"made"}
        return hr

    def ExpandSandboxSize(self, info: Any, path: str, size: int) -> int:
        return self._layer("ExpandSandboxSize", info, path, "made", lambda have: have.add(f"size {size}"), size=size)

    def ActivateLayer(self, info: Any, path: str) -> int:
        return self._layer("ActivateLayer", info, path, None, lambda have: have.add("active"))

    def DeactivateLayer(self, info: Any, path: str) -> int:
        return self._layer("DeactivateLayer", info, path, "active", lambda have: have.discard("active"))

    def PrepareLayer(self, info: Any, path: str, layers: Any, count: int) -> int:
        hcs = self.hcs
        parents = self._chain("PrepareLayer", layers, count)
        with hcs.lock:
            hcs.preparing += 1
            if hcs.preparing > 1:
                hcs.errors.append(AssertionError("two layers are prepared at once"))
        time.sleep(0.002)
        try:
            return self._layer("PrepareLayer", info, path, "active", lambda have: have.add("prepared"), parents=parents)
        finally:
            hcs.preparing -= 1

    def UnprepareLayer(self, info: Any, path: str) -> int:
        return self._layer("UnprepareLayer", info, path, "prepared", lambda have: have.discard("prepared"))

    def DestroyLayer(self, info: Any, path: str) -> int:
        hr = self._layer("DestroyLayer", info, path, None, lambda have: None)
        if not hr & 0x80000000:
            if self.hcs.layers[path] & {"active", "prepared"}:
                self.hcs.errors.append(AssertionError(f"{path} was destroyed while it was in use"))
            del self.hcs.layers[path]
        return hr

    def LayerExists(self, info: Any, path: str, out: Any) -> int:
        entry = self._begin("LayerExists", name=path)
        self._check_driver("LayerExists", info)
        out[0] = path in self.hcs.layers
        return self._answer(entry, self.hcs.rule("LayerExists", path, None), 0)

    def GetLayerMountPath(self, info: Any, path: str, length: Any, buffer: int | None) -> int:
        entry = self._begin("GetLayerMountPath", name=path)
        self._check_driver("GetLayerMountPath", info)
        hr = self._answer(entry, self.hcs.rule("GetLayerMountPath", path, None), 0)
        if not hr & 0x80000000:
            volume = f"\\\\?\\Volume{{{_version_five(path)}}}\\"
            if buffer and length[0] <= len(volume):
                self.hcs.errors.append(AssertionError(f"GetLayerMountPath: room for {length[0]} characters alone"))
            elif buffer:
                text = ctypes.create_unicode_buffer(volume)
                ctypes.memmove(buffer, text, ctypes.sizeof(text))
            length[0] = len(volume) + 1
        return hr

    def ProcessBaseImage(self, path: str) -> int:
        return self._answer(
            self._begin("ProcessBaseImage", name=path), self.hcs.rule("ProcessBaseImage", path, None), 0
        )

    def ProcessUtilityImage(self, path: str) -> int:
        entry = self._begin("ProcessUtilityImage", name=path)
        return self._answer(entry, self.hcs.rule("ProcessUtilityImage", path, None), 0)

    def GrantVmAccess(self, vm: str, path: str) -> int:
        return self._answer(self._begin("GrantVmAccess", name=path), self.hcs.rule("GrantVmAccess", path, None), 0)


def _version_five(name: str) -> uuid.UUID:
    """The recordings' choice: a version 5 UUID (SHA-1) of 16 zero bytes and the name in UTF-16LE."""
    digest = bytearray(hashlib.sha1(bytes(16) + name.encode("utf-16-le", "surrogatepass")).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(digest))
