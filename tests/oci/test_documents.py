"""Documents of other programs: nothing of them is dropped in silence, whichever runtime reads them."""

from __future__ import annotations

import copy
import logging
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as generated
from hypothesis import strategies as st

from longshore.compute.values import PIPE, Place
from longshore.engine.engine import Engine
from longshore.errors import InvalidSpec, LongshoreError, NotSupported, ServiceError
from longshore.oci.bundle import plan_bundle
from longshore.oci.config.ignored import BASE, Known, ignored, version_for
from longshore.spec import ProcessSpec, Spec
from longshore.spec.runtime_spec import (
    CONFIG,
    Fields,
    ListOf,
    MapOf,
    OneOf,
    Whole,
    check_config,
    check_process,
    unknown_fields,
)

real = pytest.mark.real

CRUN_OLD, CRUN_NEW = Known("crun", "1.8.1"), Known("crun", "1.30")
RUNC_OLD, RUNC_NEW = Known("runc", "1.1.5+ds1"), Known("runc", "1.5.1")
RUNTIMES = [CRUN_OLD, CRUN_NEW, RUNC_OLD, RUNC_NEW]


def document(**changes: Any) -> dict[str, Any]:
    """A document that both runtimes run on the `host` root; the changes are laid over its members."""
    made: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "env": ["PATH=/usr/bin:/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }
    for name, value in changes.items():
        made[name] = made.get(name, {}) | value if isinstance(value, dict) else value
    return made


def example(kind: Any) -> Any:
    """A value of a kind, with every field that the specification has."""
    if isinstance(kind, Whole):
        return max(kind.least, 1)
    if isinstance(kind, ListOf):
        return [example(kind.of)]
    if isinstance(kind, MapOf):
        return {"a.b": example(kind.of)}
    if isinstance(kind, OneOf):
        return kind.words[0]
    if isinstance(kind, Fields):
        return {name: example(each) for name, each in kind.fields.items()}
    return True if kind is bool else "x"


def places(value: Any, kind: Any, path: str = "oci") -> list[tuple[str, Any, Any, Any]]:
    """Every place of a document that has a type: its path, its container, its key there, its kind."""
    found: list[tuple[str, Any, Any, Any]] = []
    if isinstance(kind, Fields):
        for name, each in ((name, each) for name, each in kind.fields.items() if (value or {}).get(name) is not None):
            found += [(f"{path}.{name}", value, name, each), *places(value[name], each, f"{path}.{name}")]
    elif isinstance(kind, ListOf):
        found += [(f"{path}[0]", value, 0, kind.of), *places(value[0], kind.of, f"{path}[0]")]
    elif isinstance(kind, MapOf):
        found += [(f"{path}[a.b]", value, "a.b", kind.of), *places(value["a.b"], kind.of, f"{path}[a.b]")]
    return found


PATHS = [path for path, _, _, kind in places(example(CONFIG), CONFIG) if kind is not None]
WRONG: list[Any] = ["64m", 5, -1, 1.5, 1e300, True, [], [5], {}, {"a": 1}, 1 << 64, "", [None]]


def fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, Whole):
        return type(value) is int and kind.least <= value <= kind.most
    if isinstance(kind, ListOf):
        return isinstance(value, list) and all(item is not None and fits(item, kind.of) for item in value)
    if isinstance(kind, MapOf):
        return isinstance(value, dict) and all(fits(item, kind.of) for item in value.values())
    if isinstance(kind, Fields):
        return isinstance(value, dict) and not kind.required
    if isinstance(kind, OneOf):
        return value in kind.words
    if kind is bool or kind is str or kind.__name__ == "Line":
        return type(value) is (bool if kind is bool else str)
    return True


def test_a_document_with_every_field_of_the_specification_passes() -> None:
    found = example(CONFIG)
    check_config(found)
    assert list(unknown_fields(found)) == []
    assert len(PATHS) > 250


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@generated(st.sampled_from(PATHS), st.sampled_from(WRONG))
def test_a_wrong_type_at_any_place_is_refused_by_its_path(path: str, wrong: Any) -> None:
    changed = copy.deepcopy(example(CONFIG))
    _, holder, key, kind = next(each for each in places(changed, CONFIG) if each[0] == path)
    holder[key] = wrong
    if fits(wrong, kind):
        check_config(changed)
        return
    with pytest.raises(InvalidSpec) as refused:
        check_config(changed)
    assert refused.value.field.startswith(path)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@generated(st.sampled_from(PATHS), st.sampled_from(["a\0b", "\ud800", "\0", float("nan"), b"bytes", {1: 2}]))
def test_what_cannot_be_written_down_is_refused_at_any_place(path: str, wrong: Any) -> None:
    changed = copy.deepcopy(example(CONFIG))
    _, holder, key, _ = next(each for each in places(changed, CONFIG) if each[0] == path)
    holder[key] = wrong
    with pytest.raises(InvalidSpec) as refused:
        Spec.from_oci(changed, args=["true"])
    assert refused.value.field.startswith(path)


def whole() -> dict[str, Any]:
    """A document with all fields but those that an old runtime must not ignore, and that Windows alone has."""
    made: dict[str, Any] = example(CONFIG)
    made |= {"ociVersion": "1.0.2", "windows": None}
    made["process"] |= {"args": ["true"], "cwd": "/", "env": ["A=1"]}
    made["root"]["path"] = "/"
    made["mounts"] = [{"destination": "/x", "type": "tmpfs", "source": "x", "options": ["ro"]}]
    made["hooks"] = {name: [{"path": "/bin/true", "timeout": 1}] for name in made["hooks"]}
    for name in ("netDevices", "timeOffsets"):
        del made["linux"][name]
    for name in ("maskedPaths", "readonlyPaths"):
        made["linux"][name] = ["/x"]
    made["linux"]["devices"][0]["path"] = "/dev/x"
    made["linux"]["resources"]["devices"][0]["access"] = "rwm"
    return made


WHOLE = [path for path, *_ in places(whole(), CONFIG)]


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@generated(
    st.sampled_from(WHOLE), st.sampled_from([*WRONG, None, "a\0", 0, "rbind", "/", "/etc"]), st.sampled_from(RUNTIMES)
)
def test_a_changed_document_is_planned_or_refused_by_type(path: str, value: Any, runtime: Known) -> None:
    changed = whole()
    _, holder, key, _ = next(each for each in places(changed, CONFIG) if each[0] == path)
    holder[key] = value
    with TemporaryDirectory() as folder:
        run = Path(folder, "store", "run", "containers", "box")
        run.mkdir(parents=True)
        with suppress(LongshoreError):
            spec = Spec.from_oci(changed, root="host")
            plan_bundle(Place(run=run, data=run), "box", spec, cgroup_path="/x/box", runtime=runtime)
        assert list(run.iterdir()) == []


def test_the_whole_document_is_planned_as_it_stands(tmp_path: Path) -> None:
    run = tmp_path / "store" / "run" / "containers" / "box"
    run.mkdir(parents=True)
    for runtime in RUNTIMES:
        spec = Spec.from_oci(whole(), root="host")
        found, _, reasons = plan_bundle(Place(run=run, data=run), "box", spec, cgroup_path="/x/box", runtime=runtime)
        assert found["process"]["rlimits"] == [{"type": "x", "hard": 1, "soft": 1}]
        assert ("oci.linux.memoryPolicy" in reasons) is (runtime in (CRUN_OLD, RUNC_OLD))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("oci.linux.resources.memory.limit", {"linux": {"resources": {"memory": {"limit": "64m"}}}}),
        ("oci.linux.resources.pids.limit", {"linux": {"resources": {"pids": {"limit": 10.0}}}}),
        ("oci.linux.resources.cpu.shares", {"linux": {"resources": {"cpu": {"shares": -5}}}}),
        ("oci.linux.resources.blockIO.weight", {"linux": {"resources": {"blockIO": {"weight": 1 << 16}}}}),
        ("oci.linux.maskedPaths", {"linux": {"maskedPaths": "/proc/kcore"}}),
        ("oci.process.noNewPrivileges", {"process": {"noNewPrivileges": "true"}}),
        ("oci.process.NoNewPrivileges", {"process": {"NoNewPrivileges": True}}),
        ("oci.process.capabilities.bounding", {"process": {"capabilities": {"bounding": "CAP_KILL"}}}),
        ("oci.process.user.umask", {"process": {"user": {"umask": "077"}}}),
        ("oci.process.env[0]", {"process": {"env": ["NOTHING"]}}),
        ("oci.process.cwd", {"process": {"cwd": "tmp"}}),
        ("oci.mounts[0].options", {"mounts": [{"destination": "/x", "type": "tmpfs", "options": "ro"}]}),
        ("oci.hooks.prestart[0].path", {"hooks": {"prestart": [{"path": "bin/hook"}]}}),
        ("oci.hooks.poststop[0].timeout", {"hooks": {"poststop": [{"path": "/bin/true", "timeout": 1.5}]}}),
        ("oci.linux.sysctl[net.core.somaxconn]", {"linux": {"sysctl": {"net.core.somaxconn": 1024}}}),
        ("oci.linux.rootfsPropagation", {"linux": {"rootfsPropagation": "shareed"}}),
        ("oci.linux.personality.domain", {"linux": {"personality": {"domain": "PDP11"}}}),
        ("oci.linux.devices[0].type", {"linux": {"devices": [{"path": "/dev/x", "type": "x"}]}}),
        ("oci.linux.devices[0].path", {"linux": {"devices": [{"path": "dev/x", "type": "c"}]}}),
        ("oci.linux.maskedPaths[0]", {"linux": {"maskedPaths": ["proc/kcore"]}}),
        ("oci.linux.namespaces[1].type", {"linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}}),
        ("oci.hostname", {"hostname": "a\n127.0.0.1 b"}),
        ("oci.annotations[a.b]", {"annotations": {"a.b": "x\0"}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@real
async def test_both_runtimes_refuse_a_wrong_document_before_anything_is_made(
    engine: Engine, state: Path, field: str, change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        await engine.run("host", [], oci=document(**change), timeout=300)
    assert refused.value.field == field
    assert await engine.list() == []


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.0", "1.2.0+dev", "1.3.0", "1.10.0"])
@real
async def test_a_document_of_a_later_version_runs(engine: Engine, version: str) -> None:
    done = await engine.run(
        "host", [], oci=document(ociVersion=version, process={"args": ["echo", "ran"]}), timeout=300
    )
    assert done.stdout == b"ran\n"


@pytest.mark.parametrize("version", ["2.0.0", "0.6.0", "latest", "", "1.2", "1", "v1.0.2", "1.0.2\n"])
@pytest.mark.parametrize("runtime", [CRUN_OLD, CRUN_NEW, RUNC_OLD])
def test_a_version_that_is_none_of_ours_is_refused(version: str, runtime: Known) -> None:
    with pytest.raises(InvalidSpec) as refused:
        version_for({"ociVersion": version}, runtime)
    assert (refused.value.field, bool(refused.value.hint)) == ("oci.ociVersion", True)


def test_a_version_is_lowered_only_for_a_runtime_that_refuses_it() -> None:
    assert version_for({"ociVersion": "1.2.0"}, CRUN_OLD)[0] == BASE
    for runtime in (CRUN_NEW, RUNC_OLD, RUNC_NEW):
        assert version_for({"ociVersion": "1.2.0"}, runtime) == ("1.2.0", "")
    assert version_for({"ociVersion": "1.0.0"}, CRUN_OLD) == ("1.0.0", "")


MAPPING = [{"containerID": 0, "hostID": 1000, "size": 1}]
SOURCE_MAPPED = {"destination": "/x", "type": "bind", "source": "/srv", "options": ["bind"], "uidMappings": MAPPING}


@pytest.mark.parametrize(
    ("change", "field", "olds"),
    [
        ({"domainname": "example.org"}, "oci.domainname", [RUNC_OLD]),
        ({"process": {"scheduler": {"policy": "SCHED_BATCH"}}}, "oci.process.scheduler", [CRUN_OLD, RUNC_OLD]),
        (
            {"process": {"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}},
            "oci.process.ioPriority",
            [CRUN_OLD, RUNC_OLD],
        ),
        ({"linux": {"personality": {"domain": "LINUX32"}}}, "oci.linux.personality", [RUNC_OLD]),
        ({"linux": {"memoryPolicy": {"mode": "MPOL_LOCAL"}}}, "oci.linux.memoryPolicy", [CRUN_OLD, RUNC_OLD]),
        ({"linux": {"intelRdt": {"closID": "x"}}}, "oci.linux.intelRdt", [CRUN_OLD]),
        (
            {"linux": {"resources": {"cpu": {"burst": 1000}}}},
            "oci.linux.resources.cpu.burst",
            [CRUN_OLD, RUNC_OLD],
        ),
        (
            {"process": {"capabilities": {"bounding": ["CAP_FLY"]}}},
            "oci.process.capabilities.bounding[0]",
            [CRUN_OLD, CRUN_NEW, RUNC_OLD, RUNC_NEW],
        ),
        (
            {"mounts": [{"destination": "/x", "type": "bind", "source": "/usr", "options": ["rbind", "read-only"]}]},
            "oci.mounts[0].options[read-only]",
            [CRUN_OLD, CRUN_NEW, RUNC_OLD, RUNC_NEW],
        ),
        ({"linux": {"mine": 5}}, "oci.linux.mine", [CRUN_OLD, CRUN_NEW, RUNC_OLD, RUNC_NEW]),
    ],
)
def test_a_field_that_a_runtime_ignores_is_reported(change: dict[str, Any], field: str, olds: list[Known]) -> None:
    for runtime in {CRUN_OLD, CRUN_NEW, RUNC_OLD, RUNC_NEW, *olds}:
        found = ignored(document(**change), runtime)
        assert list(found) == ([field] if runtime in olds else []), runtime
        assert all("ignored" in why for why in found.values())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mounts": [SOURCE_MAPPED]}, "oci.mounts[0].uidMappings"),
        ({"mounts": [{"destination": "/x", "options": ["bind", "ridmap"]}]}, "oci.mounts[0].options[ridmap]"),
        ({"linux": {"netDevices": {"eth1": {"name": "eth0"}}}}, "oci.linux.netDevices"),
        ({"linux": {"timeOffsets": {"monotonic": {"secs": 5}}}}, "oci.linux.timeOffsets"),
    ],
)
def test_a_field_that_must_not_be_ignored_is_refused(change: dict[str, Any], field: str) -> None:
    for runtime in (CRUN_OLD, RUNC_OLD):
        with pytest.raises(NotSupported) as refused:
            ignored(document(ociVersion="1.2.0", **change), runtime)
        assert refused.value.feature == field
        assert "ociVersion" in str(refused.value)
    for runtime in (CRUN_NEW, RUNC_NEW, Known("youki", "0.3")):
        assert ignored(document(**change), runtime) == {}


@real
async def test_an_ignored_field_is_in_the_log_and_in_the_plan(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    given = document(linux={"mine": {"a": 1}})
    plan = await engine.plan(Spec.from_oci(given, root="host"))
    assert "ignored" in plan.reasons["oci.linux.mine"]
    assert plan.documents["config.json"]["linux"]["mine"] == {"a": 1}
    assert caplog.records == []
    with caplog.at_level(logging.WARNING, "longshore.oci"):
        await engine.run("host", [], oci=given, timeout=300)
    assert [record.getMessage().partition(" ignores ")[2] for record in caplog.records] == [
        "oci.linux.mine of its OCI document"
    ]


@real
async def test_a_field_that_an_exec_ignores_is_in_the_log(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "1000"], owner="remove")
    own = {"args": ["true"], "cwd": "/", "env": ["PATH=/usr/bin"], "mine": 5}
    with caplog.at_level(logging.WARNING, "longshore.oci"):
        await (await box.exec(oci=own)).wait()
    assert [record.getMessage().partition(" ignores ")[2] for record in caplog.records] == ["oci.mine"]


@real
async def test_exec_reports_an_oom_score_that_its_runtime_drops(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "1000"], owner="remove")
    own = {"args": ["cat", "/proc/self/oom_score_adj"], "oomScoreAdj": 500}
    with caplog.at_level(logging.WARNING, "longshore.oci"):
        process = await box.exec(oci=own, stdout=PIPE)
        out, _ = await process.communicate(timeout=300)
    assert out == b"0\n"
    assert [record.getMessage().partition(" ignores ")[2] for record in caplog.records] == ["oci.oomScoreAdj"]


@real
async def test_command_line_for_windows_is_not_run_beside_args(engine: Engine) -> None:
    given = document(process={"args": ["sh", "-c", "exit 6"], "commandLine": "cmd /c exit 7"})
    done = await engine.run("host", [], oci=given, timeout=300)
    assert (done.exit_code, done.args) == (6, ["sh", "-c", "exit 6"])


@real
async def test_no_limit_in_a_document_is_none_for_both_runtimes(engine: Engine) -> None:
    given = document(linux={"resources": {"pids": {"limit": -1}, "memory": {"limit": 0, "swap": 0}}})
    assert (await engine.run("host", [], oci=given, timeout=300)).exit_code == 0


# umask


@real
async def test_a_umask_of_a_document_stays_whatever_user_is_chosen(engine: Engine) -> None:
    given = document(process={"args": ["sh", "-c", "umask"], "user": {"uid": 0, "gid": 0, "umask": 0o077}})
    for user in (None, "1000", "root"):
        done = await engine.run("host", [], oci=given, user=user, timeout=300)
        assert done.stdout == b"0077\n", user
    slow = document(process={"args": ["sleep", "1000"], "user": {"uid": 0, "gid": 0, "umask": 0o027}})
    box = await engine.launch("box", root="host", oci=slow, owner="remove")
    for user in (None, "1000"):
        assert (await box.run(["sh", "-c", "umask"], user=user, timeout=300)).stdout == b"0027\n", user
    own = {
        "args": ["sh", "-c", "umask"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0, "umask": 0o007},
    }
    for user in (None, "1000"):
        process = await box.exec(oci=own, user=user)
        assert (await process.communicate(timeout=300))[0] == b"0007\n", user


# execs


@real
async def test_an_exec_may_have_its_command_from_a_document_alone(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "1000"], owner="remove")
    own = {"args": ["id", "-u"], "cwd": "/", "env": ["PATH=/usr/bin"], "user": {"uid": 1234, "gid": 5}}
    process = await box.exec(oci=own)
    assert (process.args, (await process.communicate(timeout=300))[0]) == (["id", "-u"], b"1234\n")
    process = await box.exec(["id", "-g"], oci=own)  # words count more
    assert (process.args, (await process.communicate(timeout=300))[0]) == (["id", "-g"], b"5\n")
    for bad, field in (
        ({"cwd": "/"}, "args"),
        ({"args": [], "cwd": "/"}, "args"),
        ({"args": "id"}, "oci.args"),
        ({"args": ["id"], "cwd": "tmp"}, "oci.cwd"),
        ({"args": ["id"], "env": ["A=1", "B"]}, "oci.env[1]"),
    ):
        with pytest.raises(InvalidSpec) as refused:
            await box.exec(oci=bad)
        assert refused.value.field == field


@real
async def test_an_exec_keeps_what_its_document_says(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "1000"], owner="remove")
    limit = [{"type": "RLIMIT_CORE", "hard": 7 << 10, "soft": 7 << 10}]
    own = {"args": ["sh", "-c", "ulimit -c"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"], "rlimits": limit}
    process = await box.exec(oci=own, stdout=PIPE)
    assert (await process.communicate(timeout=300))[0] == b"14\n"  # of 512 bytes


@pytest.mark.parametrize("bad", [{"rlimits": "x"}, {"cwd": 5}, {"env": ["A\0=1"]}, {"user": {"uid": -1}}])
def test_a_wrong_document_of_an_exec_is_refused_by_its_field(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as refused:
        ProcessSpec(args=["true"], oci={"cwd": "/"} | bad)
    assert refused.value.field.startswith(f"oci.{next(iter(bad))}")
    with pytest.raises(InvalidSpec):
        check_process(bad)


# reasons


@real
async def test_what_a_runtime_cannot_do_is_said_in_its_own_words(engine: Engine) -> None:
    given = document(linux={"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "no-such-kind"}]})
    with pytest.raises(ServiceError) as failed:
        await engine.run("host", [], oci=given, timeout=300)
    assert "no-such-kind" in str(failed.value)
    assert str(failed.value).isprintable()


@real
async def test_a_relative_destination_is_meant_from_the_containers_root(engine: Engine) -> None:
    mounts = [*document()["mounts"], {"destination": "data/x", "type": "tmpfs", "source": "tmpfs"}]
    given = document(mounts=mounts, process={"args": ["grep", " /data/x tmpfs", "/proc/mounts"]})
    assert (await engine.run("host", [], oci=given, timeout=300)).exit_code == 0
    plan = await engine.plan(Spec.from_oci(given, root="host"))
    assert "data/x" in plan.reasons["oci.mounts[2].destination"]
