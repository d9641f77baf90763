"""Trees that an untrusted program made are removed, whatever they are, and nothing outside of them."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from longshore.errors import StoreError
from longshore.fs.trees import remove_some, remove_tree

from .world import World

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows' containers write to layers, which HCS removes")
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def make_chain(top: Path, depth: int, name: str = "d") -> None:
    """Folders one in the other, deeper than a path can say."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.mark.parametrize(("depth", "name"), [(1200, "d"), (3000, "d"), (40, "n" * 255)])
def test_tree_of_any_depth_is_removed(tmp_path: Path, depth: int, name: str) -> None:
    make_chain(tmp_path / "tree", depth, name)
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_removal_needs_few_descriptors_at_any_depth(tmp_path: Path) -> None:
    make_chain(tmp_path / "tree", 300)
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\n"
        "from longshore.fs.trees import remove_tree; remove_tree(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "tree"], check=True, timeout=300)
    assert os.listdir(tmp_path) == []


def test_odd_names_and_kinds_are_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    os.mkdir(os.fsencode(tree) + b"/\xff\xfe")
    os.close(os.open(os.fsencode(tree) + b"/\xff\xfe/\n\t*", os.O_CREAT | os.O_WRONLY))
    os.mkfifo(tree / "pipe")
    (tree / "link").symlink_to(outside)
    (tree / "broken").symlink_to("nowhere")
    (tree / "closed").mkdir()
    (tree / "closed" / "inner").mkdir()
    (tree / "closed" / "inner" / "file").touch()
    (tree / "closed" / "inner").chmod(0)
    (tree / "closed").chmod(0o500)
    remove_tree(tree)
    assert not tree.exists()
    assert os.listdir(outside) == ["kept"]


@pytest.mark.skipif(not ROOT, reason="only root has this to lose")
def test_tree_without_permissions_is_removed_by_its_owner(tmp_path: Path) -> None:
    """As a user, who has to open up each directory first; root without capabilities has to as well."""
    program = (
        "import os, sys\nfrom longshore.fs.trees import remove_tree\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "os.makedirs('t/a/b/c'); open('t/a/b/file', 'w').close(); os.mkdir('t/a/b/empty', 0)\n"
        "os.chmod('t/a/b/c', 0); os.chmod('t/a/b', 0o500); os.chmod('t/a', 0); remove_tree('t')"
    )
    work = tmp_path / "work"
    work.mkdir()
    for folder in (work, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    os.chown(work, 65534, 65534)
    subprocess.run([sys.executable, "-c", program], cwd=work, check=True, timeout=300)
    assert os.listdir(work) == []


def swap_folders(tree: Path, outside: Path, over: threading.Event) -> None:
    """Replace folders by links that lead outside, until it is over."""
    for turn in range(20_000):
        if over.is_set():
            break
        path, link = tree / str(turn % 20), tree / "link"
        with suppress(OSError):
            os.symlink(outside, link)
        with suppress(OSError):
            os.rename(path, tree / f"was{turn}")
        with suppress(OSError):
            os.rename(link, path)


def test_link_that_replaces_a_folder_leads_nowhere(tmp_path: Path) -> None:
    """Another thread swaps folders for links while the tree is removed."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "folder" / "kept").touch()
    for turn in range(30):
        tree = tmp_path / f"tree{turn}"
        for index in range(20):
            (tree / str(index) / "folder" / "kept").mkdir(parents=True)
        over = threading.Event()
        swapper = threading.Thread(target=swap_folders, args=(tree, outside, over))
        swapper.start()
        with suppress(StoreError):  # more came than went
            remove_tree(tree)
        over.set()
        swapper.join()
        remove_tree(tree)
        assert not tree.exists()
        assert (outside / "folder" / "kept").exists()


def test_removal_ends_while_another_program_adds_without_end(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "first").touch()
    adder = "import os, itertools\nfor n in itertools.count():\n    os.mkdir(f'{n}')\n"
    with subprocess.Popen([sys.executable, "-c", adder], cwd=tree, stderr=subprocess.DEVNULL) as adding:
        try:
            with suppress(StoreError):  # or all was gone for a moment: then the adder's folder is
                remove_tree(tree)
        finally:
            adding.kill()
    if tree.exists():
        remove_tree(tree)
    assert not tree.exists()


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    subprocess.run(["chattr", "+i", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.skipif(not ROOT, reason="chattr needs root")
def test_what_can_be_removed_beside_an_immutable_file_is(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    stuck = tree / "a" / "b" / "stuck"
    stuck.touch()
    for index in range(10):
        (tree / "a" / f"file{index}").touch()
    fd = os.open(stuck, os.O_RDONLY)
    with immutable(stuck):
        with pytest.raises(StoreError, match="Operation not permitted"):
            remove_tree(tree)
        assert [name for _, _, names in os.walk(tree) for name in names] == ["stuck"]
        os.close(fd)
        found = next(tree.rglob("stuck"))
        subprocess.run(["chattr", "-i", found], check=True)
        remove_tree(tree)
        stuck.parent.mkdir(parents=True)
        stuck.touch()
    assert list(tree.rglob("file*")) == []


MOUNTED = """
import os, subprocess, sys
from longshore.errors import StoreError
from longshore.fs.trees import remove_tree
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", "outside", "tree/a/mount"], check=True)
subprocess.run(["mount", "--bind", "outside/kept", "tree/a/file"], check=True)
try:
    remove_tree("tree")
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(not ROOT, reason="mounts need root")
def test_mounts_in_a_tree_are_not_entered(tmp_path: Path) -> None:
    """A mount of the same file system, too, which no device number shows."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("x")
    (tmp_path / "tree" / "a" / "mount").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "file").touch()
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", MOUNTED], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "busy" in done.stdout
    assert (tmp_path / "outside" / "kept").read_text() == "x"


def test_bounded_removal_leaves_large_files_to_a_thread(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with open(tmp_path / "tree" / "large", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 40 << 20)
    assert remove_some(tmp_path / "tree", 64) is False
    assert (tmp_path / "tree" / "large").exists()


# the trash


def stuck_in(trash: Path) -> Path:
    """A deletion that somebody died in, of which one file cannot be removed."""
    path = trash / "0123456789abcdef"
    path.mkdir(parents=True)
    (path / "file").touch()
    return path / "file"


@pytest.mark.skipif(not ROOT, reason="chattr needs root")
async def test_stuck_trash_is_reported_once_and_left_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.engine() as engine:
        await engine.list()
    caplog.set_level(logging.WARNING)
    file = stuck_in(world.state / "lib" / "trash")
    with immutable(file):
        for _ in range(3):
            async with world.engine() as engine:
                done = await engine.run("host", ["exit", "3"])
                assert done.exit_code == 3
                assert await engine.list() == []
        reports = [record.message for record in caplog.records if "trash" in record.message]
        assert len(reports) == 1
        assert "Operation not permitted" in reports[0]
        assert file.exists()
        async with world.engine() as engine:  # asked to, it tries again
            await engine.restore()
        assert len([record for record in caplog.records if "trash" in record.message]) == 2
    async with world.engine() as engine:
        await engine.list()
        assert file.exists()
        await engine.restore()
    assert os.listdir(world.state / "lib" / "trash") == []


async def test_deep_and_wide_trash_stops_no_engine_and_stalls_no_loop(world: World) -> None:
    async with world.engine() as engine:
        await engine.list()
    trash = world.state / "run" / "trash"
    make_chain(trash / "0123456789abcdef", 1500)
    (trash / "fedcba9876543210").mkdir()
    for index in range(5000):
        (trash / "fedcba9876543210" / str(index)).touch()
    worst = 0.0

    async def measure() -> None:
        nonlocal worst
        while True:
            began = time.thread_time()
            before = time.monotonic()
            await asyncio.sleep(0)
            if time.thread_time() - began > 0.001:  # the loop was at work all that time, not the machine
                worst = max(worst, time.monotonic() - before)

    meter = asyncio.create_task(measure())
    async with world.engine() as other:
        assert await other.list() == []
    meter.cancel()
    assert os.listdir(trash) == []
    assert worst < 0.25  # 0.05 on a machine with nothing else to do


async def test_boot_moves_what_is_left_aside_though_it_cannot_be_removed(world: World) -> None:
    async with world.engine() as engine:
        await engine.list()
    make_chain(world.state / "run" / "containers" / "left", 1100)
    (world.state / "run" / "boot").write_text("an earlier one")
    async with world.engine() as other:
        assert await other.list() == []
    assert os.listdir(world.state / "run" / "containers") == []
    assert os.listdir(world.state / "run" / "trash") == []
