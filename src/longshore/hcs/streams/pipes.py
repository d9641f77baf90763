"""Connect the pipe handles of a process, overlapped named pipes, to the Proactor loop."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
from typing import Any, Protocol


class Pipes(Protocol):
    """How handles become transports. Each call takes over the handle, and closes it if it raises OSError."""

    async def reader(self, handle: int, protocol: asyncio.Protocol) -> None:
        """Read the pipe into `protocol`, which gets the transport."""
        ...

    async def writer(self, handle: int, protocol: asyncio.BaseProtocol) -> asyncio.WriteTransport:
        """Return a transport that writes to the pipe. `protocol` learns of its end."""
        ...

    def close(self, handle: int) -> None:
        """Close a handle that has no use."""
        ...


class WindowsPipes:
    """The handles of Windows itself."""

    async def reader(self, handle: int, protocol: asyncio.Protocol) -> None:
        file = _pipe_handle(handle)
        try:
            await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
        except BaseException:
            file.close()
            raise

    async def writer(self, handle: int, protocol: asyncio.BaseProtocol) -> asyncio.WriteTransport:
        file = _pipe_handle(handle)
        try:
            return await _writer(file, protocol)
        except BaseException:
            file.close()
            raise

    def close(self, handle: int) -> None:
        _check(handle)
        importlib.import_module("_winapi").CloseHandle(handle)


def _pipe_handle(handle: int) -> Any:
    _check(handle)
    return importlib.import_module("asyncio.windows_utils").PipeHandle(handle)


def _check(handle: int) -> None:
    """Check that it is a handle. A PipeHandle of anything else could not even be closed.

    Raises: OSError.
    """
    library: Any = getattr(ctypes, "WinDLL")("kernel32", use_last_error=True)  # noqa: B009 -- only Windows has it
    library.GetHandleInformation.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    flags = ctypes.c_uint32()
    if not library.GetHandleInformation(handle, ctypes.byref(flags)):
        raise getattr(ctypes, "WinError")(getattr(ctypes, "get_last_error")())  # noqa: B009


async def _writer(file: Any, protocol: asyncio.BaseProtocol) -> asyncio.WriteTransport:
    """Return asyncio's own transport for pipes, without the part that reads: the input pipes of HCS are write-only.

    `connect_write_pipe` reads from the pipe to learn of its end, and takes the refusal for a broken pipe. Here a write
    sees the end.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    module: Any = importlib.import_module("asyncio.proactor_events")
    transport: asyncio.WriteTransport = module._ProactorBaseWritePipeTransport(loop, file, protocol, waiter)
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport
