"""Create a process of a system with its streams, or find one again by pid and creation time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...aio.tasks import shielded, uninterrupted
from ...compute.values import Stdio
from ...errors import CommandNotExecutable, CommandNotFound, LongshoreError, ServiceError
from ..dll.calls import Handle
from ..dll.hresults import GONE, NO_COMMAND, NOT_EXECUTABLE, STOPPED, HcsError, same
from ..dll.vmcompute import Process, System, Vmcompute
from ..schema1 import documents
from ..streams.stdio import Wiring
from . import properties
from .process import HcsProcess, ProcessToken
from .session import Session

if TYPE_CHECKING:
    from .system import HcsSystem

log = logging.getLogger("longshore.hcs")


async def create(
    session: Session,
    system: HcsSystem,
    handle: Handle[System],
    config: documents.ProcessConfig,
    stdio: Stdio,
    *,
    keep_open: bool,
) -> HcsProcess:
    """Create a process with its streams.

    If it fails: the process is killed and closed. init (`keep_open`) may still run, and ends with its system.
    """
    id, terminal, vm = system.id, config.emulate_console, session.vmcompute
    wiring = Wiring(id, session.pipes, session.threads, stdio, terminal=terminal)
    text = documents.encode(config)
    started_at = properties.now()
    try:
        call = handle.call("start a process in", vm.create_process, text)
        process, pid, pipes = await session.make(
            "start a process in", id, call, lambda made: _end_late(vm, wiring, made)
        )
    except HcsError as error:
        raise _of_command(error, id, config.command_line) from error
    token = ProcessToken(pid, started_at, properties.now())
    made = HcsProcess(session, id, token, wiring=wiring, terminal=terminal, keep_open=keep_open)
    made.is_waited_for = system.has_open_request
    if system.terminating:
        made.killed_with_system(True)
    try:
        await uninterrupted(made.watch(process, ours=True))
    except BaseException:
        wiring.discard(pipes)
        raise
    try:
        await made.open(pipes)
    except BaseException:
        await shielded(_undo(session, made, wait=not keep_open))
        raise
    return made


def _end_late(vmcompute: Vmcompute, wiring: Wiring, made: tuple[Process, int, tuple[int, int, int]]) -> None:
    """End a process that the service created after its caller had stopped waiting."""
    process, _, pipes = made
    wiring.discard(pipes)
    try:
        vmcompute.terminate_process(process)
    finally:
        vmcompute.close_process(process)


async def _undo(session: Session, process: HcsProcess, *, wait: bool) -> None:
    """End a process whose creation failed. init ends with its system."""
    if wait:
        await kill_and_wait(session, process)
    await process.close()


async def kill_and_wait(session: Session, process: HcsProcess) -> None:
    """Kill a process, and wait for its end. Log what fails."""
    try:
        await process.kill()
        await process.gone_within(session.limits.terminate)
    except LongshoreError as error:
        log.warning("container `%s`: ending process %d: %s", process.container_id, process.pid, error)


def _of_command(error: HcsError, container_id: str, command_line: str) -> LongshoreError:
    """Return the error of a process that was refused; of the command, if the command is the reason."""
    command = command_line.split('"')[1] if command_line.startswith('"') else command_line.partition(" ")[0]
    if same(error.code or 0, NO_COMMAND):
        return CommandNotFound(container_id, command)
    if same(error.code or 0, NOT_EXECUTABLE):
        return CommandNotExecutable(container_id, command, error.detail)
    return error


async def find(session: Session, system: HcsSystem, token: ProcessToken, *, keep_open: bool = False) -> HcsProcess:
    """Find a process that another program started, by pid and creation time.

    Pids are reused, and the service lists the system's own processes, too. A process that is not there has ended
    unseen, and its exit code is unknown.

    Raises: HcsError if the process is there but cannot be opened. It must not be taken for ended.
    """
    made = HcsProcess(session, system.id, token, keep_open=keep_open)
    made.is_waited_for = system.has_open_request
    handle = system.handle
    if handle is None or handle.closing or await _is_listed(system, token) is False:
        made.gone()
        return made
    try:
        call = handle.call("open a process of", session.vmcompute.open_process, token.pid)
        process = await session.make("open a process of", system.id, call, session.vmcompute.close_process)
        await uninterrupted(made.watch(process, ours=False))
    except HcsError as error:
        listed = await _is_listed(system, token)  # or it has ended just now
        if listed or (listed is None and not same(error.code or 0, (*GONE, *STOPPED))):
            raise
        made.gone()
        return made
    await made.look()
    return made


async def _is_listed(system: HcsSystem, token: ProcessToken) -> bool | None:
    """Return whether the service lists it; None if the service does not say, as for a paused VM."""
    try:
        found = await system.properties("ProcessList")
    except ServiceError:
        return None
    return properties.is_listed(found, token, hyperv=system.hyperv)
