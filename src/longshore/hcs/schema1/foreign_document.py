"""An OCI document that somebody else wrote, as far as Windows has a meaning for it: typed, its values checked.

Both shapes of its `windows` object are understood: today's (runtime-spec 1.0 to 1.2, config-windows.md), and that of
early 2017, which the original was given (`percent` in place of `maximum`; layers and network came beside it).
Members without a field here pass unseen, as the specification asks of a runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import field

from ...errors import InvalidSpec, NotSupported
from ...spec import Endpoints, HyperV, WindowsOptions
from ...spec.runtime_spec import check_config, check_process, ignored_as_unknown, without_nulls
from ...typed_json import convert

U64 = (1 << 64) - 1

T = TypeVar("T")


class _Given(msgspec.Struct, rename="camel"):
    """Part of a document. (`kw_only` is not inherited.)"""


class GivenUser(_Given, kw_only=True):
    """`process.user`."""

    username: str = ""


class GivenSize(_Given, kw_only=True):
    """`process.consoleSize`, in characters."""

    height: int = 0
    width: int = 0


class GivenProcess(_Given, kw_only=True):
    """`process`: what one process is."""

    args: list[str] | None = None
    command_line: str = ""
    env: list[str] | None = None
    cwd: str = ""
    user: GivenUser | None = None
    console_size: GivenSize | None = None


class GivenMount(_Given, kw_only=True):
    """One of `mounts`."""

    destination: str
    source: str = ""
    type: str = ""
    options: list[str] | None = None


class GivenRoot(_Given, kw_only=True):
    """`root`: the volume of a process-isolated container."""

    path: str = ""
    readonly: bool = False


class GivenCpu(_Given, kw_only=True):
    """`windows.resources.cpu`."""

    count: int | None = None
    shares: int | None = None
    maximum: int | None = None  # hundredths of a percent
    percent: int | None = None  # of 2017


class GivenMemory(_Given, kw_only=True):
    """`windows.resources.memory`, in bytes."""

    limit: int | None = None


class GivenStorage(_Given, kw_only=True):
    """`windows.resources.storage`; bytes and operations a second, and the size of the scratch layer."""

    iops: int | None = None
    bps: int | None = None
    sandbox_size: int | None = None


class GivenResources(_Given, kw_only=True):
    """`windows.resources`: limits."""

    cpu: GivenCpu | None = None
    memory: GivenMemory | None = None
    storage: GivenStorage | None = None


class GivenNetwork(_Given, kw_only=True):
    """`windows.network`."""

    endpoint_list: list[str] | None = None
    allow_unqualified_dns_query: bool = field(default=False, name="allowUnqualifiedDNSQuery")
    dns_search_list: list[str] | None = field(default=None, name="DNSSearchList")
    network_shared_container_name: str = ""
    network_namespace: str = ""


class GivenHyperV(_Given, kw_only=True):
    """`windows.hyperv`: Hyper-V isolation, where it is there."""

    utility_vm_path: str = field(default="", name="utilityVMPath")


class GivenDevice(_Given, kw_only=True):
    """One of `windows.devices`."""

    id: str
    id_type: str = "class"


class GivenWindows(_Given, kw_only=True):
    """`windows`: what the original's caller passed as options."""

    layer_folders: list[str] | None = None  # nearest parent first; the last is the container's own
    resources: GivenResources | None = None
    network: GivenNetwork | None = None
    credential_spec: Any = None
    servicing: bool = False
    ignore_flushes_during_boot: bool = False
    hyperv: GivenHyperV | None = None
    devices: list[GivenDevice] | None = None


class GivenConfig(_Given, kw_only=True):
    """config.json."""

    process: GivenProcess | None = None
    root: GivenRoot | None = None
    hostname: str = ""
    mounts: list[GivenMount] | None = None
    windows: GivenWindows | None = None


def read(document: Mapping[str, Any] | None) -> GivenConfig:
    """The document, typed. InvalidSpec names the field that has the wrong type, by its path."""
    check_config(document or {})
    return _convert(document or {}, GivenConfig, "oci")


def read_process(document: Mapping[str, Any] | None) -> GivenProcess:
    """The `process` of a document."""
    check_process(document or {})
    return _convert(document or {}, GivenProcess, "oci")


def _convert(document: Mapping[str, Any], kind: type[T], where: str) -> T:
    try:
        return convert(without_nulls(document), kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise InvalidSpec(where + path.rstrip("`"), text[:1].lower() + text[1:]) from None


def ignored(document: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the fields of a document that Windows' service is not given, each with the reason."""
    if document is None:
        return {}
    found = ignored_as_unknown(document)
    cpu = ((document.get("windows") or {}).get("resources") or {}).get("cpu") or {}
    if cpu.get("affinity"):
        found["oci.windows.resources.cpu.affinity"] = "ignored: documents of schema 1 have no such field"
    return found


def options(windows: GivenWindows | None, over: WindowsOptions | None) -> WindowsOptions:
    """The options that a `windows` object comes to, under those that are given beside it (what they say counts)."""
    found: dict[str, Any] = {} if windows is None else _options(windows)
    usual = WindowsOptions()
    for name in WindowsOptions.__struct_fields__:
        value = getattr(over or usual, name)
        if value != getattr(usual, name):
            found[name] = value
            if name == "cpu_percent":
                found.pop("cpu_maximum", None)
            if name == "cpu_maximum":
                found.pop("cpu_percent", None)
    return WindowsOptions(**found)


def _options(windows: GivenWindows) -> dict[str, Any]:
    found: dict[str, Any] = {
        "servicing": windows.servicing,
        "ignore_flushes_during_boot": windows.ignore_flushes_during_boot,
        "credentials": _credentials(windows.credential_spec),
        "devices": [_device(device, index) for index, device in enumerate(windows.devices or [])],
    }
    if windows.hyperv is not None:
        found["hyperv"] = HyperV(utility_vm_path=windows.hyperv.utility_vm_path)
    if windows.network is not None:
        found["endpoints"] = _endpoints(windows.network)
    if windows.layer_folders is not None:
        if len(windows.layer_folders) < 2:
            raise InvalidSpec(
                "oci.windows.layerFolders",
                f"has {len(windows.layer_folders)} folders",
                hint="name at least one parent layer, and the container's own layer last",
            )
        *found["layer_paths"], found["layer_folder"] = windows.layer_folders
    if windows.resources is not None:
        found |= _resources(windows.resources)
    return found


def _credentials(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _device(device: GivenDevice, index: int) -> str:
    if device.id_type not in ("class", "vpci-class-guid"):
        raise NotSupported(
            f"oci.windows.devices[{index}]",
            f"Windows takes whole device classes, not {device.id_type!r}",
        )
    return device.id


def _endpoints(network: GivenNetwork) -> Endpoints:
    if network.network_namespace:
        raise NotSupported(
            "oci.windows.network.networkNamespace",
            "documents of schema 1 have no such field",
            hint="list endpoint ids in endpointList",
        )
    return Endpoints(
        ids=network.endpoint_list,
        allow_unqualified_dns_query=network.allow_unqualified_dns_query,
        dns_search_list=network.dns_search_list,
        shared_container=network.network_shared_container_name,
    )


def _resources(resources: GivenResources) -> dict[str, Any]:
    found: dict[str, Any] = {}
    where = "oci.windows.resources"
    if (cpu := resources.cpu) is not None:
        found["cpu_count"] = within(cpu.count, U64, f"{where}.cpu.count")
        found["cpu_shares"] = within(cpu.shares, 10_000, f"{where}.cpu.shares")
        found["cpu_maximum"] = within(cpu.maximum, 10_000, f"{where}.cpu.maximum")
        found["cpu_percent"] = within(cpu.percent, 100, f"{where}.cpu.percent")
        if cpu.percent and cpu.maximum:
            raise InvalidSpec(f"{where}.cpu.maximum", "is the same limit as `percent`: give one of them")
    if (storage := resources.storage) is not None:
        found["storage_iops"] = within(storage.iops, U64, f"{where}.storage.iops")
        found["storage_bps"] = within(storage.bps, U64, f"{where}.storage.bps")
        found["storage_size"] = within(storage.sandbox_size, (1 << 63) - 1, f"{where}.storage.sandboxSize")
    return found


def within(value: int | None, most: int, field: str) -> int | None:
    """A number that the member of HCS's document can hold. InvalidSpec names the field."""
    if value is not None and not 0 <= value <= most:
        raise InvalidSpec(field, f"{value} is not between 0 and {most}")
    return value
