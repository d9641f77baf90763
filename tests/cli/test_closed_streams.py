"""The command line started without some of its standard streams, as daemons and supervisors start programs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from .command import ARGV, Longshore, wait_until

pytestmark = pytest.mark.real

CLOSED = [set(each) for count in (1, 2, 3) for each in itertools.combinations((0, 1, 2), count)]
SCRIPT = "cat; echo out; echo err >&2; exit 3"


def follows(pid: int) -> bool:
    """Whether a command line has begun to follow a log."""
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return any("inotify" in link for link in links)


class Caller:
    """Calls the command line with some descriptors closed, the others being files; gives back code and both texts."""

    def __init__(self, longshore: Longshore, folder: Path, closed: set[int]) -> None:
        self._environment = longshore.environment
        self._folder = folder
        self.closed = closed

    def start(self, *words: str, argv: list[str] = ARGV) -> subprocess.Popen[bytes]:
        streams = {0: "< in", 1: "> out", 2: "2> err"}
        for name in ("in", "out", "err"):
            (self._folder / name).write_text("")
        line = " ".join(["exec", '"$@"', *(f"{fd}>&-" if fd in self.closed else streams[fd] for fd in (0, 1, 2))])
        command = ["bash", "-c", line, "sh", *argv, *words]
        return subprocess.Popen(command, env=self._environment, cwd=self._folder)

    def __call__(self, *words: str, argv: list[str] = ARGV) -> tuple[int, str, str]:
        code = self.start(*words, argv=argv).wait(60)
        return code, (self._folder / "out").read_text(), (self._folder / "err").read_text()

    def shown(self, out: str, err: str) -> tuple[str, str]:
        """What of a command's two outputs can be seen."""
        return "" if 1 in self.closed else out, "" if 2 in self.closed else err


@pytest.mark.parametrize("closed", CLOSED, ids=lambda each: "".join(map(str, sorted(each))))
def test_every_verb_takes_closed_streams_for_the_null_device(
    longshore: Longshore, tmp_path: Path, closed: set[int]
) -> None:
    call = Caller(longshore, tmp_path, closed)
    both = (3, *call.shown("out\n", "err\n"))
    assert call("run", "-i", "host", "--", "sh", "-c", SCRIPT) == both
    life = "echo kept; until [ -e /tmp/go ]; do sleep 0.05; done; exit 4"
    assert call("run", "-d", "--name", "web", "host", "--", "sh", "-c", life) == (0, *call.shown("web\n", ""))
    assert call("exec", "-i", "web", "--", "sh", "-c", SCRIPT) == both
    assert call("ps", "-q") == (0, *call.shown("web\n", ""))
    attached = call.start("attach", "web")
    wait_until(lambda: follows(attached.pid), limit=300)
    assert call("exec", "-d", "web", "--", "touch", "/tmp/go")[0] == 0
    assert attached.wait(60) == 4
    assert call("logs", "-f", "web") == (0, *call.shown("kept\n", ""))
    assert call("rm", "web", argv=[sys.executable, "-m", "longshore"])[0] == 0


def test_an_error_is_an_exit_code_where_nothing_can_be_said(longshore: Longshore, tmp_path: Path) -> None:
    assert Caller(longshore, tmp_path, {0, 1, 2})("start", "missing") == (125, "", "")
    assert Caller(longshore, tmp_path, {1})("run", "host", "--", "/no/such/command")[0] == 127


def test_the_streams_of_the_caller_stay_blocking(longshore: Longshore) -> None:
    read, write = os.pipe()
    ours, theirs = os.openpty()
    meddle = "import os\nfor fd in (0, 1, 2): os.set_blocking(fd, False)"
    try:
        for stream in (write, theirs):
            for words in (
                ("run", "-i", "host", "--", "python3", "-S", "-c", meddle),
                ("run", "-d", "--name", "web", "host", "--", "sh", "-c", "echo kept; exec sleep infinity"),
                ("exec", "-i", "web", "--", "python3", "-S", "-c", meddle),
                ("logs", "web"),
                ("ps",),
                ("rm", "-f", "web"),
            ):
                given = read if stream == write else theirs
                assert longshore(*words, stdin=given, stdout=stream, stderr=stream).returncode == 0, words
            assert all(os.get_blocking(fd) for fd in (read, write, theirs)), stream
    finally:
        for fd in (read, write, ours, theirs):
            os.close(fd)
