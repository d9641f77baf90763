"""Where an image comes from: the mirrors that are configured for its name, then the registry itself.

The first that answers with the manifest is asked for the blobs first; one that fails is passed over for the next. What
is raised in the end is what the registry itself said, as that is the one that users know.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from ...errors import ImageNotFound, InvalidImage, RegistryError
from ..documents import Descriptor
from ..names import ImageName
from .challenges import merged_scopes, pull_scope, push_scope
from .credentials import Credentials
from .interrupts import Interrupt
from .registries_conf import Configuration, Endpoint, endpoints
from .repository import Received, RegistryState, Repository
from .transport import Transport

T = TypeVar("T")
_log = logging.getLogger("longshore.images")


class Source:
    """The repositories that may have an image, for one operation. Close it, or use it with `with`."""

    def __init__(self, repositories: list[Repository], transport: Transport) -> None:
        self.repositories = repositories
        self._transport = transport

    @property
    def origin(self) -> Repository:
        """The repository at the registry itself."""
        return self.repositories[-1]

    def digest_of_tag(self, reference: str) -> str | None:
        """Return the digest of a tag by asking for the head only; None if it is not told."""
        return self._first(lambda repository: repository.digest_of_tag(reference))

    def manifest(self, reference: str) -> tuple[Received, Repository]:
        """Return a manifest or index, verified, and the repository that had it: the one to ask for what it names."""
        return self._first(lambda repository: (repository.manifest(reference), repository))

    def blob(self, descriptor: Descriptor, preferred: Repository | None = None) -> bytes:
        """Return a small blob, verified."""
        return self._first(lambda repository: repository.blob(descriptor), preferred)

    def has_other_than(self, repository: Repository) -> list[Repository]:
        """Return the repositories to ask after this one failed, the registry itself last."""
        return [each for each in self.repositories if each is not repository]

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _first(self, ask: Callable[[Repository], T], preferred: Repository | None = None) -> T:
        asked = self.repositories if preferred is None else [preferred, *self.has_other_than(preferred)]
        failure: Exception | None = None
        for repository in asked:
            try:
                return ask(repository)
            except (RegistryError, ImageNotFound, InvalidImage) as error:
                if failure is None or repository is self.origin:
                    failure = error
                if len(asked) > 1:
                    _log.warning("%s: %s", repository.registry, error)
        assert failure is not None, "there is a repository at least"
        raise failure


def open_source(
    name: ImageName,
    *,
    operation: str,
    state: RegistryState,
    configuration: Configuration,
    interrupt: Interrupt,
    credentials: Credentials | None = None,
    insecure: bool | None = None,
) -> Source:
    """Return where an image can be pulled from. `credentials` are for the registry itself, not for its mirrors.

    Raises: LongshoreError if registries.conf blocks it.
    """
    places = endpoints(name, configuration, insecure)
    transport = Transport(interrupt=interrupt, limits=state.limits, environ=state.environ)
    repositories = [
        Repository(
            place,
            name=name.familiar,
            operation=operation,
            state=state,
            transport=transport,
            credentials=credentials if place.is_origin else None,
        )
        for place in places
    ]
    return Source(repositories, transport)


def open_target(
    name: ImageName,
    *,
    operation: str,
    state: RegistryState,
    configuration: Configuration,
    interrupt: Interrupt,
    credentials: Credentials | None = None,
    insecure: bool | None = None,
    mount_from: str | None = None,
) -> Source:
    """Return where an image is pushed to: one repository, never a mirror.

    `mount_from` is the path of another repository there, of which blobs may be mounted: that needs a right of its own.
    """
    place = endpoints(name, configuration, insecure)[-1]
    transport = Transport(interrupt=interrupt, limits=state.limits, environ=state.environ)
    scope = push_scope(place.path)
    if mount_from is not None and mount_from != place.path:
        scope = merged_scopes(scope, pull_scope(mount_from))
    repository = Repository(
        place,
        name=name.familiar,
        operation=operation,
        state=state,
        transport=transport,
        credentials=credentials,
        scope=scope,
    )
    return Source([repository], transport)


def open_registry(
    registry: str,
    *,
    operation: str,
    state: RegistryState,
    interrupt: Interrupt,
    credentials: Credentials | None = None,
    insecure: bool | None = None,
) -> Source:
    """Return a registry as such, to try credentials: `origin.check_access` does."""
    transport = Transport(interrupt=interrupt, limits=state.limits, environ=state.environ)
    place = Endpoint(registry=registry, path="", insecure=insecure)
    repository = Repository(
        place,
        name=registry,
        operation=operation,
        state=state,
        transport=transport,
        credentials=credentials,
        scope="",
    )
    return Source([repository], transport)
