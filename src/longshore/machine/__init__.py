"""Facts about this machine: default state paths, viewpoint, boot id, kernel, installed init, longshore's version."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .visibility import Viewpoint


def longshore_version() -> str:
    """Return the version of longshore that is installed; `0+unknown` for a source tree without an installation."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("longshore")
    except PackageNotFoundError:
        return "0+unknown"


def places() -> tuple[str, str]:
    """Where the machine's own store is: what ends with the boot, and what stays."""
    if sys.platform == "win32":
        base = os.path.join(os.environ.get("PROGRAMDATA") or r"C:\ProgramData", "longshore")
        return os.path.join(base, "run"), os.path.join(base, "lib")
    return "/run/longshore", "/var/lib/longshore"


def viewpoint() -> Viewpoint:
    """Where this program looks from: which boot, and which processes its pids name."""
    if sys.platform == "linux":
        from . import linux_viewpoint

        return linux_viewpoint.viewpoint()
    from .visibility import Viewpoint

    return Viewpoint(boot=boot_id())


def first_namespaces() -> str:
    """The namespaces of the machine itself: those of records that name none. Empty where there are no namespaces."""
    if sys.platform == "linux":
        from .linux_viewpoint import FIRST

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
        from . import linux_viewpoint

        return linux_viewpoint.boot_id()
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
    from ..fs.files import find_program

    own = Path(__file__).parents[1] / "oci" / "runtimes" / "first" / f"first-{kernel()[1]}"
    return own.exists() or find_program("catatonit") is not None
