"""A process is its pid and its start time; the number alone may be somebody else's by now."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longshore.engine import Engine
from longshore.oci import processes


@contextmanager
def thread() -> Iterator[int]:
    """The number of a thread that is there meanwhile."""
    told: list[int] = []
    known, done = threading.Event(), threading.Event()

    def work() -> None:
        told.append(threading.get_native_id())
        known.set()
        done.wait()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        known.wait()
        yield told[0]
    finally:
        done.set()
        worker.join()


def test_a_pid_that_became_the_number_of_a_thread_is_nobodys() -> None:
    """Pids and thread ids are one row of numbers: in a crowd, that of a dead init is soon a thread's."""
    with thread() as number:
        assert processes.open_pidfd(number, 1) is None


def test_a_pid_with_another_start_time_is_another_process() -> None:
    own = os.getpid()
    start = processes.start_time(own)
    assert start is not None
    assert processes.open_pidfd(own, start + 1) is None
    assert not processes.alive(own, start + 1)
    assert processes.alive(own, start)


async def test_a_container_whose_old_pid_is_now_a_threads_can_be_deleted(state: Path) -> None:
    """crun opens the pid that it remembers before it asks whose it is, and gives up."""
    async with Engine(state=state, runtime="crun") as engine:
        box = await engine.launch("box", root="host", args=["true"])
        await box.wait()
        status = state / "run" / "runtime" / "crun" / "box" / "status"
        with thread() as number:
            known = json.loads(status.read_text())
            status.write_text(json.dumps({**known, "pid": number}))
            await box.delete()
        assert await engine.list() == []
