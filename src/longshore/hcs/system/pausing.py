"""Pause and resume one system, also when the service answers late.

A pause cannot be taken back while the service works on it. If the caller gives up, by a timeout or by cancellation, the
pause may still come. A container that stays paused without a caller who knows of it is worse than one that runs. So a
pause that was given up is undone: at once if it came, and when its notification arrives if it comes later. Until the
undo has succeeded, it is unknown whether the system is paused, and `may_be` says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ...aio.tasks import shielded
from ...errors import LongshoreError, TimeLimit
from ..dll.hresults import failed
from ..dll.vmcompute import System
from .notifications import Type, Watch
from .session import Session

log = logging.getLogger("longshore.hcs")

Verb = Callable[[str, Type, Callable[[System], bool], float], Awaitable[None]]
"""Call a verb of the system and wait for its notification: operation, notification, export, limit in seconds."""


class Pausing:
    """Whether one system is paused, and the verbs that change it."""

    def __init__(self, session: Session, watch: Watch, container_id: str, verb: Verb) -> None:
        self.is_paused = False  # as far as notifications and completed calls say
        self._session = session
        self._id = container_id
        self._verb = verb
        self._was_given_up = False  # a pause was given up, and may still come
        self._may_be_paused = False  # a pause was given up, and is not undone yet
        self._undoing: asyncio.Task[None] | None = None
        watch.on(Type.SYSTEM_PAUSE_COMPLETED, self._on_paused)
        watch.on(Type.SYSTEM_RESUME_COMPLETED, self._on_resumed)

    @property
    def may_be(self) -> bool:
        """Whether it is paused, or may be."""
        return self.is_paused or self._may_be_paused

    def _on_paused(self, status: int) -> None:
        self.is_paused = self.is_paused or not failed(status)
        if self._was_given_up and not failed(status):
            self._was_given_up = False
            self._session.spawn(self._resume(self._session.limits.terminate), f"resuming container `{self._id}`")

    def _on_resumed(self, status: int) -> None:
        self.is_paused = self.is_paused and failed(status)

    async def pause(self) -> None:
        """Pause the system.

        Raises: TimeLimit if the service does not answer; the pause is undone in the background.
        If cancelled: the pause is undone before the call ends.
        """
        session = self._session
        work = asyncio.ensure_future(self._pause(session.limits.default))
        try:
            await asyncio.shield(work)
        except TimeLimit:
            self._was_given_up = self._may_be_paused = True
            if self._undoing is None or self._undoing.done():
                self._undoing = session.spawn(self._undo(), f"undoing the pause of container `{self._id}`")
            raise
        except asyncio.CancelledError:
            await shielded(self._undo_when_done(work))
            raise
        self.is_paused = True

    async def _pause(self, limit: float) -> None:
        begin = asyncio.get_running_loop().time()
        await self._is_undone(limit)  # else the undo of an earlier pause would resume this one
        self._was_given_up = False
        left = max(0.0, begin + limit - asyncio.get_running_loop().time())
        await self._verb("pause", Type.SYSTEM_PAUSE_COMPLETED, self._session.vmcompute.pause_compute_system, left)

    async def resume(self) -> None:
        """Resume the system."""
        limit = self._session.limits.default
        if not await self._is_undone(limit):
            await self._resume(limit)

    async def _resume(self, limit: float) -> None:
        verb = self._session.vmcompute.resume_compute_system
        await self._verb("resume", Type.SYSTEM_RESUME_COMPLETED, verb, limit)
        self.is_paused = self._may_be_paused = False

    async def _is_undone(self, limit: float) -> bool:
        """Wait up to `limit` seconds for the undo of an earlier pause, if one runs. Return whether it succeeded."""
        if self._undoing is None or self._undoing.done():
            return False
        await asyncio.wait((self._undoing,), timeout=limit)
        return not self._may_be_paused

    async def _undo_when_done(self, work: asyncio.Future[None]) -> None:
        """Wait for a pause that was cancelled, then undo it. A pause that comes even later is undone when it comes."""
        await asyncio.wait((work,), timeout=self._session.limits.terminate)
        self._was_given_up = not work.done() or isinstance(work.exception(), TimeLimit)
        self._may_be_paused = self._was_given_up
        work.cancel()
        await self._undo()

    async def _undo(self) -> None:
        """Resume a system that may be paused. If the service refuses, the state stays unknown."""
        try:
            await self._resume(self._session.limits.terminate)
        except LongshoreError as error:
            log.warning("container `%s`: its pause could not be undone: %s", self._id, error)
