"""The config of an image as fields of a Spec: conversion.md of the OCI's image specification, and what docker does.

What the caller says wins. Arguments take the place of the image's Cmd and follow its Entrypoint; an entrypoint of the
caller's takes the place of both. Variables and labels are merged by name.

Not here: Volumes (the container's own scratch layer holds what is written there), Healthcheck, Shell and OnBuild, which
nothing runs.
"""

from __future__ import annotations

import posixpath
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..errors import InvalidImage, InvalidSpec
from ..spec.checks import check_arguments, check_environment, parse_signal
from .documents import ImageConfig

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ANNOTATION = "org.opencontainers.image."


class ImageCommand(msgspec.Struct, frozen=True, kw_only=True):
    """The command that a container of an image runs: a list, or on Windows one command line."""

    args: list[str] = []
    command_line: str | None = None


def spec_fields(
    config: ImageConfig, given: Mapping[str, Any], name: str, *, entrypoint: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the fields of a Spec: those given by the caller, completed by what the image says.

    `given` are keyword arguments of `Spec.of`; a field of it that is None counts as not given. An empty `entrypoint`
    is one that the caller gave, too: then the image's is dropped. Raises: InvalidSpec, also if there is no command;
    InvalidImage for a setting of the image that cannot be meant.
    """
    fields = {field: value for field, value in given.items() if value is not None}
    image = config.config
    if "command_line" not in fields:
        command = command_of(config, fields.get("args"), entrypoint, name)
        fields["args"] = command.args
        if command.command_line is not None:
            fields["command_line"] = command.command_line
    fields["env"] = environment_of(config) | check_environment(fields.get("env", {}), "env")
    if "cwd" not in fields and image.working_dir:
        fields["cwd"] = working_directory_of(config)
    if "user" not in fields and image.user:
        fields["user"] = image.user
    if "stop_signal" not in fields and image.stop_signal:
        try:
            fields["stop_signal"] = parse_signal(image.stop_signal)
        except InvalidSpec as error:
            raise InvalidImage(
                f"image `{name}`", f"its StopSignal: {error.problem}", hint="give `stop_signal`"
            ) from None
    labels = fields.get("labels", {})
    if isinstance(labels, Mapping):  # else Spec says what is wrong with them
        fields["labels"] = {label: value for label, value in image.labels.items() if label} | dict(labels)
    return fields


def command_of(
    config: ImageConfig, args: Sequence[str] | None, entrypoint: Sequence[str] | None, name: str
) -> ImageCommand:
    """Return the command of a container: arguments replace the image's Cmd, an entrypoint replaces that and Entrypoint.

    Raises: InvalidSpec if neither the caller nor the image has one.
    """
    image = config.config
    own = check_arguments(args, "args") if args is not None else []
    first = list(image.entrypoint or []) if entrypoint is None else check_arguments(entrypoint, "entrypoint")
    rest = own or ([] if entrypoint is not None else list(image.cmd or []))
    command = [*first, *rest]
    if not command:
        raise InvalidSpec("args", f"the image `{name}` has no command", hint="give one, for example ['sh']")
    if config.os == "windows" and image.args_escaped and not own and entrypoint is None:
        # the first element is a command line already: docker's daemon/oci_windows.go
        more = f" {subprocess.list2cmdline(command[1:])}" if command[1:] else ""
        return ImageCommand(command_line=command[0] + more)
    return ImageCommand(args=command)


def environment_of(config: ImageConfig) -> dict[str, str]:
    """Return the variables of an image; a later one of the same name wins, and there always is a PATH on Linux."""
    found = {} if config.os == "windows" else {"PATH": PATH}
    for each in config.config.env:
        name, equals, value = each.partition("=")
        if name and equals and "\0" not in each:
            found[name] = value
    return found


def working_directory_of(config: ImageConfig) -> str | None:
    """Return the absolute working directory of an image; a relative one is meant from the root."""
    path = config.config.working_dir
    if not path or config.os == "windows":
        return path or None
    return posixpath.normpath(f"/{path.lstrip('/')}")


def annotations_of(config: ImageConfig) -> dict[str, str]:
    """Return the annotations that conversion.md derives from a config; labels of the same name win."""
    image = config.config
    derived = {
        "os": config.os,
        "architecture": config.architecture,
        "variant": config.variant,
        "os.version": config.os_version,
        "os.features": ",".join(config.os_features),
        "author": config.author,
        "created": config.created,
        "stopSignal": image.stop_signal,
        "exposedPorts": ",".join(sorted(image.exposed_ports)),
    }
    return {f"{_ANNOTATION}{name}": value for name, value in derived.items() if value} | image.labels
