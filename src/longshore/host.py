"""Which compute service this machine has: the only place that looks at the platform."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import NotSupported

if TYPE_CHECKING:
    from .compute.limits import Limits
    from .compute.protocols import ComputeService


def service(store: str, run: Path, data: Path, runtime: str | None, limits: Limits) -> ComputeService:
    """Return the service of this machine, for the store with this id and these two directories.

    Raises: NotSupported where there is none.
    """
    if sys.platform == "linux":
        from .oci.service import OciService

        return OciService(store, run, data, runtime=runtime, limits=limits)
    if sys.platform == "win32":
        from .hcs.service import HcsService

        return HcsService(run, limits=limits.hcs)
    raise NotSupported(
        f"running containers on {sys.platform}",
        "there is no compute service for it",
        hint="use Linux or Windows, or the simulator",
    )
