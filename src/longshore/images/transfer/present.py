"""Is an image here? Only if not, the modules that speak to registries are loaded."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ...aio.tasks import in_thread
from ...errors import ImageNotFound, NotSupported, RegistryUnreachable
from ..lookup import find_named
from ..names import ImageName
from ..platforms import Platform
from ..records import ImageRecord
from ..store import ImageStore
from ..values import PullPolicy, PullProgress

if TYPE_CHECKING:
    from .registries import Registries


class PullRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be pulled, and how. `shown` is the name as the user wrote it."""

    name: ImageName
    shown: str
    wanted: Platform
    policy: PullPolicy = "always"
    insecure: bool | None = None


async def pulled(
    store: ImageStore,
    registries: Callable[[], Awaitable[Registries]],
    request: PullRequest,
    credentials: Any = None,
    told: Callable[[PullProgress], None] | None = None,
) -> ImageRecord:
    """Return the image of a name, fetched as far as its policy wants and as it is not here.

    Raises: ImageNotFound; PlatformNotFound; InvalidImage; NotSupported; RegistryError and its kinds; StoreError.
    If cancelled: all threads have ended; what was received of blobs stays for the next attempt.
    """
    found: ImageRecord | None = None
    if request.policy != "always":
        found = await in_thread(lambda: find_present(store, request.name, request.wanted))
        if found is not None and request.policy in ("missing", "never"):
            return found
        if request.policy == "never":
            raise ImageNotFound(request.shown, hint=f"fetch it with `longshore pull {request.shown}`")
    check_unpacking()
    from ..registry.credentials import as_credentials
    from .pull import pull

    try:
        return await pull(store, await registries(), request, as_credentials(credentials), told)
    except RegistryUnreachable:
        if request.policy == "newer" and found is not None:
            return found
        raise


def find_present(store: ImageStore, name: ImageName, wanted: Platform) -> ImageRecord | None:
    """Return the image of a name for a platform if all that containers need of it is here."""
    found = find_named(store, name, wanted)
    return found if found is not None and is_whole(store, found) else None


def is_whole(store: ImageStore, record: ImageRecord) -> bool:
    """Return whether everything that a container needs of an image is in the store."""
    return store.blob_size(record.config) is not None and all(os.path.isdir(path) for path in store.mount_paths(record))


def check_unpacking() -> None:
    """Raises: NotSupported where layers cannot be unpacked."""
    if os.name == "nt":
        raise NotSupported(
            "an image on Windows",
            "longshore does not make the layers of images there yet (ImportLayer of vmcompute.dll)",
            hint="unpack the image with another program, and give its folders with `layers`",
        )
