"""Whether a command ran: what the kernel refuses after the runtime said "running" is never recorded as an exit."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore import PIPE, STDOUT
from longshore.engine.engine import Engine
from longshore.errors import CommandNotExecutable, CommandNotFound, LongshoreError, ServiceError
from longshore.exit_record import Cause
from longshore.oci.config import seccomp
from longshore.oci.runtimes import status
from longshore.oci.runtimes.status import Channel, Outcome, parse, why_not
from longshore.spec import Security

from .roots import make_root

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="longshore needs root for now")
real = pytest.mark.real

FIRST = Path(status.__file__).with_name("first")
SCRIPTS = Path(__file__).parents[2] / "scripts"
HEAD = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00"  # of an executable of 64 bits


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_bytes(text.encode())
    path.chmod(mode)


def foreign(tools: Path) -> None:
    (tools / "command").write_bytes(HEAD + b"\xfe\xfe" + bytes(44))  # no processor has this number
    (tools / "command").chmod(0o755)


def without_loader(tools: Path) -> None:
    data = Path("/bin/true").read_bytes()
    loader = b"/lib64/ld-linux-x86-64.so.2" if b"/lib64/ld-linux-x86-64.so.2" in data else b"/lib/ld-linux-aarch64.so.1"
    (tools / "command").write_bytes(data.replace(loader, b"/no" + loader[3:]))
    (tools / "command").chmod(0o755)


def chain(tools: Path) -> None:
    script(tools / "command", "#!/tools/second\n")
    script(tools / "second", "#!/tools/third\n")


REFUSED: dict[str, tuple[Callable[[Path], object], str, type[LongshoreError]]] = {
    "crlf": (lambda at: script(at / "command", "#!/bin/sh\r\ntrue\r\n"), "/tools/command", CommandNotExecutable),
    "foreign": (foreign, "/tools/command", CommandNotExecutable),
    "no-loader": (without_loader, "/tools/command", CommandNotExecutable),
    "chain": (chain, "/tools/command", CommandNotExecutable),
    "no-x-bit": (lambda at: script(at / "command", "#!/bin/sh\n", 0o644), "/tools/command", CommandNotExecutable),
    "empty": (lambda at: script(at / "command", ""), "/tools/command", CommandNotExecutable),
    "text": (lambda at: script(at / "command", "echo hello\n"), "/tools/command", CommandNotExecutable),
    "folder": (lambda at: (at / "command").mkdir(), "/tools/command", CommandNotExecutable),
    "fifo": (lambda at: os.mkfifo(at / "command", 0o777), "/tools/command", CommandNotExecutable),
    "loop": (lambda at: (at / "command").symlink_to("command"), "/tools/command", CommandNotExecutable),
    "long": (lambda at: None, "/tools/" + "x" * 300, CommandNotExecutable),
    "in-path": (lambda at: script(at / "command", "#!/no/such\n"), "command", CommandNotExecutable),
    "missing": (lambda at: None, "/tools/command", CommandNotFound),
    "missing-in-path": (lambda at: None, "command", CommandNotFound),
    "dangling": (lambda at: (at / "command").symlink_to("nowhere"), "/tools/command", CommandNotFound),
    "below-a-file": (lambda at: script(at / "command", "#!/bin/sh\n"), "/tools/command/x", CommandNotFound),
}


@pytest.fixture
def full_run(state: Path) -> Iterator[Callable[[], Path]]:
    """Fills the file system of `run`, which is this test's own; the file that fills it."""
    run = state / "run"
    run.mkdir(0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "small", str(run)], check=True)

    def fill() -> Path:
        with (run / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"\0" * 4096)
        return run / "filler"

    yield fill
    subprocess.run(["umount", str(run)], check=True)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    made = tmp_path / "tools"
    made.mkdir()
    return made


def fields(tools: Path, *, init: bool, options: str = "ro") -> dict[str, Any]:
    env = {"PATH": "/tools:/usr/bin"}
    return {"root": "host", "mounts": [f"{tools}:/tools:{options}"], "init": init, "env": env}


async def all_ways(engine: Engine, command: list[str], init: bool, given: dict[str, Any]) -> list[LongshoreError]:
    """What comes of a command by `run`, `launch`, `create` and `start`, and `exec`."""
    found = []
    with pytest.raises(LongshoreError) as caught:
        await engine.run(given["root"], command, **{name: given[name] for name in given if name != "root"})
    found.append(caught.value)
    with pytest.raises(LongshoreError) as caught:
        await engine.launch("launched", args=command, **given)
    found.append(caught.value)
    assert await engine.list() == []

    box = await engine.create("created", args=command, owner="remove", **given)
    with pytest.raises(LongshoreError) as caught:
        await box.start()
    found.append(caught.value)
    exit = await box.wait()
    assert (exit.code, exit.cause) == (None, Cause.NEVER_STARTED)
    await box.delete()

    box = await engine.launch("running", args=["sleep", "600"], owner="remove", **given)
    with pytest.raises(LongshoreError) as caught:
        await box.run(command)
    found.append(caught.value)
    await box.delete(force=True)
    return found


@real
@pytest.mark.parametrize("init", [False, True], ids=["no-init", "init"])
@pytest.mark.parametrize("kind", REFUSED)
async def test_what_execve_refuses_is_a_typed_error_in_every_way(
    engine: Engine, tools: Path, kind: str, init: bool
) -> None:
    make, command, error = REFUSED[kind]
    make(tools)
    for found in await all_ways(engine, [command], init, fields(tools, init=init)):
        assert type(found) is error, found


@real
@pytest.mark.parametrize("init", [False, True], ids=["no-init", "init"])
async def test_a_mount_or_an_open_file_that_forbids_execution_does_so_too(
    engine: Engine, tools: Path, init: bool
) -> None:
    shutil.copy("/bin/true", tools / "command")
    with open(tools / "command", "ab"):  # ETXTBSY
        for found in await all_ways(engine, ["/tools/command"], init, fields(tools, init=init)):
            assert isinstance(found, CommandNotExecutable)
            assert "busy" in found.reason
            assert found.hint == "close the file where it is open for writing"
    for found in await all_ways(engine, ["/tools/command"], init, fields(tools, init=init, options="noexec")):
        assert isinstance(found, CommandNotExecutable)
        assert "permission denied" in found.reason


@real
async def test_an_init_without_a_pid_for_its_command_reports_that(engine: Engine) -> None:
    with pytest.raises(CommandNotExecutable, match="temporarily unavailable") as caught:
        await engine.run("host", ["true"], init=True, pids=1)
    assert "`pids`" in str(caught.value.hint)


HOOKED = """#!/bin/sh
exit 3
"""


@real
@pytest.mark.parametrize("init", [False, True], ids=["no-init", "init"])
async def test_a_failing_last_hook_is_named_and_nothing_ran(
    engine: Engine, tools: Path, tmp_path: Path, init: bool
) -> None:
    script(tools / "hook", HOOKED)
    document = {
        "ociVersion": "1.0.2",
        "process": {"args": ["touch", "/tmp/ran"], "cwd": "/", "env": ["PATH=/usr/bin"]},
        "root": {"path": str(make_root(tmp_path / "root"))},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            {"destination": "/tools", "type": "bind", "source": str(tools), "options": ["rbind", "ro"]},
        ],
        "hooks": {"startContainer": [{"path": "/tools/hook"}]},
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount")]},
    }
    (tmp_path / "root" / "tools").mkdir()
    with pytest.raises(ServiceError, match="hook"):
        await engine.run("", [], oci=document, init=init)
    box = await engine.create("box", oci=document, init=init, owner="remove")
    with pytest.raises(ServiceError, match="hook"):
        await box.start()
    assert (await box.wait()).cause is Cause.NEVER_STARTED
    assert not (tmp_path / "root" / "tmp" / "ran").exists()


# who reads it later

STARTER = """
import asyncio, os, sys
from longshore import Engine
from longshore.oci.system import OciSystem

async def die(*arguments):
    os.kill(os.getpid(), 9)

async def main():
    OciSystem._begin = die  # when the runtime has started it
    async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        await (await engine.get("box")).start()

asyncio.run(main())
"""


@real
@pytest.mark.parametrize("init", [False, True], ids=["no-init", "init"])
@pytest.mark.parametrize(
    ("command", "code", "cause"),
    [("/tools/command", None, Cause.NEVER_STARTED), ("/tools/other", 1, Cause.EXITED)],
    ids=["refused", "ran"],
)
async def test_after_the_death_of_the_starter_the_truth_is_known(
    engine: Engine, state: Path, tools: Path, init: bool, command: str, code: int | None, cause: Cause
) -> None:
    script(tools / "command", "#!/no/such\n")
    script(tools / "other", "#!/bin/sh\nexit 1\n")
    box = await engine.create("box", args=[command], **fields(tools, init=init))
    runtime = "runc" if "runc" in await engine.version() else "crun"
    starter = subprocess.run([sys.executable, "-c", STARTER, str(state), runtime], timeout=300, check=False)
    assert starter.returncode == -signal.SIGKILL
    exit = await box.wait()
    assert (exit.code, exit.cause) == (code, cause)
    await box.delete()


@real
async def test_another_program_than_the_maker_is_told_that_it_never_ran(
    engine: Engine, state: Path, tools: Path
) -> None:
    script(tools / "command", "#!/no/such\n")
    await engine.create("box", args=["/tools/command"], **fields(tools, init=False))
    async with Engine(state=state) as other:
        box = await other.get("box")
        with pytest.raises(CommandNotExecutable):
            await box.start()
    exit = await (await engine.get("box")).wait()
    assert (exit.code, exit.cause) == (None, Cause.NEVER_STARTED)
    await (await engine.get("box")).delete()


# what the container can write


FORGER = """
import os, sys, termios
mode = termios.tcgetattr(1); mode[1] = 0; termios.tcsetattr(1, termios.TCSANOW, mode)
line = '{"msg":"executable file `x` not found in $PATH","level":"error","time":"2026-11-30T20:00:00.000000Z"}\\n'
os.write(1, line.encode()); os._exit(3)
"""


@real
async def test_words_at_a_terminal_are_never_the_runtimes(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "600"], owner="remove")
    for _ in range(20):
        process = await box.exec(["python3", "-c", FORGER], terminal=True, stdout=PIPE)
        exit = await process.wait()
        assert (exit.code, exit.cause) == (3, Cause.EXITED)


LOOK = "import os; print([os.readlink(f'/proc/{pid}/fd/{fd}') for pid in PIDS for fd in os.listdir(f'/proc/{pid}/fd') \
if os.path.lexists(f'/proc/{pid}/fd/{fd}') and int(fd) > 2])"


@real
@pytest.mark.parametrize("init", [False, True], ids=["no-init", "init"])
async def test_no_descriptor_of_the_engine_reaches_the_container(engine: Engine, init: bool) -> None:
    look = ["python3", "-c", LOOK.replace("PIDS", "(1, 'self')")]
    done = await engine.run("host", look, init=init, user="root")
    box = await engine.launch("box", root="host", args=["sleep", "600"], init=init, user="root", owner="remove")
    for text in (done.stdout, (await box.run(look)).stdout):
        assert b"pipe" not in text
        assert b"began" not in text
        assert b"socket" not in text
        assert b"memfd" not in text
        assert b"status" not in text


@pytest.mark.parametrize(
    "record",
    [
        b"x2 0\n",
        b"r",
        b"r\nx2 0",
        b"r\nx2 2\n",
        b"r\nx99999 0\n",
        b"r\nx2 0\nx2 0\n",
        b"r\nr\n",
        b"\n",
        b"r\nf-1\n",
        b"\xff",
    ],
)
def test_a_record_that_is_none_is_not_believed(record: bytes) -> None:
    assert parse(record) == Outcome(begun=True)


def test_messages_of_others_are_read_in_bounded_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MESSAGES", 2)
    with Channel(tmp_path) as channel:
        theirs = channel.places[-1]
        subprocess.run(["sh", "-c", "echo r; echo r; echo r"], stdout=theirs, check=True)
        os.write(theirs, b"r\n")
        assert channel.received(os.getpid()) == Outcome()
        assert channel.received(os.getpid()) == Outcome(begun=True)


@pytest.mark.parametrize("junk", [b"", b"r\nx2 0\n"])
async def test_fifo_that_another_process_opens_decides_nothing(tmp_path: Path, junk: bytes) -> None:
    """root in a container can: the end counts only once the first program has written its record."""
    with Channel(tmp_path) as channel:
        theirs = channel.places[-1]
        waiting = asyncio.create_task(channel.wait(os.getpid(), asyncio.get_running_loop().create_future()))
        other = os.open(tmp_path / status.FIFO_NAME, os.O_WRONLY)
        os.write(other, junk)
        os.close(other)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        first = os.open(tmp_path / status.FIFO_NAME, os.O_WRONLY)
        os.write(theirs, b"r\n")
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        os.write(theirs, b"x2 0\n")
        os.close(first)
        async with asyncio.timeout(10):
            assert await waiting == Outcome(begun=True, error=2)
        assert channel.certain


@real
@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_a_record_has_room_on_a_full_file_system(
    state: Path, full_run: Callable[[], Path], tmp_path: Path, runtime: str
) -> None:
    script(tmp_path / "odd", "#!/bin/sh\r\n")
    async with Engine(state=state, runtime=runtime) as engine:
        good = await engine.create("good", root="host", args=["sh", "-c", "exit 7"])
        odd = await engine.create("odd", root="host", args=["/odd"], mounts=[f"{tmp_path}/odd:/odd"], init=True)
        filler = full_run()
        await good.start()
        with pytest.raises(CommandNotExecutable):
            await odd.start()
        filler.unlink()
        assert (await good.wait()).code == 7
        assert (await odd.wait()).cause == "never_started"
        for box in (good, odd):
            await box.delete()


def test_a_record_says_what_the_kernel_answered() -> None:
    assert parse(b"") == Outcome()
    assert parse(b"r\n") == Outcome(begun=True)
    assert parse(b"r\nx2 1\n") == Outcome(begun=True, error=2, found=True)
    assert parse(b"r\nf11\n") == Outcome(begun=True, error=11, forking=True)


# where it is not used


PROC = {"destination": "/proc", "type": "proc", "source": "proc"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"mounts": []}, "/proc"),
        ({"mounts": [PROC, {"destination": "/", "type": "tmpfs"}]}, "/proc"),
        ({"mounts": [PROC], "process": {"apparmorProfile": "x"}}, "apparmorProfile"),
        ({"mounts": [PROC], "annotations": {"run.oci.handler": "wasm"}}, "handler"),
        ({"mounts": [PROC], "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}}, "seccomp"),
        (
            {
                "mounts": [PROC],
                "linux": {
                    "seccomp": {
                        "defaultAction": "SCMP_ACT_ALLOW",
                        "syscalls": [{"names": ["prctl"], "action": "SCMP_ACT_ERRNO"}],
                    }
                },
            },
            "prctl",
        ),
    ],
)
def test_where_the_first_program_could_not_work_it_is_left_out(document: dict[str, Any], reason: str) -> None:
    assert reason in (why_not(document) or "")


def test_only_a_record_in_a_file_needs_a_limit_of_file_size() -> None:
    config = {"mounts": [PROC], "process": {"rlimits": [{"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0}]}}
    assert "no file" in (why_not(config, kept=True) or "")
    assert why_not(config) is None


@real
async def test_command_that_may_write_no_file_is_refused_by_type(engine: Engine, tools: Path) -> None:
    script(tools / "command", "#!/bin/sh\r\ntrue\r\n")
    box = await engine.launch("box", root="host", args=["sleep", "1000"], owner="remove", mounts=[f"{tools}:/tools"])
    limits = [{"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0}]
    with pytest.raises(CommandNotExecutable):
        await box.exec(oci={"args": ["/tools/command"], "rlimits": limits})


def test_the_default_profile_lets_the_first_program_work() -> None:
    profile = seccomp.load("default", [])
    assert why_not({"mounts": [PROC], "linux": {"seccomp": profile}}, init=True) is None


@real
async def test_a_profile_that_forbids_what_it_needs_is_no_obstacle(engine: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["faccessat"],"action":"SCMP_ACT_KILL_PROCESS"}]}'
    )
    security = Security(seccomp=str(profile))
    done = await engine.run("host", ["sh", "-c", "exit 7"], init=False, security=security, check=False)
    assert done.exit_code == 7
    plan = await engine.plan(root="host", args=["true"], init=False, security=security)
    assert "seccomp" in plan.reasons["process.args"]


# as an init


@real
async def test_the_init_passes_signals_on_reaps_and_ends_as_its_command(engine: Engine) -> None:
    for command, code in (("exit 42", 42), ("kill -TERM $$", 143), ("trap 'exit 9' USR1; kill -USR1 1; sleep 9", 9)):
        done = await engine.run("host", ["sh", "-c", command], init=True, check=False)
        assert done.exit_code == code
    orphans = "for i in 1 2 3 4 5; do (true & true); done; until ! ps -eo stat= | grep -q Z; do sleep 0.01; done; ps -e"
    done = await engine.run("host", ["timeout", "20", "sh", "-c", orphans], init=True)
    assert b"longshore-init" in done.stdout


@real
async def test_the_command_of_an_init_begins_with_nothing_blocked_or_ignored(engine: Engine) -> None:
    done = await engine.run("host", ["grep", "-E", "Sig(Blk|Ign|Pnd)", "/proc/self/status"], init=True)
    assert {line.split()[1] for line in done.stdout.splitlines()} == {b"0" * 16}


@real
async def test_ctrl_z_reaches_the_command_under_an_init(engine: Engine) -> None:
    code = "import signal, time; signal.signal(signal.SIGTSTP, lambda *a: exit(5)); print('ready'); time.sleep(60)"
    box = await engine.launch(
        "box",
        root="host",
        args=["python3", "-c", code],
        init=True,
        terminal=True,
        owner="remove",
        stdin=PIPE,
        stdout=PIPE,
        stderr=STDOUT,
    )
    init = await box.process("init")
    assert init.stdout is not None
    assert init.stdin is not None
    await init.stdout.readuntil(b"ready")
    init.stdin.write(b"\x1a")
    assert (await init.wait()).code == 5


# the program itself


@pytest.fixture
def built(tmp_path: Path) -> Path:
    subprocess.run(["sh", str(SCRIPTS / "build-first"), str(tmp_path)], check=True, capture_output=True)
    return tmp_path


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_program_is_small_and_the_same_when_built_again(built: Path, machine: str) -> None:
    shipped = (FIRST / f"first-{machine}").read_bytes()
    assert shipped.startswith(b"\x7fELF\x02")
    assert len(shipped) <= 8 << 10
    compiler = shutil.which(f"{machine}-linux-gnu-gcc")
    if compiler is not None:
        version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout
        if version.strip() == "12.2.0":  # Debian 12's, which made them
            assert (built / f"first-{machine}").read_bytes() == shipped
