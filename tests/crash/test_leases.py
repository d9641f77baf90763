"""Leases whose keeper could not do its work, or not all of it: the next program that opens the store does the rest."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import longshore
from longshore.compute.events import Event
from longshore.engine.engine import Engine
from longshore.oci.cgroups.hierarchies import hierarchies

from ..conftest import wait_for_nothing_left
from ..leftovers import cgroups, store_id
from .victims import kill

pytestmark = pytest.mark.real

MOMENTS = 15.0  # seconds; the engine stops after 5, and a loaded machine adds its part

OWNER = """
import asyncio, os, signal, sys
from longshore import Engine

async def main():
    async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        {body}
        print("ready", engine._state.lease.keeper_pid, flush=True)
        await asyncio.sleep(1000)

{before}
asyncio.run(main())
"""


class Owner:
    """A program with containers of its own, and its keeper."""

    def __init__(
        self, state: Path, runtime: str, body: str, *, before: str = "", python: str = sys.executable, **env: str
    ) -> None:
        program = OWNER.format(body="\n        ".join(body.strip().splitlines()), before=before)
        self.process = subprocess.Popen(
            [python, "-c", program, str(state), runtime],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        word, _, keeper = self.process.stdout.readline().partition(" ")
        assert word == "ready"
        self.keeper = int(keeper)

    def die(self) -> None:
        """By SIGKILL; its keeper comes to its work."""
        self.process.kill()
        self.process.communicate()

    def die_with_keeper(self) -> None:
        """Both at once: the keeper can neither work nor be replaced."""
        os.kill(self.keeper, signal.SIGSTOP)
        self.die()
        kill(self.keeper)


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def wait_until_gone(pid: int, limit: float = 60.0) -> None:
    """Return when a process that is no child of ours has ended, also if nobody reaps it."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX":
                return
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} did not end")


def look(state: Path, runtime: str) -> tuple[dict[str, str], float]:
    """What the next program finds, as state by id, and the seconds that it took; then it deletes all of it."""

    async def look() -> tuple[dict[str, str], float]:
        begin = time.monotonic()
        async with Engine(state=state, runtime=runtime) as engine:
            states = {info.id: info.state for info in await engine.list()}
            seconds = time.monotonic() - begin
            for id in states:
                await (await engine.get(id)).delete(force=True)
        return states, seconds

    return asyncio.run(look())


def ends(state: Path) -> list[tuple[str, str]]:
    """Every end that was published: container and process."""

    async def read() -> list[tuple[str, str]]:
        async with Engine(state=state) as engine:
            found = [event async for event in engine.events(since=0, follow=False)]
        ended = [event for event in found if isinstance(event, Event) and event.exit is not None]
        return [(event.container, event.process or "init") for event in ended]

    return asyncio.run(read())


# paused


PAUSED = """
for number in range({count}):
    box = await engine.launch(f"mine-{number}", root="host", args=["sleep", "1000"], owner="remove")
    await box.pause()
stopped = await engine.launch("stopped", root="host", args=["sleep", "1001"], owner="stop")
await stopped.pause()
kept = await engine.launch("kept", root="host", args=["sleep", "1002"])
await kept.exec(["sleep", "1003"], name="job")
await kept.pause()
""".replace("{count}", "3")


@pytest.mark.parametrize("by", ["the next program", "the keeper"])
def test_paused_containers_of_a_dead_owner_end_at_once(state: Path, runtime: str, by: str) -> None:
    owner = Owner(state, runtime, PAUSED)
    if by == "the keeper":
        owner.die()
        wait_until_gone(owner.keeper)
    else:
        owner.die_with_keeper()
    found, seconds = look(state, runtime)
    assert found == {"stopped": "stopped", "kept": "paused"}
    assert seconds < MOMENTS
    assert {("stopped", "init"), ("kept", "job"), ("mine-2", "init")} <= set(ends(state))
    assert wait_for_nothing_left(state) == []


def frozen_below(state: Path) -> Iterator[Path]:
    """Make a group in each container of a lease, and freeze it: as a container does that may make groups."""
    base = hierarchies().get("freezer")
    assert base is not None
    for box in (base / "longshore").glob(f"{store_id(state)}.*/*/box"):
        nested = box / "nested"
        nested.mkdir()
        (nested / "cgroup.procs").write_text((box / "cgroup.procs").read_text().split()[0])
        (nested / "freezer.state").write_text("FROZEN")
        yield nested


@pytest.mark.skipif("freezer" not in hierarchies(), reason="version 2 kills what is frozen")
def test_groups_frozen_below_a_container_are_thawed_to_die(state: Path, runtime: str) -> None:
    owner = Owner(state, runtime, 'await engine.launch("mine", root="host", args=["sleep", "1000"], owner="remove")')
    frozen = list(frozen_below(state))
    assert frozen
    owner.die_with_keeper()
    found, seconds = look(state, runtime)
    assert found == {}
    assert seconds < MOMENTS
    assert wait_for_nothing_left(state) == []


@pytest.mark.skipif("freezer" not in hierarchies(), reason="version 2 kills without freezing")
def test_a_program_stopped_amid_a_freeze_delays_nobody_for_long(state: Path) -> None:
    """It has the lock of all who freeze the container, and never comes to its end."""
    owner = Owner(state, "crun", MINE)
    locks = []
    try:
        for box in (hierarchies()["freezer"] / "longshore").glob(f"{store_id(state)}.*/**/box"):
            locks.append(os.open(box, os.O_RDONLY | os.O_DIRECTORY))
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert len(locks) == 3
        owner.die_with_keeper()
        found, seconds = look(state, "crun")
    finally:
        for lock in locks:
            os.close(lock)
    assert found == {"stopped": "stopped", "kept": "running"}
    assert seconds < MOMENTS
    assert {("mine", "init"), ("kept", "job")} <= set(ends(state))
    assert wait_for_nothing_left(state) == []


def test_a_paused_container_is_paused_again_though_its_exec_stays_a_zombie(state: Path, runtime: str) -> None:
    """The exec's runtime is dead, and the container's init waits for nobody."""
    owner = Owner(state, runtime, PAUSED + KILL_RUNTIMES)
    owner.die()
    wait_until_gone(owner.keeper)
    found, _ = look(state, runtime)
    assert found == {"stopped": "stopped", "kept": "paused"}
    assert wait_for_nothing_left(state) == []


KILL_RUNTIMES = """
for child in open(f"/proc/self/task/{os.getpid()}/children").read().split():
    os.kill(int(child), signal.SIGKILL)
"""


# a keeper that cannot close


MINE = """
await engine.launch("mine", root="host", args=["sleep", "1000"], owner="remove")
await engine.launch("stopped", root="host", args=["sleep", "1001"], owner="stop")
kept = await engine.launch("kept", root="host", args=["sleep", "1002"])
await kept.exec(["sleep", "1003"], name="job")
"""

NO_PYTHON = {
    "none": 'sys.executable = ""',
    "the program itself": 'sys.executable = "/bin/true"; sys.base_exec_prefix = "/nonexistent"',
    "frozen": 'sys.frozen = True; sys.executable = "/bin/true"',
    "gone": 'sys.executable = "/nonexistent/python3"; sys.base_exec_prefix = "/nonexistent"',
}


@pytest.mark.parametrize("why", NO_PYTHON)
def test_a_lease_that_a_keeper_cannot_close_is_closed_by_the_next(state: Path, why: str) -> None:
    owner = Owner(state, "crun", MINE, before=NO_PYTHON[why] + '; sys.base_exec_prefix = "/nonexistent"')
    owner.die()
    wait_until_gone(owner.keeper)
    assert len(list((state / "run" / "leases").iterdir())) == 1
    _check_closed(state)


def _check_closed(state: Path) -> None:
    found, _ = look(state, "crun")
    assert found == {"stopped": "stopped", "kept": "running"}
    assert {("mine", "init"), ("stopped", "init"), ("kept", "job")} <= set(ends(state))
    assert list((state / "run" / "leases").iterdir()) == []
    assert wait_for_nothing_left(state) == []


def test_a_lease_of_a_removed_environment_is_closed_by_the_next(state: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    path = os.pathsep.join([str(Path(longshore.__file__).parents[1]), *sys.path])
    before = 'sys.base_exec_prefix = "/nonexistent"'
    owner = Owner(state, "crun", MINE, before=before, python=str(home / "bin" / "python"), PYTHONPATH=path)
    shutil.rmtree(home)
    owner.die()
    wait_until_gone(owner.keeper)
    assert len(list((state / "run" / "leases").iterdir())) == 1
    _check_closed(state)


def test_two_programs_close_one_lease_and_publish_each_end_once(state: Path) -> None:
    owner = Owner(state, "crun", MINE, before=NO_PYTHON["none"] + '; sys.base_exec_prefix = "/nonexistent"')
    owner.die_with_keeper()
    command = [str(Path(sys.executable).with_name("longshore")), "restore"]
    both = [subprocess.Popen(command, env={**os.environ, "LONGSHORE_ROOT": str(state)}) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    published = ends(state)
    assert sorted(set(published)) == sorted(published)
    _check_closed(state)


# a lease that cannot be closed yet


def test_a_lease_stays_while_an_end_in_it_cannot_be_recorded(state: Path) -> None:
    owner = Owner(state, "crun", MINE)
    owner.die_with_keeper()
    home = state / "lib" / "containers" / "stopped"
    assert home.is_dir()
    subprocess.run(["mount", "--bind", str(home), str(home)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(home)], check=True)
    try:

        async def see() -> None:
            async with Engine(state=state, runtime="crun"):
                pass

        asyncio.run(see())
        assert len(list((state / "run" / "leases").iterdir())) == 1
    finally:
        subprocess.run(["umount", str(home)], check=True)
    _check_closed(state)


# what a host may do to its keeper


HOW = {
    "its children": "victims = children(os.getpid())",
    "its descendants, again and again": """
victims = set()
for _ in range(50):
    victims |= set(descendants(os.getpid()))
""",
    "its process group and session": "victims = members()",
}

HOST = """
def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += map(int, file.read().split())
    return found

def descendants(pid):
    for child in children(pid):
        yield child
        try:
            yield from descendants(child)
        except OSError:
            pass

def members():
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.getsid(int(name)) == os.getsid(0) or os.getpgid(int(name)) == os.getpgid(0):
                    found.append(int(name))
            except OSError:
                pass
    return found

def die():
    {how}
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os.kill(os.getpid(), signal.SIGKILL)
"""

SUBREAPER = "import ctypes; assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0"

RUNS = """
run = asyncio.create_task(engine.run("host", ["sleep", "1000"]))
await engine.launch("mine", root="host", args=["sleep", "1001"], owner="remove")
kept = await engine.launch("kept", root="host", args=["sleep", "1002"])
await kept.exec(["sleep", "1003"], name="job")
while not [info for info in await engine.list() if info.id.startswith("run-") and info.state == "running"]:
    await asyncio.sleep(0.01)
asyncio.get_running_loop().call_later(0.3, die)
"""


@pytest.mark.parametrize("host", ["plain", "subreaper"])
@pytest.mark.parametrize("how", HOW)
def test_a_host_that_kills_what_it_has_and_itself_leaves_nothing(
    state: Path, runtime: str, how: str, host: str
) -> None:
    before = HOST.replace("{how}", HOW[how].strip().replace("\n", "\n    "))
    if host == "subreaper":
        before += SUBREAPER
    owner = Owner(state, runtime, RUNS, before=before)
    owner.process.communicate()
    wait_until_gone(owner.keeper)  # it has done its work: nobody has opened the store meanwhile
    assert [line for line in cgroups(state) if ".kept." not in line] == []
    assert list((state / "run" / "leases").iterdir()) == []
    found, _ = look(state, runtime)
    assert set(found) == {"kept"}
    if host == "plain" or "descendants" not in how:  # monitors descend from a subreaper, so it kills what they keep
        assert found == {"kept": "running"}
    assert wait_for_nothing_left(state) == []


@pytest.mark.parametrize("host", ["plain", "subreaper"])
def test_a_keeper_is_no_child_of_its_owner(state: Path, host: str) -> None:
    owner = Owner(
        state,
        "crun",
        'await engine.run("host", ["true"])',
        before=SUBREAPER if host == "subreaper" else "",
    )
    fields = Path(f"/proc/{owner.keeper}/stat").read_text().rpartition(") ")[2].split()
    parent, session = int(fields[1]), int(fields[3])
    assert parent != owner.process.pid
    assert session != os.getsid(owner.process.pid)
    owner.die()
    wait_until_gone(owner.keeper)
    assert wait_for_nothing_left(state) == []


# where the state is


@pytest.mark.parametrize("place", ["the root itself", "a folder above it", "a bind mount"])
def test_a_lease_ends_with_state_behind_a_link(state: Path, runtime: str, place: str, tmp_path: Path) -> None:
    """A keeper that is stopped is found by the lock that it has, whatever path that was opened by."""
    link = tmp_path / "link"
    if place == "the root itself":
        link.symlink_to(state)
        root = link
    elif place == "a folder above it":
        link.symlink_to(state.parent)
        root = link / state.name
    else:
        link.mkdir()
        subprocess.run(["mount", "--bind", str(state), str(link)], check=True)
        root = link
    try:
        owner = Owner(root, runtime, MINE)
        os.kill(owner.keeper, signal.SIGSTOP)
        owner.die()
        found, seconds = look(state if place == "a bind mount" else root, runtime)
        assert found == {"stopped": "stopped", "kept": "running"}
        assert seconds < MOMENTS
        wait_until_gone(owner.keeper)
    finally:
        if place == "a bind mount":
            subprocess.run(["umount", str(link)], check=True)
    assert wait_for_nothing_left(state) == []


def test_a_stopped_runtime_of_a_dead_owner_is_found_behind_a_link(state: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(state)
    stop = """
kept = await engine.launch("kept", root="host", args=["sleep", "1002"])
await kept.exec(["sleep", "1003"], name="job")
for child in open(f"/proc/self/task/{os.getpid()}/children").read().split():
    os.kill(int(child), signal.SIGSTOP)
"""
    owner = Owner(link, "crun", stop)
    owner.die()
    wait_until_gone(owner.keeper, MOMENTS)
    found, _ = look(link, "crun")
    assert found == {"kept": "running"}
    assert wait_for_nothing_left(state) == []
