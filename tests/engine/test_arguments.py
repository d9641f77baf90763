"""What cannot be meant is refused by its name, before anything starts; and what errors say to who reads a traceback."""

from __future__ import annotations

import asyncio
import inspect
import os
import pydoc
import re
import traceback
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

import pytest

import longshore
from longshore.compute.values import DEVNULL, INHERIT, LOG, PIPE, STDOUT
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import (
    CommandFailed,
    CommandNotFound,
    InvalidSpec,
    InvalidState,
    LongshoreError,
    NotSupported,
    OutputLimit,
    ProcessNotFound,
    TimeLimit,
)
from longshore.exit_record import Cause, Completed
from longshore.spec import Layers, Mount, ProcessSpec, Resources, Spec, SpecFields, WindowsOptions

from .world import FOREVER, World, hung, only_oci


async def refused(call: Any, field: str) -> InvalidSpec:
    with pytest.raises(InvalidSpec) as caught:
        await call
    assert caught.value.field == field, caught.value
    return caught.value


# logs


@pytest.mark.parametrize("tail", [-1, 1.5, True, "10"])
async def test_tail_that_is_no_number_of_lines_is_refused(world: World, tail: Any) -> None:
    box = await world.engine().launch("box", root="host", args=["true"])
    await refused(anext(box.logs(tail=tail)), "tail")


@pytest.mark.parametrize("since", [0, "10m", datetime(2026, 1, 1)])  # noqa: DTZ001
async def test_since_that_is_no_aware_time_is_refused(world: World, since: Any) -> None:
    box = await world.engine().launch("box", root="host", args=["true"])
    await refused(anext(box.logs(since=since)), "since")


# streams


@pytest.mark.parametrize(
    ("streams", "field"),
    [
        ({"stdout": PIPE}, "stderr"),
        ({"stderr": PIPE}, "stderr"),
        ({"stderr": STDOUT}, "stderr"),
        ({"stdout": DEVNULL}, "stderr"),
        ({"stdin": 5}, "stdin"),
        ({"stdin": INHERIT}, "stdin"),
        ({"stdin": LOG}, "stdin"),
        ({"stdout": STDOUT, "stderr": PIPE}, "stdout"),
        ({"stdout": -77, "stderr": PIPE}, "stdout"),
        ({"stdout": "pipe", "stderr": PIPE}, "stdout"),
        ({"stdin": True}, "stdin"),
    ],
)
async def test_streams_that_do_not_go_together_are_refused(
    engine: Engine, world: World, streams: dict[str, Any], field: str
) -> None:
    error = await refused(engine.launch("box", args=FOREVER, **streams), field)
    if streams == {"stdout": PIPE}:
        assert error.hint == "give stderr=PIPE, STDOUT or DEVNULL"
    assert world.systems == {}
    assert await engine.list() == []


async def test_a_kept_container_takes_its_input_from_no_descriptor(engine: Engine) -> None:
    await refused(engine.create("box", args=FOREVER, stdin=5), "stdin")
    await engine.create("box", args=FOREVER, stdin=PIPE)


async def test_there_is_no_log_for_what_runs_for_its_caller(engine: Engine) -> None:
    await refused(engine.run("host", ["true"], stdout=LOG), "stdout")
    box = await engine.launch("box", args=FOREVER)
    await refused(box.exec(["true"], stderr=LOG), "stderr")
    error = await refused(box.exec(["true"], stdout=open(os.devnull)), "stdout")  # type: ignore[arg-type]  # noqa: SIM115
    assert error.hint == "give `file.fileno()` of an open file"
    error = await refused(engine.run("host", ["cat"], stdin=b"hello"), "stdin")  # type: ignore[arg-type]
    assert "input=" in (error.hint or "")


# limits, input


@pytest.mark.parametrize("timeout", ["10s", -1, -0.5, float("nan"), True])
async def test_a_time_limit_that_is_none_is_refused(engine: Engine, world: World, timeout: Any) -> None:
    await refused(engine.run("host", ["true"], timeout=timeout), "timeout")
    box = await engine.launch("box", args=FOREVER)
    await refused(box.exec(["true"], timeout=timeout), "timeout")
    await refused(box.run(["true"], timeout=timeout), "timeout")
    await refused(box.stop(timeout), "grace")
    process = await box.exec(["cat"], stdin=PIPE)
    await refused(process.communicate(timeout=timeout), "timeout")
    assert process.exit is None
    assert world.systems["box"].state == "running"


async def test_who_gives_a_negative_time_limit_is_told_how_to_give_none(engine: Engine) -> None:
    error = await refused(engine.run("host", ["true"], timeout=-1), "timeout")
    assert error.hint == "write timeout=10, or None for no limit"


async def test_input_is_bytes(engine: Engine) -> None:
    error = await refused(engine.run("host", ["cat"], input="abc"), "input")  # type: ignore[arg-type]
    assert error.hint == "write input=text.encode()"
    await refused(engine.run("host", ["cat"], input=b"abc", stdin=INHERIT), "stdin")
    await refused(engine.run("host", ["cat"], max_output=-1), "max_output")
    box = await engine.launch("box", args=FOREVER)
    await refused(box.run(["cat"], input="abc"), "input")  # type: ignore[arg-type]
    process = await box.exec(["cat"], stdin=PIPE)
    await refused(process.communicate("abc"), "input")  # type: ignore[arg-type]
    assert (await process.communicate(bytearray(b"abc")))[0] == b"abc"  # type: ignore[arg-type]


# fields


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"mounts": "/tmp:/x"}, "mounts", "mounts=[...]"),
        ({"show": "/srv"}, "show", "show=[...]"),
        ({"network": "bridge"}, "network", "none or host"),
        ({"env": 5}, "env", ""),
        ({"layers": ["/usr"]}, "layers", "write layers=Layers(parents=['/usr'])"),
        ({"layers": 7}, "layers", "write layers=Layers(parents=["),
        ({"security": ["NET_ADMIN"]}, "security", "write security=Security(cap_add=["),
        ({"resources": "512m"}, "resources", "write resources=Resources(memory="),
        ({"cwd": "work/../src"}, "cwd", "write it from the container's root, as '/src'"),
        ({"stop_signal": "TREM"}, "signal", "did you mean TERM"),
        ({"cpus": "2"}, "cpus", ""),
        ({"pids": 1.5}, "pids", ""),
        ({"pids_limit": 5}, "pids_limit", "did you mean `pids`?"),
        ({"volumes": []}, "volumes", "did you mean `mounts`?"),
        ({"memry": "1g"}, "memry", "did you mean `memory`?"),
        ({"limits": {}}, "limits", "`memory`, `cpus`, `pids`"),
        ({"environment": {}}, "environment", "did you mean `env`?"),
        ({"working_dir": "/"}, "working_dir", "did you mean `cwd`?"),
        ({"mem_limit": 5}, "mem_limit", "did you mean `memory`?"),
        ({"command": "x"}, "command", "did you mean `args`"),
        ({"privileged": True}, "privileged", "Security(cap_add="),
        ({"time_out": 5}, "time_out", "did you mean `timeout`?"),
        ({"maxoutput": 5}, "maxoutput", "did you mean `max_output`?"),
        ({"capture_output": True}, "capture_output", "`run` collects both"),
        ({"shell": True}, "shell", "['sh', '-c', ...]"),
        ({"zzzzz": 1}, "zzzzz", "use one of root, args, env"),
    ],
)
async def test_a_field_that_cannot_be_is_named_with_what_may_be_meant(
    engine: Engine, world: World, fields: Any, field: str, said: str
) -> None:
    for call in (
        engine.run("host", ["true"], **fields),
        engine.create("box", args=["true"], **fields),
        engine.launch("box", args=["true"], **fields),
    ):
        error = await refused(call, field)
        assert said in (error.hint or "")
    assert world.systems == {}


@pytest.mark.parametrize("root", ["host", "host:full", "rootfs:/srv", PurePosixPath("host")])
async def test_a_root_and_layers_are_two_roots_and_refused(engine: Engine, world: World, root: Any) -> None:
    layers = Layers(parents=["/srv/base"])
    for call in (
        engine.run(root, ["true"], layers=layers),
        engine.create("box", root=root, args=["true"], layers=layers),
        engine.launch("box", Spec(args=["true"], layers=layers), root=root),
        engine.launch("box", root=root, args=["true"], windows=WindowsOptions(layer_paths=["/srv/base"])),
    ):
        error = await refused(call, "root")
        assert error.hint == "give root='' with `layers`, or `root` alone"
    assert world.machine.calls["create"] == 0
    assert Spec(args=["true"], layers=layers).root == ""  # `host` was not asked for
    assert Spec.of(Spec(args=["true"]), layers=layers).root == ""
    with pytest.raises(InvalidSpec, match="root"):
        Spec(args=["true"], root="rootfs:/srv", layers=layers)


def test_a_relative_path_is_told_what_it_may_mean_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for call, meant in (
        (lambda: Mount("data", "/x"), f"the root of this machine, as {str(tmp_path / 'data')!r}"),
        (lambda: Mount("/data", "x"), "the container's root, as '/x'"),
        (lambda: Layers(parents=["base"]), f"the root of this machine, as {str(tmp_path / 'base')!r}"),
        (lambda: ProcessSpec(args=["true"], cwd="src"), "the container's root, as '/src'"),
    ):
        with pytest.raises(InvalidSpec) as caught:
            call()
        assert caught.value.hint == f"write it from {meant}"


def test_one_folder_in_the_place_of_a_list_of_layers_is_told_how_to_write_it() -> None:
    with pytest.raises(InvalidSpec) as caught:
        Layers(parents="/usr")  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.hint) == ("layers.parents", "write parents=[...]")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("TREM", "did you mean TERM"),
        ("SIGKIL", "did you mean KILL"),
        ("USER1", "did you mean USR1"),
        ("zzzz", "use HUP, INT, QUIT"),
        (99, "write a name: 'TERM'"),
    ],
)
async def test_an_unknown_signal_is_told_those_that_are_near(engine: Engine, given: str | int, hint: str) -> None:
    box = await engine.launch("box", args=FOREVER)
    error = await refused(box.signal(given), "signal")
    assert hint in (error.hint or "")


@pytest.mark.parametrize("args", [[], [""]])
async def test_without_a_command_it_is_said_how_to_write_one(engine: Engine, args: list[str]) -> None:
    box = await engine.launch("box", args=FOREVER)
    for call in (engine.run("host", args), box.exec(args)):
        with pytest.raises(InvalidSpec, match=r"^args") as caught:
            await call
        assert caught.value.hint is not None
        assert "args=['sh', '-c', ...]" in caught.value.hint


async def test_a_root_that_is_none_is_told_what_roots_there_are(engine: Engine) -> None:
    for root in ("a b", "host:ful"):
        error = await refused(engine.run(root, ["true"]), "root")
        assert error.hint is not None
        assert error.hint.startswith("use an image's name such as python:3.12-slim, host, host:full, rootfs:/path")
    assert "lower case" in (await refused(engine.run("Alpine", ["true"]), "root")).problem
    assert (await refused(engine.run("/srv/x", ["true"]), "root")).hint == "write rootfs:/srv/x for a root file system"
    assert "host:full" in ((await refused(engine.run("/", ["true"]), "root")).hint or "")


async def test_a_spec_that_is_none_and_an_owner_that_is_none_are_refused(engine: Engine) -> None:
    with pytest.raises(TypeError, match="must be a Spec, not 'host'"):
        await engine.create("box", "host")  # type: ignore[arg-type]
    await refused(engine.create("box", args=["true"], owner="me"), "owner")  # type: ignore[arg-type]


def test_a_mount_may_be_written_source_first() -> None:
    assert Mount("/src", "/dst") == Mount(source="/src", target="/dst")
    assert Mount(PurePosixPath("/src"), PurePosixPath("/dst")) == Mount("/src", "/dst")  # type: ignore[arg-type]
    wrong: list[dict[str, Any]] = [{"source": "/src"}, {"source": 5, "target": 6}, {"source": "/src", "target": None}]
    for arguments in wrong:
        with pytest.raises(InvalidSpec, match=r"mount\."):
            Mount(*arguments.values())


# help, errors


def test_help_lists_every_field_that_may_be_given() -> None:
    text = pydoc.render_doc(Spec, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    listed = set(re.findall(r"^(\w+)", inspect.getdoc(Spec) or "", re.MULTILINE))
    keywords = {*get_type_hints(SpecFields)}
    assert keywords >= {*Spec.__struct_fields__, *Resources.__struct_fields__}
    assert keywords <= listed
    assert "limit in bytes" in text
    for verb in (Engine.run, Engine.create):
        assert "help(longshore.Spec)" in (verb.__doc__ or "")
    assert longshore.SpecFields is SpecFields


def test_a_hint_is_in_the_traceback() -> None:
    error = LongshoreError("no", hint="try again")
    assert traceback.format_exception_only(error)[-1] == "hint: try again\n"
    assert not hasattr(LongshoreError("no"), "__notes__")


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (b"", ""),
        (b"first\nsecond\n\nthird\nfourth\n", ": second / third / fourth"),
        (b"\x1b[31mred\xff\n", ":  [31mred\ufffd"),
        (b"x" * 10_000, ": ..." + "x" * 400),
    ],
)
def test_a_failed_command_is_told_with_its_last_words(stderr: bytes, said: str) -> None:
    result = Completed(args=["make"], exit=longshore.Exit(code=2), stderr=stderr)
    assert str(CommandFailed(result)) == f"command ['make'] ended with exit code 2 (exited){said}"


@pytest.mark.parametrize(
    ("exit", "hint"),
    [
        (longshore.Exit(code=2), "or use check=False"),
        (longshore.Exit(code=127), "check PATH"),
        (longshore.Exit(code=137, cause=Cause.OOM), "raise `memory`"),
    ],
)
def test_a_failed_command_is_told_with_the_next_step(exit: longshore.Exit, hint: str) -> None:
    assert hint in (CommandFailed(Completed(args=["make"], exit=exit)).hint or "")


# a process that has ended; limits that were changed


async def test_a_process_that_has_ended_is_named_when_it_is_signalled(engine: Engine, other: Engine) -> None:
    box = await engine.launch("box", args=FOREVER)
    process = await box.exec(["true"], name="bg2")
    await process.wait()
    for found in (process, await (await other.get("box")).process("bg2")):
        with pytest.raises(ProcessNotFound, match="process `bg2` of container `box` has ended"):
            await found.signal("TERM")
        await found.kill()


@only_oci
async def test_what_was_updated_is_what_inspect_shows(engine: Engine, other: Engine) -> None:
    box = await engine.create("box", args=FOREVER, memory="64m", memory_swap="256m", pids=10)
    await box.update(memory="128m")
    await asyncio.gather((await other.get("box")).update(pids=20), box.update(cpus=0.5))
    limits = (await box.inspect())["spec"]["resources"]
    assert (limits["memory"], limits["memory_swap"], limits["pids"], limits["cpus"]) == (128 << 20, 256 << 20, 20, 0.5)


async def test_limits_that_were_not_changed_stay_as_they_are_shown(engine: Engine, world: World) -> None:
    box = await engine.create("box", args=FOREVER, memory="64m")
    world.faults.fail_at("update", LongshoreError("no"))
    with pytest.raises((LongshoreError, NotSupported)):
        await box.update(memory="128m")
    assert (await box.inspect())["spec"]["resources"]["memory"] == 64 << 20


# Container.run


@pytest.fixture
async def box(engine: Engine) -> Container:
    return await engine.launch("box", args=FOREVER)


async def test_a_further_command_is_run_to_its_end_in_one_call(box: Container) -> None:
    done = await box.run(["cat"], input=b"hello")
    assert (done.args, done.exit_code, done.stdout, done.stderr) == (["cat"], 0, b"hello", b"")
    done = await box.run(["both", "3"])
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert await box.processes() == []


async def test_checked_a_further_command_that_fails_is_an_error(box: Container) -> None:
    with pytest.raises(CommandFailed, match=r"(?m)exit code 3 \(exited\): err$") as caught:
        await box.run(["both", "3"], check=True)
    assert caught.value.result.stdout == b"out\n"
    with pytest.raises(CommandNotFound):
        await box.run(["nosuch"], check=True)


async def test_a_further_command_that_takes_too_long_or_says_too_much_is_killed(box: Container, world: World) -> None:
    with pytest.raises(TimeLimit, match=r"did not end within 0\.05 s") as caught:
        await box.run(["deaf"], timeout=0.05)
    assert caught.value.result is not None
    assert (caught.value.result.exit.cause, caught.value.result.stdout) == (Cause.TIME_LIMIT, b"deaf\n")
    with pytest.raises(OutputLimit):
        await box.run(["cat"], input=b"x" * 1000, max_output=10)
    assert len(world.systems["box"].processes) == 1
    assert await box.processes() == []


async def test_a_further_command_is_killed_when_its_caller_is_cancelled(box: Container, world: World) -> None:
    task = asyncio.create_task(box.run(["deaf"]))
    while len(world.systems["box"].processes) < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.systems["box"].processes) == 1
    assert await box.processes() == []


async def test_a_further_command_whose_start_is_cancelled_never_runs(box: Container, world: World) -> None:
    world.faults.delay("exec", asyncio.Event())
    task = asyncio.create_task(box.run(["deaf"]))
    await hung(world, "exec")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.systems["box"].processes) == 1


async def test_in_what_does_not_run_nothing_further_is_run(engine: Engine) -> None:
    created = await engine.create("created", args=FOREVER)
    with pytest.raises(InvalidState):
        await created.run(["true"])


async def test_who_needs_a_running_container_is_told_how_to_come_by_one(engine: Engine) -> None:
    box = await engine.create("box", args=FOREVER)
    for early in (box.exec(["true"]), box.stats()):
        with pytest.raises(InvalidState, match="created") as caught:
            await early
        assert caught.value.hint == "start it first"
    await box.start()
    await box.stop(grace=0)
    calls: list[Coroutine[Any, Any, object]] = [box.exec(["true"]), box.stats(), box.pause()]
    for call in calls:
        with pytest.raises(InvalidState, match="stopped") as caught:
            await call
        assert caught.value.hint == "create another container: each starts once"
