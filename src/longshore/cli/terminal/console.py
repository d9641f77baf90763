"""The console of Windows as a terminal: keys come as the bytes that a terminal sends, output is obeyed as one would.

What is typed and shown is UTF-16 to the console and UTF-8 to containers. Read and written with ReadConsoleW and
WriteConsoleW: as files, consoles know only the characters of one code page.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

from ...aio.tasks import in_thread
from ...errors import NotSupported
from .streams import write_all

if sys.platform != "win32":
    raise ImportError("consoles are a part of Windows")

import ctypes
import msvcrt
from ctypes import byref, c_int32, c_uint32, c_void_p

PROCESSED_INPUT, LINE_INPUT, ECHO_INPUT, MOUSE_INPUT = 0x1, 0x2, 0x4, 0x10
VIRTUAL_TERMINAL_INPUT = 0x200  # arrows and others as the sequences of a terminal
PROCESSED_OUTPUT, VIRTUAL_TERMINAL_PROCESSING, DISABLE_NEWLINE_AUTO_RETURN = 0x1, 0x4, 0x8
BUFFER = 4096  # characters
LOOK_EVERY = 0.25  # seconds: Windows tells of a new size only who reads events of the console, and no keys
USE_PIPES = "leave -t out: -i alone passes the input"


@cache
def _kernel32() -> Any:
    dll = ctypes.WinDLL("kernel32", use_last_error=True)
    for name in ("GetConsoleMode", "SetConsoleMode", "ReadConsoleW", "WriteConsoleW"):
        getattr(dll, name).restype = c_int32
    dll.GetConsoleMode.argtypes = [c_void_p, c_void_p]
    dll.SetConsoleMode.argtypes = [c_void_p, c_uint32]
    dll.ReadConsoleW.argtypes = [c_void_p, c_void_p, c_uint32, c_void_p, c_void_p]
    dll.WriteConsoleW.argtypes = [c_void_p, c_void_p, c_uint32, c_void_p, c_void_p]
    return dll


def _mode(fd: int) -> tuple[int, int]:
    """The console's handle and mode. OSError if the descriptor is no console."""
    handle = msvcrt.get_osfhandle(fd)
    mode = c_uint32()
    if not _kernel32().GetConsoleMode(handle, byref(mode)):
        raise ctypes.WinError(ctypes.get_last_error())
    return handle, mode.value


def is_terminal(fd: int) -> bool:
    """NUL, too, calls itself a terminal, and is none."""
    try:
        _mode(fd)
    except OSError:
        return False
    return True


def _set_mode(handle: int, mode: int) -> bool:
    return bool(_kernel32().SetConsoleMode(handle, mode))


def raw_input_mode(mode: int) -> int:
    """The mode in which every key is passed on as it is, in place of `mode`."""
    return mode & ~(PROCESSED_INPUT | LINE_INPUT | ECHO_INPUT | MOUSE_INPUT) | VIRTUAL_TERMINAL_INPUT


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Within the block the console passes every key on, and obeys the sequences that are written to it."""
    with ExitStack() as undo:
        try:
            handle, mode = _mode(fd)
        except OSError:
            raise NotSupported(
                "an interactive terminal (-it)", "standard input is not a Windows console", hint=USE_PIPES
            ) from None
        if not _set_mode(handle, raw_input_mode(mode)):
            raise NotSupported(
                "an interactive terminal (-it)",
                "this console does not support terminal sequences",
                hint=f"use a newer console (Windows 10 or Server 2016 and later), or {USE_PIPES}",
            )
        undo.callback(_set_mode, handle, mode)
        for output in (1, 2):
            with suppress(OSError):
                handle, mode = _mode(output)
                wanted = mode | PROCESSED_OUTPUT | VIRTUAL_TERMINAL_PROCESSING
                if _set_mode(handle, wanted | DISABLE_NEWLINE_AUTO_RETURN) or _set_mode(handle, wanted):
                    undo.callback(_set_mode, handle, mode)
        yield


@contextmanager
def watching_size(look: Callable[[], None]) -> Iterator[None]:
    """Within the block, `look` is called whenever the size of our terminal may have changed."""

    async def again_and_again() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            look()

    task = asyncio.create_task(again_and_again(), name="size of the console")
    try:
        yield
    finally:
        task.cancel()


async def typed(fd: int) -> AsyncIterator[bytes]:
    """What can be read from `fd`, as it comes, to its end. By threads: Windows' loop waits for no descriptors."""
    held: list[str] = []
    if is_terminal(fd):
        while data := await in_thread(lambda: _read(fd, held), "input"):
            yield data
    else:
        while data := await in_thread(lambda: os.read(fd, 1 << 16), "input"):
            yield data


def _read(fd: int, held: list[str]) -> bytes:
    """What was typed, at least a character. `held` keeps the first half of one that did not come whole."""
    handle = msvcrt.get_osfhandle(fd)
    buffer = ctypes.create_unicode_buffer(BUFFER)
    count = c_uint32()
    while True:
        if not _kernel32().ReadConsoleW(handle, buffer, BUFFER, byref(count), None):
            raise ctypes.WinError(ctypes.get_last_error())
        if not count.value:
            return b""
        text = "".join(held) + ctypes.wstring_at(buffer, count.value)
        held.clear()
        if is_first_half(text[-1]):
            held.append(text[-1])
            text = text[:-1]
        if text:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def is_first_half(unit: str) -> bool:
    """Whether a UTF-16 unit wants another one after it."""
    return "\ud800" <= unit <= "\udbff"


_decoders: dict[int, codecs.IncrementalDecoder] = {}


def show(fd: int, data: bytes) -> None:
    """Write to a descriptor that may be a console. There, a character that comes in pieces is shown once whole."""
    if not is_terminal(fd):
        write_all(fd, data)
        return
    if fd not in _decoders:
        _decoders[fd] = codecs.getincrementaldecoder("utf-8")("replace")
    units = _decoders[fd].decode(data).encode("utf-16-le")
    handle = msvcrt.get_osfhandle(fd)
    while units:
        count = c_uint32()
        part = units[: 2 * BUFFER]
        if len(part) < len(units) and is_first_half(part[-2:].decode("utf-16-le", "surrogatepass")):
            part = part[:-2]
        if not _kernel32().WriteConsoleW(handle, part, len(part) // 2, byref(count), None):
            raise ctypes.WinError(ctypes.get_last_error())
        units = units[2 * count.value :]
