"""The flags of a container's mounts, as the container itself sees them: nosuid and nodev, with every kind of root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from longshore.engine.engine import Engine
from longshore.spec import Layers, Mount, Security

pytestmark = pytest.mark.real

SHOWN = [name for name in ("usr", "bin", "lib", "lib64") if os.path.isdir(f"/{name}")]
MACHINE = [Mount(source=f"/{name}", target=f"/{name}", read_only=True) for name in SHOWN]
TABLE = ["/bin/cat", "/proc/self/mountinfo"]


def make_root(base: Path) -> Path:
    root = base / "root"
    for name in ("proc", "dev", "sys", "tmp", "etc", *SHOWN):
        (root / name).mkdir(parents=True)
    return root


def flags(table: str) -> dict[str, set[str]]:
    """The flags of each mount, by its place; of two at one place, the upper one's."""
    return {line.split()[4]: set(line.split()[5].split(",")) for line in table.splitlines()}


def fields_of(kind: str, base: Path) -> dict[str, Any]:
    """What `run` is given for a root of this kind, beside the command."""
    root = make_root(base)
    if kind == "layers":
        (base / "upper").mkdir()
        return {"root": "", "layers": Layers(parents=[str(base / "upper"), str(root)]), "mounts": MACHINE}
    if kind == "rootfs":
        return {"root": f"rootfs:{root}", "mounts": MACHINE}
    return {"root": kind}


@pytest.mark.parametrize("read_only", [False, True], ids=["rw", "ro"])
@pytest.mark.parametrize("kind", ["host", "host:full", "rootfs", "layers"])
async def test_every_mount_of_a_root_is_nosuid_and_nodev(
    engine: Engine, tmp_path: Path, kind: str, read_only: bool
) -> None:
    tmp_path.chmod(0o755)
    done = await engine.run(args=TABLE, read_only=read_only, **fields_of(kind, tmp_path))
    assert done.exit_code == 0, done.error_text
    found = flags(done.text)
    assert ("ro" in found["/"]) is read_only
    for place, own in found.items():
        if place.startswith(("/proc/", "/sys/")) and "cgroup" not in place:
            continue  # a runtime's own masks: empty, read-only
        assert "nosuid" in own, place
        assert "nodev" in own or place == "/dev" or place.startswith("/dev/"), place


@pytest.mark.parametrize("read_only", [False, True], ids=["rw", "ro"])
async def test_the_root_of_a_kept_container_has_the_same_flags(engine: Engine, tmp_path: Path, read_only: bool) -> None:
    box = await engine.launch(
        "box",
        root=f"rootfs:{make_root(tmp_path)}",
        args=["/bin/sleep", "60"],
        mounts=[*MACHINE, Mount(type="tmpfs", target="/made/here"), Mount(source="/etc/hostname", target="/made/file")],
        read_only=read_only,
        owner="remove",
    )
    done = await box.run([*TABLE])
    found = flags(done.text)
    assert {"nosuid", "nodev", "ro" if read_only else "rw"} <= found["/"]
    assert {"nosuid", "nodev"} <= found["/made/here"] & found["/made/file"]
    refused = await box.run(["/bin/sh", "-c", "echo x >/tmp/new"])
    assert (refused.exit_code != 0) is read_only


@pytest.mark.parametrize("kind", ["host", "rootfs"])
async def test_a_root_in_a_user_namespace_has_the_same_flags(engine: Engine, tmp_path: Path, kind: str) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    security = Security(userns=(0, 100000, 65536))
    done = await engine.run(args=TABLE, security=security, **fields_of(kind, tmp_path))
    assert done.exit_code == 0, done.error_text
    assert {"nosuid", "nodev"} <= flags(done.text)["/"]


async def test_what_is_mounted_below_a_root_in_place_is_nosuid_and_nodev(engine: Engine, tmp_path: Path) -> None:
    """A file system that the machine has mounted within the root: it comes along with the root's bind mount."""
    root = make_root(tmp_path)
    below = root / "below"
    below.mkdir()
    os.system(f"mount -t tmpfs x {below}")
    try:
        done = await engine.run(f"rootfs:{root}", TABLE, mounts=MACHINE)
    finally:
        os.system(f"umount {below}")
    assert {"nosuid", "nodev"} <= flags(done.text)["/below"]


async def test_a_root_in_place_keeps_the_flags_that_the_machine_gave_it(engine: Engine, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    os.system(f"mount --bind {root} {root} && mount -o remount,bind,ro,noatime {root}")
    try:
        done = await engine.run(
            f"rootfs:{root}", ["/bin/sh", "-c", "echo x >/tmp/x; cat /proc/self/mountinfo"], mounts=MACHINE
        )
    finally:
        os.system(f"umount {root}")
    assert not (root / "tmp/x").exists()
    assert {"nosuid", "nodev"} <= flags(done.text)["/"]


def document(root: Path, **process: Any) -> dict[str, Any]:
    binds = [
        {"destination": f"/{name}", "type": "bind", "source": f"/{name}", "options": ["rbind", "ro"]} for name in SHOWN
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {"args": TABLE, "cwd": "/", "user": {"uid": 0, "gid": 0}, **process},
        "root": {"path": str(root)},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *binds],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }


async def test_a_document_says_what_its_root_is_for(engine: Engine, tmp_path: Path) -> None:
    """Without a /dev of its own its devices are in the root; setuid programs are of use where privileges are gained."""
    given = document(make_root(tmp_path))
    found = flags((await engine.run("", [], oci=given)).text)["/"]
    assert not {"nosuid", "nodev"} & found
    given["mounts"].insert(1, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]})
    given["process"]["noNewPrivileges"] = True
    found = flags((await engine.run("", [], oci=given)).text)["/"]
    assert {"nosuid", "nodev"} <= found
    given["root"]["readonly"] = True
    found = flags((await engine.run("", [], oci=given)).text)["/"]
    assert {"nosuid", "nodev", "ro"} <= found


async def test_a_setuid_program_works_where_privileges_may_be_gained(engine: Engine, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    tmp_path.chmod(0o755)
    for name in ("root", "volume"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "id").write_bytes(Path("/usr/bin/id").read_bytes())
        (tmp_path / name / "id").chmod(0o4755)
    mounts = [*MACHINE, Mount(source=str(tmp_path / "volume"), target="/volume")]
    for gained in (True, False):
        security = Security(no_new_privileges=not gained)
        for program in ("/id", "/volume/id"):
            done = await engine.run(
                f"rootfs:{root}", [program, "-u"], user="1000:1000", mounts=mounts, security=security
            )
            assert done.text == ("0\n" if gained else "1000\n"), (program, done.error_text)


async def test_a_volume_is_nosuid_and_nodev_unless_asked_otherwise(engine: Engine, tmp_path: Path) -> None:
    mounts = [
        Mount(source=str(tmp_path), target="/plain"),
        Mount(source=str(tmp_path), target="/asked", options=["suid", "dev"]),
        Mount(source="/dev/null", target="/tmp/null", read_only=True),
    ]
    done = await engine.run("host", ["sh", "-c", "cat /tmp/null /proc/self/mountinfo"], mounts=mounts)
    assert done.exit_code == 0, done.error_text
    found = flags(done.text)
    assert {"nosuid", "nodev"} <= found["/plain"]
    assert not {"nosuid", "nodev"} & found["/asked"]


async def test_a_device_that_root_makes_in_root_or_volume_does_not_open(engine: Engine, tmp_path: Path) -> None:
    script = (
        "for at in /made /volume/made; do mknod $at c 1 3 || exit 9; cat $at && exit 8;"
        " mknod $at.k c 1 11 && cat $at.k; done; exit 7"
    )
    mounts = [*MACHINE, Mount(source=str(tmp_path), target="/volume")]
    done = await engine.run(f"rootfs:{make_root(tmp_path)}", ["/bin/sh", "-c", script], mounts=mounts, timeout=300)
    assert (done.exit_code, done.stdout) == (7, b""), done.error_text
