"""An OCI runtime (crun or runc) as a program: its command lines, and what its failures mean.

The exit number of a runtime tells nothing (1 for everything, and `run` gives the container's own): whether
something was started is known by the pid file, and why not by the JSON log.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ...aio.tasks import shielded
from ...compute.limits import USUAL, Limits
from ...errors import CommandNotExecutable, CommandNotFound, InvalidSpec, InvalidState, LongshoreError, ServiceError
from ...fs.files import next_step
from ...typed_json import decode_json
from ..cgroups.entering import OPTION
from ..config.ignored import Known
from ..processes.launch import UMASK, Child, MountStep, spawn

FLUSHED = 255  # bytes that crun writes at once to its log of what a terminal still had
# crun's error.c: always these members in this order, and no "\r" before the line end, as a terminal puts it
OWN_LINE = rb'\{\s*"msg"\s*:\s*"(?:[^"\\\n]|\\.)*"\s*,\s*"level"\s*:\s*"\w+"\s*,\s*"time"\s*:\s*"[\d:T.-]+Z"\s*\}\n'
OWN_LINES = re.compile(rb"\A(?:" + OWN_LINE + rb")+")
OWN_LINES_AT_END = re.compile(rb"\n(?:" + OWN_LINE + rb")+\Z")
AFTER_INIT = 1 / 6  # of its limit a verb may take when the process that it is about has ended
FULL = 32  # free blocks of a file system on which a runtime finds no room

# what is said where somebody else was quicker: crun's container.c; runc's exec.go and container_linux.go
PAUSED = r"container `.*` is paused|cannot exec in a paused container"
STOPPED = r"container `.*` is not running|cannot start a container that has stopped|container process is already dead"

# what a runtime says of the command itself, and of nothing else: of a hook, a mount or a folder it says "no such file",
# too. crun's container.c and utils.c; runc's standard_init_linux.go, setns_init_linux.go and Go's os/exec
QUOTED = r'"(?:[^"\\]|\\.)*"'
COMMAND_MISSING = re.compile(
    r"^executable file `.*` not found in \$PATH"
    rf"|(?:^|: )exec: {QUOTED}: (?:executable file not found in \$PATH|stat .*: no such file or directory$)"
    r"|(?:^|: )exec /\S*: no such file or directory$"
    r"|^exec container process `.*`: No such file or directory$",
)
COMMAND_DENIED = re.compile(
    rf"^open executable: (?:Permission denied|Operation not permitted)$|(?:^|: )exec: {QUOTED}: (?!executable).*"
    r"|(?:^|: )exec /\S*: .*|^exec container process `.*`: .*"
)
FOLDER_STEP = re.compile(  # runc makes the working directory if it can
    r"(?:^|: )chdir(?: to cwd \(.*\) set in config\.json failed| `.*`)?: |error during container init: mkdir [^:]*: "
)
FOLDER_REASONS = re.compile(r"(?:no such file or directory|not a directory|permission denied)$", re.IGNORECASE)

# runc's run.go and exec.go; before 1.1 the place in its source came first
FAILED_TO_START = r"(runc )?(run|exec) failed|container_linux|\S+\.go:\d+"

OPERATIONS = {"exec": "exec in", "state": "read the state of"}  # words of an error, where they are not the verb
VAGUE = ("", "error loading config.json")  # what crun's log says where its parser gives the reason on standard error
NO_FOLDER = "/dev/null/longshore"  # no program can make a folder here
REASON_SIZE = 1 << 16


class LogLine(msgspec.Struct):
    """One line of `--log-format json`."""

    level: str = ""
    msg: str = ""


class Runtime:
    """Where the runtime is, where it keeps its state, and how it must be started on this host."""

    def __init__(
        self,
        path: str,
        root: Path,
        *,
        hide_unified: bool,
        limits: Limits = USUAL,
        version: str = "",
        checkpoints: bool = False,
    ) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.known = Known(self.name, version, checkpoints)
        self.root = root
        self.limits = limits
        self.hide_unified = hide_unified  # DESIGN: crun on a hybrid host
        self.options: list[str] = []  # of every verb

    def leaving_cgroups(self) -> Runtime:
        """Return the same runtime, for a container whose cgroup longshore has made."""
        found = copy.copy(self)
        found.options = [OPTION]
        return found

    def argv(self, log: Path, *arguments: str) -> list[str]:
        """The command line of a verb, with our state directory and a log that a program can read."""
        options = ["--root", str(self.root), "--log", str(log), "--log-format", "json", *self.options]
        return [self.path, *options, *arguments]

    async def start(
        self,
        log: Path,
        *arguments: str,
        stdio: Sequence[int] | None = None,
        steps: Sequence[MountStep] = (),
        private: bool = False,
        pass_fds: Sequence[int] = (),
        places: Sequence[int] = (),
        cwd: Path | None = None,
        umask: int = UMASK,
        begun_by: Sequence[str] = (),
    ) -> Child:
        """Start a verb and return while it runs; `begun_by` is what executes it, in place of us."""
        stdin, stdout, stderr = stdio if stdio is not None else (None, None, None)
        return await spawn(
            [*begun_by, *self.argv(log, *arguments)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            steps=steps,
            private=private,
            pass_fds=pass_fds,
            places=places,
            cwd=cwd,
            hide_unified=self.hide_unified,
            umask=umask,
        )

    async def verb(
        self,
        log: Path,
        *arguments: str,
        container_id: str,
        limit: float | None = None,
        pass_fds: Sequence[int] = (),
        init: int | None = None,
    ) -> None:
        """Run a verb to its end. Raises what its log says; ServiceError when it hangs (it is then killed).

        `init`: a pidfd of the process that it is about. Once that has ended, the verb gets a part of its limit: crun's
        `start` waits for ever for an init that is killed before it has opened the fifo between them.
        """
        limit = self.limits.verb if limit is None else limit
        loop = asyncio.get_running_loop()
        why = f"{self.name} did not end within {limit:g} s and was killed"

        def hasten() -> None:
            nonlocal why
            assert init is not None
            loop.remove_reader(init)
            why = f"the container ended, but {self.name} did not within {limit * AFTER_INIT:g} s and was killed"
            timer.reschedule(min(timer.when() or math.inf, loop.time() + limit * AFTER_INIT))

        log.unlink(missing_ok=True)
        child = await self.start(log, *arguments, pass_fds=pass_fds)
        try:
            async with asyncio.timeout(limit) as timer:
                if init is not None:
                    loop.add_reader(init, hasten)
                try:
                    status = await child.wait()
                finally:
                    if init is not None:
                        loop.remove_reader(init)
        except TimeoutError:
            child.kill()
            await child.wait()
            raise ServiceError(
                OPERATIONS.get(arguments[0], arguments[0]),
                container_id,
                why,
                hint=f"read the log of {self.name}: {log}",
            ) from None
        except asyncio.CancelledError:
            # never killed halfway: it would leave its state behind; whoever undoes this finds it finished
            await shielded(_finish(child, limit))
            raise
        if status != 0:
            raise self.failure(arguments[0], log, container_id, status=status)

    def rest_of_terminal(self, log: Path) -> bytes:
        """What crun read from a terminal only after its process had ended: it writes that to its log, 255 bytes and a
        line end at a time, and not to where it wrote before (flush_fd_to_err in its container.c; seen with 1.8.1)."""
        if self.name != "crun":
            return b""
        data = OWN_LINES_AT_END.sub(b"\n", OWN_LINES.sub(b"", _content(log), count=1)).removesuffix(b"\n")
        pieces = []
        while data:
            end = FLUSHED if data[FLUSHED : FLUSHED + 1] == b"\n" else len(data)
            pieces.append(data[:end])
            data = data[end + 1 :]
        return b"".join(pieces)

    def never_ran(self, verb: str, log: Path, container_id: str, status: int | None, last_step: str) -> LongshoreError:
        """The error of a process that ended before its command was executed, when the runtime had reported its pid."""
        reason = last_error(log)
        if not reason:
            how = f"it ended with status {status}" if status is not None else "it ended"
            reason = f"{how} before the command was executed"
            if last_step:
                reason += f": {last_step}; its message is in the container's standard error"
        return self.failure(verb, log, container_id, status=status, reason=reason)

    def failed_to_start(self, log: Path) -> bool:
        """Whether the log of a `run` or `exec` that ended with an error number says that the process never ran.

        It is asked only where there is no first program, and never of a process at a terminal: crun's log may then
        have what the process printed in it, which may look like an error, too. runc also logs what went
        wrong when it cleared up after the process; it then passes on the process's number.
        """
        error = last_error(log)
        if self.name == "runc":
            return re.match(FAILED_TO_START, error) is not None
        return bool(error) and not self.rest_of_terminal(log)

    async def unread(self, log: Path, bundle: Path, container_id: str) -> str:
        """Return crun's reason not to read a config.json; empty if the failure has another reason, which `log` holds.

        crun's parser writes to standard error only. That is the command's own stream, and `crun create` writes nothing
        there. So crun reads the document once more, with a state directory that cannot exist: it makes nothing.
        """
        if not self.name.startswith("crun") or last_error(log) not in VAGUE:
            return ""
        argv = [self.path, "--root", NO_FOLDER, "--log", f"{log}.again", "run", "--bundle", str(bundle), container_id]
        with open(os.memfd_create("longshore-reason", os.MFD_CLOEXEC), "r+b") as said:
            child = await spawn(argv, stderr=said.fileno(), cwd=log.parent, hide_unified=self.hide_unified)
            await shielded(_finish(child, self.limits.verb))
            said.seek(0)
            return _parser_error(said.read(REASON_SIZE))

    def failure(
        self,
        verb: str,
        log: Path,
        container_id: str,
        *,
        command: str | None = None,
        status: int | None = None,
        reason: str = "",
    ) -> LongshoreError:
        """What the log says (or `reason`, if there is one), as the error that a caller would catch."""
        text = reason or last_error(log)
        return explain(self.name, verb, text, container_id, command=command, status=status, log=log)


async def _finish(child: Child, limit: float) -> None:
    try:
        async with asyncio.timeout(limit):
            await child.wait()
    except TimeoutError:
        child.kill()


def last_error(log: Path) -> str:
    """The last error line of a runtime's JSON log; empty if there is none."""
    return _last_error_in(_content(log))


def _parser_error(said: bytes) -> str:
    """Return the lines of crun's parser in what crun wrote to standard error."""
    lines = (line.strip() for line in said.decode("utf-8", "replace").splitlines())
    return "; ".join(line for line in lines if line not in VAGUE and NO_FOLDER not in line)


def _content(log: Path) -> bytes:
    try:
        return log.read_bytes()
    except OSError:
        return b""


def _last_error_in(data: bytes) -> str:
    found = ""
    for raw in data.splitlines():
        try:
            line = decode_json(raw, LogLine)
        except ValueError:
            continue
        if line.level in ("error", "fatal"):
            found = _unwrapped(line.msg)
    return found


def _unwrapped(message: str) -> str:
    """What one process of crun logged within a line of another: so it reports a failed createContainer hook."""
    try:
        return decode_json(message, LogLine).msg or message
    except ValueError:
        return message


def _printable(message: str, length: int = 2000) -> str:
    """What a program said, on one line that no terminal obeys; it may be rubbish, and megabytes of it."""
    text = "".join(each if each.isprintable() else " " for each in message[:length].strip())
    return text if len(message) <= length else f"{text}..."


def explain(
    runtime: str,
    verb: str,
    message: str,
    container_id: str,
    *,
    command: str | None = None,
    status: int | None = None,
    log: Path | None = None,
) -> LongshoreError:
    """Runtimes' own words to our errors; the texts are those of runc 1.1 to 1.3 and crun 1.8 to 1.21."""
    text = _printable(message) or (f"it ended with status {status}" if status is not None else "it gave no reason")
    if verb == "exec" and re.search(PAUSED, text):
        return InvalidState("exec in", container_id, "paused", hint="resume it first")
    if verb == "start" and re.search(STOPPED, text):
        return InvalidState("start", container_id, "stopped", hint="create another container: each starts once")
    hook = "hook" in text
    if command is not None and not hook:
        if COMMAND_MISSING.search(text):
            return CommandNotFound(container_id, command)
        if COMMAND_DENIED.search(text):
            return CommandNotExecutable(container_id, command, text.rpartition(": ")[2])
    if not hook and FOLDER_STEP.search(text) and FOLDER_REASONS.search(text):
        return InvalidSpec("cwd", f"the container has no such working directory ({text.rpartition(': ')[2]})")
    hint: str | None = f"run `longshore doctor`, or try `{runtime}` by hand"
    if "hybrid mode not supported" in text:
        hint = "choose runc, or let longshore start crun itself"
    elif "memory" in text and re.search(r"too low|cannot set|limit|device or resource busy", text):
        hint = "raise `memory`: the limit may be too small to start in"
    elif "No space left" in text or (log is not None and _is_full(log)):
        hint = next_step(OSError(errno.ENOSPC, ""))  # which a runtime may tell as something else
    elif re.search(r"temporarily unavailable|pthread_create|new OS thread", text):
        hint = next_step(OSError(errno.EAGAIN, ""))
    return ServiceError(OPERATIONS.get(verb, verb), container_id, f"{runtime}: {text}", code=status, hint=hint)


def _is_full(log: Path) -> bool:
    try:
        found = os.statvfs(log.parent)
    except OSError:
        return False
    return found.f_bavail < FULL


async def delete_state(runtime: Runtime, id: str, log: Path) -> None:
    """Delete the runtime's state of a container, dead or alive. No such state is fine."""
    if not (runtime.root / id).exists():
        return
    try:
        try:
            await runtime.verb(log, "delete", "--force", id, container_id=id)
        except ServiceError as error:
            if error.code is None or error.code >= 0:
                raise
            await runtime.verb(log, "delete", "--force", id, container_id=id)  # somebody had killed it
    except ServiceError:
        if not (runtime.root / id).exists():
            return
        # crun opens the pid that it remembers, which may be a thread's of another program by now, before it asks
        # whether that is its container's; of one that has ended it does not open it without `--force`
        with suppress(ServiceError):
            await runtime.verb(log, "delete", id, container_id=id)
        if (runtime.root / id).exists():
            raise
    if (runtime.root / id).exists():
        raise ServiceError(
            "delete",
            id,
            f"{runtime.name} reported success, and {runtime.root / id} is still there",
            hint="run `longshore doctor`",
        )
