"""Commands, interpreters and folders behind links and mounts: what would work is never refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from longshore.engine.engine import Engine
from longshore.errors import CommandNotExecutable, CommandNotFound, InvalidSpec
from longshore.oci.config.container_paths import ContainerPaths
from longshore.oci.rootfs.resolve_in_root import Folder, Stack

from .roots import USR, make_root

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="longshore needs root for now")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = make_root(tmp_path / "root")
    (made / "run").mkdir()
    (made / "var").mkdir()
    (made / "var" / "run").symlink_to("/run")
    (made / "opt").mkdir()
    (made / "opt" / "again").symlink_to("again")
    (made / "opt" / "up").symlink_to("../../../usr")
    (made / "opt" / "tool").write_text("#!/bin/sh\n")
    (made / "opt" / "tool").chmod(0o755)
    return made


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/opt/tool", "/opt/tool"),
        ("/opt/./x/../tool", "/opt/tool"),
        ("/../../opt/tool", "/opt/tool"),
        ("/bin/sh", None),
        ("/opt/up/bin/sh", None),
        ("/opt/up", None),
        ("/var/run/app/x", None),
        ("/run/app", None),
        ("/run/apple", "/run/apple"),
        ("/usr/../etc/passwd", None),
    ],
)
def test_a_path_is_followed_as_the_kernel_does(root: Path, path: str, leads_to: str | None) -> None:
    folder = Folder(str(root))
    assert ContainerPaths(folder, ["/usr", "/var/run/app"]).follow(path) == leads_to
    folder.close()


def test_a_link_that_leads_to_itself_ends_the_lookup(root: Path) -> None:
    folder = Folder(str(root))
    assert ContainerPaths(folder, []).find_command("/opt/again", env=[], cwd="/").missing
    folder.close()


def test_a_mount_over_the_root_leaves_nothing_to_judge(root: Path) -> None:
    folder = Folder(str(root))
    assert ContainerPaths(folder, ["/"]).follow("/nowhere") is None
    folder.close()


def test_a_link_of_one_layer_into_another_is_followed(root: Path, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "usr" / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", lower / "usr" / "bin" / "true")
    stack = Stack([str(root), str(lower)])
    assert ContainerPaths(stack, []).find_command("/bin/true", env=[], cwd="/").path == "/usr/bin/true"
    stack.close()


def test_a_hidden_link_of_a_lower_layer_is_not_followed(root: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    os.mknod(upper / "bin", 0o020000, 0)
    stack = Stack([str(upper), str(root)])
    assert ContainerPaths(stack, []).follow("/bin/sh") == "/bin/sh"
    stack.close()


@pytest.mark.real
@pytest.mark.parametrize("init", [False, True], ids=["no-init", "init"])
@pytest.mark.parametrize("command", ["/bin/true", "/opt/tool", "/opt/copy", "/opt/up/bin/true", "true"])
async def test_a_command_behind_links_into_a_mount_runs(engine: Engine, root: Path, command: str, init: bool) -> None:
    shutil.copy("/bin/true", root / "opt" / "copy")
    done = await engine.run(f"rootfs:{root}", [command], mounts=[USR], init=init, check=False)
    assert (done.exit_code, done.stderr) == (0, b"")


@pytest.mark.real
async def test_a_working_directory_behind_links_is_entered(engine: Engine, root: Path, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    mounts = [USR, f"{tmp_path}/app:/run/app"]
    done = await engine.run(f"rootfs:{root}", ["pwd", "-P"], mounts=mounts, cwd="/var/run/app")
    assert done.stdout == b"/run/app\n"
    with pytest.raises(InvalidSpec, match="cwd"):
        await engine.run(f"rootfs:{root}", ["pwd"], mounts=mounts, cwd="/var/run/other")


@pytest.mark.real
async def test_what_is_certainly_no_command_is_refused_before_the_start(engine: Engine, root: Path) -> None:
    (root / "opt" / "plain").write_text("text")
    for command, error in (("/opt/nothing", CommandNotFound), ("/opt/plain", CommandNotExecutable)):
        with pytest.raises(error):
            await engine.create("box", root=f"rootfs:{root}", args=[command], mounts=[USR])
    assert await engine.list() == []
