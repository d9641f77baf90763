"""Files of the state directory are checked to be files, and the directory to be longshore's, before they are used."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longshore.engine.engine import Engine
from longshore.errors import StoreError
from longshore.oci.runtimes import choice
from longshore.store.state_directory import Store

from ..cli.command import Longshore

pytestmark = pytest.mark.real


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # the name of a socket has 108 bytes at most


ODD: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
    "a folder": os.mkdir,
    "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
}
FILES = ["lib/store.json", "lib/probe.json", "run/boot", "run/view", "run/lock", "lib/journal/lock", "lib/journal/boot"]
OF_A_CONTAINER = ["record.json", "spec.json", "exit.json", "log", "claim"]
OF_A_DELETION = ["record.json", "claim"]
OF_A_LEASE = ["lease.lock", "owner.lock", "alive.lock", "view"]


def ends(longshore: Longshore, *words: str) -> str:
    """The error text of a command, which ends within the limit of `Longshore`, and reports no fault of its own."""
    done = longshore(*words)
    said = done.stderr.decode()
    assert "Traceback" not in said
    assert "should not happen" not in said
    return said


@pytest.mark.parametrize("odd", ODD)
def test_odd_files_of_the_store_stall_no_command(state: Path, odd: str) -> None:
    longshore = Longshore(state)
    longshore.ok("run", "host", "--", "true")
    for name in FILES:
        path = state / name
        aside = path.with_name("aside")
        path.rename(aside)
        ODD[odd](path)
        try:
            for words in (["ps", "--all"], ["run", "host", "--", "true"], ["restore"]):
                ends(longshore, *words)
        finally:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
            aside.rename(path)
    longshore.ok("run", "host", "--", "true")


@pytest.mark.parametrize("odd", ["a FIFO", "a link to a device without end"])
def test_odd_files_of_a_container_stall_no_command(state: Path, odd: str) -> None:
    longshore = Longshore(state)
    longshore.ok("run", "host", "--", "true")
    for place, names in (
        ("lib/containers/x", OF_A_CONTAINER),
        ("run/leases/x", OF_A_LEASE),
        ("run/trash/x", OF_A_DELETION),
    ):
        directory = state / place
        directory.mkdir(mode=0o700)
        for name in names:
            ODD[odd](directory / name)
    assert "damaged" in longshore.ok("ps", "--all")
    ends(longshore, "run", "host", "--", "true")
    ends(longshore, "restore")
    longshore.ok("rm", "--force", "x")
    assert "damaged" not in longshore.ok("ps", "--all")
    for place in ("run/leases/x", "run/trash/x"):
        shutil.rmtree(state / place)
    (state / "lib" / "trash" / "x.left").unlink()


@pytest.mark.parametrize("odd", ["a FIFO", "a folder"])
def test_odd_segments_of_the_journal_stall_no_command(state: Path, odd: str) -> None:
    longshore = Longshore(state)
    longshore.ok("run", "host", "--", "true")
    notes = state / "lib" / "journal" / "notes.jsonl"
    notes.touch()
    longshore.ok("run", "host", "--", "true")
    notes.unlink()
    segment = state / "lib" / "journal" / "0000000009.jsonl"
    ODD[odd](segment)
    assert "cannot write the journal" in ends(longshore, "run", "host", "--", "true")
    assert "cannot read the journal" in ends(longshore, "events", "--since", "0", "--no-follow")
    segment.rmdir() if segment.is_dir() else segment.unlink()
    longshore.ok("restore")


@pytest.mark.parametrize("place", ["lib", "run"])
def test_state_with_files_of_other_programs_is_left_as_it_is(tmp_path: Path, place: str) -> None:
    """With `/` for the state, these would be the /lib and /run of the machine."""
    other = tmp_path / "root" / place / "systemd"
    other.mkdir(parents=True)
    other.parent.chmod(0o755)
    with pytest.raises(StoreError, match="it holds other files \\(`systemd`\\)") as caught:
        Store.at(tmp_path / "root").open()
    assert caught.value.hint == "use an empty directory, or one that does not exist yet"
    assert stat.S_IMODE(other.parent.stat().st_mode) == 0o755
    assert sorted(path.name for path in (tmp_path / "root").rglob("*")) == sorted([place, "systemd"])


@pytest.mark.parametrize("left", ["lib/journal", "lib/boot", "run/leases", "run/lock"])
def test_a_store_that_was_made_halfway_is_completed(tmp_path: Path, left: str) -> None:
    path = tmp_path / "root" / left
    path.mkdir(parents=True)
    if path.name in ("boot", "lock"):
        path.rmdir()
        path.touch()
    store = Store.at(tmp_path / "root")
    store.open()
    assert store.id


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("umask", [0o777, 0o177])
def test_umask_of_the_caller_takes_no_rights_of_the_engine(tmp_path: Path, runtime: str, umask: int) -> None:
    state = tmp_path / "a" / "state"
    longshore = Longshore(state, runtime)
    before = os.umask(umask)
    try:
        assert longshore.ok("run", "host", "--", "sh", "-c", "umask").strip() == "0022"
    finally:
        os.umask(before)
    for path in [state.parent, *state.rglob("*")]:
        if "views" not in path.parts:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_a_signal_that_the_kernel_refuses_is_a_typed_error(state: Path) -> None:
    program = """
import asyncio, longshore, sys
async def main():
    async with longshore.Engine(state=sys.argv[1]) as engine:
        box = await engine.get("box")
        for call in (box.kill, lambda: box.stop(grace=1), lambda: box.signal("TERM")):
            try:
                await call()
            except longshore.ServiceError as error:
                print(error.container_id, error.detail)
asyncio.run(main())
"""
    async with Engine(state=state) as engine:
        box = await engine.launch("box", root="host", args=["sleep", "600"])
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", sys.executable, "-c", program, str(state)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.stdout == "box the kernel does not permit it\n" * 3, done.stderr
        assert (await box.info()).state == "running"
        await box.delete(force=True)


async def test_version_of_a_runtime_is_known_from_its_probe(state: Path) -> None:
    async with Engine(state=state, runtime="runc") as engine:
        await engine.run("host", ["true"])
    path = choice.find("runc")
    assert path is not None
    assert choice.known_version(path, state / "lib" / "probe.json").startswith("1.")
