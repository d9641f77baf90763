"""The error family: one tree, so that `except LongshoreError` catches all that longshore raises on purpose.

A message is one line that makes sense alone in a log: what was tried, on what, why not. `hint` is the next step.

    LongshoreError
      InvalidSpec             (ValueError)   a setting cannot be meant as it stands
      ContainerNotFound       (LookupError)
      ContainerExists
      ProcessNotFound         (LookupError)
      ProcessExists
      CheckpointNotFound      (LookupError)
      CheckpointExists
      ImageNotFound           (LookupError)
      PlatformNotFound        (LookupError)  the image exists, but not for this platform
      InvalidImage            (ValueError)   wrong bytes for a digest, or a document against its format
      InvalidState                           the container cannot do this in its state
      NotVisible                             this program cannot see the container's processes
      NotSupported                           this host or service cannot do it
      CommandNotFound                        a shell would say 127
      CommandNotExecutable                   a shell would say 126
      CommandFailed                          `run(check=True)`, and the exit code was not 0
      ServiceError                           the compute service failed
      StoreError                             the state directory cannot be used
      RegistryError                          a registry refused or failed
        RegistryUnreachable                  there was no usable answer from it
        RegistryAuthError                    it wants credentials, or refuses those given
      TimeLimit               (TimeoutError)
      OutputLimit
      DescriptorLimit
      MonitorLost                            the container's monitor died
      EngineClosed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exit_record import Completed


def _visible(text: str) -> str:
    """A text on one line that no terminal obeys: names and words of others stand in messages."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class LongshoreError(Exception):
    """Base of every error that longshore raises on purpose.

    `hint` tells the next step, or is None where there is none to give. A traceback shows it, as a note.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(_visible(message))
        self.hint = hint = None if hint is None else _visible(hint)
        if hint is not None:
            self.add_note(f"hint: {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled as a call with its message, and no class here is made by its message. A pool of
        # processes is broken by an error that its worker can send and the parent cannot read.
        return _as_it_was, (type(self), self.args, self.__dict__.copy())


def _as_it_was(kind: type[LongshoreError], args: tuple[Any, ...], facts: dict[str, Any]) -> LongshoreError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class InvalidSpec(LongshoreError, ValueError):
    """A setting cannot be meant as it stands; nothing was changed. `field` is its path, as `mounts[0].target`."""

    def __init__(self, field: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{field}: {problem}", hint=hint)
        self.field = field
        self.problem = problem


class ContainerNotFound(LongshoreError, LookupError):
    """No container of this id is known here."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"there is no container `{container_id}`", hint="`longshore ps --all` lists what there is")
        self.container_id = container_id


class ContainerExists(LongshoreError):
    """The id is taken, by a container that exists or is being made."""

    def __init__(self, container_id: str) -> None:
        super().__init__(
            f"cannot create container `{container_id}`: the id is taken",
            hint="choose another id, or delete the container that has it",
        )
        self.container_id = container_id


class ProcessNotFound(LongshoreError, LookupError):
    """The container has no process of this name, or it has ended."""

    def __init__(self, container_id: str, name: str, *, ended: bool = False) -> None:
        super().__init__(
            f"process `{name}` of container `{container_id}` has ended"
            if ended
            else f"container `{container_id}` has no process `{name}`"
        )
        self.container_id = container_id
        self.name = name


class ProcessExists(LongshoreError):
    """A process of this name runs in the container already."""

    def __init__(self, container_id: str, name: str) -> None:
        super().__init__(
            f"cannot start process `{name}` in container `{container_id}`: the name is taken",
            hint="choose another name, or none to have one made up",
        )
        self.container_id = container_id
        self.name = name


class CheckpointNotFound(LongshoreError, LookupError):
    """The container has no checkpoint of this name."""

    def __init__(self, container_id: str, name: str) -> None:
        super().__init__(
            f"container `{container_id}` has no checkpoint `{name}`",
            hint=f"`longshore checkpoints {container_id}` lists those there are",
        )
        self.container_id = container_id
        self.name = name


class CheckpointExists(LongshoreError):
    """The container has a checkpoint of this name already."""

    def __init__(self, container_id: str, name: str) -> None:
        super().__init__(
            f"cannot make checkpoint `{name}` of container `{container_id}`: the name is taken",
            hint="choose another name, or delete the one that has it",
        )
        self.container_id = container_id
        self.name = name


class InvalidState(LongshoreError):
    """The container or process is not in a state in which this can be done."""

    def __init__(self, operation: str, container_id: str, state: str, *, hint: str | None = None) -> None:
        super().__init__(f"cannot {operation} container `{container_id}`: it is {state}", hint=hint)
        self.operation = operation
        self.container_id = container_id
        self.state = state


class NotVisible(LongshoreError):
    """This program cannot see the processes of the container, so it neither judges nor changes it."""

    def __init__(self, operation: str, container_id: str, reason: str) -> None:
        super().__init__(
            f"cannot {operation} container `{container_id}`: its processes cannot be seen from here: {reason}",
            hint="use longshore where the container was made: in the same pid and time namespaces, with their /proc",
        )
        self.operation = operation
        self.container_id = container_id
        self.reason = reason


class NotSupported(LongshoreError):
    """This host or service cannot do it; nothing was touched. The reason is the one that `doctor` gives."""

    def __init__(self, feature: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{feature} is not supported here: {reason}", hint=hint)
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
    """The compute service failed: what was asked of it, about which container, its code and its own words."""

    def __init__(
        self,
        operation: str,
        container_id: str | None,
        detail: str,
        *,
        code: int | None = None,
        hint: str | None = None,
    ) -> None:
        of = f" of container `{container_id}`" if container_id else ""
        super().__init__(f"{operation}{of} failed: {detail}", hint=hint)
        self.operation = operation
        self.container_id = container_id
        self.detail = detail
        self.code = code


class ImageNotFound(LongshoreError, LookupError):
    """No such image: `place` is where it was looked for, a registry or None for this machine."""

    def __init__(self, name: str, *, place: str | None = None, reason: str = "", hint: str | None = None) -> None:
        where = f"at the registry {place}" if place else "on this machine"
        super().__init__(f"there is no image `{name}` {where}" + (f": {reason}" if reason else ""), hint=hint)
        self.name = name
        self.place = place


class PlatformNotFound(LongshoreError, LookupError):
    """The image exists, but not for the platform that was asked for. `available` lists those that it is for."""

    def __init__(self, name: str, wanted: str, available: list[str], *, hint: str | None = None) -> None:
        shown = ", ".join(available[:12]) + (", ..." if len(available) > 12 else "")
        super().__init__(
            f"image `{name}` is not there for {wanted}: it is for {shown or 'no platform that it names'}",
            hint=hint or "choose another tag, or name one of these platforms with `platform`",
        )
        self.name = name
        self.wanted = wanted
        self.available = available


class InvalidImage(LongshoreError, ValueError):
    """A part of an image is not what it has to be: wrong bytes for its digest, or a document against its format."""

    def __init__(self, what: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what} is not valid: {problem}", hint=hint)
        self.what = what
        self.problem = problem


class RegistryError(LongshoreError):
    """A registry refused or failed. `status` is its HTTP status, if there was an answer, and `code` its own code."""

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
    """There was no usable answer from the registry: no address, no connection, no trust, or silence."""


class RegistryAuthError(RegistryError):
    """The registry wants credentials, or refuses those that were given."""


class StoreError(LongshoreError):
    """The state directory cannot be used: not writable, full, damaged, or written by a later version."""


class TimeLimit(LongshoreError, TimeoutError):
    """A time limit ended what was asked. `result` is what there was until then (of `run` and `communicate`)."""

    def __init__(self, what: str, seconds: float, *, result: Completed | None = None, hint: str | None = None) -> None:
        super().__init__(f"{what} did not end within {seconds:g} s", hint=hint)
        self.what = what
        self.seconds = seconds
        self.result = result


class OutputLimit(LongshoreError):
    """A collected stream grew past its bound; the process was killed. `result` holds what was collected."""

    def __init__(self, what: str, limit: int, *, result: Completed | None = None) -> None:
        super().__init__(
            f"{what} wrote more than {limit} bytes",
            hint="raise `max_output`, write to a file, or read the stream of a process started by `exec`",
        )
        self.what = what
        self.limit = limit
        self.result = result


class DescriptorLimit(LongshoreError):
    """This program has too many files open to begin anything more; what is under way can still be ended."""

    def __init__(self, what: str, used: int, limit: int) -> None:
        super().__init__(
            f"cannot {what}: this program has {used} of at most {limit} files open,"
            " and what it has under way needs the rest",
            hint="raise the limit (`ulimit -n`, or resource.setrlimit(RLIMIT_NOFILE) in the program itself),"
            " or have fewer containers and processes at once",
        )
        self.used = used
        self.limit = limit


class CommandFailed(LongshoreError):
    """`run(check=True)`: the command ended with something other than 0. `result` has the rest.

    The message ends with the last of what it wrote to standard error.
    """

    def __init__(self, result: Completed) -> None:
        how = "nobody saw how" if result.exit_code is None else f"with exit code {result.exit_code}"
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
        return "it ran out of memory: raise `memory`, or have it use less"
    if result.exit_code == 127:
        return "a shell says 127 of a command that it did not find: look at PATH in `env`, and at what the root has"
    return "the error's `result` has all that it wrote; without check=True, `run` returns that instead"


def _last_words(stderr: bytes, lines: int = 3, length: int = 400) -> str:
    """The last lines of what a command wrote, on one line that no terminal obeys."""
    text = stderr[-8 * length :].decode("utf-8", "replace")
    last = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    said = "".join(each if each.isprintable() else " " for each in " / ".join(last))
    return said if len(said) <= length else f"...{said[-length:]}"


class MonitorLost(LongshoreError):
    """The monitor of the container died: streams, log and exit code from then on are unknown."""

    def __init__(self, container_id: str) -> None:
        super().__init__(
            f"the monitor of container `{container_id}` is gone",
            hint="stop and delete the container; what it wrote until then is in its log",
        )
        self.container_id = container_id


class EngineClosed(LongshoreError):
    """The engine was closed, or is used in a forked child, where it must not be."""

    def __init__(self, why: str = "the engine is closed") -> None:
        super().__init__(why, hint="open a new Engine")
