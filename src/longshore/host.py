"""Which compute service this machine has: the only place that looks at the platform."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from .errors import NotSupported

if TYPE_CHECKING:
    from .compute import ComputeService
    from .store import Store


def service(store: Store, runtime: str | None) -> ComputeService:
    """The service of this machine. NotSupported where there is none."""
    if sys.platform == "linux":
        from .oci.service import OciService

        return OciService(store.id, store.run, store.data, runtime=runtime)
    raise NotSupported(
        f"running containers on {sys.platform}",
        "there is no compute service for it",
        hint="use Linux, or the simulator",
    )


def has_init() -> bool:
    """Whether a small init is installed, which `run` then uses as pid 1."""
    return shutil.which("catatonit") is not None
