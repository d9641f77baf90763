"""Out-of-memory events of a version 1 group, told also when the group is gone before anybody looks."""

from __future__ import annotations

import os
import select
from pathlib import Path


class OomWatch:
    """Counts a version 1 group's out-of-memory events by an eventfd (cgroup-v1/memory.rst, section 10).

    The removal of the group signals the eventfd, too. A second one, on a threshold that is never reached, is
    signalled by the removal alone, and was registered first, so that its signal comes last: once it is there, the
    first has got one from the removal, and all above one are real.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._removal = self._register("memory.usage_in_bytes", str(1 << 62))
        try:
            self._events = self._register("memory.oom_control", "")
        except BaseException:
            os.close(self._removal)
            raise

    def _register(self, name: str, argument: str) -> int:
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            file = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                line = f"{event} {file} {argument}".strip()
                (self._directory / "cgroup.event_control").write_text(line)
            finally:
                os.close(file)
        except BaseException:
            os.close(event)
            raise
        return event

    def killed(self) -> bool:
        """Whether there was an out-of-memory event, so far or until the group was removed."""
        removed = not self._directory.exists()
        if removed:
            poll = select.poll()
            poll.register(self._removal, select.POLLIN)
            poll.poll(1000)  # a work item of the kernel: microseconds
        try:
            count = os.eventfd_read(self._events)
        except BlockingIOError:
            return False
        return count > (1 if removed else 0)

    def close(self) -> None:
        """Give the descriptors back. Idempotent."""
        for fd in (self._events, self._removal):
            if fd >= 0:
                os.close(fd)
        self._events = self._removal = -1
