"""Resize: set the size of the terminal of a container's init."""

from __future__ import annotations

from .lookup import open_container
from .state import ContainerRef
from .states import CREATED, Verb, wrong_state


async def resize(container: ContainerRef, rows: int, columns: int) -> None:
    """Set the size of the terminal of init. Raises InvalidState if it was not started, or has no terminal."""
    opened = await open_container(container, container.read_current())
    if opened.system.init is None:
        raise wrong_state(Verb.RESIZE, container.id, CREATED)
    await opened.system.init.resize(rows, columns)
