r"""From the words of longshore's specs to the documents of HCS.

Pure, but for what the host is asked through `Host`: the utility VM image among the layers, and the ids of layers.

Root and layers on Windows:

- process isolation: `root="rootfs:\\?\Volume{GUID}"` is the mounted volume of the container's scratch layer;
- `layers=Layers(parents=[...], scratch=...)`, or `layer_paths` and `layer_folder` of the Windows options, or the
  `layerFolders` of an OCI document: parent layers, nearest first, and the container's own folder.
"""

from __future__ import annotations

import logging
import ntpath
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ...errors import InvalidSpec, NotSupported, ServiceError
from ...spec import Endpoints, ProcessSpec, Resources, Security, Spec, WindowsOptions, image_of_root
from . import command_line, foreign_document
from .documents import (
    AssignedDevice,
    ContainerConfig,
    HvRuntime,
    Layer,
    MappedDirectory,
    MappedPipe,
    ProcessConfig,
)

log = logging.getLogger("longshore.hcs")

UTILITY_VM = "UtilityVM"
ROOT = "C:\\"  # where a command begins that is told nothing else, as docker's; an empty text is System32
PIPES = "\\\\.\\pipe\\"

_VOLUME = re.compile(r"\\\\\?\\Volume\{[0-9a-fA-F-]{36}\}")
_MEGABYTE = 1 << 20


def exists(path: str) -> bool:
    """Whether there is such a file or folder. Raises OSError where that cannot be told."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


@dataclass(frozen=True)
class Host:
    """What a translation needs to know of the machine."""

    cpus: int
    name_to_guid: Callable[[str], str]  # NameToGuid of the DLL: its algorithm is nowhere told
    exists: Callable[[str], bool] = exists  # raises OSError for anything but "does not exist"


# the container


def options(spec: Spec) -> WindowsOptions:
    """The Windows options of a spec: its own, over those of its OCI document's `windows` object."""
    return foreign_document.options(foreign_document.read(spec.oci).windows, spec.windows)


def container_config(id: str, spec: Spec, host: Host) -> ContainerConfig:
    """The document that makes a container.

    InvalidSpec names the field that cannot be meant; NotSupported one that Windows has no such thing for. An error
    in looking for the utility VM is a ServiceError; those of `host.name_to_guid` pass through.
    """
    document = foreign_document.read(spec.oci)
    chosen = foreign_document.options(document.windows, spec.windows)
    refuse(spec)
    parents, folder = layers(spec, chosen)
    config = ContainerConfig(
        system_type="Container",
        name=id,
        owner=chosen.owner,
        is_dummy=False,
        ignore_flushes_during_boot=bool(chosen.ignore_flushes_during_boot),
        layer_folder_path=folder,
        layers=None,
        credentials=chosen.credentials,
        host_name=_host_name(id, spec, document),
        mapped_directories=[],
        hv_partition=chosen.isolated,
        endpoint_list=None,
        servicing=bool(chosen.servicing),
        allow_unqualified_dns_query=False,
    )
    _limit(config, spec, chosen, document, host)
    if chosen.endpoints is not None:
        _connect(config, chosen.endpoints)
    if chosen.hyperv is not None:
        config.sandbox_path = chosen.hyperv.sandbox_path
    config.mapped_directories, config.mapped_pipes = _mounts(spec, document)
    if chosen.isolated and chosen.devices:
        raise NotSupported(
            "windows.devices",
            "a utility VM gets no devices of the host",
            hint="use process isolation, or leave them out",
        )
    config.assigned_devices = [AssignedDevice(interface_class_guid=guid) for guid in chosen.devices]
    volume = _volume(spec, document)  # checked also where it is not used
    if chosen.isolated:
        assert chosen.hyperv is not None
        image = chosen.hyperv.utility_vm_path or utility_vm(id, parents, host.exists)
        config.hv_runtime = HvRuntime(image_path=image)
    else:
        config.volume_path = volume
    if spec.windows is not None and spec.windows.storage_size and not makes_scratch(spec, config):
        raise InvalidSpec(
            "windows.storage_size",
            "is the size of a scratch layer that longshore makes, and this container has none",
            hint="leave it out, or give `layers` alone",
        )
    config.layers = [Layer(id=host.name_to_guid(ntpath.split(path)[1]), path=path) for path in parents]
    return config


def makes_scratch(spec: Spec, config: ContainerConfig) -> bool:
    """Whether the container's own layer is ours to prepare: not where the options name layers that somebody has
    prepared, as the original's caller did, nor where a volume is given."""
    if config.servicing or config.volume_path:
        return False
    return spec.windows is None or spec.windows.layer_paths is None


def layers(spec: Spec, chosen: WindowsOptions) -> tuple[list[str], str]:
    """The parent layers, nearest first, and the container's own folder ("" if none is given)."""
    if spec.layers is not None:
        if spec.windows is not None and spec.windows.layer_paths is not None:
            raise InvalidSpec("layers", "are given twice: also as Windows options", hint="give one of them")
        field, parents, scratch = "layers.parents", spec.layers.parents, spec.layers.scratch or ""
    else:
        field, parents, scratch = "windows.layer_paths", chosen.layer_paths or [], chosen.layer_folder
    if not parents:
        raise InvalidSpec(
            field,
            "no parent layers are given: a Windows container needs at least one",
            hint="give `layers=Layers(parents=[...])`: the folders of an image's layers, nearest first",
        )
    for index, path in enumerate([*parents, scratch]):
        if "\0" in path:
            raise InvalidSpec(
                f"{field}[{index}]" if index < len(parents) else "layers.scratch", "holds a NUL character"
            )
    return parents, scratch


def utility_vm(id: str, parents: Iterable[str], exists: Callable[[str], bool]) -> str:
    """The image of the utility VM: that of the upper-most layer which has one. A VM has no layers of its own."""
    for path in parents:
        image = ntpath.normpath(ntpath.join(path, UTILITY_VM))
        try:
            if exists(image):
                return image
        except OSError as error:
            code = getattr(error, "winerror", None) or error.errno
            detail = f"{image}: {error.strerror or error}"
            hint = "check that this user may read the folders of the layers"
            raise ServiceError("find the utility VM of", id, detail, code=code, hint=hint) from error
    raise InvalidSpec(
        "windows.hyperv",
        f"none of the parent layers has a folder `{UTILITY_VM}`",
        hint="use the layers of a Windows image that has one (servercore, nanoserver), or give `utility_vm_path`",
    )


def _volume(spec: Spec, document: foreign_document.GivenConfig) -> str:
    if spec.read_only or (document.root is not None and document.root.readonly):
        raise NotSupported("read_only", "the root of a Windows container cannot be read-only")
    if spec.root == "host:full" or spec.show:
        raise NotSupported("a `host` root", "Windows containers are made of layers", hint="give `layers`")
    field, path = "root", spec.root.removeprefix("rootfs:")
    # `host` is what a spec has where nothing is said; an image's folders are in `layers`
    if spec.root in ("", "host") or image_of_root(spec.root) is not None:
        field, path = "oci.root.path", document.root.path if document.root is not None else ""
    if not path:
        return ""
    volume = path.removesuffix("\\")  # as a volume's path is usually written; schema 1 takes it without
    if not _VOLUME.fullmatch(volume):
        raise InvalidSpec(field, f"{path!r} is not a volume", hint=r"write it as \\?\Volume{GUID}, or give `layers`")
    return volume


def _host_name(id: str, spec: Spec, document: foreign_document.GivenConfig) -> str:
    if spec.hostname is not None:
        return spec.hostname
    if spec.oci is not None:
        return document.hostname
    return re.sub("[^A-Za-z0-9-]", "-", id)[:12].strip("-")  # as docker; Windows takes 15 characters


def _limit(
    config: ContainerConfig, spec: Spec, chosen: WindowsOptions, document: foreign_document.GivenConfig, host: Host
) -> None:
    """Limits of processors, memory and storage; what was not asked for, or is 0, is left out."""
    asked = spec.resources
    count = chosen.cpu_count or 0
    maximum = chosen.cpu_maximum or (chosen.cpu_percent or 0) * 100
    if asked.cpus is not None:
        if count or maximum:
            raise InvalidSpec(
                "cpus", "cannot be combined with the Windows options for the same limit", hint="give one of them"
            )
        count, maximum = _cpus(asked.cpus, host.cpus, isolated=chosen.isolated)
    if count > host.cpus:
        log.warning(
            "container `%s`: %d processors were asked for, it gets the %d of this host", config.name, count, host.cpus
        )
        count = host.cpus
    config.processor_count = count
    config.processor_maximum = maximum
    config.processor_weight = asked.cpu_weight or chosen.cpu_shares or 0
    config.memory_maximum = _megabytes(asked, document)
    config.storage_bandwidth_maximum = chosen.storage_bps or 0
    config.storage_iops_maximum = chosen.storage_iops or 0


def _cpus(cpus: float, host_cpus: int, *, isolated: bool) -> tuple[int, int]:
    """ProcessorCount and ProcessorMaximum for so many processors' worth of time, as docker has it.

    A utility VM has as many processors as it needs, and of those a share; a process-isolated container has all.
    """
    if not isolated:
        return 0, min(10_000, max(1, int(cpus * 10_000 / host_cpus)))
    count = min(host_cpus, max(1, -int(-cpus // 1)))
    return count, min(10_000, max(1, int(cpus * 10_000 / count)))


def _megabytes(asked: Resources, document: foreign_document.GivenConfig) -> int:
    field, limit = "memory", int(asked.memory or 0)
    if asked.memory is None and document.windows is not None and document.windows.resources is not None:
        memory = document.windows.resources.memory
        field, limit = "oci.windows.resources.memory.limit", (memory.limit or 0) if memory is not None else 0
    foreign_document.within(limit, (1 << 63) - 1, field)
    if 0 < limit < _MEGABYTE:
        raise InvalidSpec(field, f"{limit} bytes are below 1 MB, the unit in which Windows limits memory")
    return limit // _MEGABYTE


def _connect(config: ContainerConfig, endpoints: Endpoints) -> None:
    config.endpoint_list = endpoints.ids
    config.allow_unqualified_dns_query = endpoints.allow_unqualified_dns_query
    config.dns_search_list = ",".join(endpoints.dns_search_list or [])
    config.network_shared_container_name = endpoints.shared_container


@dataclass(frozen=True)
class _Mapping:
    """A folder or a named pipe of the host, and where the container sees it."""

    source: str
    target: str
    read_only: bool


def _mounts(spec: Spec, document: foreign_document.GivenConfig) -> tuple[list[MappedDirectory], list[MappedPipe]]:
    """Folders and named pipes of the host; those of the spec take the place of the document's for a target."""
    taken: dict[str, str] = {}
    for index, mount in enumerate(spec.mounts):
        _occupy(mount.target, f"mounts[{index}].target", taken)
    # two of the document's own at one place are HCS's to judge, as the original left them
    found = [
        _mapping(f"oci.mounts[{index}]", entry.type or "bind", entry.source, entry.destination, entry.options or [])
        for index, entry in enumerate(document.mounts or [])
        if one_place(entry.destination) not in taken
    ]
    for index, mount in enumerate(spec.mounts):
        unknown = [option for option in mount.options if option.lower() not in ("ro", "rw", "bind", "rbind")]
        if unknown:  # of a document, whoever wrote it for both platforms may have them
            raise NotSupported(
                f"mounts[{index}].options", f"Windows has no mount option {unknown[0]!r}", hint="use ro or rw"
            )
        options = [*mount.options, "ro"] if mount.read_only else mount.options
        found.append(_mapping(f"mounts[{index}]", mount.type, mount.source or "", mount.target, options))
    directories = [
        MappedDirectory(
            host_path=entry.source,
            container_path=entry.target,
            read_only=entry.read_only,
            bandwidth_maximum=0,
            iops_maximum=0,
        )
        for entry in found
        if not _is_pipe(entry.source)
    ]
    pipes = [
        MappedPipe(host_path=entry.source, container_pipe_name=entry.target[len(PIPES) :])
        for entry in found
        if _is_pipe(entry.source)
    ]
    return directories, pipes


def one_place(path: str) -> str:
    """Return the one spelling of a place: Windows knows no case, takes both slashes, and drops dots and blanks at the
    end of a name."""
    parts = ntpath.normpath(path.replace("/", "\\")).rstrip("\\").split("\\")
    named = "\\".join(part.rstrip(" .") or part for part in parts)
    return "".join(each.upper() if len(each.upper()) == 1 else each for each in named)


def _occupy(path: str, field: str, taken: dict[str, str]) -> None:
    place = one_place(path)
    if place in taken:
        raise InvalidSpec(field, f"{path} is mounted twice: on Windows it is the same path as {taken[place]}")
    taken[place] = path


def _mapping(field: str, kind: str, source: str, target: str, options: Iterable[str]) -> _Mapping:
    if kind != "bind":
        raise NotSupported(f"{field}.type", f"Windows has no mounts of type {kind!r}")
    for name, path in (("source", source), ("target", target)):
        if "\0" in path:
            raise InvalidSpec(f"{field}.{name}", "holds a NUL character")
    piped = _is_pipe(source)
    if piped and not _is_pipe(target):
        raise InvalidSpec(f"{field}.target", f"{target!r} is not a named pipe, but the source is one")
    if not piped and _is_pipe(target):
        raise InvalidSpec(f"{field}.target", f"{target!r} is a named pipe, but the source is not one")
    if piped:
        source, target = source.replace("/", "\\"), target.replace("/", "\\")
        for name, path in (("source", source), ("target", target)):
            if len(path) == len(PIPES):
                raise InvalidSpec(f"{field}.{name}", f"{path!r} is not the name of a pipe")
    return _Mapping(source, target, any(option.lower() == "ro" for option in options))


def _is_pipe(path: str) -> bool:
    """Whether it is a named pipe of Windows, also as `//./pipe/x`, which users of docker write."""
    return path.replace("/", "\\").lower().startswith(PIPES)


def refuse(spec: Spec) -> None:
    """NotSupported for what a spec asks and Windows has no such thing for: never a silent success."""
    no_limit = "Windows containers have no such limit"
    asked = spec.resources
    refused: dict[str, tuple[bool, str, str | None]] = {
        "memory_swap": (asked.memory_swap is not None, no_limit, None),
        "memory_reservation": (asked.memory_reservation is not None, no_limit, None),
        "cpuset": (asked.cpuset is not None, no_limit, "`cpus` limits the time"),
        "pids": (asked.pids is not None, no_limit, None),
        "rlimits": (bool(spec.rlimits), "Windows has no resource limits of processes", None),
        "network": (spec.network == "host", "a Windows container has the endpoints it is given", "give `endpoints`"),
        "security": (spec.security != Security(), "its settings are Linux's", None),
        "init": (spec.init, "a Windows container has processes of the system's own to reap what is orphaned", None),
    }
    for name, (is_asked, reason, hint) in refused.items():
        if is_asked:
            raise NotSupported(name, reason, hint=hint)


# processes


def process_config(process: Spec | ProcessSpec, container: Spec | None = None) -> ProcessConfig:
    """The document that starts a process: the init of a spec, or one more in the container that `container` made."""
    if isinstance(process, Spec):
        return init_process(process)
    if container is None:
        raise TypeError("an exec needs the spec of its container")
    return exec_process(process, container)


def init_process(spec: Spec) -> ProcessConfig:
    """Return the document of a container's first process. A servicing process has no streams."""
    document = foreign_document.read(spec.oci)
    found = document.process or foreign_document.GivenProcess()
    servicing = foreign_document.options(document.windows, spec.windows).servicing
    return _process(spec, _base(spec, found), found, streams=not servicing)


def exec_process(process: ProcessSpec, spec: Spec) -> ProcessConfig:
    """Return the document of a further process: what it does not say itself comes from the container's `spec`.

    With an OCI process of its own, only an empty working directory comes from there. All streams are made, as for
    init, because HCS makes none later.
    """
    for name in ("privileged", "cap_add"):
        if getattr(process, name):
            raise NotSupported(name, "Windows has no capabilities", hint="choose a `user`")
    container = _base(spec, foreign_document.read(spec.oci).process or foreign_document.GivenProcess())
    own = foreign_document.read_process(process.oci)
    base = container if process.oci is None else _base(None, own)
    over = _Base(
        user=base.user if process.user is None else process.user,
        cwd=process.cwd or base.cwd or container.cwd,
        environment=merged(base.environment, process.env),
    )
    return _process(process, over, own, streams=True)


@dataclass(frozen=True)
class _Base:
    """The user, the folder and the variables of a process."""

    user: str
    cwd: str
    environment: dict[str, str]


def _process(
    asked: Spec | ProcessSpec, base: _Base, found: foreign_document.GivenProcess, *, streams: bool
) -> ProcessConfig:
    return ProcessConfig(
        application_name="",
        command_line=_command_line(asked, found),
        user=base.user,
        working_directory=base.cwd,
        environment=base.environment,
        emulate_console=asked.terminal,
        create_std_in_pipe=streams,
        create_std_out_pipe=streams,
        create_std_err_pipe=streams and not asked.terminal,
        console_size=_size(asked.terminal, asked.size, found),
    )


def _base(spec: Spec | None, found: foreign_document.GivenProcess) -> _Base:
    """Merge an OCI process and a spec. The spec counts."""
    user = found.user.username if found.user is not None else ""
    env = environment(found.env or [])
    if spec is None:
        return _Base(user, found.cwd, env)
    return _Base(
        user=user if spec.user is None else spec.user,
        cwd=spec.cwd if spec.cwd is not None else found.cwd if spec.oci is not None else ROOT,
        environment=merged(env, spec.env),
    )


def _command_line(asked: Spec | ProcessSpec, found: foreign_document.GivenProcess) -> str:
    """The command as Windows takes it: text as it is, a list quoted so that programs take it apart again."""
    if asked.args:
        return command_line.check(command_line.join(asked.args), "args")
    if asked.command_line is not None:
        return command_line.check(asked.command_line, "command_line")
    if found.command_line:
        return command_line.check(found.command_line, "oci.process.commandLine")
    return command_line.check(command_line.join(found.args or [], "oci.process.args"), "oci.process.args")


def _size(terminal: bool, size: tuple[int, int] | None, found: foreign_document.GivenProcess) -> tuple[int, int]:
    """Height and width; 0 is left to Windows, and what there is without a terminal."""
    if not terminal:
        return 0, 0
    if size is not None:
        return size
    if found.console_size is None:
        return 0, 0
    height, width = found.console_size.height, found.console_size.width
    foreign_document.within(height, 0xFFFF, "oci.process.consoleSize.height")
    foreign_document.within(width, 0xFFFF, "oci.process.consoleSize.width")
    return height, width


def environment(entries: Iterable[str]) -> dict[str, str]:
    """An OCI document's `NAME=value` texts, as the original took them.

    Without a `=` it is no variable and dropped; of two with the same name the last counts.
    """
    pairs = [entry.partition("=") for entry in entries]
    return dict(sorted({name: value for name, equals, value in pairs if equals}.items()))


def merged(base: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """An environment with more set, sorted by name. Windows sees no difference between `Path` and `PATH`."""
    replaced = {name.upper() for name in over}
    kept = {name: value for name, value in base.items() if name.upper() not in replaced}
    return dict(sorted({**kept, **over}.items()))
