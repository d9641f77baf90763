"""What runtimes say in their logs, and what is in the log of crun beside: what a terminal still had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from longshore.errors import CommandNotExecutable, CommandNotFound, InvalidSpec, InvalidState, ServiceError
from longshore.oci.processes.launch import ENVIRONMENT
from longshore.oci.runtimes.choice import must_hide_unified
from longshore.oci.runtimes.runtime import Runtime, explain

WARNING = b'{"msg":"it said \\"no\\"","level":"warning","time":"2026-11-26T12:58:44.940275Z"}\n'
ERROR = b'{"msg":"cannot start: it said \\"no\\"","level":"error","time":"2026-11-26T12:58:44.940275Z"}\n'
SPACED = b'{ "msg": "no", "level": "error", "time": "2026-11-26T12:58:44.940275Z" }\n'
OF_A_LOGGER = b'{"level":"error","msg":"failed","time":"2026-11-26T12:58:44Z"}\r\n'
AS_A_TERMINAL_PASSES_IT = ERROR.replace(b"\n", b"\r\n")


def crun(tmp_path: Path, log: bytes, name: str = "crun") -> tuple[bytes, bool]:
    file = tmp_path / "log"
    file.write_bytes(log)
    runtime = Runtime(f"/usr/bin/{name}", tmp_path, hide_unified=False)
    return runtime.rest_of_terminal(file), runtime.failed_to_start(file)


@pytest.mark.parametrize("log", [ERROR, SPACED, WARNING + ERROR, ERROR + WARNING])
def test_an_error_of_the_runtime_alone_says_that_nothing_ran(tmp_path: Path, log: bytes) -> None:
    assert crun(tmp_path, log) == (b"", True)


@pytest.mark.parametrize("log", [b"", WARNING])
def test_no_error_says_nothing(tmp_path: Path, log: bytes) -> None:
    assert crun(tmp_path, log) == (b"", False)


@pytest.mark.parametrize("rest", [b"a", b"a\r\n", b"\n", OF_A_LOGGER, AS_A_TERMINAL_PASSES_IT, b"{\r\n" * 50])
@pytest.mark.parametrize("before", [b"", WARNING])
@pytest.mark.parametrize("after", [b"", ERROR])
def test_the_rest_of_a_terminal_is_told_apart(tmp_path: Path, before: bytes, rest: bytes, after: bytes) -> None:
    assert crun(tmp_path, before + rest + b"\n" + after) == (rest, False)


def test_the_rest_of_a_terminal_may_come_in_pieces(tmp_path: Path) -> None:
    rest = (OF_A_LOGGER + b"x" * 100) * 5
    log = b"".join(rest[at : at + 255] + b"\n" for at in range(0, len(rest), 255))
    assert crun(tmp_path, log + ERROR) == (rest, False)


def test_runc_has_no_rest_of_a_terminal(tmp_path: Path) -> None:
    assert crun(tmp_path, b'{"level":"error","msg":"runc run failed: no"}\n', "runc") == (b"", True)
    assert crun(tmp_path, b'{"level":"error","msg":"cannot remove the cgroup"}\n', "runc") == (b"", False)


@pytest.mark.parametrize(
    ("verb", "words", "state"),
    [
        ("start", "container `box` is not running", "stopped"),
        ("start", "cannot start a container that has stopped", "stopped"),
        ("start", "container process is already dead", "stopped"),
        ("exec", "the container `box` is paused", "paused"),
        ("exec", "exec failed: cannot exec in a paused container (use --ignore-paused to override)", "paused"),
    ],
)
def test_where_somebody_else_was_quicker_the_state_is_told_and_no_failure(verb: str, words: str, state: str) -> None:
    error = explain("runc", verb, words, "box", command="sh", status=1)
    assert isinstance(error, InvalidState)
    assert error.state == state
    assert error.hint


def test_a_container_that_ends_amid_an_exec_is_not_taken_for_a_command_that_is_not_there() -> None:
    words = "unable to create new parent process: namespace path: lstat /proc/25091/ns/ipc: no such file or directory"
    assert isinstance(explain("runc", "exec", f"exec failed: {words}", "box", command="sh"), ServiceError)
    for words in ('exec: "/x": stat /x: no such file or directory', "exec /x: no such file or directory"):
        text = f"exec failed: unable to start container process: {words}"
        assert isinstance(explain("runc", "exec", text, "box", command="/x"), CommandNotFound)


@pytest.mark.real
@pytest.mark.parametrize(
    ("limit", "said"),
    [(1000.5, "1000.5"), (7, "")],
    ids=["a fraction cannot be read", "what can be read has no reason"],
)
async def test_crun_gives_the_reason_that_it_does_not_log(tmp_path: Path, limit: float, said: str) -> None:
    rlimits = [{"type": "RLIMIT_CORE", "hard": limit, "soft": limit}]
    process = {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "rlimits": rlimits}
    document = {"ociVersion": "1.0.2", "process": process, "root": {"path": "/"}, "mounts": [], "linux": {}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    crun = shutil.which("crun", path=ENVIRONMENT["PATH"])
    assert crun is not None
    runtime = Runtime(crun, tmp_path / "state", hide_unified=must_hide_unified(crun))
    reason = await runtime.unread(tmp_path / "run.log", tmp_path, "box")
    assert (said in reason, bool(reason)) == (True, bool(said))
    assert not (tmp_path / "state").exists()


@pytest.mark.real
@pytest.mark.parametrize("said", [ERROR, b'{"msg":"it said what it was","level":"error"}\n'])
async def test_a_reason_in_the_log_is_not_looked_for_again(tmp_path: Path, said: bytes) -> None:
    log = tmp_path / "run.log"
    log.write_bytes(said)
    runtime = Runtime("/nonexistent/crun", tmp_path, hide_unified=False)
    assert await runtime.unread(log, tmp_path, "box") == ""


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert Runtime("/usr/bin/crun", tmp_path, hide_unified=False).failed_to_start(tmp_path / "no") is False


RUNC = "runc run failed: unable to start container process: error during container init: "
OTHER_STEPS = [
    "error executing hook `/no/such/hook` (exit code: 1)",
    "error executing hook `/usr/sh/chdir` (exit code: 1): No such file or directory",
    RUNC + "error running hook #0: fork/exec /no/such/hook: no such file or directory",
    RUNC + "error running hook #0: fork/exec /etc/sh: permission denied",
    RUNC + 'error mounting "/no/such" to rootfs at "/x": stat /no/such: no such file or directory',
    "error stat'ing file `/no/sh`: No such file or directory",
    "runc run failed: unable to start container process: error closing exec fds: open /proc/self/fd: "
    "no such file or directory",
    "open `/no/such/ns`: No such file or directory",
    "setrlimit `RLIMIT_NOFILE`: Permission denied",
    RUNC + "open /proc/sys/net/sh: no such file or directory",
    "write to `/proc/self/attr/exec`: Permission denied",
]


@pytest.mark.parametrize("words", OTHER_STEPS)
def test_the_failure_of_another_step_is_no_missing_command(words: str) -> None:
    error = explain("crun", "run", words, "box", command="sh")
    assert isinstance(error, ServiceError)
    assert words in str(error)


@pytest.mark.parametrize(
    "words",
    [
        "executable file `sh` not found in $PATH: No such file or directory",
        "executable file `/x/chdir` not found in $PATH",
        RUNC + 'exec: "sh": executable file not found in $PATH',
        'exec failed: unable to start container process: exec: "a \\"b": executable file not found in $PATH',
    ],
)
def test_a_missing_command_is_named_as_such(words: str) -> None:
    assert isinstance(explain("crun", "run", words, "box", command="sh"), CommandNotFound)


@pytest.mark.parametrize(
    "words",
    [
        "open executable: Permission denied",
        "open executable: Operation not permitted",
        RUNC + 'exec: "/usr": permission denied',
        "exec container process `/x`: Exec format error",
    ],
)
def test_a_command_that_cannot_be_executed_is_named_as_such(words: str) -> None:
    assert isinstance(explain("crun", "run", words, "box", command="sh"), CommandNotExecutable)


@pytest.mark.parametrize(
    "words",
    [
        "chdir `/usr/bin/env`: Not a directory",
        RUNC + "mkdir /usr/bin/env: not a directory",
        'runc run failed: unable to start container process: chdir to cwd ("/x") set in config.json failed: '
        "permission denied",
    ],
)
def test_a_missing_working_directory_is_named_as_such(words: str) -> None:
    with pytest.raises(InvalidSpec, match="cwd"):
        raise explain("crun", "run", words, "box", command="sh")


def test_the_hook_in_a_line_within_a_line_is_named(tmp_path: Path) -> None:
    inner = '{\\"msg\\":\\"error executing hook `/no/such`\\",\\"level\\":\\"error\\"}'
    (tmp_path / "log").write_text(f'{{"msg":"{inner}","level":"error"}}\n')
    error = Runtime("/usr/bin/crun", tmp_path, hide_unified=False).failure("run", tmp_path / "log", "box")
    assert str(error).endswith("error executing hook `/no/such`")
