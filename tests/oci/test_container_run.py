"""`Container.run` on real containers."""

from __future__ import annotations

import asyncio

import pytest

from longshore import sync
from longshore.engine.engine import Engine
from longshore.errors import CommandFailed, TimeLimit

from ..pace import LONGER

pytestmark = pytest.mark.real


@pytest.mark.modern
async def test_a_further_command_is_run_to_its_end_and_killed_when_it_may_not_go_on(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    done = await box.run(["sh", "-c", "cat; echo $A >&2; pwd >&2"], input=b"in", env={"A": "b"}, cwd="/tmp")
    assert (done.exit_code, done.stdout, done.stderr) == (0, b"in", b"b\n/tmp\n")
    with pytest.raises(CommandFailed, match=r"(?m)exit code 4 \(exited\): no good$"):
        await box.run(["sh", "-c", "echo no good >&2; exit 4"], check=True)
    for seconds in LONGER:
        with pytest.raises(TimeLimit) as caught:
            await box.run(["sh", "-c", "echo begun; sleep 600"], timeout=seconds)
        assert caught.value.result is not None
        said = caught.value.result.stdout
        if said:
            break
    assert said == b"begun\n"
    task = asyncio.create_task(box.run(["sleep", "1000"]))
    while len(await box.pids()) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await box.pids()) == 1


def test_the_blocking_twin_runs_a_further_command_too(state: object) -> None:
    with sync.Engine(state=str(state)) as engine:
        box = engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
        assert box.run(["cat"], input=b"in").text == "in"
