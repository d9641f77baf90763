"""A client of a registry, as an operation of the engine opens it, with limits that suit a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from longshore.images.documents import Descriptor
from longshore.images.names import ImageName
from longshore.images.registry.interrupts import Interrupt
from longshore.images.registry.limits import RegistryLimits
from longshore.images.registry.registries_conf import Configuration
from longshore.images.registry.repository import RegistryState
from longshore.images.registry.sources import Source, open_source, open_target

from .samples import descriptor

QUICK = RegistryLimits(first_wait=0.002, longest_wait=0.01, retry_after=5)
"""Pauses are short; what takes time in earnest has the usual limits, which only a hang would reach."""


def state(tmp_path: Any = "/nonexistent", limits: RegistryLimits = QUICK, **environ: str) -> RegistryState:
    """What outlives an operation: with a home of its own, so that no credentials of this machine count."""
    return RegistryState(environ={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environ}, limits=limits)


@contextmanager
def source(name: str, *, push: bool = False, **given: Any) -> Iterator[Source]:
    """An operation on the image of this name."""
    settings: dict[str, Any] = {
        "operation": f"push `{name}`" if push else f"pull `{name}`",
        "state": given.pop("state", None) or state(),
        "configuration": given.pop("configuration", Configuration()),
        "interrupt": given.pop("interrupt", None) or Interrupt(),
        **given,
    }
    with (open_target if push else open_source)(ImageName.parse(name), **settings) as opened:
        yield opened


def blob_of(data: bytes, **more: Any) -> Descriptor:
    """The descriptor of some content."""
    made = descriptor(data, **more)
    return Descriptor(media_type=made["mediaType"], digest=made["digest"], size=made["size"])
