"""A container's cgroup is the same whoever made it, and has the container's processes in it and no others."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from longshore import ServiceError
from longshore.compute.values import PIPE, Place
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.oci.cgroups import entering, limits
from longshore.oci.cgroups.cgroup import Cgroup
from longshore.oci.cgroups.hierarchies import mode
from longshore.oci.config.ignored import Known
from longshore.oci.runtimes import status
from longshore.oci.system import OciSystem
from longshore.spec import Spec

from ..leftovers import leftovers

FIRST = Path(status.__file__).with_name("first") / f"first-{os.uname().machine}"
SLEEP = ["sleep", "infinity"]
CRUN = Known("crun", "1.8.1")
version_1 = pytest.mark.skipif(mode() == "v2", reason="in version 2 the runtime makes every cgroup")


@pytest.fixture(autouse=True)
def own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(entering.VARIABLE, "own")


BOTH_WAYS = pytest.mark.parametrize("way", ["own", "runtime"])
KINDS = pytest.mark.parametrize("kind", ["kept", "for its caller"])


@pytest_asyncio.fixture
async def crun(state: Path) -> AsyncIterator[Engine]:
    async with Engine(state=state, runtime="crun") as engine:
        yield engine


async def launch(engine: Engine, id: str, kind: str, **fields: object) -> Container:
    """One with a monitor, or one that the runtime runs in the foreground."""
    streams = {} if kind == "kept" else {"stdout": PIPE, "stderr": PIPE}
    return await engine.launch(id, root="host", args=SLEEP, owner="remove", **streams, **fields)  # type: ignore[arg-type]


def groups(pid: int) -> list[list[str]]:
    """The hierarchies and groups that a process is in, as the kernel tells them."""
    return [line.split(":")[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]


def settings(pid: int) -> dict[str, str]:
    """All that can be set of the cgroups of a process, by the files' names, without what is counted."""
    names = re.compile(
        r"memory\.(memsw\.|soft_|kmem\.)?limit_in_bytes|memory\.(swappiness|oom_control|use_hierarchy)|devices\.list"
        r"|cpu\.(shares|cfs_.*_us)|cpuset\.(cpus|mems|cpu_exclusive|sched_.*)|pids\.max|freezer\.state|blkio\.weight"
    )
    found = {}
    for controllers, path in groups(pid):
        directory = Cgroup(path).directory(controllers.partition(",")[0].removeprefix("name="))
        for file in sorted(directory.iterdir()) if directory is not None and controllers else []:
            if names.fullmatch(file.name):
                lines = file.read_text().splitlines()
                found[file.name] = "\n".join(sorted(line for line in lines if "oom_kill " not in line))
    return found


@pytest.mark.real
@KINDS
async def test_who_made_it_is_not_seen_in_what_a_cgroup_allows(
    crun: Engine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for way in ("own", "runtime"):
        monkeypatch.setenv(entering.VARIABLE, way)
        box = await launch(
            crun, way, kind, memory="64m", memory_reservation="32m", cpus=0.5, cpu_weight=250, cpuset="0", pids=50
        )
        [pid] = await box.pids()
        inside = {name: path.replace(f"~{way}/", "~ID/") for name, path in groups(pid)}
        found.append((settings(pid), inside))
        await box.delete(force=True)
    assert found[0] == found[1]
    if mode() != "v2":
        assert found[0][0]["pids.max"] == "50"
        assert "c 1:3 rwm" in found[0][0]["devices.list"]
        assert "a *:* rwm" not in found[0][0]["devices.list"]


@pytest.mark.real
@BOTH_WAYS
@KINDS
async def test_what_a_container_has_in_its_cgroup_is_its_own_alone(
    crun: Engine, kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(entering.VARIABLE, way)
    box = await launch(crun, "box", kind, init=False)
    assert [info.command for info in await box.top()] == ["sleep"]
    process = await box.exec(["sleep", "1000"], stdout=PIPE)
    assert [info.command for info in await box.top()] == ["sleep", "sleep"]
    if mode() != "v2":  # where an exec has a group in the container's
        [init, *_] = await box.pids()
        assert groups(process.pid) == groups(init)
    await process.kill()
    await process.wait()


@pytest.mark.real
@BOTH_WAYS
@KINDS
async def test_a_container_of_one_process_runs(
    crun: Engine, kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(entering.VARIABLE, way)
    box = await launch(crun, "box", kind, init=False, pids=1)
    assert len(await box.pids()) == 1
    assert (await box.stats()).pids_limit == 1
    assert (await box.run(["sh", "-c", "(true); echo forked"], check=False)).stdout == b""


@pytest.mark.real
@version_1
@pytest.mark.parametrize("user", ["nobody", "root"])
async def test_the_runtime_of_an_exec_is_walled_in_where_the_container_may_interfere_with_it(
    crun: Engine, user: str
) -> None:
    box = await launch(crun, "box", "kept", init=False, user=user)
    process = await box.exec(["sleep", "1000"], stdout=PIPE, stderr=PIPE)
    [init, *_] = await box.pids()
    runtime = process_of_runtime(process.pid)
    mine = settings(runtime)
    if user == "root":
        assert groups(process.pid) == groups(init) != groups(runtime)
        assert "/box~box/runtimes" in {path[-17:] for _, path in groups(runtime)}
        assert mine["devices.list"] == settings(init)["devices.list"]
        assert (mine["pids.max"], mine["memory.limit_in_bytes"]) == ("4096", str(1 << 30))
    else:
        assert groups(runtime) == groups(os.getpid())
    await box.delete(force=True)
    assert (await process.wait()).signal == 9


def process_of_runtime(pid: int) -> int:
    """The crun that waits for an exec."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.real
@version_1
async def test_an_exec_without_the_first_program_is_in_the_cgroup_too(
    crun: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await launch(crun, "box", "kept", init=False)
    monkeypatch.setattr(OciSystem, "_has_first", lambda self, document: False)
    process = await box.exec(["sleep", "1000"], stdout=PIPE)
    [init, *_] = await box.pids()
    assert groups(process.pid) == groups(init)
    await process.kill()
    await process.wait()


@pytest.mark.real
@version_1
async def test_another_program_execs_in_and_limits_a_cgroup_that_longshore_made(crun: Engine, state: Path) -> None:
    box = await launch(crun, "box", "kept", init=False, memory="64m")
    async with Engine(state=state, runtime="crun") as other:
        same = await other.get("box")
        [init] = await same.pids()
        process = await same.exec(["sleep", "1000"], stdout=PIPE)
        assert groups(process.pid) == groups(init)
        await same.update(memory="32m")
        assert settings(init)["memory.limit_in_bytes"] == str(32 << 20)
        await process.kill()
        await process.wait()
    await box.delete(force=True)


@pytest.mark.real
@version_1
async def test_a_limit_below_what_is_used_is_refused_with_the_next_step(crun: Engine) -> None:
    hog = "x = bytearray(40 << 20); print('up', flush=True); import time; time.sleep(1000)"
    args = ["python3", "-c", hog]
    box = await crun.launch("box", root="host", args=args, stdout=PIPE, stderr=PIPE, owner="remove", memory="64m")
    init = await box.process("init")
    assert init.stdout is not None
    assert await init.stdout.readline() == b"up\n"
    with pytest.raises(ServiceError, match=r"memory\..*limit_in_bytes") as caught:
        await box.update(memory="4m")
    assert caught.value.hint == "ask for more memory than the container uses now"
    assert settings(init.pid)["memory.limit_in_bytes"] == str(64 << 20)


@pytest.mark.real
@version_1
@KINDS
async def test_a_limit_that_the_kernel_refuses_leaves_nothing_of_the_container(
    crun: Engine, kind: str, state: Path
) -> None:
    with pytest.raises(ServiceError, match=r"the cgroup of container `box`: .*cpuset\.cpus"):
        await launch(crun, "box", kind, cpuset="100000")
    assert await crun.list() == []
    assert leftovers(state, engine_open=True) == []


# the first program


def run_first(flags: str, fd: int, record: int) -> subprocess.CompletedProcess[bytes]:
    """Have the first program enter by `fd`, which it knows as 6, and write its record as 5."""
    script = f'exec "$0" "$@" 5>&{record} 6>&{fd}'
    return subprocess.run(
        ["bash", "-c", script, FIRST, flags, "echo", "ran"], pass_fds=[fd, record], capture_output=True, check=False
    )


def test_a_command_is_not_executed_outside_of_its_cgroup(tmp_path: Path) -> None:
    with open(tmp_path / "record", "wb") as record, open("/dev/full", "wb") as full:
        done = run_first("r5c6", full.fileno(), record.fileno())
    assert (done.returncode, done.stdout) == (126, b"")
    outcome = status.parse((tmp_path / "record").read_bytes())
    assert not outcome.ran
    error = status.refusal("box", "echo", outcome)
    assert isinstance(error, ServiceError)
    assert str(error).startswith("cannot enter the cgroup of container `box`: no space left on device")


def test_the_first_program_writes_itself_into_each_group_and_lets_go_of_it(tmp_path: Path) -> None:
    with open(tmp_path / "record", "wb") as record, open(tmp_path / "tasks", "wb") as tasks:
        script = f'exec "$0" "$@" 5>&{record.fileno()} 6>&{tasks.fileno()} 16>&{tasks.fileno()}'
        done = subprocess.run(
            ["bash", "-c", script, FIRST, "r5c6c16", "ls", "/proc/self/fd"],
            pass_fds=[tasks.fileno(), record.fileno()],
            capture_output=True,
            check=False,
        )
    assert (tmp_path / "tasks").read_bytes() == b"00"
    left = {int(name) for name in done.stdout.split()}
    assert not left & {5, 6, 16}


# the choice


@version_1
def test_the_plan_tells_who_makes_the_cgroup_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from longshore.oci.bundle import plan_bundle

    def told(spec: Spec, runtime: Known) -> str:
        place = Place(run=tmp_path / "state/run/containers/web", data=tmp_path / "state/lib/containers/web")
        return plan_bundle(place, "web", spec, cgroup_path="/x", runtime=runtime)[2]["cgroup"]

    plain = Spec.of(args=["true"])
    assert told(plain, CRUN).startswith("made and limited by longshore")
    assert told(plain, Known("runc", "1.1.5")) == "made by runc: it cannot be told to leave cgroups alone"
    checkpoints = told(plain, Known("crun", "1.21", checkpoints=True))
    assert checkpoints == "made by crun: a checkpoint of the container may be asked for"
    (tmp_path / "root").mkdir()
    process = {"args": ["/true"], "cwd": "/"}
    document = {"ociVersion": "1.0.2", "process": process, "root": {"path": str(tmp_path / "root")}, "hooks": {"x": []}}
    assert "the document may ask" in told(Spec.from_oci(document), CRUN)
    monkeypatch.setenv(entering.VARIABLE, "runtime")
    assert entering.VARIABLE in told(plain, CRUN)


@version_1
def test_a_group_gets_processors_from_above_also_where_another_program_made_it_just_now() -> None:
    name = f"/longshore-test-{os.getpid()}"
    group = Cgroup(f"{name}/middle/box")
    base = group.directory("cpuset")
    if base is None:
        pytest.skip("no cpuset controller is mounted")
    try:
        os.makedirs(base.parent)  # and has not come to giving it any
        limits.make(group)
        limits.make(group)
        top = Path("/sys/fs/cgroup/cpuset")
        for file in limits.CPUSET_FILES:
            assert (base / file).read_text() == (top / file).read_text() != "\n"
    finally:
        Cgroup(name).remove()
    assert not Cgroup(name).exists()
