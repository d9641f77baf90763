"""What a recording's caller asks, in longshore's words: its specification is an OCI document, its options are typed."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from longshore.spec import Endpoints, HyperV, ProcessSpec, Spec, WindowsOptions

from .vectors import Operation, Option, Vector

OWNER = "docker"  # what the original called itself


def windows_options(options: Sequence[Option]) -> WindowsOptions:
    """The options merged into one object: of two of a kind the last counts.

    As with the original, a later network option without a search list leaves an earlier one's.
    """
    found: dict[str, Any] = {"owner": OWNER}
    for option in options:
        match option.type:
            case "Servicing":
                found["servicing"] = option.is_servicing
            case "Flush":
                found["ignore_flushes_during_boot"] = option.ignore_flushes_during_boot
            case "HyperVIsolation":
                found["hyperv"] = HyperV(enabled=option.is_hyper_v, sandbox_path=option.sandbox_path)
            case "Layer":
                found["layer_folder"], found["layer_paths"] = option.layer_folder_path, option.layer_paths
            case "NetworkEndpoints":
                earlier = found.get("endpoints", Endpoints())
                search = option.dns_search_list
                found["endpoints"] = Endpoints(
                    ids=option.endpoints,
                    allow_unqualified_dns_query=option.allow_unqualified_dns_query,
                    dns_search_list=earlier.dns_search_list if search is None else search,
                )
            case "Credentials":
                found["credentials"] = option.credentials
            case unknown:
                raise ValueError(f"an option of type {unknown!r} is not known here")
    return WindowsOptions(**found)


def container_spec(document: dict[str, Any], options: Sequence[Option]) -> Spec:
    """The spec of a `create` operation. A command that is null is the empty command line that the original sent."""
    process = document.get("process") or {}
    fields: dict[str, Any] = {"terminal": bool(process.get("terminal"))}
    if not process.get("args"):
        fields["command_line"] = ""
    return Spec.of(oci=document, windows=windows_options(options), **fields)


def created(step: Operation) -> Spec:
    """The spec of a `create` operation that `Vector.completed` has completed."""
    return container_spec(step.spec or {}, step.options or [])


def exists(vector: Vector) -> Callable[[str], bool]:
    """What the recording's host has below the layer folders."""
    there = [*vector.host.directories, *vector.host.files]

    def look(path: str) -> bool:
        if any(character in path[2:] for character in '<>:"|?*'):
            error = OSError(errno.EINVAL, "Invalid name", path)
            error.winerror = 123  # type: ignore[attr-defined]  # as Windows' os.stat has it
            raise error
        return any(known.lower() == path.lower() or known.lower().startswith(f"{path.lower()}\\") for known in there)

    return look


def process_spec(document: dict[str, Any]) -> ProcessSpec:
    """The spec of an `addprocess` operation: the process as it stands, with nothing of its container's but the cwd."""
    line = None if document.get("args") else ""
    return ProcessSpec(oci=document, command_line=line, terminal=bool(document.get("terminal")))
