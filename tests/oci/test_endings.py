"""Endings that a runtime does not bring about as usual: nothing is lost, nothing hangs, nothing stays."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from longshore.compute.values import PIPE
from longshore.engine.engine import Engine
from longshore.errors import CommandNotFound, InvalidSpec
from longshore.exit_record import Cause
from longshore.oci.processes import proc
from longshore.oci.runtimes import kept_process
from longshore.spec import Spec

from ..conftest import crun_is_modern

pytestmark = pytest.mark.real

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def runtime_of(pid: int) -> int:
    """The parent of a container's init."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.modern
async def test_a_runtime_that_is_killed_loses_no_exit_and_leaves_nothing(engine: Engine, state: Path) -> None:
    box = await engine.launch("box", root="host", args=["sh", "-c", "read x; exit 5"], stdin=PIPE)
    init = box.init
    assert init is not None
    assert init.stdin is not None
    os.kill(runtime_of(init.pid), signal.SIGKILL)
    await asyncio.sleep(0.1)
    init.stdin.close()
    async with asyncio.timeout(300):
        await init.wait()
    await box.delete(force=True)
    assert [path for path in (state / "run" / "runtime").glob("*/*") if path.name != ".cache"] == []  # crun 1.9's
    assert (await engine.run("host", ["true"], name="box")).exit_code == 0  # the id is free in the runtime, too


async def test_what_is_said_after_the_runtime_was_killed_is_heard(engine: Engine) -> None:
    if "runc" in await engine.version():
        pytest.skip("runc copies the streams itself: with it goes what it had to copy")
    command = ["sh", "-c", "echo before; sleep 0.5; echo after; exit 5"]
    box = await engine.launch("box", root="host", args=command, stdout=PIPE, stderr=PIPE)
    assert box.init is not None
    assert box.init.stdout is not None
    assert await box.init.stdout.readline() == b"before\n"
    os.kill(runtime_of(box.init.pid), signal.SIGKILL)
    assert await box.init.communicate(timeout=300) == (b"after\n", b"")
    await box.delete(force=True)


def monitor_of(state: Path, id: str) -> int:
    """The pid of a kept container's monitor."""
    return int((state / "run" / "containers" / id / "monitor.pid").read_text())


of_linux_5_17 = pytest.mark.skipif(not proc._linux_is(5, 17), reason="an older kernel does not tell such a code")
UNTIL_TOLD = "until [ -e /tmp/end ]; do sleep 0.01; done; "


@contextmanager
def parent_of_orphans() -> Iterator[None]:
    """Be who gets the processes that a program below us leaves behind, and reap them only at the end (prctl(2))."""
    set_subreaper = ctypes.CDLL(None).prctl
    assert set_subreaper(PR_SET_CHILD_SUBREAPER, 1) == 0
    try:
        yield
    finally:
        set_subreaper(PR_SET_CHILD_SUBREAPER, 0)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


@of_linux_5_17
@pytest.mark.parametrize("end", ["exit 7", "exit 137", "SIGKILL"])
async def test_a_monitor_that_is_stopped_hides_no_code(
    engine: Engine, state: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(kept_process, "MONITOR_LIMIT", 0.5)
    box = await engine.launch("box", root="host", args=["sh", "-c", f"{UNTIL_TOLD} {end}"])
    assert box.init is not None
    monitor = monitor_of(state, "box")
    os.kill(monitor, signal.SIGSTOP)
    try:
        if end == "SIGKILL":
            os.kill(box.init.pid, signal.SIGKILL)
        else:
            await box.run(["touch", "/tmp/end"])
        async with asyncio.timeout(300):
            exit = await box.wait()
    finally:
        os.kill(monitor, signal.SIGCONT)
    if end == "SIGKILL":
        assert (exit.code, exit.signal, exit.cause) == (137, 9, Cause.SIGNALLED)
    else:
        assert (exit.code, exit.signal, exit.cause) == (int(end.split()[1]), None, Cause.EXITED)
    await box.delete()


@of_linux_5_17
async def test_the_code_of_an_orphan_of_a_killed_monitor_is_known_before_anybody_reaps_it(
    engine: Engine, state: Path
) -> None:
    with parent_of_orphans():
        box = await engine.launch("box", root="host", args=["sh", "-c", f"{UNTIL_TOLD} exit 7"])
        os.kill(monitor_of(state, "box"), signal.SIGKILL)
        await box.run(["touch", "/tmp/end"])
        async with asyncio.timeout(300):
            exit = await box.wait()
        assert (exit.code, exit.cause) == (7, Cause.EXITED)
        await box.delete()


async def document(engine: Engine) -> dict[str, object]:
    plan = await engine.plan(root="host", args=["true"])
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plan.documents["config.json"]))
    found["mounts"] = [each for each in found["mounts"] if "/run/views/" not in each["source"]]  # of the host root
    return found


@crun_is_modern
async def test_what_outlives_an_init_without_a_pid_namespace_ends_with_it(engine: Engine) -> None:
    given = await document(engine)
    linux, process, mounts = given["linux"], given["process"], given["mounts"]
    assert isinstance(linux, dict)
    assert isinstance(process, dict)
    assert isinstance(mounts, list)
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "pid"]
    process["args"] = ["sh", "-c", "sleep 1000 & exit 3"]
    given["mounts"] = [
        {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]},
        *(mount for mount in mounts if mount["destination"] != "/proc"),
    ]
    spec = Spec.of(Spec.from_oci(given), root="host")
    for _ in range(10):  # it may be gone before anybody could look at it
        box = await engine.launch("box", spec, stdout=PIPE, stderr=PIPE)
        assert box.init is not None
        async with asyncio.timeout(300):
            assert (await box.init.wait()).code == 3
            await box.delete(force=True)


async def test_a_relative_mount_of_a_document_does_not_lead_into_the_store(engine: Engine) -> None:
    given = await document(engine)
    mounts = given["mounts"]
    assert isinstance(mounts, list)
    mounts.append({"destination": "/mnt", "type": "bind", "source": "../../..", "options": ["rbind"]})
    with pytest.raises(InvalidSpec) as caught:
        await engine.create("box", Spec.of(Spec.from_oci(given), root="host"))
    assert caught.value.field == f"oci.mounts[{len(mounts) - 1}].source"


@pytest.mark.modern
async def test_limits_can_be_changed_by_several_at_once(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], memory="64m", owner="remove")
    for _ in range(4):
        changes = (box.update(pids=50 + number) for number in range(6))
        assert await asyncio.gather(*changes, return_exceptions=True) == [None] * 6


async def test_ids_and_names_of_the_greatest_length_can_be_used_together(engine: Engine) -> None:
    box = await engine.launch("b" * 128, root="host", args=["sleep", "infinity"], owner="remove")
    process = await box.exec(["sh", "-c", "exit 4"], name="p" * 128)
    assert (await process.wait()).code == 4


async def test_a_grandchild_that_writes_on_and_on_does_not_keep_wait(engine: Engine) -> None:
    if not (await engine.features()).items["wait-status"].supported:
        pytest.skip("only the runtime could tell how it ended, and runc waits for the end of the output")
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    for _ in range(3):
        process = await box.exec(["sh", "-c", "yes & sleep 0.3; exit 3"])  # nobody reads it
        async with asyncio.timeout(300):
            assert (await process.wait()).code == 3


@pytest.mark.modern
async def test_a_container_whose_output_nobody_reads_can_be_killed_and_what_it_said_be_read_later(
    engine: Engine,
) -> None:
    box = await engine.launch("box", root="host", args=["yes"], stdout=PIPE, stderr=PIPE)
    assert box.init is not None
    assert box.init.stdout is not None
    assert await box.init.stdout.readuntil(b"y\n")  # from here on its buffer is filled, too
    await asyncio.sleep(0.5)  # until every pipe is full
    await box.kill()
    async with asyncio.timeout(300):
        assert (await box.init.wait()).code == 137
        rest = await box.init.stdout.read()
    assert len(rest) > 1 << 20
    assert set(rest) == set(b"y\n")
    await box.delete()


async def test_a_runtime_that_cannot_clear_up_does_not_hide_the_code(state: Path, tmp_path: Path) -> None:
    wrapper = tmp_path / "runc"
    wrapper.write_text(
        '#!/bin/sh\n/usr/sbin/runc "$@"\ncode=$?\n'
        """echo '{"level":"error","msg":"unlinkat /run/x: operation not permitted"}' >>"$4"\nexit $code\n"""
    )
    wrapper.chmod(0o755)
    async with asyncio.timeout(300), Engine(state=state, runtime=str(wrapper)) as engine:
        assert (await engine.run("host", ["sh", "-c", "exit 3"])).exit_code == 3
        box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
        assert (await box.run(["sh", "-c", "exit 4"])).exit_code == 4
        with pytest.raises(CommandNotFound):
            await engine.run("host", ["/nothing/there"])
