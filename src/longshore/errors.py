"""The error family. `except LongshoreError` catches every error that longshore raises on purpose.

Exception
└── LongshoreError
    ├── InvalidSpec (ValueError)            a setting is not valid; nothing has changed
    ├── NotSupported                        this host or service does not have the feature
    ├── InvalidState                        the container is in another state than the call needs
    ├── NotVisible                          this program cannot see the container's processes
    ├── ContainerNotFound (LookupError)     ContainerExists
    ├── ProcessNotFound (LookupError)       ProcessExists
    ├── CheckpointNotFound (LookupError)    CheckpointExists
    ├── CommandNotFound                     a shell would say 127
    ├── CommandNotExecutable                a shell would say 126
    ├── CommandFailed                       `run(check=True)`: the exit code is not 0
    ├── TimeLimit (TimeoutError)            a time limit has ended the call
    ├── OutputLimit                         a collected stream has grown past `max_output`
    ├── DescriptorLimit                     this program has too many open files
    ├── ServiceError                        the runtime, the monitor or Windows' service has failed
    │   └── HcsError (longshore.hcs)        with the HRESULT of Windows' service
    ├── MonitorLost                         the monitor of a kept container has died
    ├── StoreError                          the state directory cannot be used
    ├── EngineClosed                        the engine is closed, or used after a fork
    ├── ImageNotFound (LookupError)         PlatformNotFound (LookupError)
    ├── InvalidImage (ValueError)           a part of an image is not valid
    └── RegistryError                       a registry refused or failed
        ├── RegistryUnreachable
        └── RegistryAuthError

A message is one line that makes sense alone in a log: `cannot VERB OBJECT: REASON`, or a full sentence. `hint` is the
next step, as an imperative. `tests/messages.txt` lists every message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exit_record import Completed


def _visible(text: str) -> str:
    """Return the text without control characters: a message may quote text from other programs."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class LongshoreError(Exception):
    """Base of every error that longshore raises on purpose.

    `hint` is the next step, or None. A traceback shows it as a note.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(_visible(message))
        self.hint = hint = None if hint is None else _visible(hint)
        if hint is not None:
            self.add_note(f"hint: {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle would call the class with the message, which is not an argument of these classes; an error that cannot
        # be unpickled breaks a pool of processes
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(kind: type[LongshoreError], args: tuple[Any, ...], facts: dict[str, Any]) -> LongshoreError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class InvalidSpec(LongshoreError, ValueError):
    """A setting is not valid; nothing has changed. `field` is its path, for example `mounts[0].target`."""

    def __init__(self, field: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{field}: {problem}", hint=hint)
        self.field = field
        self.problem = problem


class ContainerNotFound(LongshoreError, LookupError):
    """There is no container with this id in the state directory."""

    def __init__(self, container_id: str) -> None:
        super().__init__(
            f"there is no container `{container_id}`", hint="run `longshore ps --all` to list the containers"
        )
        self.container_id = container_id


class ContainerExists(LongshoreError):
    """A container with this id exists, or is being created."""

    def __init__(self, container_id: str) -> None:
        super().__init__(
            f"cannot create container `{container_id}`: the id is taken",
            hint="choose another id, or delete the container that has it",
        )
        self.container_id = container_id


class ProcessNotFound(LongshoreError, LookupError):
    """The container has no process with this name, or the process has ended."""

    def __init__(self, container_id: str, name: str, *, ended: bool = False) -> None:
        super().__init__(
            f"process `{name}` of container `{container_id}` has ended"
            if ended
            else f"container `{container_id}` has no process `{name}`"
        )
        self.container_id = container_id
        self.name = name


class ProcessExists(LongshoreError):
    """A process with this name runs in the container already."""

    def __init__(self, container_id: str, name: str) -> None:
        super().__init__(
            f"cannot start process `{name}` in container `{container_id}`: the name is taken",
            hint="choose another name, or leave the name out",
        )
        self.container_id = container_id
        self.name = name


class CheckpointNotFound(LongshoreError, LookupError):
    """The container has no checkpoint with this name."""

    def __init__(self, container_id: str, name: str) -> None:
        super().__init__(
            f"container `{container_id}` has no checkpoint `{name}`",
            hint=f"run `longshore checkpoints {container_id}` to list its checkpoints",
        )
        self.container_id = container_id
        self.name = name


class CheckpointExists(LongshoreError):
    """The container has a checkpoint with this name already."""

    def __init__(self, container_id: str, name: str) -> None:
        super().__init__(
            f"cannot make checkpoint `{name}` of container `{container_id}`: the name is taken",
            hint="choose another name, or delete that checkpoint",
        )
        self.container_id = container_id
        self.name = name


class InvalidState(LongshoreError):
    """The container or process is in another state than this call needs. `state` says which."""

    def __init__(
        self, operation: str, container_id: str, state: str, *, reason: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(f"cannot {operation} container `{container_id}`: {reason or f'it is {state}'}", hint=hint)
        self.operation = operation
        self.container_id = container_id
        self.state = state


class NotVisible(LongshoreError):
    """This program cannot see the processes of the container, so it changes nothing."""

    def __init__(self, operation: str, container_id: str, reason: str) -> None:
        super().__init__(
            f"cannot {operation} container `{container_id}`: its processes cannot be seen from here: {reason}",
            hint="run longshore where the container was made: in the same pid and time namespaces, with their /proc",
        )
        self.operation = operation
        self.container_id = container_id
        self.reason = reason


class NotSupported(LongshoreError):
    """This host or service does not have the feature; nothing has changed. `longshore doctor` gives the same reason."""

    def __init__(self, feature: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{feature if ' ' in feature else f'`{feature}`'} is not supported here: {reason}", hint=hint)
        self.feature = feature
        self.reason = reason


class CommandNotFound(LongshoreError):
    """The command does not exist in the container (a shell would say 127)."""

    def __init__(self, container_id: str, command: str) -> None:
        super().__init__(
            f"cannot run `{command}` in container `{container_id}`: there is no such command",
            hint="check the path inside the container's root, and PATH in its environment",
        )
        self.container_id = container_id
        self.command = command


class CommandNotExecutable(LongshoreError):
    """The command exists but cannot be executed (a shell would say 126)."""

    def __init__(self, container_id: str, command: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"cannot run `{command}` in container `{container_id}`: {reason}",
            hint=hint or "check that it is an executable file, for this processor, that the container's user may run",
        )
        self.container_id = container_id
        self.command = command
        self.reason = reason


class ServiceError(LongshoreError):
    """The runtime, the monitor or Windows' service failed. `detail` is its message, `code` its exit code or HRESULT."""

    def __init__(
        self,
        operation: str,
        container_id: str | None,
        detail: str,
        *,
        code: int | None = None,
        hint: str | None = None,
    ) -> None:
        container = f" container `{container_id}`" if container_id else ""
        super().__init__(f"cannot {operation}{container}: {detail}", hint=hint)
        self.operation = operation
        self.container_id = container_id
        self.detail = detail
        self.code = code


class ImageNotFound(LongshoreError, LookupError):
    """There is no such image. `place` is the registry that was asked, or None for this machine."""

    def __init__(self, name: str, *, place: str | None = None, reason: str = "", hint: str | None = None) -> None:
        where = f"at the registry {place}" if place else "on this machine"
        super().__init__(f"there is no image `{name}` {where}" + (f": {reason}" if reason else ""), hint=hint)
        self.name = name
        self.place = place


class PlatformNotFound(LongshoreError, LookupError):
    """The image exists, but not for this platform. `available` lists its platforms."""

    def __init__(self, name: str, wanted: str, available: list[str], *, hint: str | None = None) -> None:
        shown = ", ".join(available[:12]) + (", ..." if len(available) > 12 else "")
        super().__init__(
            f"image `{name}` is not available for {wanted}, only for {shown or 'platforms that it does not name'}",
            hint=hint or "choose another tag, or set `platform` to one of these",
        )
        self.name = name
        self.wanted = wanted
        self.available = available


class InvalidImage(LongshoreError, ValueError):
    """A part of an image is not valid: its bytes do not have its digest, or a document breaks its format."""

    def __init__(self, what: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what} is not valid: {problem}", hint=hint)
        self.what = what
        self.problem = problem


class RegistryError(LongshoreError):
    """A registry refused or failed. `status` is the HTTP status, if it answered; `code` is the registry's own code."""

    def __init__(
        self,
        operation: str,
        registry: str,
        reason: str,
        *,
        status: int | None = None,
        code: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(f"cannot {operation}: {reason}", hint=hint)
        self.operation = operation
        self.registry = registry
        self.reason = reason
        self.status = status
        self.code = code


class RegistryUnreachable(RegistryError):
    """The registry gave no usable answer: no address, no connection, no trusted certificate, or a time-out."""


class RegistryAuthError(RegistryError):
    """The registry needs credentials, or refuses the given ones."""


class StoreError(LongshoreError):
    """The state directory cannot be used: it is not writable, full, damaged, or written by a later version."""


class TimeLimit(LongshoreError, TimeoutError):
    """A time limit has ended the call. `result` has the output until then (of `run` and `communicate`)."""

    def __init__(self, what: str, seconds: float, *, result: Completed | None = None, hint: str | None = None) -> None:
        super().__init__(f"{what} did not end within {seconds:g} s", hint=hint)
        self.what = what
        self.seconds = seconds
        self.result = result


class OutputLimit(LongshoreError):
    """A collected stream has grown past `max_output`, and the process was killed. `result` has the collected output."""

    def __init__(self, what: str, limit: int, *, result: Completed | None = None) -> None:
        super().__init__(
            f"{what} wrote more than {limit} bytes",
            hint="raise `max_output`, write to a file, or read the stream of a process started by `exec`",
        )
        self.what = what
        self.limit = limit
        self.result = result


class DescriptorLimit(LongshoreError):
    """This program has too many open files to start another operation; the running ones can still end."""

    def __init__(self, what: str, used: int, limit: int) -> None:
        super().__init__(
            f"cannot {what}: this program has {used} of at most {limit} files open,"
            " and its running operations need the rest",
            hint="raise the limit (`ulimit -n`, or resource.setrlimit(RLIMIT_NOFILE) in this program),"
            " or use fewer containers and processes at once",
        )
        self.used = used
        self.limit = limit


class CommandFailed(LongshoreError):
    """`run(check=True)`: the exit code is not 0. `result` has the output.

    The message ends with the last lines of standard error.
    """

    def __init__(self, result: Completed) -> None:
        how = "with an unknown exit code" if result.exit_code is None else f"with exit code {result.exit_code}"
        command = repr(result.args)
        if len(command) > 400:
            command = f"{command[:400]}..."
        said = _last_words(result.stderr)
        super().__init__(
            f"command {command} ended {how} ({result.exit.cause})" + (f": {said}" if said else ""), hint=_after(result)
        )
        self.result = result


def _after(result: Completed) -> str:
    if result.exit.cause == "oom":
        return "raise `memory`: the command ran out of it"
    if result.exit_code == 127:
        return "check PATH in `env` and the files of the root: exit code 127 means that a shell did not find a command"
    return "read the whole output in the error's `result`, or use check=False"


def _last_words(stderr: bytes, lines: int = 3, length: int = 400) -> str:
    """Return the last lines of a command's standard error, on one line without control characters."""
    text = stderr[-8 * length :].decode("utf-8", "replace")
    last = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    said = "".join(each if each.isprintable() else " " for each in " / ".join(last))
    return said if len(said) <= length else f"...{said[-length:]}"


class MonitorLost(LongshoreError):
    """The monitor of the container has died: its later output and its exit code are unknown."""

    def __init__(self, container_id: str) -> None:
        super().__init__(
            f"the monitor of container `{container_id}` is gone",
            hint="stop and delete the container; read its earlier output with `longshore logs`",
        )
        self.container_id = container_id


class EngineClosed(LongshoreError):
    """The engine is closed, or is used in a forked child, where it must not be used."""

    def __init__(self, why: str = "the engine is closed") -> None:
        super().__init__(why, hint="open a new Engine")
