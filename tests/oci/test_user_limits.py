"""What the kernel counts for each user, and containers of that user can use up: the engine does without."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from pathlib import Path

import pytest

import longshore
from longshore.engine.engine import Engine

from ..conftest import wait_for_nothing_left

pytestmark = pytest.mark.real

# A filter of this program and all that it starts: inotify_init1(2) fails as it does for a user with no instance left.
# The limit itself is one for all of root's programs on this machine, which others use.
NO_INOTIFY = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 294, "aarch64": 26}[os.uname().machine]
ALLOW, EMFILE = 0x7FFF0000, 0x00050000 | 24
program = b"".join(struct.pack("HBBI", *each) for each in (
    (0x20, 0, 0, 0),            # load the number of the call
    (0x15, 0, 1, number),       # is it this one?
    (0x06, 0, 0, EMFILE),
    (0x06, 0, 0, ALLOW),
))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
assert libc.prctl(22, 2, ctypes.byref(Filter(4, program)), 0, 0) == 0, os.strerror(ctypes.get_errno())
assert libc.inotify_init1(0) == -1 and ctypes.get_errno() == 24
"""

ALL_VERBS = """
import asyncio
import longshore
from longshore import Engine

async def main():
    async with asyncio.timeout(300), Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        seen = []
        async def follow():
            async for event in engine.events(since=0):
                seen.append((event.container, event.type))
        following = asyncio.create_task(follow())
        assert (await engine.run("host", ["echo", "hello"])).text == "hello\\n"
        box = await engine.launch("box", root="host", args=["sh", "-c", "echo begun; read line; echo $line; exit 7"],
                                  stdin=longshore.PIPE)
        logs = box.logs(follow=True)
        assert (await anext(logs)).data == b"begun\\n"
        job = await box.exec(["echo", "there"], stdout=longshore.PIPE)
        assert await job.communicate() == (b"there\\n", b"")
        box.init.stdin.write(b"line\\n")
        exit = await box.wait()
        assert exit.code == 7, exit
        assert [record.data async for record in logs] == [b"line\\n"]
        while ("box", "exit") not in seen:
            await asyncio.sleep(0.01)
        following.cancel()
        await box.delete()
    print("all done")

asyncio.run(main())
"""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_the_engine_works_for_a_user_without_inotify_instances(state: Path, runtime: str) -> None:
    command = [sys.executable, "-c", NO_INOTIFY + ALL_VERBS, str(state), runtime]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "all done\n", done.stderr
    assert done.stderr.count("directories cannot be watched") <= 1
    assert wait_for_nothing_left(state) == []


USES_UP = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
def until_refused(take):
    taken = 0
    while take(taken) >= 0:
        taken += 1
    return taken
def timer(_):
    return libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p()))
def queue(number):
    return libc.mq_open(b"/%d" % number, os.O_CREAT | os.O_RDWR, 0o600, None)
def instance(_):
    return libc.inotify_init1(0)
print(until_refused(timer), until_refused(queue), until_refused(instance), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_what_one_container_uses_up_keeps_no_other_from_its_life(state: Path, runtime: str) -> None:
    """Timers (pending signals), message queues and inotify instances of the user that both run as."""
    async with asyncio.timeout(300), Engine(state=state, runtime=runtime) as engine:
        hungry = await engine.launch(
            "hungry", root="host", args=["python3", "-c", USES_UP], stdout=longshore.PIPE, stderr=longshore.DEVNULL
        )
        assert hungry.init is not None
        assert hungry.init.stdout is not None
        taken = [int(number) for number in (await hungry.init.stdout.readline()).split()]
        assert all(taken)  # and then it was refused more of each
        for other in ("first", "second"):
            box = await engine.launch(other, root="host", args=["sleep", "1000"])
            done = await box.exec(["echo", "there"], stdout=longshore.PIPE)
            assert await done.communicate() == (b"there\n", b"")
            await box.pause()
            await box.resume()
            assert (await box.stop(grace=0)).signal == 9
            await box.delete()
            assert (await engine.run("host", ["sh", "-c", "kill -TERM $$"])).exit.signal == 15
        await hungry.delete(force=True)
    assert wait_for_nothing_left(state) == []


TERMINALS = """
import os
taken = []
try:
    while True:
        taken.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
except OSError as error:
    print(len(taken), error.errno)
"""


@pytest.mark.parametrize("user", [None, "root"])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_a_container_cannot_use_up_the_terminals_of_all(state: Path, runtime: str, user: str | None) -> None:
    async with Engine(state=state, runtime=runtime) as engine:
        done = await engine.run("host", ["python3", "-c", TERMINALS], user=user)
        taken, error = map(int, done.text.split())
        assert error == errno.ENOSPC
        assert 100 < taken <= 256
    assert wait_for_nothing_left(state) == []
