"""The real command line, in a process of its own; at a terminal where one is needed."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ARGV = [sys.executable, "-m", "longshore.cli"]
LIMIT = 300.0


class Longshore:
    """`longshore(...)` runs a command line on a state directory of the test's own."""

    def __init__(self, state: Path, runtime: str | None = None) -> None:
        self.environment = {**os.environ, "LONGSHORE_ROOT": str(state)}
        self.environment.pop("LONGSHORE_RUNTIME", None)
        self.environment.pop("LONGSHORE_LOG", None)
        if runtime is not None:
            self.environment["LONGSHORE_RUNTIME"] = runtime

    def __call__(
        self, *words: str | bytes, input: bytes | None = None, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        if input is None and "stdin" not in options:
            options["stdin"] = subprocess.DEVNULL
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        done = subprocess.run(
            [*ARGV, *words], input=input, env=self.environment | (env or {}), timeout=LIMIT, check=False, **options
        )
        assert b"Traceback" not in (done.stderr or b""), done.stderr.decode()
        return done

    def ok(self, *words: str, **options: Any) -> str:
        """Run what must succeed; its standard output."""
        done = self(*words, **options)
        assert done.returncode == 0, f"{words}: {done.returncode}: {done.stderr.decode(errors='replace')}"
        return done.stdout.decode()

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words))

    def lines(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self.ok(*words).splitlines()]

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen([*ARGV, *words], env=self.environment, **options)

    def at_terminal(self, *words: str, size: tuple[int, int] = (24, 80)) -> Terminal:
        return Terminal([*ARGV, *words], self.environment, size)


class Terminal:
    """A program whose streams are a terminal, and the keyboard and screen of that."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str], size: tuple[int, int]) -> None:
        self.master, self._slave = os.openpty()
        self.screen = b""
        self._seen = 0
        self.resize(*size, tell=False)
        self.before = termios.tcgetattr(self.master)

        # a session of its own, whose terminal this becomes by being opened first
        opener = "import os, sys; [os.dup2(os.open(sys.argv[1], os.O_RDWR), n) for n in (0, 1, 2)]"
        opener += "; os.execv(sys.argv[2], sys.argv[2:])"
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", opener, os.ttyname(self._slave), *argv],
            env=environment,
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self._slave):
            if fd >= 0:
                os.close(fd)

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        """Change the size of the window; the kernel tells the program in the foreground."""
        del tell
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self.master)
        self.master = -1

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def _read(self, limit: float) -> bool:
        if not select.select([self.master], [], [], limit)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.screen += data
        return bool(data)

    def expect(self, text: bytes, limit: float = 300.0) -> bytes:
        """Wait until `text` is on the screen, after what was expected before; what came before it."""
        deadline = time.monotonic() + limit
        while (found := self.screen.find(text, self._seen)) < 0:
            assert self._read(max(0.0, deadline - time.monotonic())), f"no {text!r} in {self.screen[self._seen :]!r}"
        before = self.screen[self._seen : found]
        self._seen = found + len(text)
        return before

    def wait(self, limit: float = 300.0) -> int:
        """Wait for the end of the program, showing what it writes; its exit code."""
        deadline = time.monotonic() + limit
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        while self._read(0):
            pass
        assert b"Traceback" not in self.screen, self.screen.decode()
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was when the program was started."""
        return termios.tcgetattr(self.master) == self.before


def wait_until(condition: Any, limit: float = 300.0) -> None:
    """Wait for what tells nobody; fails after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)
