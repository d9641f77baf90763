"""Finding and killing: drivers, keepers, monitors, runtimes amid a verb, and containers' inits."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
YOUNG = 0.05  # seconds in which a new process may still become another program


class Nursery:
    """Forks drivers."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def driver(self, state: Path, runtime: str, seed: int, notes: Path) -> int:
        """A new driver's pid."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{state} {runtime} {seed} {notes}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@dataclass(frozen=True)
class Kill:
    """One that was killed."""

    victim: str  # owner, keeper, monitor, runtime, init
    about: str = ""  # the container; of a runtime the verb
    watched: bool = False  # an engine was waiting for the end of its init


def kill(pid: int, number: int = signal.SIGKILL, limit: float = 30.0) -> bool:
    """Signal it, and wait until it is dead: until then it has its locks. False if it was dead already."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
        if not select.select([pidfd], [], [], limit)[0]:
            raise TimeoutError(f"process {pid} did not end within {limit:g} s of signal {number}")
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Every process with its command line."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")[:-1]
                yield int(name), [word.decode(errors="replace") for word in words]


def monitors(state: Path) -> dict[str, int]:
    """The monitors of a store's containers: pid by container."""
    found = {}
    for pid, words in command_lines():
        if words and words[0].endswith("conmon") and any(word.startswith(f"{state}/") for word in words):
            found[words[words.index("--cid") + 1]] = pid
    return found


def inits(state: Path) -> dict[str, int]:
    """The inits of a store's kept containers that are alive: pid by container."""
    found = {}
    for path in (state / "run" / "containers").glob("*/monitor.pid"):
        with suppress(OSError, ValueError):
            pid = int((path.parent / "pid").read_text())
            if f"{path.parent.name}/box" in Path(f"/proc/{pid}/cgroup").read_text():
                found[path.parent.name] = pid
    return found


class RuntimeKiller(threading.Thread):
    """Kills runtimes amid the verbs that it is told, a moment after they began."""

    def __init__(self, state: Path, verbs: set[str], delays: list[float]) -> None:
        super().__init__(name="runtime killer")
        self._mark = f"{state}/run/runtime/".encode()
        self._verbs = verbs
        self._delays = delays
        self._over = threading.Event()
        self.kills: list[Kill] = []
        self.start()

    def run(self) -> None:
        own = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        seen: dict[int, float] = {}
        while self._delays and not self._over.is_set():
            now = time.monotonic()
            pids = {int(name) for name in os.listdir("/proc") if name.isdigit()} - own
            for pid in pids:
                if now - seen.setdefault(pid, now) > YOUNG:
                    continue
                with suppress(OSError):
                    verb = self._verb(pid)
                    if verb is not None and self._delays:
                        seen[pid] = 0.0
                        pidfd = os.pidfd_open(pid)
                        time.sleep(self._delays.pop())
                        with suppress(OSError):
                            if self._verb(pid) is not None:  # else it was the child that is an init, or an exec, now
                                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                                self.kills.append(Kill("runtime", verb))
                        os.close(pidfd)
            time.sleep(0.0005)

    def _verb(self, pid: int) -> str | None:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if len(words) < 8 or words[1] != b"--root" or not words[2].startswith(self._mark):
            return None
        return next((word for word in (w.decode() for w in words[7:9]) if word in self._verbs), None)

    def close(self) -> None:
        """Stop killing."""
        self._over.set()
        self.join()


async def in_thread_kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """As `kill`, while others go on."""
    return await asyncio.get_running_loop().run_in_executor(None, kill, pid, number)
