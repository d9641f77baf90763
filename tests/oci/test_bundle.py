"""The bundle: what is wrong is refused by the name of its field before anything is made."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.values import Place
from longshore.errors import CommandNotExecutable, CommandNotFound, InvalidSpec, NotSupported, StoreError
from longshore.oci.bundle import Bundle, plan_bundle, prepare
from longshore.oci.runtimes import status
from longshore.spec import HyperV, Layers, Mount, Rlimit, Security, Spec, WindowsOptions

from .roots import make_root

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="longshore needs root for now")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    run = tmp_path / "store" / "run" / "containers" / "web"
    run.mkdir(parents=True)
    (tmp_path / "store" / "lib").mkdir()
    return Place(run=run, data=run)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root")


def made(place: Place, **fields: Any) -> Bundle:
    fields.setdefault("args", ["true"])
    return prepare(place, "web", Spec.of(**fields), cgroup_path="/longshore/x/web/box")


def config(place: Place, **fields: Any) -> Any:
    """config.json as it was written."""
    return json.loads((made(place, **fields).path / "config.json").read_bytes())


BAD: list[tuple[str, Callable[[Path], dict[str, Any]]]] = [
    ("root", lambda tmp: {"root": f"rootfs:{tmp}/nowhere"}),
    ("root", lambda tmp: {"root": f"rootfs:{tmp}/root/etc/passwd"}),
    ("root", lambda tmp: {"root": "rootfs:/"}),
    ("root", lambda tmp: {"root": f"rootfs:{tmp}/store/run/containers"}),
    ("layers.parents[1]", lambda tmp: {"layers": Layers(parents=[f"{tmp}/root", f"{tmp}/nowhere"])}),
    ("layers.scratch", lambda tmp: {"layers": Layers(parents=[f"{tmp}/root"], scratch=f"{tmp}/nowhere")}),
    ("layers.parents", lambda tmp: {"layers": Layers(parents=[f"{tmp}/root"] * 501)}),
    ("mounts[0].source", lambda tmp: {"mounts": [Mount(source=f"{tmp}/nowhere", target="/x")]}),
    ("mounts[0].source", lambda tmp: {"mounts": [Mount(source=f"{tmp}/store/run", target="/x")]}),
    ("mounts[0].target", lambda tmp: {"mounts": [Mount(source=str(tmp), target="/")]}),
    ("mounts[0].target", lambda tmp: {"mounts": [Mount(source=str(tmp), target="/a/../..")]}),
    ("mounts[0].target", lambda tmp: {"mounts": [Mount(source=str(tmp), target="/proc/sys")]}),
    ("mounts[0].options", lambda tmp: {"mounts": [Mount(source=str(tmp), target="/x", options=["exploit"])]}),
    ("mounts[0].options", lambda tmp: {"mounts": [Mount(type="tmpfs", target="/x", options=["size=1x"])]}),
    ("mounts[1].target", lambda tmp: {"mounts": [Mount(source=str(tmp), target=at) for at in ("/x", "/y/../x/")]}),
    ("show[0]", lambda tmp: {"show": [f"{tmp}/nowhere"]}),
    ("show[0]", lambda tmp: {"show": ["/"]}),
    ("show[0]", lambda tmp: {"show": ["/proc"]}),
    ("show[0]", lambda tmp: {"show": ["/dev"]}),
    ("show[0]", lambda tmp: {"show": [f"{tmp}/store/run/containers/web"]}),
    ("user", lambda tmp: {"user": "no-such-user"}),
    ("user", lambda tmp: {"user": "root:no-such-group"}),
    ("cwd", lambda tmp: {"cwd": "/no/such/folder"}),
    ("cwd", lambda tmp: {"cwd": "/etc/passwd"}),
    ("security.cap_add[0]", lambda tmp: {"security": Security(cap_add=["NO_SUCH"])}),
    ("security.seccomp", lambda tmp: {"security": Security(seccomp=f"{tmp}/nowhere.json")}),
    ("security.userns", lambda tmp: {"security": Security(userns=(0, 100000, 10))}),
    ("labels[run.oci.handler]", lambda tmp: {"labels": {"run.oci.handler": "krun"}}),
    ("memory_swap", lambda tmp: {"memory_swap": "64m"}),
]


@pytest.mark.parametrize(("field", "spec"), BAD)
@pytest.mark.parametrize("how", ["prepare", "plan"])
def test_bad_input_is_refused_by_its_field_before_anything_is_made(
    place: Place, root: Path, tmp_path: Path, field: str, spec: Callable[[Path], dict[str, Any]], how: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidSpec) as error:
        if how == "plan":
            plan_bundle(place, "web", Spec.of(args=["true"], **spec(tmp_path)), cgroup_path="/x")
        else:
            made(place, **spec(tmp_path))
    assert error.value.field == field
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("options", [WindowsOptions(hyperv=HyperV()), WindowsOptions()])
def test_options_of_windows_containers_are_refused_before_anything_is_made(
    place: Place, options: WindowsOptions
) -> None:
    with pytest.raises(NotSupported) as caught:
        made(place, windows=options)
    assert (caught.value.feature, caught.value.hint) == ("windows", "leave `windows` out on this machine")
    with pytest.raises(NotSupported):
        plan_bundle(place, "web", Spec.of(args=["true"], windows=options), cgroup_path="/x")
    assert os.listdir(place.run) == []


def test_a_plan_makes_nothing_and_says_what_prepare_then_makes(place: Place, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    spec = Spec.of(args=["true"], root="host", init=True, memory="64m")
    document, steps, reasons = plan_bundle(place, "web", spec, cgroup_path="/longshore/x/web/box")
    assert sorted(tmp_path.rglob("*")) == before
    bundle = prepare(place, "web", spec, cgroup_path="/longshore/x/web/box", kept=True)
    assert json.loads((bundle.path / "config.json").read_bytes()) == document
    assert bundle.steps == steps
    assert {"root", "user", "capabilities", "seccomp", "network", "memory_swap", "hostname"} <= set(reasons)


def test_the_document_may_be_read_by_its_owner_only(place: Place) -> None:
    path = made(place).path / "config.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_defaults_are_safe(place: Place) -> None:
    document = config(place)
    process, linux = document["process"], document["linux"]
    assert process["user"] == {"uid": 65534, "gid": 65534}
    assert process["noNewPrivileges"] is True
    assert all(not names for names in process["capabilities"].values())
    assert set(process["capabilities"]) == {"bounding", "effective", "inheritable", "permitted", "ambient"}
    assert {entry["type"] for entry in linux["namespaces"]} >= {"pid", "mount", "ipc", "uts", "network"}
    assert linux["seccomp"]["syscalls"]
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert linux["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert linux["cgroupsPath"] == "/longshore/x/web/box"
    assert "rlimits" not in process


def test_the_hosts_network_is_given_only_when_asked_for(place: Place) -> None:
    kinds = {entry["type"] for entry in config(place, network="host")["linux"]["namespaces"]}
    assert "network" not in kinds


def test_an_environment_that_is_asked_for_wins_over_the_defaults(place: Place) -> None:
    env = config(place, args=["/bin/true"], env={"PATH": "/x", "A": "b=c"})["process"]["env"]
    assert [item for item in env if item.startswith("PATH=")] == ["PATH=/x"]
    assert "A=b=c" in env


def test_a_terminal_has_its_size_from_the_first_byte(place: Place) -> None:
    process = config(place, terminal=True, size=(50, 132))["process"]
    assert process["consoleSize"] == {"height": 50, "width": 132}


def test_a_mount_at_a_usual_place_replaces_the_usual_one(place: Place) -> None:
    mount = Mount(type="tmpfs", target="/dev/shm", options=["size=1g"])
    found = [entry for entry in config(place, mounts=[mount])["mounts"] if entry["destination"] == "/dev/shm"]
    assert len(found) == 1
    assert found[0]["options"] == ["size=1g", "nosuid", "nodev"]


def test_a_read_only_bind_is_so_for_what_is_mounted_below_it(place: Place, tmp_path: Path) -> None:
    mount = Mount(source=str(tmp_path / "store" / ".."), target="/x", read_only=True)
    (entry,) = (entry for entry in config(place, mounts=[mount])["mounts"] if entry["destination"] == "/x")
    assert {"rbind", "ro", "rro"} <= set(entry["options"])


def test_a_bind_that_would_show_the_store_has_it_masked(place: Place, tmp_path: Path) -> None:
    entries = config(place, mounts=[Mount(source=str(tmp_path), target="/all")])["mounts"]
    masks = [entry for entry in entries if entry["type"] == "tmpfs" and entry["destination"].startswith("/all/")]
    assert {entry["destination"] for entry in masks} == {"/all/store/run", "/all/store/lib"}
    assert all("ro" in entry["options"] for entry in masks)


def test_an_outer_mount_does_not_hide_an_inner_one_that_was_named_before_it(place: Place) -> None:
    mounts = [Mount(type="tmpfs", target="/a/b"), Mount(type="tmpfs", target="/a")]
    found = [entry["destination"] for entry in config(place, mounts=mounts)["mounts"]]
    assert found.index("/a") < found.index("/a/b")


def test_a_link_to_the_store_is_the_store(place: Place, tmp_path: Path) -> None:
    (tmp_path / "innocent").symlink_to(tmp_path / "store" / "run")
    with pytest.raises(InvalidSpec):
        made(place, mounts=[Mount(source=str(tmp_path / "innocent"), target="/x")])


def test_a_missing_command_is_known_before_the_start_where_init_would_hide_it(place: Place, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CommandNotFound):
        made(place, init=True, args=["no-such-command"])
    with pytest.raises(CommandNotExecutable):
        made(place, init=True, args=["/etc/passwd"])
    assert sorted(tmp_path.rglob("*")) == before
    assert made(place, init=True, args=["sh"]).config["process"]["args"] == [status.PATH, f"{status.FLAGS}i", "sh"]


def test_a_command_in_a_mount_is_not_looked_for_in_the_root(place: Place, root: Path, tmp_path: Path) -> None:
    mount = Mount(source=str(tmp_path), target="/tools")
    made(place, root=f"rootfs:{root}", init=True, args=["/tools/run"], mounts=[mount])


def test_a_limit_above_our_own_is_refused_where_it_cannot_be_raised(place: Place) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    limit = Rlimit(name="nofile", soft=1, hard=hard + 1)
    if effective >> 24 & 1:
        assert config(place, rlimits=[limit])["process"]["rlimits"][0]["hard"] == hard + 1
    else:
        with pytest.raises(InvalidSpec, match="rlimits\\[nofile\\]"):
            made(place, rlimits=[limit])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="is about x86")
@pytest.mark.parametrize("where", ["root", "mount", "command", "nowhere"])
def test_the_filter_lets_32_bit_programs_in_only_where_they_could_run(
    place: Place, root: Path, tmp_path: Path, where: str
) -> None:
    mounts, args = [], ["/true"]
    (root / "true").write_bytes(b"\x7fELF\x02\x01\x01")
    (root / "true").chmod(0o755)
    if where == "root":
        (root / "usr" / "lib").mkdir()
        (root / "usr" / "lib" / "ld-linux.so.2").touch()
    elif where == "mount":
        (tmp_path / "usr" / "lib").mkdir(parents=True)
        (tmp_path / "usr" / "lib" / "ld-linux.so.2").touch()
        mounts = [Mount(source=str(tmp_path / "usr"), target="/usr")]
    elif where == "command":
        (root / "static").write_bytes(b"\x7fELF\x01\x01\x01")
        (root / "static").chmod(0o755)
        args = ["/static"]
    linux = config(place, root=f"rootfs:{root}", mounts=mounts, args=args)["linux"]
    assert ("SCMP_ARCH_X86" in linux["seccomp"]["architectures"]) == (where != "nowhere")
    assert "SCMP_ARCH_X86_64" in linux["seccomp"]["architectures"]


def test_a_profile_that_was_named_is_taken_as_it_is(place: Place, root: Path) -> None:
    from longshore.oci.config import seccomp

    security = Security(seccomp=seccomp.SHIPPED)
    linux = config(place, root=f"rootfs:{root}", mounts=[Mount(source="/usr", target="/usr")], security=security)[
        "linux"
    ]
    if os.uname().machine == "x86_64":
        assert "SCMP_ARCH_X86" in linux["seccomp"]["architectures"]


def test_a_full_disk_is_a_typed_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.run / "bundle").mkdir()  # whatever the reason is that it cannot be made
    with pytest.raises(StoreError, match="make the bundle"):
        made(place)


def test_no_secret_of_the_environment_is_in_an_error(place: Place) -> None:
    with pytest.raises(InvalidSpec) as error:
        made(place, env={"TOKEN": "hunter2"}, user="no-such-user")
    assert "hunter2" not in str(error.value) + str(error.value.hint)


# an OCI document of somebody else's


def document(folder: Path, **fields: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["sh"], "env": ["A=1"], "cwd": "/", "user": {"uid": 3, "gid": 4}, "oomScoreAdj": 5},
        "root": {"path": str(folder)},
        "hostname": "theirs",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "hooks": {"poststop": [{"path": "/bin/true"}]},
        "linux": {"namespaces": [{"type": "pid"}], "resources": {"memory": {"limit": 1 << 26}, "pids": {"limit": 9}}},
        "unknown": {"to": ["us"]},
        **fields,
    }


def test_a_document_is_kept_unharmed(place: Place, root: Path) -> None:
    given = document(root)
    before = json.loads(json.dumps(given))
    found = config(place, oci=given, args=[])
    expected = json.loads(json.dumps(given))
    expected["linux"]["cgroupsPath"] = "/longshore/x/web/box"
    expected["process"]["terminal"] = False
    expected["process"]["args"] = [status.PATH, status.FLAGS, *given["process"]["args"]]
    assert found == expected
    assert given == before


def test_a_document_for_both_platforms_is_taken_for_this_one(place: Place, root: Path) -> None:
    windows = {"layerFolders": ["C:\\base", "C:\\own"], "hyperv": {}}
    assert config(place, oci=document(root, windows=windows), args=[])["windows"] == windows


@pytest.mark.parametrize("linux", [{}, {"linux": None}])
def test_a_document_of_a_windows_container_is_refused(place: Place, root: Path, linux: dict[str, Any]) -> None:
    given = document(root, windows={"layerFolders": ["C:\\base", "C:\\own"]})
    del given["linux"]
    with pytest.raises(NotSupported, match=r"oci\.windows") as caught:
        made(place, oci=given | linux, args=[])
    assert "`linux` object" in (caught.value.hint or "")
    assert os.listdir(place.run) == []


def test_what_the_spec_says_stands_above_the_document(place: Place, root: Path, tmp_path: Path) -> None:
    found = config(
        place,
        oci=document(root),
        args=["ls", "-l"],
        env={"B": "2"},
        user="web",
        hostname="ours",
        memory="128m",
        network="host",
        labels={"app": "web"},
        mounts=[Mount(source=str(tmp_path / "root"), target="/r")],
    )
    process, linux = found["process"], found["linux"]
    assert (process["args"][2:], process["env"]) == (["ls", "-l"], ["A=1", "B=2"])
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [2000]}
    assert process["oomScoreAdj"] == 5
    assert found["hostname"] == "ours"
    assert linux["resources"]["memory"]["limit"] == 128 << 20
    assert linux["resources"]["pids"] == {"limit": 9}
    assert found["annotations"] == {"app": "web"}
    assert [entry["destination"] for entry in found["mounts"]] == ["/proc", "/r"]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("oci.root.path", {"root": {"path": "rootfs"}}),
        ("oci.root.path", {"root": None}),
        ("oci.ociVersion", {"ociVersion": 1}),
        ("oci.process.args[0]", {"process": {"args": [1], "cwd": "/"}}),
        ("oci.process.cwd", {"process": {"args": ["sh"]}}),
        ("oci.mounts[0].destination", {"mounts": [{"type": "proc"}]}),
        ("oci.linux.namespaces[0].type", {"linux": {"namespaces": [{"type": 5}]}}),
    ],
)
def test_a_wrong_type_in_a_document_is_named_by_its_path(
    place: Place, root: Path, field: str, change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSpec) as error:
        made(place, oci=document(root, **change), args=["sh"])
    assert error.value.field == field


def test_a_document_on_layers_needs_no_root_of_its_own(place: Place, root: Path) -> None:
    given = document(root)
    del given["root"]
    found = config(place, oci=given, args=[], layers=Layers(parents=[str(root)]), root="")
    assert found["root"]["path"] == str(place.run / "bundle" / "rootfs")
