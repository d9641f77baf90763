"""Which compute service this machine has: the only place that looks at the platform."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .errors import NotSupported

if TYPE_CHECKING:
    from .compute.limits import Limits
    from .compute.protocols import ComputeService
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
