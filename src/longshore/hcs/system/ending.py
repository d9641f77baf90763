"""End one system: ask it to shut down, terminate it, and know whether it has ended.

Three facts are kept apart, because the service may tell one and not the others:

- `is_terminating`: the service was asked to terminate the system. Exit codes of processes are read with that in mind.
- `is_stopped`: the service says that the system has ended. Losing the service says nothing about the system.
- `is_down`: the handle is closed, or there is no such system. No verb is possible any more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...errors import LongshoreError, TimeLimit
from ..dll.calls import Handle
from ..dll.hresults import ENDED, INVALID_HANDLE, SERVICE_DISCONNECT, STOPPED, HcsError, failed, meaning, normal, same
from ..dll.vmcompute import System
from . import by_id
from .notifications import Type, wait_for_exit
from .session import Session

if TYPE_CHECKING:
    from .system import HcsSystem

log = logging.getLogger("longshore.hcs")


class Ending:
    """The ways to end one system, and what is known of its end."""

    def __init__(self, session: Session, system: HcsSystem) -> None:
        self.is_terminating = False
        self.is_stopped = False
        self.is_down = False
        self._session = session
        self._system = system
        system.watch.on(Type.SYSTEM_EXITED, self._on_exited)

    @property
    def has_exited(self) -> bool:
        """Whether a notification said that the system exited, or that the service was lost."""
        ended = self._system.watch.ended
        return ended.done() and ended.result().type is not None

    def _on_exited(self, status: int) -> None:
        self.is_stopped = True

    def note_stopped(self) -> None:
        """Note that the service refused a call because the system has ended; its processes have ended, too."""
        self.is_stopped = True
        for process in self._system.all_processes():
            process.system_ended()

    def note_lost(self) -> None:
        """Note that the service has no such system any more."""
        self.is_down = self.is_stopped = True

    async def _means_ended(self, refusal: HcsError) -> bool:
        """Return whether a refusal of the service means that there is nothing to end: it stopped, or is gone.

        An invalid handle says nothing by itself. Then the service is asked for the id of the system.
        """
        if not same(refusal.code or 0, (INVALID_HANDLE,)):
            return same(refusal.code or 0, ENDED)
        return await by_id.is_gone(self._session, self._system.id)

    async def ask_to_shut_down(self, handle: Handle[System], limit: float) -> None:
        """Ask the system to shut down, and wait up to `limit` seconds for the answer of the service."""
        call = handle.request("shut down", self._session.vmcompute.shutdown_compute_system)
        try:
            await self._session.ask(call, limit)
        except HcsError as error:
            if not await self._means_ended(error):
                raise
            self.note_stopped()

    async def terminate(self, handle: Handle[System]) -> None:
        """Ask the service to terminate the system with its processes; do not wait for the end.

        Raises: TimeLimit if the service does not answer, though it may have taken the request.
        """
        system = self._system
        before, self.is_terminating = self.is_terminating, True
        killed = {process: process.killed for process in system.all_processes()}
        for process in killed:
            process.killed_with_system(True)
        try:
            await self._session.answer(
                "terminate", system.id, self._terminating_call(handle), self._session.limits.terminate
            )
        except TimeLimit:  # the request may have been taken
            raise
        except LongshoreError as error:
            for process, was in killed.items():
                process.killed_with_system(was)
            if isinstance(error, HcsError) and await self._means_ended(error):
                self.note_stopped()
                return
            self.is_terminating = before
            raise

    async def _terminating_call(self, handle: Handle[System]) -> bool:
        """Terminate the system; by a second handle where a request on the first may last as long as the system."""
        session, id = self._session, self._system.id
        if not self._system.has_open_request():
            return await handle.call("terminate", session.vmcompute.terminate_compute_system)
        try:
            return await session.threads.call(by_id.terminate_apart, session.vmcompute, id)
        except HcsError as error:
            raise error.about("terminate", id) from error

    async def terminate_and_wait(self, limit: float) -> None:
        """Terminate the system and wait for its end.

        Raises: TimeLimit after `limit` seconds; HcsError if the service refuses, or the system exits with an error.
        """
        session, system = self._session, self._system

        async def terminate() -> None:
            try:
                done = await system.open_handle("terminate").call(
                    "terminate", session.vmcompute.terminate_compute_system
                )
            except HcsError as error:
                if not await self._means_ended(error):
                    raise
                self.note_stopped()
                return
            self.is_terminating = True
            if not done:
                await wait_for_exit(system.watch, "terminate", system.id, limit)

        await session.answer("terminate", system.id, terminate(), limit)

    async def terminate_for_deletion(self) -> None:
        """End the system, and wait for that.

        Returns without an end if the handle has become useless: then the caller looks for the system by its id.
        Raises: HcsError or TimeLimit; the system may still run, and must not be forgotten.
        """
        system = self._system
        if not self.is_terminating:
            try:
                await system.terminate()
            except TimeLimit:
                self.is_terminating = False  # the next attempt asks again
                raise
            except HcsError as error:
                if same(error.code or 0, (SERVICE_DISCONNECT, INVALID_HANDLE)):
                    return
                raise
        if self.is_stopped:
            return
        try:
            await wait_for_exit(system.watch, "terminate", system.id, self._session.limits.terminate)
        except HcsError:  # it ended with an error, or the service is lost: the caller looks by id
            pass
        except TimeLimit:
            self.is_terminating = False  # the next attempt asks again
            raise

    async def bring_down(self, limit: float) -> str | None:
        """Shut the system down, or else terminate it, within `limit` seconds. Return what failed, as a sentence."""
        limits, system = self._session.limits, self._system
        for_terminate = min(limits.terminate, limit / 2)
        for_shutdown = min(limits.shutdown, limit - for_terminate)

        async def shut_down() -> None:
            verb = self._session.vmcompute.shutdown_compute_system
            if not await system.open_handle("shut down").call("shut down", verb):
                await wait_for_exit(system.watch, "shut down", system.id, for_shutdown)

        try:
            await self._session.answer("shut down", system.id, shut_down(), for_shutdown)
            return None
        except LongshoreError as error:
            if isinstance(error, HcsError) and same(error.code or 0, STOPPED):
                self.note_stopped()
                return self._failed_exit()
            first = error
        try:
            await self.terminate_and_wait(for_terminate)
        except LongshoreError as error:
            log.warning("container `%s` could not be terminated: %s", system.id, error)
            return f"{first}; then {error}"
        if isinstance(first, HcsError) and same(first.code or 0, ENDED):
            return self._failed_exit()  # it was gone, so there was nothing to shut down
        return str(first)

    def _failed_exit(self) -> str | None:
        """Return the error with which the system exited; None if it exited well, or nothing is known."""
        ended = self._system.watch.ended
        if ended.done():
            end = ended.result()
            if end.type is Type.SYSTEM_EXITED and failed(end.status):
                return f"it exited with {meaning(normal(end.status)).name} (0x{end.status:08X})"
        return None
