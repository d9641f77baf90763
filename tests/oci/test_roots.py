"""Root file systems and mounts, on real containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longshore.compute.values import PIPE
from longshore.engine.engine import Engine
from longshore.spec import Layers, Mount, Security, Spec

from .roots import USR, make_root

pytestmark = pytest.mark.real


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root")


async def test_a_root_is_used_in_place(engine: Engine, root: Path) -> None:
    done = await engine.run(f"rootfs:{root}", ["sh", "-c", "id -un; echo x > /new"], mounts=[USR])
    assert done.text == "root\n", done.stderr
    assert (root / "new").read_text() == "x\n"


async def test_nothing_of_longshores_is_left_in_a_root(engine: Engine, root: Path) -> None:
    before = sorted(root.rglob("*"))
    await engine.run(f"rootfs:{root}", ["true"], mounts=[USR])
    assert sorted(root.rglob("*")) == before


async def test_a_read_only_root_cannot_be_written(engine: Engine, root: Path) -> None:
    done = await engine.run(f"rootfs:{root}", ["sh", "-c", "echo x > /new"], mounts=[USR], read_only=True)
    assert done.exit_code == 2
    assert b"Read-only" in done.stderr


async def test_a_user_of_the_root_has_its_groups_and_home(engine: Engine, root: Path) -> None:
    script = "id -u; id -G; echo $HOME"
    done = await engine.run(f"rootfs:{root}", ["sh", "-c", script], mounts=[USR], user="web")
    assert done.text.split() == ["1000", "1001", "2000", "/home/web"], done.stderr


async def test_an_exec_looks_users_up_in_the_container(engine: Engine, root: Path) -> None:
    box = await engine.launch("users", root=f"rootfs:{root}", args=["sleep", "1000"], mounts=[USR])
    process = await box.exec(["sh", "-c", "id -u; id -G; echo $HOME"], user="web")
    out, _ = await process.communicate()
    assert out.split() == [b"1000", b"1001", b"2000", b"/home/web"]
    await box.delete(force=True)


async def test_mount_targets_that_are_links_stay_in_the_root(engine: Engine, root: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("hello\n")
    (root / "absolute").symlink_to("/etc")
    (root / "dots").symlink_to("../../../../../../../../tmp")
    mounts = [USR, f"{tmp_path}/source:/absolute/longshore-a", f"{tmp_path}/source:/dots/longshore-b"]
    script = "cat /etc/longshore-a/file /tmp/longshore-b/file"
    done = await engine.run(f"rootfs:{root}", ["sh", "-c", script], mounts=mounts)
    assert done.text == "hello\nhello\n", done.stderr
    assert not os.path.exists("/etc/longshore-a")
    assert not os.path.exists("/tmp/longshore-b")


async def test_a_bind_is_writable_or_not_as_asked(engine: Engine, tmp_path: Path) -> None:
    for name in ("rw", "ro"):
        (tmp_path / name).mkdir()
    mounts = [f"{tmp_path}/rw:/rw", f"{tmp_path}/ro:/ro:ro"]
    done = await engine.run("host", ["sh", "-c", "echo x > /rw/x; echo x > /ro/x"], mounts=mounts, user="root")
    assert done.exit_code == 2
    assert (tmp_path / "rw" / "x").exists()
    assert not (tmp_path / "ro" / "x").exists()


async def test_a_file_can_be_bound(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello\n")
    done = await engine.run("host", ["cat", "/etc/hello"], mounts=[f"{tmp_path}/file:/etc/hello:ro"])
    assert done.text == "hello\n"


async def test_a_tmpfs_has_the_size_asked_for(engine: Engine) -> None:
    script = "head -c 2000000 /dev/zero > /data/x; stat -c %s /data/x"
    mount = Mount.parse("type=tmpfs,target=/data,tmpfs-size=1m")
    done = await engine.run("host", ["sh", "-c", script], mounts=[mount], user="root")
    assert int(done.text) == 1 << 20


# layers


async def test_layers_lie_nearest_first_and_are_not_written_to(engine: Engine, root: Path, tmp_path: Path) -> None:
    near = tmp_path / "near"
    (near / "etc").mkdir(parents=True)
    (near / "etc" / "group").write_text("near\n")
    before = sorted(tmp_path.rglob("*"))
    script = "head -1 /etc/group; head -1 /etc/passwd; echo x > /new; rm /etc/passwd; ls /etc"
    layers = Layers(parents=[str(near), str(root)])
    done = await engine.run("", ["sh", "-c", script], mounts=[USR], layers=layers)
    assert done.text.split("\n") == ["near", "root:x:0:0:root:/root:/bin/sh", "group", ""], done.stderr
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_scratch_folder_of_ones_own_keeps_what_is_written(engine: Engine, root: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    layers = Layers(parents=[str(root)], scratch=str(tmp_path / "scratch"))
    await engine.run("", ["sh", "-c", "echo one > /kept; rm /etc/group"], mounts=[USR], layers=layers)
    assert (tmp_path / "scratch" / "kept").read_text() == "one\n"
    done = await engine.run("", ["sh", "-c", "cat /kept; ls /etc"], mounts=[USR], layers=layers)
    assert done.text.split() == ["one", "passwd"], done.stderr
    box = await engine.create("box", args=["true"], mounts=[USR], layers=layers)
    await box.start()
    await box.wait()
    await box.delete()
    assert [path.name for path in tmp_path.iterdir() if "scratch" in path.name] == ["scratch"]


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b", 'a"b', "a b", "grün"])
async def test_a_layers_path_may_have_any_character(engine: Engine, root: Path, tmp_path: Path, name: str) -> None:
    layer = tmp_path / name
    layer.mkdir()
    (layer / "mark").write_text("seen\n")
    layers = Layers(parents=[str(layer), str(root)])
    done = await engine.run("", ["cat", "/mark"], mounts=[USR], layers=layers)
    assert done.text == "seen\n"


async def test_more_layers_than_their_names_would_fit_into_a_page(engine: Engine, root: Path, tmp_path: Path) -> None:
    parents = []
    for number in range(200):
        layer = tmp_path / f"a-layer-with-a-long-name-{number}"
        layer.mkdir()
        (layer / f"mark{number}").touch()
        parents.append(str(layer))
    layers = Layers(parents=[*parents, str(root)])
    done = await engine.run("", ["sh", "-c", "ls / | grep -c mark"], mounts=[USR], layers=layers)
    assert done.text == "200\n"


# documents


async def test_a_bundles_own_document_runs_as_it_is(engine: Engine, root: Path) -> None:
    document = {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["sh", "-c", "id -u; hostname; cat /proc/self/oom_score_adj"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 3, "gid": 4},
            "oomScoreAdj": 7,
        },
        "root": {"path": str(root)},
        "hostname": "theirs",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }
    box = await engine.launch("given", Spec.from_oci(document), stdout=PIPE, stderr=PIPE)
    assert box.init is not None
    out, err = await box.init.communicate()
    assert out.split() == [b"3", b"theirs", b"7"], err
    await box.delete(force=True)


async def test_capabilities_asked_for_by_name_work_for_a_user_that_is_not_root(engine: Engine, root: Path) -> None:
    script = "import socket; socket.create_server(('127.0.0.1', 80)); print('bound')"
    allow = Security(cap_add=["NET_BIND_SERVICE"])
    done = await engine.run("host", ["python3", "-c", script], security=allow)
    assert done.text == "bound\n", done.stderr
