"""From inside the default container, as an attacker would: attack.py tries it all, and prints what worked."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from longshore.engine.engine import Engine
from longshore.errors import InvalidSpec, LongshoreError
from longshore.oci.probe import holes
from longshore.spec import Layers, Mount

from ..opened import Opened

pytestmark = pytest.mark.real

ATTACK = (Path(__file__).parent / "attack.py").read_text()


@pytest.mark.parametrize("user", ["nobody", "root"])
async def test_nothing_that_an_attacker_tries_works(engine: Engine, user: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0longshore-test-{os.getpid()}")  # of the machine: not to be seen in the container
    (shared := Path("/dev/shm/longshore-test")).write_text("of the machine")
    with listener:
        done = await engine.run("host", ["python3", "-I", "-S", "-c", ATTACK], user=user, timeout=300)
    shared.unlink()
    assert done.exit_code == 0, done.error_text
    assert json.loads(done.text) == []


async def test_nothing_works_in_a_kept_container_and_in_an_exec_either(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    for user in ("nobody", "root"):
        done = await box.run(["python3", "-I", "-S", "-c", ATTACK], user=user, timeout=300)
        assert done.exit_code == 0, done.error_text
        assert json.loads(done.text) == []


def rootfs(base: Path) -> Path:
    """A root file system that somebody else filled: a shell, and nothing else."""
    root = base / "root"
    for name in ("proc", "dev", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    return root


MACHINE = [Mount(source=f"/{name}", target=f"/{name}", read_only=True) for name in ("usr", "bin", "lib", "lib64")]


@pytest.mark.parametrize(
    "link", ["/", "..", "../../../..", "/proc/self/root", "/tmp", "/nonexistent", "loop", "/proc/self/cwd"]
)
async def test_a_link_in_the_root_leads_no_mount_out_of_it(engine: Engine, tmp_path: Path, link: str) -> None:
    root = rootfs(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "target").symlink_to(link)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mark").write_text("x")
    before = mounts()
    target = f"/target/longshore-test-{os.getpid()}"
    mounted = [*MACHINE, Mount(source=str(tmp_path / "data"), target=target)]
    try:
        await engine.run(f"rootfs:{root}", ["/bin/true"], mounts=mounted)
    except LongshoreError:
        pass
    assert not os.path.lexists(f"/longshore-test-{os.getpid()}"), "made on the machine"
    assert not os.path.lexists(f"/tmp/longshore-test-{os.getpid()}"), "made on the machine"
    assert not (tmp_path / f"longshore-test-{os.getpid()}").exists(), "made beside the root"
    assert mounts() == before


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


@pytest.mark.parametrize("what", ["passwd", "group", "bin", "etc"])
async def test_a_link_in_the_root_shows_nothing_of_the_machine(engine: Engine, tmp_path: Path, what: str) -> None:
    """Users are looked up, and the command is looked for, in the root itself."""
    root = rootfs(tmp_path)
    (tmp_path / "secret").write_text("sesame:x:0:0::/:/bin/sh\n")
    if what in ("passwd", "group"):
        (root / "etc").mkdir()
        (root / "etc" / what).symlink_to(tmp_path / "secret")
    else:
        (root / what).symlink_to(f"/proc/self/root/{what}")
    with pytest.raises(LongshoreError):
        await engine.run(f"rootfs:{root}", ["/bin/true"], user="sesame" if what == "passwd" else None)


async def test_a_neighbour_that_swaps_files_under_a_mount_while_it_is_set_up(engine: Engine, tmp_path: Path) -> None:
    """A container that shares the root with the next one turns the mount's target into a link, again and again."""
    root = rootfs(tmp_path)
    (root / "shared").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mark").write_text("x")
    secret = tmp_path / "secret"
    secret.mkdir()
    swap = (
        "import os\nos.chdir('/shared')\nprint('ready', flush=True)\n"
        "while True:\n"
        "  try:\n"
        f"    os.symlink('../../{secret.name}', 't'); os.unlink('t')\n"
        f"    os.symlink('{secret}', 't'); os.unlink('t')\n"
        "    os.mkdir('t'); os.rmdir('t')\n"
        "  except OSError: pass\n"
    )
    swapper = await engine.launch(
        "swapper", root=f"rootfs:{root}", args=["/usr/bin/python3", "-S", "-c", swap], mounts=MACHINE, owner="remove"
    )
    async for record in swapper.logs(follow=True):
        if b"ready" in getattr(record, "data", b""):
            break
    before = mounts()
    mounted = [*MACHINE, Mount(source=str(tmp_path / "data"), target="/shared/t/inner")]
    outcomes = set()
    for _ in range(8):
        try:
            done = await engine.run(f"rootfs:{root}", ["/bin/ls", "/shared/t/inner"], mounts=mounted)
            outcomes.add("ran")
            assert done.stdout in (b"mark\n", b""), done.stdout
        except LongshoreError:
            outcomes.add("refused")
    made = list(secret.iterdir())
    name = os.path.basename((await engine._state.service.runtime()).path)  # type: ignore[attr-defined]
    known = holes(name, (await engine.version())[name])
    if any("CVE-2024-45310" in hole for hole in known):  # `doctor` tells it, and docs/security.md
        assert all(path.is_dir() and not list(path.iterdir()) for path in made), "more than the hole that is known"
    else:
        assert made == [], "made outside the root"
    assert mounts() == before
    assert outcomes <= {"ran", "refused"}
    await swapper.delete(force=True)


async def test_a_device_of_the_machine_in_a_given_root_cannot_be_opened(engine: Engine, tmp_path: Path) -> None:
    root = rootfs(tmp_path)
    for name, kind, number in (("disk", stat.S_IFBLK, (254, 0)), ("memory", stat.S_IFCHR, (1, 1))):
        os.mknod(root / name, kind | 0o666, os.makedev(*number))
    done = await engine.run(f"rootfs:{root}", ["/bin/cat", "/disk", "/memory"], user="0", mounts=MACHINE)
    assert done.stdout == b""
    assert done.exit_code != 0


async def test_a_setuid_program_of_a_given_root_gains_nothing(engine: Engine, tmp_path: Path) -> None:
    root = rootfs(tmp_path)
    (root / "id").write_bytes(Path("/usr/bin/id").read_bytes())
    (root / "id").chmod(0o4755)
    done = await engine.run(f"rootfs:{root}", ["/id", "-u"], user="65534:65534", mounts=MACHINE)
    assert done.text == "65534\n", done.error_text


@pytest.mark.parametrize("id", ["../x", "..", "/etc", "a/../../b", "x\0y", "-rf", "\n", "."])
async def test_an_id_is_no_path(engine: Engine, state: Path, id: str) -> None:
    before = sorted(state.rglob("*"))
    for call in (
        engine.create(id, root="host", args=["true"]),
        engine.run("host", ["true"], name=id),
        engine.get(id),
    ):
        with pytest.raises(InvalidSpec):
            await call
    assert sorted(state.rglob("*")) == before


async def test_what_an_exec_can_reach_by_proc_of_init_is_its_own(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], user="root", owner="remove")
    script = "ls /proc/1/root/ /proc/1/root/../ /proc/1/cwd/ | sort -u; cat /proc/1/root/etc/shadow"
    done = await box.run(["sh", "-c", script], user="root")
    assert b"etc" in done.stdout
    assert b"root:" not in done.stdout.replace(b"/root:", b"")
    async with asyncio.timeout(300):
        await box.delete(force=True)


BAD_PASSWD = {
    "home": b"root:x:0:0::/\xff:/bin/sh\nweb:x:7:8::/\xff:/bin/sh\n",
    "name": b"ro\xfet:x:0:0::/:/bin/sh\nweb:x:7:8::/:/bin/sh\n",
    "nul": b"root:x:0:0::/a\0b:/bin/sh\nweb:x:7:8::/\0:/bin/sh\n",
}


@pytest.mark.parametrize("what", BAD_PASSWD)
async def test_odd_bytes_in_passwd_end_in_no_untyped_error(engine: Engine, tmp_path: Path, what: str) -> None:
    root = rootfs(tmp_path)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_bytes(BAD_PASSWD[what])
    script = ["/bin/sh", "-c", "id -u; echo $HOME"]
    for user in (None, "0", "web", "7"):
        done = await engine.run(f"rootfs:{root}", script, user=user, mounts=MACHINE)
        home = "/"
        assert done.text.split() == ["7" if user in ("web", "7") else "0", home], (user, done.error_text)
    box = await engine.launch("box", root=f"rootfs:{root}", args=["/bin/sleep", "60"], mounts=MACHINE, owner="remove")
    for user in ("0", "web", "7"):
        done = await box.run(script, user=user)
        assert done.text.split() == ["0" if user == "0" else "7", "/"], (user, done.error_text)


async def test_an_id_that_means_no_change_to_the_kernel_runs_nothing(engine: Engine, tmp_path: Path) -> None:
    root = rootfs(tmp_path)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nminus:x:4294967295:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n")
    box = await engine.launch("box", root=f"rootfs:{root}", args=["/bin/sleep", "60"], mounts=MACHINE, owner="remove")
    for user in ("minus", "4294967295", "minus:0", "0:4294967295"):
        for call in (
            box.run(["/usr/bin/id"], user=user),
            engine.run(f"rootfs:{root}", ["/usr/bin/id"], user=user, mounts=MACHINE),
        ):
            with pytest.raises(InvalidSpec):
                await call
    for done in (
        await box.run(["/usr/bin/id", "-u"], user="1000"),
        await engine.run(f"rootfs:{root}", ["/usr/bin/id", "-u"], user="1000", mounts=MACHINE),
    ):
        assert done.text == "1000\n"


@pytest.mark.parametrize("what", ["passwd", "group"])
async def test_a_huge_file_of_a_container_stalls_no_loop(engine: Engine, what: str) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "1000"], user="root", owner="remove")
    fill = f"yes a:x:0:daemon::: | head -c 16000000 >/etc/{what}"
    assert (await box.run(["sh", "-c", fill], user="root", timeout=300)).exit_code == 0
    gap = 0.0
    done = asyncio.Event()

    async def tick() -> None:
        nonlocal gap
        last = asyncio.get_running_loop().time()
        while not done.is_set():
            await asyncio.sleep(0.002)
            now = asyncio.get_running_loop().time()
            gap, last = max(gap, now - last), now

    ticking = asyncio.create_task(tick())
    try:
        found = await box.run(["id", "-u"], user="daemon", timeout=300)
        assert (what, found.text) == ("group", "1\n")
    except InvalidSpec:
        assert what == "passwd"
    finally:
        done.set()
        await ticking
    assert gap < 0.25  # seconds: much above what a busy machine takes from a loop, much below what 16 MB of lines do


async def test_a_device_that_a_container_made_its_passwd_is_not_opened(engine: Engine, tmp_path: Path) -> None:
    root = rootfs(tmp_path)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    box = await engine.launch("box", root=f"rootfs:{root}", args=["/bin/sleep", "60"], mounts=MACHINE, owner="remove")
    made = await box.run(["/bin/sh", "-c", "rm /etc/passwd && mknod /etc/passwd c 1 11"])
    assert made.exit_code == 0, made.error_text
    opened = Opened(root / "etc")
    try:
        with pytest.raises(InvalidSpec):
            await box.run(["/bin/true"], user="daemon")
        done = await engine.run(f"rootfs:{root}", ["/bin/true"], mounts=MACHINE)
        assert done.exit_code == 0
        assert "passwd" not in opened.names()
    finally:
        opened.close()


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("link", ["outside", "relative", "inside", "/", "loop"])
async def test_a_link_for_a_folder_of_the_kernel_is_refused(
    engine: Engine, tmp_path: Path, name: str, link: str
) -> None:
    """A runtime would make mounts, devices and links where it leads: runc 1.1 does so outside of the root."""
    root = rootfs(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "ptmx").write_text("of the machine")
    (root / str(outside)[1:]).mkdir(parents=True)  # where the link leads within the root
    target = {"outside": str(outside), "relative": f"..{outside}", "inside": "tmp", "loop": name}.get(link, link)
    (root / name).rmdir()
    (root / name).symlink_to(target)
    for call in (
        engine.run(f"rootfs:{root}", ["/bin/true"], mounts=MACHINE),
        engine.run("", ["/bin/true"], layers=Layers(parents=[str(root)]), mounts=MACHINE),
        engine.run("", [], oci=document(root)),
        engine.create("box", root=f"rootfs:{root}", args=["/bin/true"], mounts=MACHINE),
    ):
        with pytest.raises(InvalidSpec, match=f"/{name} is a symbolic link"):
            await call
    assert [path.name for path in outside.iterdir()] == ["ptmx"]
    assert (outside / "ptmx").read_text() == "of the machine"


def document(root: Path) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": str(root)},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
async def test_a_file_for_a_folder_of_the_kernel_is_refused(engine: Engine, tmp_path: Path, name: str) -> None:
    root = rootfs(tmp_path)
    (root / name).rmdir()
    os.mkfifo(root / name)
    with pytest.raises(InvalidSpec, match=f"/{name} is not a folder"):
        await engine.run(f"rootfs:{root}", ["/bin/true"], mounts=MACHINE)
    (root / name).unlink()
    assert (await engine.run(f"rootfs:{root}", ["/bin/true"], mounts=MACHINE)).exit_code == 0  # it is made


@pytest.mark.parametrize(
    ("name", "version", "known"),
    [
        ("runc", "1.1.5+ds1", {"CVE-2024-21626", "CVE-2024-45310", "CVE-2025-31133"}),
        ("runc", "1.1.4", {"CVE-2023-27561", "CVE-2024-21626", "CVE-2024-45310", "CVE-2025-31133"}),
        ("runc", "1.2.7", {"CVE-2025-31133"}),
        ("runc", "1.2.8", set()),
        ("runc", "1.3.2", {"CVE-2025-31133"}),
        ("runc", "1.3.3+ds1", set()),
        ("runc", "1.4.0", set()),
        ("crun", "1.8.1", {"CVE-2026-30892"}),
        ("crun", "1.27", set()),
        ("other", "1.0", set()),
        ("runc", "unknown", set()),
    ],
)
def test_a_hole_is_known_in_each_line_of_versions(name: str, version: str, known: set[str]) -> None:
    assert {text[:14].rstrip(", ") for text in holes(name, version)} == known


async def test_explain_names_the_holes_of_the_runtime(engine: Engine) -> None:
    await engine.run("host", ["true"])
    runtime = await engine._state.service.runtime()  # type: ignore[attr-defined]
    reasons = (await engine.plan(root="host", args=["true"])).reasons
    assert all(hole in reasons["runtime"] for hole in holes(runtime.known.name, runtime.known.version))


@pytest.mark.parametrize("link", ["/proc/sys", "/proc/self/attr", "../proc/1", "/sys/kernel", "/dev/pts", "other"])
async def test_a_link_leads_no_mount_into_a_folder_of_the_kernel(engine: Engine, tmp_path: Path, link: str) -> None:
    root = rootfs(tmp_path)
    (root / "other").symlink_to("proc/sys/kernel")
    (root / "data").symlink_to(link)
    volume = Mount(source=str(tmp_path), target="/data")
    given = document(root)
    given["mounts"].append({"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["bind"]})
    for call in (
        engine.run(f"rootfs:{root}", ["/bin/true"], mounts=[*MACHINE, volume]),
        engine.run("", [], oci=given, mounts=MACHINE),
    ):
        with pytest.raises(InvalidSpec, match="a symbolic link in the root leads the target /data to '/"):
            await call


async def test_no_error_about_a_root_has_text_that_cannot_be_written(engine: Engine, tmp_path: Path) -> None:
    """Names in a root are bytes; what is said of them is text that every stream and document takes."""
    root = rootfs(tmp_path)
    (root / "script").write_bytes(b"#!/\xff\xfe\n")
    (root / "script").chmod(0o755)
    os.symlink(b"proc/\xff", os.fsencode(root / "data"))
    volume = Mount(source=str(tmp_path), target="/data")
    for call in (
        engine.run(f"rootfs:{root}", ["/script"], mounts=MACHINE),
        engine.run(f"rootfs:{root}", ["/bin/true"], mounts=[*MACHINE, volume]),
    ):
        with pytest.raises(LongshoreError) as error:
            await call
        str(error.value).encode()
    (root / "dev").rmdir()
    os.symlink(b"/\xff", os.fsencode(root / "dev"))
    with pytest.raises(LongshoreError) as error:
        await engine.run(f"rootfs:{root}", ["/bin/true"], mounts=MACHINE)
    str(error.value).encode()
