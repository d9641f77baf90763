"""A keeper that cannot be started, or dies at once: an error of the call that needs it, and no loop of starts."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import longshore
from longshore.engine.engine import Engine
from longshore.errors import ServiceError
from longshore.oci.service import OciService
from longshore.store import leases
from longshore.store.keeper import start

from ..conftest import wait_for_nothing_left
from .victims import kill

pytestmark = pytest.mark.real

KEEPERS = {
    "no program": ["/nonexistent/sh", "keeper.sh"],
    "no script": ["/bin/sh", "/nonexistent/keeper.sh"],
    "says nothing": ["/bin/sh", "-c", "exit 3", "keeper.sh"],
    "says what it lacks": ["/bin/sh", "-c", "echo cannot fork >&2; exit 2", "keeper.sh"],
}


@pytest.mark.parametrize("why", KEEPERS)
async def test_a_keeper_that_cannot_start_is_an_error_of_the_call(
    state: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(OciService, "keeper", lambda self, lease, directory: KEEPERS[why])
    async with Engine(state=state) as engine:
        for _ in range(2):
            with pytest.raises(ServiceError, match="keeper") as caught:
                await engine.run("host", ["true"])
            assert caught.value.hint
        with pytest.raises(ServiceError, match="keeper"):
            await engine.launch("box", root="host", args=["sleep", "1000"])
        assert await engine.list() == []
        monkeypatch.undo()
        assert (await engine.run("host", ["echo", "again"])).text == "again\n"
    assert wait_for_nothing_left(state) == []


async def test_keepers_that_die_at_once_are_not_started_without_end(
    state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    live = f"echo $$; echo >>{starts}; exec >/dev/null; sleep 0.2"
    monkeypatch.setattr(OciService, "keeper", lambda self, lease, directory: _short_lived(live))
    async with Engine(state=state) as engine:
        await engine.run("host", ["true"])
        deadline = time.monotonic() + 60
        while _lines(starts) < leases.DEATHS and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await asyncio.sleep(2)  # time in which a loop would start many more
        assert _lines(starts) == leases.DEATHS
        with pytest.raises(ServiceError, match="died within") as caught:
            await engine.run("host", ["true"])
        assert caught.value.hint
        assert _lines(starts) == leases.DEATHS
    assert wait_for_nothing_left(state) == []


def _short_lived(live: str) -> list[str]:
    """What starts a keeper that comes to its place, and dies a moment later."""
    return ["/bin/sh", "-c", 'sh -c "$1" >&1 2>/dev/null </dev/null &', "keeper.sh", live]


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


async def test_a_keeper_that_was_killed_is_replaced_and_does_its_work(state: Path) -> None:
    async with Engine(state=state) as engine:
        await engine.launch("mine", root="host", args=["sleep", "1000"], owner="remove")
        assert engine._state.lease is not None
        first = engine._state.lease.keeper_pid
        assert first is not None
        await asyncio.get_running_loop().run_in_executor(None, kill, first)
        while engine._state.lease.keeper_pid in (first, None):
            await asyncio.sleep(0.01)
        assert (await engine.run("host", ["echo", "still"])).text == "still\n"
    assert wait_for_nothing_left(state) == []


async def test_a_keeper_that_its_living_owner_gave_up_kills_nothing(state: Path) -> None:
    """It was too slow to come to its place, say: its pipe is closed, and its owner has another."""
    async with Engine(state=state) as engine:
        box = await engine.launch("mine", root="host", args=["sleep", "1000"], owner="remove")
        lease = engine._state.lease
        assert lease is not None
        before = lease._pipe
        command = engine._state.service.keeper(lease, lease.directory)
        assert command is not None
        late = await asyncio.to_thread(start, command, lease._owner.fd, lease._note_pipe)
        os.close(lease._pipe)
        lease._note_pipe(before)
        async with asyncio.timeout(300):
            while not select.select([late.pidfd], [], [], 0)[0]:
                await asyncio.sleep(0.01)
        late.close()
        assert (await box.info()).state == "running"
        assert lease.directory.is_dir()
    assert wait_for_nothing_left(state) == []


ZIPPED = """
import sys
sys.path.insert(0, sys.argv[1])
import asyncio, longshore
assert longshore.__file__.startswith(sys.argv[1])

async def main():
    async with longshore.Engine(state=sys.argv[2]) as engine:
        await engine.launch("mine", root="host", args=["sleep", "1000"], owner="remove")
        kept = await engine.launch("kept", root="host", args=["sleep", "1001"])
        await kept.exec(["sleep", "1002"], name="job")
        print("ready", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_a_program_in_a_zip_archive_has_a_keeper_that_closes(state: Path, tmp_path: Path) -> None:
    archive = tmp_path / "program.zip"
    source = Path(longshore.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for path in source.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, Path("longshore") / path.relative_to(source))
    owner = subprocess.Popen(
        [sys.executable, "-c", ZIPPED, str(archive), str(state)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + 60
    while os.listdir(state / "run" / "leases") and time.monotonic() < deadline:
        time.sleep(0.02)  # its keeper is no child of anything here
    assert os.listdir(state / "run" / "leases") == []

    async def look() -> None:
        async with Engine(state=state) as engine:
            assert [info.id for info in await engine.list()] == ["kept"]
            events = [event async for event in engine.events(since=0, follow=False)]
            assert any(getattr(event, "process", None) == "job" for event in events)
            await (await engine.get("kept")).delete(force=True)

    asyncio.run(look())
    assert wait_for_nothing_left(state) == []
