"""Checkpoints on real containers, where CRIU works (scripts/vm makes such a machine); and their refusal elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.errors import CheckpointExists, CheckpointNotFound, InvalidState, NotSupported
from longshore.exit_record import Cause

pytestmark = pytest.mark.real

COUNT = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo $i >/tmp/count; sleep 0.2; done"]


async def test_a_machine_that_cannot_says_why_before_anything_is_touched(engine: Engine) -> None:
    feature = (await engine.features()).items["checkpoint"]
    if feature.supported:
        pytest.skip("this machine can")
    box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
    with pytest.raises(NotSupported) as caught:
        await box.checkpoint("one")
    assert caught.value.reason == feature.reason != ""
    assert (await box.info()).state == "running"
    assert await box.checkpoints() == []
    with pytest.raises(NotSupported):
        await engine.import_checkpoint("/nowhere.tar")


async def numbers(box: Container) -> list[int]:
    return [int(line) for record in [each async for each in box.logs()] for line in record.data.split()]  # type: ignore[union-attr]


async def counted_to(box: Container, number: int) -> None:
    async for record in box.logs(follow=True):
        if int(record.data) >= number:  # type: ignore[union-attr]
            return


@pytest_asyncio.fixture(params=["crun", "runc"])
async def able(request: pytest.FixtureRequest, state: Path) -> AsyncIterator[Engine]:
    """An engine that can make checkpoints; a machine under emulation takes its time."""
    async with asyncio.timeout(280), Engine(state=state, runtime=request.param) as made:
        feature = (await made.features()).items["checkpoint"]
        if not feature.supported:
            pytest.skip(feature.reason)
        yield made


@pytest.mark.modern
async def test_a_counting_process_goes_on_from_where_it_was(able: Engine) -> None:
    box = await able.launch("box", root="host", args=COUNT, init=True)
    await counted_to(box, 3)
    made = await box.checkpoint("one")
    assert (await box.wait()).cause is Cause.CHECKPOINTED
    assert [info.name for info in await box.checkpoints()] == ["one"] == [made.name]
    before = await numbers(box)
    init = await box.start(checkpoint="one")
    await counted_to(box, before[-1] + 3)
    assert (await numbers(box)) == list(range(1, len(await numbers(box)) + 1))  # none lost, none doubled
    assert int((await box.run(["cat", "/tmp/count"])).stdout) > before[-1]
    await box.signal("KILL")
    assert (await init.wait()).signal == 9
    told = [(event.type, event.uid) async for event in able.events(since=0, follow=False)]  # type: ignore[union-attr]
    first, second = told[0][1], told[-1][1]
    assert [kind for kind, uid in told if uid == first] == ["start-container", "checkpoint", "exit"]
    assert [kind for kind, uid in told if uid == second != first] == ["start-container", "exit-process", "exit"]
    await box.delete()


@pytest.mark.modern
async def test_one_that_is_left_running_runs_on_and_can_be_set_back(able: Engine) -> None:
    box = await able.launch("box", root="host", args=COUNT)
    await counted_to(box, 3)
    await box.checkpoint("early", leave_running=True)
    at = (await numbers(box))[-1]
    assert (await box.info()).state == "running"
    await counted_to(box, at + 10)
    with pytest.raises(CheckpointExists):
        await box.checkpoint("early")
    with pytest.raises(InvalidState):
        await box.start(checkpoint="early")
    await box.stop(grace=0)
    length = len(await numbers(box))
    await box.start(checkpoint="early")
    await counted_to_again(box, length)
    assert (await numbers(box))[length] <= at + 2  # what it wrote to its root since is undone, too
    await box.stop(grace=0)
    await box.delete_checkpoint("early")
    with pytest.raises(CheckpointNotFound):
        await box.start(checkpoint="early")
    await box.delete()


async def counted_to_again(box: Container, length: int) -> None:
    async for _ in box.logs(follow=True):
        length -= 1
        if length < 0:
            return


@pytest.mark.modern
async def test_an_archive_goes_on_in_a_fresh_store_under_another_name(able: Engine, tmp_path: Path) -> None:
    box = await able.launch("box", root="host", args=COUNT, stdin=PIPE, memory="256m")
    await counted_to(box, 3)
    await box.checkpoint("one")
    at = (await numbers(box))[-1]
    await box.export_checkpoint("one", tmp_path / "box.tar")
    await box.delete()
    async with Engine(state=tmp_path / "fresh", runtime=(await able._state.service.runtime()).path) as other:  # type: ignore[attr-defined]
        taken = await other.import_checkpoint(tmp_path / "box.tar", "another")
        info = await taken.info()
        assert (info.state, info.exit and info.exit.cause) == ("stopped", Cause.CHECKPOINTED)
        await taken.start(checkpoint="one")
        await counted_to(taken, at + 2)
        assert (await numbers(taken))[0] == at + 1
        assert (await taken.stats()).memory_limit == 256 << 20, "it is in a cgroup of its own"
        await taken.delete(force=True)


OWNER = """
import asyncio, sys
from longshore import Engine
async def main():
    async with Engine(state=sys.argv[1], runtime=sys.argv[2]) as engine:
        box = await engine.get("box")
        print("begun", flush=True)
        await (box.checkpoint("two") if sys.argv[3] == "checkpoint" else box.start(checkpoint="one"))
asyncio.run(main())
"""


@pytest.mark.parametrize("able", [pytest.param("crun", marks=pytest.mark.modern), "runc"], indirect=True)
@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
async def test_an_owner_killed_in_the_middle_leaves_nothing_half(able: Engine, state: Path, verb: str) -> None:
    box = await able.launch("box", root="host", args=COUNT)
    await counted_to(box, 3)
    await box.checkpoint("one", leave_running=verb == "checkpoint")
    runtime = os.path.basename((await able._state.service.runtime()).path)  # type: ignore[attr-defined]
    for wait in (0.5, 2.0, 4.0):
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(state), runtime, verb], stdout=subprocess.PIPE, text=True
        )
        assert owner.stdout is not None
        assert await asyncio.to_thread(owner.stdout.readline) == "begun\n"
        await asyncio.sleep(wait)  # any moment will do
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
        async with asyncio.timeout(300):
            while list((state / "run" / "leases").iterdir()) != [able._state.lease.directory]:  # type: ignore[union-attr]
                await asyncio.sleep(0.1)  # the keeper tells nobody that it is done
        again = await able.get("box")
        now = (await again.info()).state
        whole = {info.name for info in await again.checkpoints()}
        assert not list((state / "lib" / "containers" / "box" / "checkpoints").glob(".*"))
        assert not (state / "lib" / "containers" / "box" / "restoring").exists()
        if verb == "checkpoint":
            assert (now, whole) in (("running", {"one"}), ("running", {"one", "two"}), ("stopped", {"one", "two"}))
            if "two" in whole:
                break
        else:
            assert now in ("running", "stopped")
            if now == "running":
                break
    box = await able.get("box")
    if (await box.info()).state == "stopped":
        await box.start(checkpoint="one")
    await box.delete(force=True)
