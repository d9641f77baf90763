"""Threads for the calls of the service: what becomes of calls and handles where none can be had."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NoReturn

import pytest

from longshore.hcs.dll import calls

from .test_notifications import run
from .world import world


def refuse(thread: threading.Thread) -> NoReturn:
    """As Python does at the limit of threads."""
    raise RuntimeError("can't start new thread")


async def test_where_no_thread_can_be_had_a_call_is_refused_and_handles_are_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "IDLE_LIMIT", 0.01)
    async with world(tmp_path) as it:
        system, _ = await it.launch()
        threads = it.service.session.threads
        await it.until(lambda: not threads._idle)
        with monkeypatch.context() as limit:
            limit.setattr(threading.Thread, "start", refuse)
            with pytest.raises(OSError, match="no thread"):
                await system.stats()
            await system.close()
            assert it.open_handles == 0
        assert threads._jobs.empty()
        assert it.count("HcsGetComputeSystemProperties") == 0  # not then, nor later


def test_a_blocking_engine_that_is_left_open_needs_no_thread_to_be_closed(tmp_path: Path) -> None:
    """Python 3.12 starts none any more when it ends, and those that were idle have gone."""
    source = """
        import longshore.sync
        from longshore.hcs.dll import calls
        calls.IDLE_LIMIT = 0.01
        engine = longshore.sync.Engine(world.service, state=sys.argv[1] + "/state")
        engine.launch("box", world.spec(), owner="remove")
        while world.service.session.threads._idle:
            pass
    """
    assert run(tmp_path, source) == "[] [] [] []"
