"""What Windows' Python needs to run under Wine, read by it at every start (scripts/wine-setup puts it on its path).

Wine 8 refuses one `send` in some ten thousand to a non-blocking socket that has room (WSAEWOULDBLOCK). asyncio wakes
its loop through such a socket, and takes a refusal to say that wakes enough are on their way: the loop sleeps on, until
something else wakes it, with what it was to do in its hands. tests/wine/test_wakes.py meets it without this.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

WAKES = "asyncio.proactor_events"
LIMIT = 1.0  # seconds; with a pipe that is full indeed the loop is awake


class AfterImport:
    """Changes a module once it is imported, if it ever is: importing asyncio would slow down each start."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != WAKES:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec is not None
        self._loader = spec.loader
        loader: Any = self
        spec.loader = loader
        return spec

    def create_module(self, spec: Any) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)  # type: ignore[union-attr]
        module.BaseProactorEventLoop._write_to_self = _write_to_self


def _write_to_self(loop: Any) -> None:
    """As asyncio has it, but again after a refusal."""
    import threading
    import time

    deadline = time.monotonic() + LIMIT
    while (socket := loop._csock) is not None:
        try:
            socket.send(b"\0")
            return
        except BlockingIOError:
            if loop._thread_id == threading.get_ident() or time.monotonic() > deadline:
                return
            time.sleep(0.001)
        except OSError:
            return  # it is being closed


sys.meta_path.insert(0, AfterImport())
