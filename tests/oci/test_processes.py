"""A process is its pid and its start time; the number alone may be somebody else's by now."""

from __future__ import annotations

import os
import threading

from longshore.oci import processes


def test_a_pid_that_became_the_number_of_a_thread_is_nobodys() -> None:
    """Pids and thread ids are one row of numbers: in a crowd, that of a dead init is soon a thread's."""
    told: list[int] = []
    known, done = threading.Event(), threading.Event()

    def work() -> None:
        told.append(threading.get_native_id())
        known.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        known.wait()
        assert processes.open_pidfd(told[0], 1) is None
    finally:
        done.set()
        thread.join()


def test_a_pid_with_another_start_time_is_another_process() -> None:
    own = os.getpid()
    start = processes.start_time(own)
    assert start is not None
    assert processes.open_pidfd(own, start + 1) is None
    assert not processes.alive(own, start + 1)
    assert processes.alive(own, start)
