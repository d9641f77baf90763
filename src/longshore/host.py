"""Which compute service this machine has: the only place that looks at the platform."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import NotSupported

if TYPE_CHECKING:
    from .compute.limits import Limits
    from .compute.protocols import ComputeService
    from .compute.visibility import Viewpoint
    from .store.state_directory import Store


def service(store: Store, runtime: str | None, limits: Limits) -> ComputeService:
    """The service of this machine. NotSupported where there is none."""
    if sys.platform == "linux":
        from .oci.service import OciService

        return OciService(store.id, store.run, store.data, runtime=runtime, limits=limits)
    if sys.platform == "win32":
        from .hcs.service import HcsService

        return HcsService(store.run, limits=limits.hcs)
    raise NotSupported(
        f"running containers on {sys.platform}",
        "there is no compute service for it",
        hint="use Linux or Windows, or the simulator",
    )


def places() -> tuple[str, str]:
    """Where the machine's own store is: what ends with the boot, and what stays."""
    if sys.platform == "win32":
        base = os.path.join(os.environ.get("PROGRAMDATA") or r"C:\ProgramData", "longshore")
        return os.path.join(base, "run"), os.path.join(base, "lib")
    return "/run/longshore", "/var/lib/longshore"


def viewpoint() -> Viewpoint:
    """Where this program looks from: which boot, and which processes its pids name."""
    from .compute.visibility import Viewpoint

    if sys.platform == "linux":
        from .oci.viewpoint import viewpoint

        return viewpoint()
    return Viewpoint(boot=boot_id())


def first_namespaces() -> str:
    """The namespaces of the machine itself: those of records that name none. Empty where there are no namespaces."""
    if sys.platform == "linux":
        from .oci.viewpoint import FIRST

        return FIRST
    return ""


def boot_id() -> str:
    """Tells this boot of the machine from every other; empty where the host has no such thing."""
    if sys.platform == "win32":
        import ctypes

        # KUSER_SHARED_DATA.BootId, mapped in every process at this address: counts the boots (Wine: 0)
        boot = ctypes.c_uint32.from_address(0x7FFE0000 + 0x2C4).value
        return str(boot) if boot else ""
    if sys.platform == "linux":
        from .oci import viewpoint

        return viewpoint.boot_id()
    return ""


def kernel() -> tuple[str, str]:
    """The release of this machine's kernel, and the machine's kind: `6.1.0-18-amd64`, `x86_64`."""
    if sys.platform == "win32":
        found = sys.getwindowsversion()
        return f"{found.major}.{found.minor}.{found.build}", os.environ.get("PROCESSOR_ARCHITECTURE", "")
    found = os.uname()
    return found.release, found.machine


def has_init() -> bool:
    """Whether there is a small init, which `run` then uses as pid 1: our own for this processor, or catatonit."""
    from .fs.files import find_program

    own = Path(__file__).with_name("oci") / "runtimes" / "first" / f"first-{kernel()[1]}"
    return own.exists() or find_program("catatonit") is not None
