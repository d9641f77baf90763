"""Signal: deliver a signal to the init of a container."""

from __future__ import annotations

from .kill import KILL, kill
from .lookup import with_system
from .state import ContainerRef
from .states import Verb


async def signal(container: ContainerRef, number: int) -> None:
    """Deliver a signal to init. Raises InvalidState unless it runs; KILL is allowed in more states, as `kill` is."""
    if number == KILL:
        await kill(container)
    else:
        await with_system(container, Verb.SIGNAL, lambda system: system.shutdown(number))
