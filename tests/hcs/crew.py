"""Real children as the processes of scripted systems: what the contract suite runs, on this machine's own programs.

A system's processes are programs of Linux with plain pipes; shutdown is SIGTERM, terminate SIGKILL to all, pause
SIGSTOP. A terminal's size is told by a stand-in for `stty size`, since there is no console here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

CONTROL_C, KILLED = 0xC000013A, 0xFFFFFFFF
NOT_FOUND, DENIED, BAD_EXE = 0x80070002, 0x80070005, 0x800700C1


def split(command_line: str) -> list[str]:
    """A command line taken apart as CommandLineToArgvW does (the usual rules of Windows programs)."""
    arguments: list[str] = []
    current: list[str] | None = None
    quoted = False
    index = 0
    while index < len(command_line):
        start = index
        while index < len(command_line) and command_line[index] == "\\":
            index += 1
        slashes = index - start
        char = command_line[index] if index < len(command_line) else ""
        if char == '"':
            current = [] if current is None else current
            current.append("\\" * (slashes // 2))
            if slashes % 2:
                current.append('"')
            else:
                quoted = not quoted
            index += 1
            continue
        if slashes:
            current = [] if current is None else current
            current.append("\\" * slashes)
            continue
        if char in " \t" and not quoted:
            if current is not None:
                arguments.append("".join(current))
                current = None
        else:
            current = [] if current is None else current
            current.append(char)
        index += 1
    if current is not None:
        arguments.append("".join(current))
    return arguments


class Child:
    """One running program, and our ends of its pipes."""

    def __init__(self, arguments: list[str], document: dict[str, Any]) -> None:
        self.arguments = arguments
        self.killed = False
        theirs: list[int] = []
        self.pipes: dict[str, int] = {}
        try:
            for name in ("stdin", "stdout", "stderr"):
                if not document.get(f"CreateStd{name[3:].capitalize()}Pipe"):
                    theirs.append(os.open(os.devnull, os.O_RDWR))
                    continue
                read, write = os.pipe()
                self.pipes[name] = write if name == "stdin" else read
                theirs.append(read if name == "stdin" else write)
            environment = {"PATH": os.environ["PATH"]} | document.get("Environment", {})
            self.process = subprocess.Popen(
                arguments,
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=theirs[1] if document.get("EmulateConsole") else theirs[2],
                cwd="/" if document.get("WorkingDirectory") in ("", "C:\\") else document["WorkingDirectory"],
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            for descriptor in self.pipes.values():
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: int) -> None:
        """A signal to it, and to what it started in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Crew:
    """Runs and watches the children of all systems of one `Hcs`."""

    def __init__(self) -> None:
        self._hcs: Any = None

    def join(self, hcs: Any) -> None:
        self._hcs = hcs

    def close(self) -> None:
        for system in list(self._hcs.systems.values()):
            self.terminate(system)

    def start(self, process: Any) -> int:
        """Run what a process document asks for. An HRESULT if that fails, else 0."""
        document = process.document
        arguments = split(document["CommandLine"])
        if document.get("EmulateConsole") and arguments == ["stty", "size"]:
            height, width = document["ConsoleSize"]
            arguments = ["echo", f"{height} {width}"]
        try:
            process.child = Child(arguments, document)
        except FileNotFoundError:
            return NOT_FOUND
        except PermissionError:
            return DENIED
        except OSError:
            return BAD_EXE
        process.pid = process.child.pid
        process.name = os.path.basename(split(document["CommandLine"])[0])
        threading.Thread(target=self._watch, args=(process,), daemon=True, name="scripted child").start()
        return 0

    def _watch(self, process: Any) -> None:
        status = process.child.process.wait()
        with self._hcs.lock:
            code = KILLED if process.child.killed else CONTROL_C if status < 0 else status
            self._hcs.process_exit(process, code)
            system = process.system
            if system.ending and not system.processes:
                self._exited(system)

    def _exited(self, system: Any) -> None:
        if system.state != "Stopped":
            system.state = "Stopped"
            for process in system.ended:  # what they left running in their sessions
                process.child.send(signal.SIGKILL)
            self._hcs.clock.after(1, lambda: self._hcs.notify_system(system, 0x1))

    def verb(self, function: str, system: Any) -> None:
        """What a pending verb brings about."""
        if function == "HcsStartComputeSystem":
            self._hcs.clock.after(1, lambda: self._hcs.notify_system(system, 0x3))
        elif function == "HcsShutdownComputeSystem":
            self._end(system, signal.SIGTERM)
        elif function == "HcsTerminateComputeSystem":
            self.terminate(system)
        elif function == "HcsPauseComputeSystem":
            self._send(system, signal.SIGSTOP)
            self._hcs.clock.after(1, lambda: self._hcs.notify_system(system, 0x4))
        elif function == "HcsResumeComputeSystem":
            self._send(system, signal.SIGCONT)
            self._hcs.clock.after(1, lambda: self._hcs.notify_system(system, 0x5))

    def _send(self, system: Any, number: int) -> None:
        for process in list(system.processes.values()):
            process.child.send(number)

    def _end(self, system: Any, number: int) -> None:
        system.ending = True
        if not system.processes:
            self._exited(system)
        self._send(system, number)

    def terminate(self, system: Any) -> None:
        """All processes are killed, also stopped ones, and what they left running."""
        for process in list(system.processes.values()):
            process.child.killed = True
        for process in [*system.processes.values(), *system.ended]:
            process.child.send(signal.SIGKILL)
        self._end(system, signal.SIGKILL)

    def kill(self, process: Any) -> None:
        process.child.killed = True
        with suppress(ProcessLookupError):
            if not process.exited:
                process.child.process.send_signal(signal.SIGKILL)

    def control(self, process: Any, word: str) -> None:
        process.child.send(signal.SIGINT if word == "CtrlC" else signal.SIGTERM)

    def properties(self, system: Any, query: str) -> dict[str, Any]:
        """State, statistics and list of processes."""
        found: dict[str, Any] = {"State": system.state}
        alive = [process for process in system.processes.values() if not process.exited]
        if "ProcessList" in query:
            found["ProcessList"] = [
                {
                    "ProcessId": process.pid,
                    "ImageName": process.name,
                    "CreateTimestamp": datetime.fromtimestamp(process.created, UTC).isoformat(),
                    "MemoryWorkingSetPrivateBytes": 1 << 20,
                }
                for process in alive
            ]
        if "Statistics" in query:
            cpu = sum(os.times()[:2])
            found["Statistics"] = {
                "Timestamp": datetime.now(UTC).isoformat(),
                "Memory": {"MemoryUsagePrivateWorkingSetBytes": len(alive) << 20},
                "Processor": {"TotalRuntime100ns": int(cpu * 1e7)},
            }
        return found
