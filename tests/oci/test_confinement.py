"""What the default container cannot do, tried from inside."""

from __future__ import annotations

import pytest

from longshore.engine.engine import Engine

pytestmark = pytest.mark.real

TRY = """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
def tell(name, action):
    try:
        action()
    except OSError:
        print(name, "refused")
    else:
        print(name, "works")
def unshare(flags):
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "")
tell("a user namespace", lambda: unshare(0x10000000))
tell("a vsock socket", lambda: socket.socket(40, socket.SOCK_STREAM))
tell("an internet socket", lambda: socket.socket())
tell("a unix socket", lambda: socket.socket(socket.AF_UNIX))
tell("a netlink socket", lambda: socket.socket(16, socket.SOCK_RAW, 0))
tell("a packet socket", lambda: socket.socket(17, socket.SOCK_RAW, 0))
tell("a descriptor table of its own", lambda: unshare(0x400))
"""


async def test_no_namespaces_and_no_sockets_that_no_namespace_holds(engine: Engine) -> None:
    done = await engine.run("host", ["python3", "-c", TRY])
    assert done.text.splitlines() == [
        "a user namespace refused",
        "a vsock socket refused",
        "an internet socket works",
        "a unix socket works",
        "a netlink socket works",
        "a packet socket refused",
        "a descriptor table of its own works",
    ], done.error_text


async def test_threads_and_processes_start_all_the_same(engine: Engine) -> None:
    program = "import threading, subprocess; t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()"
    done = await engine.run("host", ["python3", "-c", program + "; subprocess.run(['echo', 'process'])"])
    assert sorted(done.text.split()) == ["process", "thread"], done.error_text


async def test_a_fork_bomb_meets_a_limit_that_nobody_had_to_ask_for(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    assert (await box.stats()).pids_limit == 2048
    unlimited = await engine.launch("other", root="host", args=["sleep", "infinity"], owner="remove", pids=-1)
    assert (await unlimited.stats()).pids_limit is None
