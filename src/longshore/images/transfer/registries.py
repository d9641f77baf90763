"""How registries are spoken to from this machine: what outlives one operation, and the configuration."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..registry import registries_conf
from ..registry.registries_conf import Configuration
from ..registry.repository import RegistryState


class Registries(msgspec.Struct, frozen=True):
    """The tokens and habits of registries, and what registries.conf says."""

    state: RegistryState
    configuration: Configuration

    @classmethod
    def of_this_machine(cls, environ: Mapping[str, str]) -> Registries:
        """Read the configuration. Raises: LongshoreError for a file that is not valid."""
        return cls(RegistryState(environ=environ), registries_conf.load(environ))
