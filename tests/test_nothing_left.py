"""What looks for leftovers sees them: after each test those of its state directory, after a run those of all."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .leftovers import CGROUPS, leftovers, leftovers_of_run, mounts, processes, remove_leftovers
from .needs import needs

pytestmark = needs("fork")

SLEEPS = "import sys, time; print(flush=True); time.sleep(1000)"


@pytest.fixture
def prefix() -> str:
    """What the state directories of a run begin with, that is none of this run's."""
    return f"longshore-left-{os.getpid()}-"


@pytest.fixture
def left(prefix: str) -> Iterator[Path]:
    """A state directory that a test has left."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    yield path
    remove_leftovers(path)


@pytest.fixture
def process(left: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the state directory in its command line."""
    with subprocess.Popen(["python3", "-S", "-c", SLEEPS, str(left)], stdout=subprocess.PIPE) as made:
        assert made.stdout is not None
        made.stdout.readline()
        yield made
        made.kill()


@pytest.fixture
def cgroup(left: Path) -> Iterator[Path]:
    """A cgroup that is named after the store of the state directory."""
    (left / "lib").mkdir()
    (left / "lib" / "store.json").write_text('{"id": "left-by-a-test"}')
    path = next(path for path in CGROUPS.iterdir() if path.is_dir()) / "longshore" / "left-by-a-test.0"
    path.mkdir(parents=True)
    yield path
    if path.exists():
        path.rmdir()


@pytest.fixture
def mount(left: Path) -> Iterator[Path]:
    """Something mounted in the state directory."""
    path = left / "mounted"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=False, stderr=subprocess.DEVNULL)


def test_a_run_that_left_nothing_has_no_leftovers() -> None:
    assert leftovers_of_run(f"longshore-none-{os.getpid()}-", {"no-such-store"}) == []


def test_a_state_directory_that_is_left_is_found(prefix: str, left: Path) -> None:
    assert leftovers_of_run(prefix, set()) == [f"directory {left}"]


def test_a_process_that_is_left_is_found(prefix: str, left: Path, process: subprocess.Popen[bytes]) -> None:
    expected = f"process {process.pid}: "
    assert any(line.startswith(expected) for line in leftovers(left))
    assert any(line.startswith(expected) for line in leftovers_of_run(prefix, set()))


def test_a_cgroup_that_is_left_is_found(prefix: str, left: Path, cgroup: Path) -> None:
    assert f"cgroup {cgroup}" in leftovers(left)
    assert f"cgroup {cgroup}" in leftovers_of_run(prefix, {"left-by-a-test"})


def test_a_mount_that_is_left_is_found(prefix: str, left: Path, mount: Path) -> None:
    for found in (leftovers(left), leftovers_of_run(prefix, set())):
        assert any(line.startswith("mount ") and str(mount) in line for line in found)


def test_a_file_of_a_container_that_is_left_is_found(left: Path) -> None:
    (left / "run" / "containers" / "box").mkdir(parents=True)
    assert leftovers(left) == [f"directory {left / 'run' / 'containers' / 'box'}"]


def test_what_a_test_has_left_is_removed(
    left: Path, process: subprocess.Popen[bytes], cgroup: Path, mount: Path
) -> None:
    remove_leftovers(left)
    process.wait()
    assert [*processes(left), *mounts(left)] == []
    assert not cgroup.exists()
    assert not left.exists()
