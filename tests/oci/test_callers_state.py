"""What a calling program has set for itself, of signals, priority and standard streams, is not its containers'."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ..conftest import wait_for_nothing_left

pytestmark = pytest.mark.real

RUNTIMES = pytest.mark.parametrize("runtime", ["crun", "runc"])
CLOSED = [set(each) for count in (1, 2, 3) for each in itertools.combinations((0, 1, 2), count)]


def call(program: str, *words: str | Path, closed: set[int] = frozenset(), limit: float = 100) -> str:  # type: ignore[assignment]
    """Run a Python program with some standard descriptors closed from its beginning; what it wrote to descriptor 9."""
    read, write = os.pipe()
    redirections = " ".join([*(f"{fd}>&-" for fd in sorted(closed)), f"9>&{write}"])
    line = f'exec "$@" {redirections}'
    process = subprocess.Popen(
        ["bash", "-c", line, "sh", sys.executable, "-c", textwrap.dedent(program), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[write],
    )
    os.close(write)
    try:
        with os.fdopen(read) as told:
            text = told.read()
        assert process.wait(limit) == 0, text
    finally:
        process.kill()
        process.wait()
    return text


SETTINGS = """
    import asyncio, os, resource, signal, sys, threading
    from longshore import Engine

    SHOW = ["sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status; cat /proc/self/oom_score_adj /proc/self/personality"
            " 2>/dev/null; cat /proc/self/timerslack_ns; cut -d' ' -f19,40,41 /proc/self/stat"]

    async def main():
        async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
            shown = [(await engine.run("host", SHOW, init=False, user="root")).text]
            box = await engine.launch("box", root="host", owner="remove", user="root",
                                      args=["sh", "-c", 'until [ -e /tmp/go ]; do sleep 0.02; done; "$@"', "sh", *SHOW])
            done = await box.run(SHOW)
            shown.append(done.text)
            await box.run(["touch", "/tmp/go"])
            await box.wait()
            shown.append("".join([record.data.decode() async for record in box.logs()]))
            os.write(9, repr(shown).encode())

    if sys.argv[3] == "set":
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD, signal.SIGTSTP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        open("/proc/self/oom_score_adj", "w").write("-500")
        os.nice(7)
        import ctypes
        ctypes.CDLL(None).prctl(29, 12345678, 0, 0, 0)
        ctypes.CDLL(None).personality(0x0040000)  # ADDR_NO_RANDOMIZE
    asyncio.run(main())
"""


@RUNTIMES
def test_settings_of_the_caller_are_not_those_of_containers(state: Path, runtime: str) -> None:
    plain = call(SETTINGS, state, runtime, "leave")
    assert plain.count("SigBlk:\\t0000000000000000\\nSigIgn:\\t0000000000000000") == 3
    assert call(SETTINGS, state, runtime, "set") == plain


def test_an_owner_with_blocked_signals_leaves_nothing_when_killed(state: Path) -> None:
    program = """
        import os, signal, sys
        import longshore
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        engine = longshore.sync.Engine(state=sys.argv[1])
        engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
        engine.launch("other", root="host", args=["sleep", "infinity"], owner="remove").exec(["sleep", "infinity"])
        os.write(9, b"up")
        if os.fork() == 0:
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(0)
        signal.pause()
    """
    with pytest.raises(AssertionError, match="up"):
        call(program, state)
    assert wait_for_nothing_left(state) == []


LIBRARY = """
    import asyncio, os, sys
    closed = [int(each) for each in sys.argv[3]]
    import longshore
    from longshore import INHERIT, PIPE

    def number_is_free(fd):
        try:
            os.fstat(fd)
        except OSError:
            return True

    async def main(engine):
        noisy = ["sh", "-c", "echo out; echo err >&2; cat >/dev/null; exit 3"]
        first = await engine.launch("first", root="host", args=noisy, stdin=INHERIT, stdout=INHERIT, stderr=INHERIT)
        codes = [(await first.wait()).code]
        script = "echo log; read x; echo $x; exit 4"
        kept = await engine.launch("kept", root="host", args=["sh", "-c", script], stdin=PIPE)
        codes.append((await (await kept.exec(noisy, stdin=INHERIT, stdout=INHERIT, stderr=INHERIT)).wait()).code)
        done = await kept.run(["cat"], input=b"input")
        async with await kept.attach(stdin=True, logs=True) as attached:
            attached.stdin.write(b"line\\n")
            await attached.stdin.drain()
            codes.append((await kept.wait()).code)
        text = "".join([record.data.decode() async for record in kept.logs()])
        run = await engine.run("host", noisy, stdout=INHERIT, stderr=INHERIT)
        codes.append(run.exit_code)
        os.write(9, repr((codes, done.stdout, text)).encode())

    async def one():
        async with longshore.Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
            await main(engine)
            await (await engine.get("kept")).delete()

    if sys.argv[4] == "sync":
        with longshore.sync.Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
            codes = [engine.run("host", ["sh", "-c", "echo x; exit 3"], stdout=INHERIT, stderr=INHERIT).exit_code]
            kept = engine.launch("kept", root="host", args=["sh", "-c", "echo log; exit 4"])
            codes.append(kept.wait().code)
            text = "".join(record.data.decode() for record in kept.logs())
            kept.delete()
        assert all(number_is_free(fd) for fd in closed), "a placeholder is left"
        os.write(9, repr((codes, text)).encode())
    else:
        asyncio.run(one())
"""


@RUNTIMES
@pytest.mark.parametrize("closed", CLOSED, ids=lambda each: "".join(map(str, sorted(each))))
def test_a_program_with_closed_streams_runs_containers(state: Path, runtime: str, closed: set[int]) -> None:
    numbers = "".join(map(str, sorted(closed)))
    assert call(LIBRARY, state, runtime, numbers, "async", closed=closed) == repr(
        ([3, 3, 4, 3], b"input", "log\nline\n")
    )
    assert call(LIBRARY, state, runtime, numbers, "sync", closed=closed) == repr(([3, 4], "log\n"))


@pytest.mark.parametrize("closed", CLOSED, ids=lambda each: "".join(map(str, sorted(each))))
@RUNTIMES
def test_streams_closed_under_an_open_engine_are_the_null_device(state: Path, runtime: str, closed: set[int]) -> None:
    program = """
        import asyncio, os, sys
        from longshore import INHERIT
        from longshore import Engine

        async def main():
            inherited = {"stdin": INHERIT, "stdout": INHERIT, "stderr": INHERIT}
            script = "cat; echo out; echo err >&2; exit "
            async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
                box = await engine.launch("box", root="host", args=["sleep", "1000"], owner="remove")
                for fd in map(int, sys.argv[3]):
                    os.close(fd)
                done = await engine.run("host", ["sh", "-c", script + "3"], timeout=300, **inherited)
                process = await box.exec(["sh", "-c", script + "4"], **inherited)
                return done.exit_code, (await process.wait()).code

        os.write(9, repr(asyncio.run(main())).encode())
        assert not any(os.path.exists(f"/proc/self/fd/{fd}") for fd in sys.argv[3]), "a placeholder is left"
    """
    assert call(program, state, runtime, "".join(map(str, sorted(closed)))) == "(3, 4)"


def test_a_stream_that_the_program_opens_later_is_not_closed(state: Path) -> None:
    program = """
        import os, sys
        import longshore
        with longshore.sync.Engine(state=sys.argv[1]) as engine:
            engine.run("host", ["true"])
            read, write = os.pipe()
            os.dup2(write, 1)
        os.write(1, b"still here")
        os.write(9, os.read(read, 99))
    """
    assert call(program, state, closed={1}) == "still here"


def test_signals_that_are_blocked_by_the_caller_are_heard_by_init(state: Path) -> None:
    program = """
        import os, signal, sys
        import longshore
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        for runtime in ("crun", "runc"):
            with longshore.sync.Engine(state=sys.argv[1], runtime=runtime) as engine:
                script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done"
                box = engine.launch("box", root="host", args=["sh", "-c", script])
                next(iter(box.logs(follow=True)))
                os.write(9, b"%d " % box.stop(grace=300).code)
                box.delete()
    """
    assert call(program, state) == "7 7 "
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
