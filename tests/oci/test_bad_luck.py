"""Bad input and bad luck: a typed error, before anything was changed, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.events import Event
from longshore.compute.values import Owner
from longshore.engine.engine import Engine
from longshore.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerExists,
    ContainerNotFound,
    InvalidSpec,
    LongshoreError,
    NotSupported,
    ServiceError,
    StoreError,
)
from longshore.spec import Mount, Rlimit, Spec

from ..leftovers import leftovers

pytestmark = pytest.mark.real
TRUE = ["true"]

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a missing root": ({"root": "rootfs:/no/such/root"}, "root"),
    "an unknown root": ({"root": "image:Debian"}, "root"),
    "a missing mount source": ({"mounts": [Mount(source="/no/such", target="/x")]}, "mounts[0].source"),
    "a folder to show that is not there": ({"show": ["/no/such"]}, "show[0]"),
    "an unknown user": ({"user": "nosuchuser"}, "user"),
    "an unknown group": ({"user": "0:nosuchgroup"}, "user"),
    "a memory limit too small to start in": ({"memory": 1 << 20}, "memory"),
    "a memory limit that is no size": ({"memory": "much"}, "memory"),
    "no processors": ({"cpus": 0}, "cpus"),
    "a weight out of range": ({"cpu_weight": 20_000}, "cpu_weight"),
    "no processes": ({"pids": 0}, "pids"),
    "a host name with a blank": ({"hostname": "a b"}, "hostname"),
    "an unknown capability": ({"security": {"cap_add": ["FLY"]}}, "security.cap_add"),
    "a seccomp profile that is not there": ({"security": {"seccomp": "/no/such"}}, "security.seccomp"),
    "a relative working directory": ({"cwd": "here"}, "cwd"),
    "a working directory that is not there": ({"cwd": "/no/such"}, "cwd"),
    "an empty command": ({"args": []}, "args"),
    "a NUL in an argument": ({"args": ["a\0b"]}, "args[0]"),
    "a wrong type": ({"hostname": 5}, "hostname"),
    "an unknown field": ({"colour": "red"}, "colour"),
    "a limit above the hard limit": ({"rlimits": [Rlimit(name="nofile", soft=1 << 30, hard=1 << 30)]}, "rlimits"),
    "a layer that is not there": ({"layers": {"parents": ["/no/such"]}, "root": ""}, "layers.parents[0]"),
    "a mount over the root": ({"mounts": [Mount(source="/usr", target="/")]}, "mounts[0].target"),
    "a network that is not known": ({"network": "bridge"}, "network"),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_spec_is_refused_with_the_field_and_nothing_is_left(engine: Engine, state: Path, what: str) -> None:
    fields, field = BAD[what]
    values: dict[str, Any] = {"root": "host", "args": TRUE} | fields
    root, args = values.pop("root"), values.pop("args")
    with pytest.raises(InvalidSpec) as caught:
        await engine.create("box", root=root, args=args, **values)
    assert caught.value.field.startswith(field), caught.value
    assert await engine.list() == []
    assert leftovers(state, engine_open=True) == []
    await engine.run("host", TRUE, name="box")  # the id is free


@pytest.mark.parametrize("id", ["", ".hidden", "a/b", "../x", "a b", "x" * 129, "line\nbreak", "ümlaut"])
async def test_an_illegal_id_is_refused(engine: Engine, id: str) -> None:
    with pytest.raises(InvalidSpec):
        await engine.create(id, root="host", args=TRUE)
    with pytest.raises(LongshoreError):
        await engine.get(id)


async def test_an_unknown_id_is_told(engine: Engine) -> None:
    with pytest.raises(ContainerNotFound, match="nobody"):
        await engine.get("nobody")


async def test_a_command_as_one_string_is_a_type_error_with_a_hint(engine: Engine) -> None:
    with pytest.raises(TypeError, match="sh"):
        await engine.run("host", "echo hi")


@pytest.mark.parametrize("how", ["run", "create", "exec"])
@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("nosuchcommand", CommandNotFound),
        ("/no/such/command", CommandNotFound),
        ("/etc/passwd", CommandNotExecutable),
        ("/usr", CommandNotExecutable),
    ],
)
async def test_a_command_that_cannot_run_is_told_apart(
    engine: Engine, state: Path, how: str, command: str, error: type[LongshoreError]
) -> None:
    with pytest.raises(error) as caught:
        if how == "run":
            await engine.run("host", [command])
        elif how == "create":
            box = await engine.create("box", root="host", args=[command])
            await box.start()
        else:
            box = await engine.launch("box", root="host", args=["sleep", "infinity"])
            await box.exec([command])
    assert command in str(caught.value)
    for info in await engine.list():
        await (await engine.get(info.id)).delete(force=True)
    assert leftovers(state, engine_open=True) == []


async def test_a_taken_id_is_refused_whoever_took_it(engine: Engine, state: Path) -> None:
    box = await engine.create("box", root="host", args=TRUE)
    async with Engine(state=state) as other:
        with pytest.raises(ContainerExists):
            await other.create("box", root="host", args=TRUE)
        with pytest.raises(ContainerExists):
            await other.run("host", TRUE, name="box")
    await box.delete()


async def test_a_runtime_that_is_not_there_is_named(state: Path) -> None:
    with pytest.raises(NotSupported, match="/no/such/runtime"):
        async with Engine(state=state, runtime="/no/such/runtime") as engine:
            await engine.run("host", TRUE)


def script(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_what_is_left_of_a_program_that_was_killed_while_it_tried_a_runtime_goes_with_the_next_try(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, at_work = tmp_path / "longshore-probe-left", tmp_path / "longshore-probe-at-work"
    for folder in (left, at_work):
        (folder / "root").mkdir(parents=True)
    os.utime(left, (0, 0))
    async with Engine(state=state) as engine:
        await engine.run("host", TRUE)
    assert list(tmp_path.glob("longshore-probe-*")) == [at_work]


async def test_a_runtime_that_refuses_gives_its_own_words(state: Path, tmp_path: Path) -> None:
    runtime = script(tmp_path / "refuser", "#!/bin/sh\necho 'the moon is wrong' >&2\nexit 1\n")
    with pytest.raises(NotSupported, match="refuser"):
        async with Engine(state=state, runtime=runtime) as engine:
            await engine.run("host", TRUE)


async def test_a_runtime_that_hangs_is_ended_at_its_limit(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longshore.oci.runtimes import choice

    monkeypatch.setattr(choice, "TRY_LIMIT", 0.5)
    runtime = script(tmp_path / "sleeper", "#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setattr(choice, "VERSION_LIMIT", 0.5)
    with pytest.raises(NotSupported, match="sleeper"):
        async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
            await engine.run("host", TRUE)
    assert leftovers(state) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state directory on a file system that is full after a few writes; its mount is this test's own."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=4000", "small", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk_is_told_and_the_engine_goes_on(small_disk: Path) -> None:
    async with Engine(state=small_disk) as engine:
        await engine.run("host", TRUE)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"\0" * 4096)
        with pytest.raises(LongshoreError) as caught:
            await engine.create("box", root="host", args=TRUE)
        assert isinstance(caught.value, (StoreError, ServiceError))
        assert caught.value.hint
        filler.unlink()
        assert await engine.list() == []
        await engine.run("host", TRUE, name="box")
    assert [line for line in leftovers(small_disk) if " - tmpfs small " not in line] == []


async def test_a_code_that_was_seen_while_the_disk_was_full_is_there_for_the_next_program(small_disk: Path) -> None:
    async with Engine(state=small_disk) as engine:
        command = "trap 'exit 7' TERM; echo up; sleep 100 & wait"
        box = await engine.launch("box", root="host", args=["sh", "-c", command])
        async for _ in box.logs(follow=True):
            break
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"\0" * 4096)
        await box.signal("TERM")
        assert (await box.wait()).code == 7
        filler.unlink()
    async with Engine(state=small_disk) as engine:
        box = await engine.get("box")
        assert (await box.wait()).code == 7
        told = [event async for event in engine.events(since=0, follow=False)]
        assert [event.type for event in told if isinstance(event, Event)] == ["start-container", "exit"]
        await box.delete()


async def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="state"):
        async with Engine(state=tmp_path / "file" / "state"):
            pass


async def test_a_monitor_that_dies_before_it_answers_is_told(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longshore.oci.service import OciService

    monitor = script(tmp_path / "conmon", "#!/bin/sh\nexit 3\n")
    monkeypatch.setattr(OciService, "_monitor", lambda self: monitor)
    async with Engine(state=state) as engine:
        with pytest.raises(ServiceError, match="monitor"):
            await engine.create("box", root="host", args=TRUE)
        assert await engine.list() == []
    assert leftovers(state) == []


async def test_output_that_is_not_utf8_comes_as_it_is(engine: Engine) -> None:
    done = await engine.run("host", ["printf", r"\377\000\200"])
    assert done.stdout == b"\xff\x00\x80"
    assert "�" in done.text


async def test_an_argument_of_a_hundred_thousand_bytes_arrives(engine: Engine) -> None:
    done = await engine.run("host", ["sh", "-c", "printf %s ${#0}", "x" * 100_000])
    assert done.stdout == b"100000"


async def test_an_argument_that_the_kernel_does_not_take_is_told_other_ways_to_hand_it_over(engine: Engine) -> None:
    with pytest.raises(InvalidSpec, match=r"^args\[3\]: is 200000 bytes long") as caught:
        await engine.run("host", ["sh", "-c", "true", "x" * 200_000])
    assert caught.value.hint is not None
    assert "`input=...`" in caught.value.hint
    assert "`mounts`" in caught.value.hint


async def test_an_environment_that_is_too_large_is_refused_and_one_that_fits_arrives(engine: Engine) -> None:
    env = {f"V{number}": "x" * 100_000 for number in range(100)}
    with pytest.raises(InvalidSpec, match="kernel takes at most"):
        await engine.run("host", TRUE, env=env)
    assert await engine.list() == []
    box = await engine.launch("box", root="host", args=["sleep", "infinity"])
    with pytest.raises(InvalidSpec, match="kernel takes at most"):
        await box.exec(TRUE, env=env)
    await box.delete(force=True)
    fitting = {f"V{number}": "x" * 100_000 for number in range(15)}
    done = await engine.run("host", ["sh", "-c", "printf %s ${#V14}"], env=fitting)
    assert done.stdout == b"100000"


@pytest.mark.parametrize("content", [b"", b"just words\n", b"#!/no/such/interpreter\n", b"#!\n"])
@pytest.mark.parametrize("how", ["run", "run without init", "exec"])
async def test_a_file_that_the_kernel_cannot_run_is_no_exit_code_of_the_command(
    engine: Engine, tmp_path: Path, content: bytes, how: str
) -> None:
    root = tmp_path / "root"
    for name in ("bin", "lib64", "proc", "dev", "sys"):
        (root / name).mkdir(parents=True)
    command = root / "bin" / "odd"
    command.write_bytes(content)
    command.chmod(0o755)
    if how == "exec":
        box = await engine.launch("box", root="host", args=["sleep", "infinity"], user="root", show=[str(root)])
        with pytest.raises(CommandNotExecutable):
            await box.exec([str(command)])
        await box.delete(force=True)
    else:
        with pytest.raises(CommandNotExecutable):
            await engine.run(f"rootfs:{root}", ["/bin/odd"], init=how == "run")


async def test_a_program_without_its_loader_is_told(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/true", tmp_path / "bin" / "true")
    with pytest.raises(CommandNotExecutable, match="loader"):
        await engine.run(f"rootfs:{tmp_path}", ["/bin/true"])


def test_an_ordinary_user_is_told_what_is_missing(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, encodings.ascii, os, sys
        import longshore.oci.service
        from longshore import Engine
        os.setuid(65534)
        from longshore.errors import NotSupported
        async def main():
            try:
                async with Engine(state=sys.argv[1]) as engine:
                    await engine.run("host", ["true"])
            except NotSupported as error:
                print(error, "|", error.hint)
        asyncio.run(main())
    """)
    directory = tmp_path / "open"
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(path.stat().st_mode | 0o011)  # to be entered by that user, and not to be changed
    done = subprocess.run([sys.executable, "-c", program, directory / "state"], capture_output=True, text=True)
    assert "needs root" in done.stdout, done.stderr
    assert "run longshore as root" in done.stdout


async def test_an_engine_in_a_forked_child_is_refused(state: Path) -> None:
    async with Engine(state=state) as engine:
        await engine.run("host", TRUE)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                coroutine = engine.list()
                coroutine.send(None)
                os.write(write, b"no error")
            except BaseException as error:
                os.write(write, type(error).__name__.encode())
            os._exit(0)
        os.close(write)
        os.waitpid(pid, 0)
        assert os.read(read, 100) == b"EngineClosed"
        os.close(read)


@pytest.mark.parametrize("owner", ["keep", "remove"])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_who_looks_at_a_container_that_lost_its_record_lets_it_live(
    state: Path, runtime: str, owner: Owner
) -> None:
    async with Engine(state=state, runtime=runtime) as engine, Engine(state=state, runtime=runtime) as other:
        box = await engine.launch("box", root="host", args=["sleep", "1000"], owner=owner)
        process = await box.process("init")
        (state / ("lib" if owner == "keep" else "run") / "containers" / "box" / "record.json").unlink()
        assert (await other.restore()).undone == []
        assert [(info.id, info.state) for info in await other.list()] == [("box", "damaged")]
        with pytest.raises(ContainerExists):
            await other.launch("box", root="host", args=TRUE)
        os.kill(process.pid, 0)
        await (await other.get("box")).delete(force=True)
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)
        events = [event async for event in other.events(since=0, follow=False) if isinstance(event, Event)]
        assert [event.type for event in events] == ["start-container", "exit", "delete"]
        assert len({event.uid for event in events}) == 1
        await other.run("host", TRUE, name="box")
    assert leftovers(state) == []


def test_a_spec_from_oci_keeps_what_we_have_no_word_for() -> None:
    document = {"ociVersion": "1.0.2", "process": {"args": ["x"]}, "root": {"path": "/r"}, "x-vendor": {"y": [1]}}
    assert Spec.from_oci(document).oci == document
