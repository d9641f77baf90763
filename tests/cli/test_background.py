"""The background process where there is no monitor and no fork, as on Windows. Forced here, with real containers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import longshore
from longshore.cli.arguments.parser import Arguments
from longshore.cli.verbs import attach, start
from longshore.engine.engine import Engine
from longshore.errors import NotSupported
from longshore.simulator import Machine, Simulator

from .command import LIMIT, Longshore, wait_until

AS_ON_WINDOWS = """
import sys
from longshore.cli import main
from longshore.cli.running import background

background.NO_MONITOR = True
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def windows(longshore: Longshore):  # type: ignore[no-untyped-def]
    """The command line as where nobody but longshore itself can write a log. Returns when nobody has its streams."""

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", AS_ON_WINDOWS, *words],
            env=longshore.environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_run_detached_returns_at_once_and_the_container_goes_on(windows, longshore: Longshore) -> None:  # type: ignore[no-untyped-def]
    gate = "until [ -e /tmp/go ]; do sleep 0.05; done; echo done; exit 3"
    assert windows("run", "-d", "--name", "web", "host", "--", "sh", "-c", gate) == (0, "web\n", "")
    assert longshore.json("ps", "--format", "json")[0]["state"] == "running"
    longshore.ok("exec", "web", "--", "touch", "/tmp/go")
    assert longshore.ok("wait", "web") == "3\n"
    assert longshore.ok("logs", "web") == "done\n"


def test_what_fails_behind_is_told_by_the_one_that_was_called(windows, longshore: Longshore) -> None:  # type: ignore[no-untyped-def]
    code, out, err = windows("run", "-d", "--name", "web", "host", "--", "no-such-command")
    assert (code, out) == (127, "")
    assert "no-such-command" in err
    assert longshore.ok("ps", "-aq") == ""


def test_exec_detached_prints_the_name_by_which_it_is_found(windows, longshore: Longshore) -> None:  # type: ignore[no-untyped-def]
    longshore.ok("run", "-d", "--name", "web", "host", "--", "sleep", "600")
    code, name, err = windows("exec", "-d", "web", "--", "sleep", "600")
    assert (code, err) == (0, "")
    longshore.ok("signal", "web", "KILL", "--process", name.strip())
    wait_until(lambda: longshore("signal", "web", "TERM", "--process", name.strip()).returncode)


def test_of_several_that_are_started_one_that_fails_gives_the_exit_code(windows, longshore: Longshore) -> None:  # type: ignore[no-untyped-def]
    for name in ("one", "two"):
        longshore.ok("create", "--name", name, "host", "--", "sleep", "600")
    code, out, err = windows("start", "one", "missing", "two")
    assert (code, out) == (125, "one\ntwo\n")
    assert "missing" in err
    wait_until(lambda: len(longshore.json("ps", "--format", "json")) == 2)


async def test_attaching_input_where_streams_end_with_their_maker_names_what_can_be_done(tmp_path: Path) -> None:
    machine = Machine("hcs")
    async with (
        Engine(Simulator(machine=machine), state=tmp_path) as maker,
        Engine(Simulator(machine=machine), state=tmp_path) as other,
    ):
        web = await maker.launch("web", root="rootfs:/srv", args=["sleep", "9"], stdin=longshore.PIPE)
        with pytest.raises(NotSupported, match="end with the program") as caught:
            await attach.run(other, Arguments(container="web", stdin=True, detach_keys="", sig_proxy=False))
        assert caught.value.hint == "run `longshore attach --no-stdin web` to see its output"
        await web.delete(force=True)


async def test_input_for_what_another_program_made_is_refused_and_its_output_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = Machine("hcs")
    async with (
        Engine(Simulator(machine=machine), state=tmp_path) as maker,
        Engine(Simulator(machine=machine), state=tmp_path) as other,
    ):
        await maker.create("web", root="rootfs:/srv", args=["cat"], stdin=longshore.PIPE)
        words = {
            "containers": ["web"],
            "attach": True,
            "checkpoint": None,
            "detach_keys": "",
            "sig_proxy": False,
            "background": False,
        }
        with pytest.raises(NotSupported) as caught:
            await start.run(other, Arguments(interactive=True, **words))
        assert "`longshore start -a web`" in (caught.value.hint or "")
        await maker.create("say", root="rootfs:/srv", args=["echo", "hi"])
        assert await start.run(other, Arguments(interactive=False, **(words | {"containers": ["say"]}))) == 0
        assert capfd.readouterr().out == "hi\n"
        for name in ("web", "say"):
            await (await maker.get(name)).delete(force=True)
