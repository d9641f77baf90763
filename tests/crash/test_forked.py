"""A child that a program forks amid an operation: it has none of its parent's locks, and undoes nothing of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.compute.limits import Limits
from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound
from longshore.store.state_directory import Store

from ..conftest import wait_for_nothing_left
from .victims import kill

pytestmark = pytest.mark.real

PROGRAM = """
import asyncio, os, signal, sys
from longshore import Engine
from longshore.errors import ContainerNotFound

async def amid(engine, verb):
    "Begin a verb, and return in the middle of it."
    entry = lambda: engine._state.store.container_dir("box")
    if verb == "create":
        task = asyncio.create_task(engine.create("box", root="host", args=["sleep", "1000"]))
        while not os.path.exists(sys.argv[1] + "/run/containers/box/bundle"):
            await asyncio.sleep(0)
    elif verb == "start":
        box = await engine.create("box", root="host", args=["sleep", "1000"])
        task = asyncio.create_task(box.start())
        while not entry().read().starting_at:
            await asyncio.sleep(0)
    elif verb == "delete":
        box = await engine.launch("box", root="host", args=["sleep", "1000"])
        task = asyncio.create_task(box.delete(force=True))
        while not entry().is_claimed("delete"):
            await asyncio.sleep(0)
    return task

async def main():
    {body}

asyncio.run(main())
"""


def program(state: Path, runtime: str, body: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{body}", body), str(state), runtime, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )


LIVES_ON = """
    engine = await Engine(state=sys.argv[1], runtime=sys.argv[2]).__aenter__()
    await amid(engine, sys.argv[3])
    child = os.fork()
    if child == 0:
        os.close(1)
        signal.alarm(300)
        while True:
            signal.pause()
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("verb", ["create", "start", "delete"])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_who_comes_next_can_go_on_though_a_child_of_the_dead_owner_lives_on(
    state: Path, runtime: str, verb: str
) -> None:
    owner = program(state, runtime, LIVES_ON, verb)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    store = Store.at(state)

    async def look() -> list[str]:
        async with asyncio.timeout(300), Engine(state=state, runtime=runtime, limits=Limits(end=10)) as engine:
            while store.names(store.leases):
                await asyncio.sleep(0.02)  # the keeper tells nobody that it is done
            await engine.restore()
            states = [info.state for info in await engine.list()]
            try:
                await (await engine.get("box")).delete(force=True)
            except ContainerNotFound:
                assert verb != "start"
            await engine.run("host", ["true"], name="box")
            return states

    try:
        owner.wait()
        states = asyncio.run(look())
        if verb == "create":
            assert states == []
        elif verb == "start":
            assert states == ["stopped"]
        os.kill(child, 0)  # it lives, and that was not what gave the container free
    finally:
        kill(child)
        owner.communicate()


UNWINDS = """
    async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        task = await amid(engine, sys.argv[3])
        child = os.fork()
        if child == 0:
            sys.exit(7)
        os.waitpid(child, 0)
        await task
        if sys.argv[3] != "delete":
            box = await engine.get("box")
            print((await box.info()).state, (await box.info()).exit)
            if sys.argv[3] == "create":
                await box.start()
            await box.kill()
            print((await box.wait()).cause)
            await box.delete()
        print(len(await engine.list()), flush=True)
"""


@pytest.mark.parametrize("verb", ["create", "start", "delete"])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_child_that_unwinds_leaves_what_its_parent_is_at(state: Path, runtime: str, verb: str) -> None:
    with program(state, runtime, UNWINDS, verb) as owner:
        try:
            out, _ = owner.communicate(timeout=300)
        finally:
            owner.kill()
    found = {"create": "created None\nkilled\n0\n", "start": "running None\nkilled\n0\n", "delete": "0\n"}
    assert (out, owner.returncode) == (found[verb], 0)
    assert wait_for_nothing_left(state) == []
