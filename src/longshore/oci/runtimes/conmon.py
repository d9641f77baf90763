"""The monitor: conmon stays with a container that may outlive its caller; it holds streams, log and exit status.

conmon(8) and its source; the order of its steps and its pipes: `docs/internals.md`, "the monitor".
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ...aio.streams import WriteEnd, WriteProtocol, writer_of
from ...aio.tasks import in_thread
from ...compute.values import Place
from ...errors import LongshoreError, ServiceError
from ...typed_json import decode_json
from ..processes.launch import ENVIRONMENT, MountStep, pipe_to_child, spawn
from .runtime import Runtime, explain, last_error
from .status import PASSED, PATH

STDIN_CHUNK = 8192  # a packet of more than 32 KiB is cut by conmon


class Answer(msgspec.Struct):
    """What conmon says on its sync pipe: the pid, or -1 and the runtime's words."""

    data: int = -1
    message: str = ""


def command(
    conmon: str,
    runtime: Runtime,
    id: str,
    bundle: Path,
    place: Place,
    *,
    terminal: bool,
    stdin: bool,
    log_size: int,
    first: bool,
    enters: str = "",
    images: Path | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """conmon's command line for `runtime create`; or for `runtime restore` from `images`, with `options` of that.

    `enters`: by which descriptors the first program enters the container's cgroup; it executes the runtime then.
    """
    run = place.run
    argv = [conmon, "--api-version", "1", "--cid", id, "--cuuid", f"{id}-{run.parent.parent.name}"]
    argv += ["--runtime", PATH if enters else runtime.path, "--bundle", str(bundle), "--full-attach"]
    argv += ["--container-pidfile", str(run / "pid"), "--conmon-pidfile", str(run / "monitor.pid")]
    argv += ["--exit-dir", str(run / "exits"), "--persist-dir", str(run / "persist")]
    argv += ["--log-path", f"k8s-file:{place.log}", "--log-size-max", str(log_size)]
    argv += ["--log-level", "error", "--no-sync-log"]
    arguments = runtime.argv(run / "create.log")
    arguments = [enters, *arguments] if enters else arguments[1:]
    argv += [f"--runtime-arg={argument}" for argument in arguments]
    if terminal:
        argv += ["--terminal", "--leave-stdin-open"]
    if stdin or terminal:
        argv += ["--stdin"]
    if first:
        argv += ["--runtime-opt=--preserve-fds", f"--runtime-opt={PASSED}"]
    if images is not None:
        argv += ["--restore", str(images), *(f"--runtime-opt={option}" for option in options)]
    return argv


async def create(
    argv: Sequence[str],
    runtime: Runtime,
    id: str,
    place: Place,
    *,
    command_name: str | None,
    steps: Sequence[MountStep],
    alive: int,
    places: Sequence[int] = (),
) -> int:
    """Start the monitor, let it create the container, and return the pid of the container's init.

    `alive` is a descriptor that monitor and runtime inherit, and do not know of: it tells when both have ended.
    Raises what the runtime said; or ServiceError if the monitor dies or does not answer within `Limits.create`.
    Whatever was begun then has to be undone by the caller (`abandon`): the monitor may still be at work.
    """
    limit = runtime.limits.create
    read, write = pipe_to_child()
    try:
        environment = {**ENVIRONMENT, "_OCI_SYNCPIPE": str(write)}
        pass_fds = [write, alive] if place.lock_fd is None else [write, alive, place.lock_fd]
        if place.lease is not None:
            pass_fds.append(place.lease.lock_fd)
        child = await spawn(
            argv,
            pass_fds=pass_fds,
            places=places,
            cwd=place.run / "bundle",  # conmon up to 2.1.12 leaves its `oom` file in its working directory
            environment=environment,
            steps=steps,
            private=True,
            hide_unified=runtime.hide_unified,
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    try:
        async with asyncio.timeout(limit):
            await child.wait()  # the first process forks the monitor and ends at once
            answer = await _read_answer(read)
    except TimeoutError:
        child.kill()  # what it has forked by now is the caller's to end
        raise ServiceError(
            "create",
            id,
            f"the monitor did not answer within {limit:g} s",
            hint=f"run `longshore doctor`; {runtime.name} may hang",
        ) from None
    finally:
        os.close(read)
    if answer is None:
        raise ServiceError(
            "create",
            id,
            last_error(place.run / "create.log") or f"the monitor died before it answered (status {child.status})",
            hint="run `longshore doctor`; conmon's reason may be in the system log",
        )
    if answer.data <= 0:
        reason = await runtime.unread(place.run / "create.log", place.run / "bundle", id)
        raise failure(runtime, id, place, answer.message, command_name, reason=reason)
    return answer.data


def failure(
    runtime: Runtime, id: str, place: Place, message: str, command_name: str | None, *, reason: str = ""
) -> LongshoreError:
    """The runtime's own log says it best, unless `reason` does; what conmon caught from its stderr is the fallback."""
    text = reason or last_error(place.run / "create.log") or message
    return explain(runtime.name, "create", text, id, command=command_name, log=place.run / "create.log")


async def _read_answer(fd: int) -> Answer | None:
    """The first line on the sync pipe, or None at its end."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    buffer = bytearray()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        while b"\n" not in buffer:
            ready.clear()
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                await ready.wait()
                continue
            if not data:
                break
            buffer += data
    finally:
        loop.remove_reader(fd)
    if not buffer:
        return None
    # a message may hold bytes that are not UTF-8: the runtime's stderr is passed as it is
    text = bytes(buffer).partition(b"\n")[0].decode("utf-8", "replace")
    try:
        return decode_json(text, Answer)
    except ValueError:
        return Answer(data=-1, message=f"the monitor answered {text[:200]!r}")


async def resize(run: Path, rows: int, columns: int) -> None:
    """Set the size of the container's terminal, through conmon's control fifo. Raises OSError if conmon is gone."""
    fd = os.open(run / "bundle" / "ctl", os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(fd, f"1 {rows} {columns}\n".encode())
    finally:
        os.close(fd)


def read_exit(run: Path, id: str) -> tuple[int | None, float] | None:
    """Exit status and time as the monitor wrote them; None while there is no such file. -1 is unknown."""
    path = run / "exits" / id
    try:
        text = path.read_text()
        at = path.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        status = int(text)
    except ValueError:
        return None, at
    return (None if status < 0 else status), at


class StdinTransport(WriteEnd):
    """The standard input of a kept container: packets on conmon's attach socket.

    conmon also writes the container's output to every client, and waits for a client that does not read. So our
    receiving side is shut at once: conmon then stops writing to us, and continues to read.
    """

    def __init__(self, sock: socket.socket, protocol: WriteProtocol) -> None:
        super().__init__(protocol)
        self._socket = sock
        self._buffer = bytearray()
        self._writing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        self._buffer += data
        self._flush()
        if len(self._buffer) > STDIN_CHUNK * 8:
            self._set_full(True)

    def _flush(self) -> None:
        while self._buffer:
            try:
                sent = self._socket.send(self._buffer[:STDIN_CHUNK])
            except BlockingIOError:
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError as error:  # the container has ended
                self._buffer.clear()
                self._close_now(error if not isinstance(error, BrokenPipeError) else None)
                return
            del self._buffer[:sent]
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())
        self._set_full(False)
        if self._closing:
            self._close_now(None)

    def _close_now(self, error: Exception | None) -> None:
        if self._socket.fileno() < 0:
            return
        self._closing = True
        if self._writing:
            self._loop.remove_writer(self._socket.fileno())
            self._writing = False
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()
        self._loop.call_soon(self._protocol.connection_lost, error)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._buffer:
                self._close_now(None)

    def abort(self) -> None:
        self._buffer.clear()
        self._close_now(None)

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)


async def connect_stdin(run: Path) -> asyncio.StreamWriter:
    """Return a writer to the standard input of a container that was made with one.

    Raises: OSError if conmon is gone.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # a path of more than 107 bytes does not fit a socket's address: go through the directory's descriptor
        directory = os.open(run / "bundle", os.O_PATH | os.O_DIRECTORY)
        try:
            await in_thread(lambda: sock.connect(f"/proc/self/fd/{directory}/attach"))
        finally:
            os.close(directory)
        sock.shutdown(socket.SHUT_RD)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return writer_of(lambda protocol: StdinTransport(sock, protocol))
