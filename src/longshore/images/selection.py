"""The image of a platform, chosen from an index, and from the indexes in it.

An index also lists what is no image: attestations, which BuildKit adds with the platform `unknown/unknown`. An entry
may name no platform: then only the config of the image can tell, and it is taken if nothing that names one suits.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import InvalidImage, PlatformNotFound
from . import media_types
from .documents import Descriptor, ImageConfig, Index, Manifest
from .platforms import Platform, parse_platform, rank, this_platform, version_of

DEEPEST = 4
"""Indexes that may lead to one manifest; in practice there are one or two."""

MOST = 64
"""Indexes that are read for one choice."""

_ATTESTATION = "vnd.docker.reference.type"

Load = Callable[[Descriptor], Manifest | Index]
"""Returns the document of a descriptor, verified."""


def wanted_platform(given: str | None) -> Platform:
    """Return the platform that a user named, or this machine's. Raises: InvalidSpec."""
    return this_platform() if given is None else parse_platform(given)


def select(index: Index, wanted: Platform, load: Load, name: str) -> list[Descriptor]:
    """Return the descriptors that lead to the best image for a platform: indexes in this one, then the manifest.

    `load` is called for indexes in the index only. Raises: PlatformNotFound; InvalidImage if indexes are nested
    without end; what `load` raises.
    """
    best: tuple[tuple[int, list[int]], list[Descriptor]] | None = None
    unnamed: list[Descriptor] | None = None
    seen: dict[str, None] = {}
    waiting: list[tuple[Index, list[Descriptor]]] = [(index, [])]
    for read, (each, path) in enumerate(waiting):  # grows while it is walked: nested indexes come after their own
        if read > MOST or len(path) > DEEPEST:
            raise InvalidImage(f"image `{name}`", "its indexes are nested too deep, or there are too many of them")
        for entry in each.manifests:
            platform = entry.platform or _platform_above(path)
            if _is_no_image(entry, platform):
                continue
            place = None if platform is None else rank(platform, wanted)
            if entry.media_type in media_types.INDEXES:
                if platform is None or place is not None:
                    found = load(entry)
                    if isinstance(found, Index):
                        waiting.append((found, [*path, entry]))
            elif platform is None:
                unnamed = unnamed or [*path, entry]
            else:
                seen[str(platform)] = None
                if place is not None:
                    key = (place, [-number for number in version_of(platform)])
                    if best is None or key < best[0]:
                        best = key, [*path, entry]
    if best is not None:
        return best[1]
    if unnamed is not None:
        return unnamed
    raise PlatformNotFound(name, str(wanted), list(seen))


def check_platform(config: ImageConfig, wanted: Platform, name: str) -> None:
    """Check that an image that was taken without a choice is for a platform; one that names none may be for any.

    Raises: PlatformNotFound.
    """
    if config.os and config.architecture and rank(config.platform, wanted) is None:
        raise PlatformNotFound(name, str(wanted), [str(config.platform)])


def _platform_above(path: list[Descriptor]) -> Platform | None:
    """The platform of the nearest index that names one."""
    return next((each.platform for each in reversed(path) if each.platform is not None), None)


def _is_no_image(entry: Descriptor, platform: Platform | None) -> bool:
    unknown = platform is not None and platform.os == platform.architecture == "unknown"
    return unknown or _ATTESTATION in entry.annotations or entry.media_type not in media_types.DOCUMENTS
