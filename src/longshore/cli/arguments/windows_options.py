"""Options that only Windows containers have, and the `WindowsOptions` that they mean."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .parser import Arguments, Option, UsageError

if TYPE_CHECKING:
    from ...spec import WindowsOptions

HERE = os.name == "nt"
"""Whether this machine has such containers; elsewhere the options are not listed, and refused."""


def _number(text: str) -> int:
    from .options import number

    return number(text)


def _option(name: str, kind: str = "value", **more: Any) -> Option:
    return Option(name, kind=kind, hidden=not HERE, **more)


OPTIONS = (
    _option("--isolation", choices=("process", "hyperv"),
            help="process (default): on this host's kernel; hyperv: in a virtual machine of its own"),
    _option("--layer-chain", metavar="DIR", complete="directory",
            help="instead of --layer: the folder of an image's top layer as docker keeps it; its layerchain.json names"
                 " the rest"),
    _option("--utility-vm", metavar="DIR", complete="directory",
            help="with hyperv: the UtilityVM folder (default: that of the nearest layer which has one)"),
    _option("--endpoint", kind="list", metavar="ID", help="a network endpoint that HNS has made"),
    _option("--dns-search", kind="list", metavar="DOMAIN", help="a search domain of DNS"),
    _option("--unqualified-dns", kind="flag", help="send names without a dot to DNS"),
    _option("--network-of", metavar="CONTAINER", help="share this container's network (process isolation)"),
    _option("--credential-spec", metavar="FILE", complete="file", help="a credential spec, for a gMSA identity"),
    _option("--servicing", kind="flag", help="install what updates the image has, and end: no command, no streams"),
    _option("--ignore-flushes", kind="flag", help="do not wait for the disk while the container boots (faster)"),
    _option("--cpu-count", metavar="N", convert=_number, help="number of processors"),
    _option("--cpu-percent", metavar="N", convert=_number, help="percent of all processors: 1 to 100"),
    _option("--io-maxbandwidth", metavar="BYTES", convert=_number, help="bytes a second to and from its disk"),
    _option("--io-maxiops", metavar="N", convert=_number, help="operations a second of its disk"),
    _option("--storage-size", metavar="SIZE", help="size of the new scratch layer: 40g"),
    _option("--device-class", kind="list", metavar="GUID", help="devices of an interface class (process isolation)"),
    _option("--command-line", metavar="TEXT", help="the command as one string, passed without quoting"),
)  # fmt: skip

ENDPOINTS = (
    _option("--add-endpoint", kind="list", metavar="ID", help="add a network endpoint"),
    _option("--remove-endpoint", kind="list", metavar="ID", help="remove a network endpoint"),
)


def refuse_elsewhere(args: Arguments, options: tuple[Option, ...]) -> None:
    """UsageError if one of these was given, and this is not Windows: never a silent success."""
    for option in options:
        if not HERE and getattr(args, option.dest) != option.initial():
            raise UsageError(
                f"{option.names[0]}: only Windows containers have this option", hint="leave it out on this machine"
            )


def layer_chain(folder: str) -> list[str]:
    """A layer's folder and those below it, nearest first, as docker has written it down. UsageError if it has not."""
    import msgspec

    from ...typed_json import decode_json

    path = os.path.join(folder, "layerchain.json")
    try:
        with open(path, "rb") as file:
            below: list[str] | None = decode_json(file.read(), list[str] | None)  # type: ignore[arg-type]  # a union is one, too
    except FileNotFoundError:
        if os.path.isdir(folder):
            return [folder]  # a base layer may have none
        raise UsageError(
            f"--layer-chain: there is no folder {folder}", hint="find it with `docker image inspect`"
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"--layer-chain: cannot read {path}: {error}") from None
    return [folder, *(below or [])]


def options(args: Arguments) -> WindowsOptions | None:
    """What was asked for; None if nothing was. UsageError, or InvalidSpec with the field's path."""
    from ...spec import Endpoints, HyperV, WindowsOptions

    refuse_elsewhere(args, OPTIONS)
    found: dict[str, Any] = {
        "servicing": args.servicing or None,  # not given: as --spec says
        "ignore_flushes_during_boot": args.ignore_flushes or None,
        "cpu_count": args.cpu_count,
        "cpu_percent": args.cpu_percent,
        "storage_bps": args.io_maxbandwidth,
        "storage_iops": args.io_maxiops,
        "storage_size": args.storage_size,
        "devices": args.device_class,
    }
    if args.isolation == "hyperv":
        found["hyperv"] = HyperV(utility_vm_path=args.utility_vm or "")
    elif args.utility_vm:
        raise UsageError("--utility-vm needs --isolation hyperv", hint="add --isolation hyperv")
    elif args.isolation == "process":
        found["hyperv"] = HyperV(enabled=False)  # also over what --spec says
    if args.endpoint or args.dns_search or args.unqualified_dns or args.network_of:
        found["endpoints"] = Endpoints(
            ids=args.endpoint or None,
            dns_search_list=args.dns_search or None,
            allow_unqualified_dns_query=args.unqualified_dns,
            shared_container=args.network_of or "",
        )
    if args.credential_spec is not None:
        try:
            with open(args.credential_spec, encoding="utf-8-sig") as file:
                found["credentials"] = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--credential-spec: cannot read {args.credential_spec}: {error}") from None
    given = {name: value for name, value in found.items() if value not in (None, False, [], "")}
    return WindowsOptions(**given) if given else None
