"""A program that cannot see the processes of a container changes nothing: other namespaces, another boot, no /proc."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longshore.compute.events import Event
from longshore.engine.engine import Engine
from longshore.exit_record import Cause
from longshore.machine import linux_viewpoint
from longshore.machine.linux_viewpoint import LOOK_AGAIN

from ..cli.command import ARGV, Longshore

pytestmark = [pytest.mark.real, pytest.mark.modern]

BOOT_ID = "/proc/sys/kernel/random/boot_id"
HOST_NAME = "/proc/sys/kernel/hostname"
FROM = {
    "another pid namespace": (["unshare", "--pid", "--fork", "--mount-proc"], ""),
    "another pid namespace with this /proc": (["unshare", "--pid", "--fork"], ""),
    "another time namespace": (["unshare", "--time", "--boottime", "5000", "--fork"], ""),
    "no /proc": (["unshare", "--mount"], "umount --lazy /proc"),
    "an empty /proc": (["unshare", "--mount"], "mount -t tmpfs none /proc"),
    "another boot id": (["unshare", "--mount"], f"echo 1-2-3 >$T/id; mount --bind $T/id {BOOT_ID}"),
    "a boot id of another file": (["unshare", "--mount"], f"mount --bind /proc/sys/kernel/random/uuid {BOOT_ID}"),
    "a boot id of another file of the kernel": (
        ["unshare", "--mount", "--uts"],
        f"echo 01234567-89ab-cdef-0123-456789abcdef >$NAME; mount --bind $NAME {BOOT_ID}",
    ),
    "no boot id": (["unshare", "--mount"], "mount -t tmpfs none /proc/sys/kernel/random"),
    "a /proc that hides processes": (
        ["unshare", "--mount"],
        "mount -t proc -o hidepid=2,gid=12345 none /proc; drop='setpriv --bounding-set -sys_ptrace'",
    ),
}
"""Where a program may be that has the same store: what starts it, and what is done there first."""

Elsewhere = Callable[..., "subprocess.CompletedProcess[str]"]

LOOK = """
import asyncio, json, sys
from longshore import Engine
from longshore.errors import LongshoreError, NotVisible

async def attempt(verb):
    try:
        return repr(await verb)
    except NotVisible as error:
        return "hidden" if error.hint and "cannot be seen from here" in str(error) else repr(error)
    except LongshoreError as error:
        return repr(error)

async def main():
    async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        box, made, ended = [await engine.get(id) for id in ("box", "made", "ended")]
        said = {
            "list": [(info.id, info.state, info.exit is None) for info in await engine.list()],
            "info": (await box.info()).state,
            "inspect": (await box.inspect())["state"],
            "restore": sorted((await engine.restore()).hidden),
            "events": [event.type async for event in engine.events(since=0, follow=False)],
            "code": (await ended.wait()).code,
        }
        verbs = {
            "wait": box.wait(), "stats": box.stats(), "top": box.top(), "pids": box.pids(),
            "exec": box.exec(["true"]), "kill": box.kill(), "signal": box.signal(15), "stop": box.stop(grace=0),
            "pause": box.pause(), "resume": box.resume(), "update": box.update(memory="64m"),
            "delete": box.delete(), "force": box.delete(force=True), "start": made.start(),
            "delete made": made.delete(), "force made": made.delete(force=True), "kill made": made.kill(),
            "delete ended": ended.delete(), "process": box.process("init"), "resize": box.resize(10, 10),
        }
        said["verbs"] = {name: await attempt(verb) for name, verb in verbs.items()}
        print(json.dumps(said))

asyncio.run(main())
"""


@pytest.fixture(params=FROM)
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Elsewhere:
    """A program, run there."""
    command, before = FROM[request.param]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        script = f'set -e; drop=; {before or ":"}; exec $drop "$@"'
        return subprocess.run(
            [*command, "sh", "-c", script, "sh", *words],
            env={**os.environ, "T": str(tmp_path), "NAME": HOST_NAME, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


async def history(engine: Engine) -> list[Event]:
    return [event async for event in engine.events(since=0, follow=False) if isinstance(event, Event)]


async def test_look_from_elsewhere_changes_nothing(engine: Engine, state: Path, elsewhere: Elsewhere) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "600"])
    await engine.create("made", root="host", args=["true"])
    ended = await engine.launch("ended", root="host", args=["sh", "-c", "exit 3"])
    assert (await ended.wait()).code == 3
    before = await history(engine)
    looked = elsewhere(sys.executable, "-c", LOOK, str(state), "crun")
    assert looked.returncode == 0, looked.stderr
    said = json.loads(looked.stdout)
    assert {verb: found for verb, found in said.pop("verbs").items() if found != "hidden"} == {}
    assert said == {
        "list": [["box", "hidden", True], ["made", "hidden", True], ["ended", "stopped", False]],
        "info": "hidden",
        "inspect": "hidden",
        "restore": ["box", "ended", "made"],
        "events": [event.type for event in before],
        "code": 3,
    }
    assert await history(engine) == before
    assert [info.state for info in await engine.list()] == ["running", "created", "stopped"]
    assert (await (await box.exec(["true"])).wait()).code == 0
    for id in ("box", "made", "ended"):
        await (await engine.get(id)).delete(force=True)


def test_command_line_says_that_it_cannot_see(state: Path) -> None:
    longshore = Longshore(state, "crun")
    longshore.ok("run", "-d", "--name", "box", "host", "--", "sleep", "600")
    for words, expected in (
        (["ps"], (0, "box hidden")),
        (["kill", "box"], (125, "cannot kill container `box`: its processes cannot be seen from here")),
        (["rm", "-f", "box"], (125, "cannot delete container `box`: its processes cannot be seen from here")),
        (["exec", "box", "true"], (125, "cannot exec in container `box`: its processes cannot be seen from here")),
    ):
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", *ARGV, *words],
            env=longshore.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == expected[0], done
        assert expected[1] in " ".join((done.stdout + done.stderr).split()), done
    longshore.ok("rm", "-f", "box")


OTHER_GROUPS = {
    "none": "umount --lazy /sys/fs/cgroup",
    "an empty file system": "mount -t tmpfs none /sys/fs/cgroup",
}
"""What a program may have at /sys/fs/cgroup where it does not see the control group of a container."""


@pytest.mark.parametrize("groups", OTHER_GROUPS)
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_container_whose_control_group_is_not_seen_stays_as_it_is(state: Path, runtime: str, groups: str) -> None:
    longshore = Longshore(state, runtime)
    longshore.ok("run", "-d", "--name", "box", "host", "--", "sleep", "600")
    longshore.ok("pause", "box")
    for words, expected in (
        (["ps"], (0, "box hidden")),
        (["restore"], (0, "")),
        (["resume", "box"], (125, "its control group is not below /sys/fs/cgroup here")),
        (["kill", "box"], (125, "its control group is not below /sys/fs/cgroup here")),
        (["rm", "-f", "box"], (125, "its control group is not below /sys/fs/cgroup here")),
    ):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'set -e; {OTHER_GROUPS[groups]}; exec "$@"', "sh", *ARGV, *words],
            env=longshore.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == expected[0], done
        assert expected[1] in " ".join((done.stdout + done.stderr).split()), done
    [info] = longshore.json("ps", "--format", "json")
    assert info["state"] == "paused"
    longshore.ok("rm", "-f", "box")


OWNER = """
import asyncio, sys
from longshore import Engine
async def main():
    async with Engine(state=sys.argv[1], runtime="crun") as engine:
        box = await engine.launch("box", root="host", args=["sleep", "600"], owner="remove")
        await box.exec(["sleep", "600"])
        print(engine._state.lease.keeper_pid, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


def test_lease_of_a_dead_owner_stays_when_seen_from_elsewhere(state: Path, elsewhere: Elsewhere) -> None:
    """Owner and keeper are dead, so the next program has to end the lease: not one that cannot see its processes."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        keepers = [int(owner.stdout.readline())]
        for pid in [owner.pid, *keepers]:
            os.kill(pid, signal.SIGSTOP)  # both are stopped first: else one would act on the other's death
        for pid in [*keepers, owner.pid]:
            os.kill(pid, signal.SIGKILL)
    finally:
        owner.kill()
        owner.communicate()
    leases = sorted(os.listdir(state / "run" / "leases"))
    assert leases
    pid = int((state / "run" / "containers" / "box" / "pid").read_text())
    looked = elsewhere(*ARGV, "--root", str(state), "ps", "-a")
    assert looked.returncode == 0, looked.stderr
    assert sorted(os.listdir(state / "run" / "leases")) == leases
    assert Path(f"/proc/{pid}/stat").read_text().split()[2] == "S"
    assert Longshore(state, "crun").json("ps", "-a", "--format", "json") == []  # here it is ended, with its lease
    assert not Path(f"/proc/{pid}").exists()


def test_number_that_the_kernel_gives_to_another_namespace_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A number is free once its namespace has ended, and the kernel soon gives it to another one."""
    monkeypatch.setattr(linux_viewpoint, "LOOK_AGAIN", 0.0)
    numbers = []
    for _ in range(200):
        made = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "readlink /proc/self/ns/pid; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert made.stdout is not None
        numbers.append(made.stdout.readline().strip())
        try:
            assert not linux_viewpoint.are_gone(numbers[-1])
        finally:
            made.communicate()
        assert linux_viewpoint.are_gone(numbers[-1])
        if len(set(numbers)) < len(numbers):
            break


INSIDE = """
import asyncio, sys
from longshore import Engine
async def main():
    async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        box = await engine.launch("inside", root="host", args=["sleep", "600"])
        print((await box.info()).state, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_containers_of_a_pid_namespace_are_hidden_until_that_ends(state: Path, runtime: str) -> None:
    """One store, a program in a pid namespace of its own: it sees its containers, and the machine sees them end."""
    inner = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", INSIDE, state, runtime],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert inner.stdout is not None
        assert inner.stdout.readline() == "running\n"
        async with Engine(state=state, runtime=runtime) as engine:
            assert [(info.id, info.state) for info in await engine.list()] == [("inside", "hidden")]
            [first] = Path(f"/proc/{inner.pid}/task/{inner.pid}/children").read_text().split()
            pidfd = os.pidfd_open(int(first))
    finally:
        inner.kill()
        inner.communicate()
    with open(pidfd, "rb", buffering=0):
        assert select.select([pidfd], [], [], 30)[0]  # the namespace ends with its first process
    await asyncio.sleep(LOOK_AGAIN)  # an answer is remembered for that long
    async with Engine(state=state, runtime=runtime) as engine:
        [info] = await engine.list()
        assert info.state == "stopped"
        assert info.exit is not None
        assert (info.exit.code, info.exit.cause) == (None, Cause.SYSTEM_GONE)
        await (await engine.get("inside")).delete()
