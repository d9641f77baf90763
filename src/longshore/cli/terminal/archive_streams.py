"""Standard input and output as files for archives: threads of the engine read and write them."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

POLL = 0.1  # seconds


class ArchiveInput(io.RawIOBase):
    """Standard input, of which a thread that waits for data can be ended by `stop`."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped = False

    def stop(self) -> None:
        """End the reading: the archive is cut off there."""
        self._stopped = True

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for data and read it."""
        if os.name == "posix":  # elsewhere archives are not loaded yet
            while not self._stopped and not select.select([0], [], [], POLL)[0]:
                pass
        if self._stopped:
            return 0
        data = os.read(0, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class ArchiveOutput(io.RawIOBase):
    """Standard output. `error` is the error of a failed write, which the engine would take for one of its own files."""

    error: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write all data."""
        try:
            return sys.stdout.buffer.write(data)
        except OSError as error:
            self.error = error
            raise
