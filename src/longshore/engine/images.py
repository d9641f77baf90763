"""The images of an engine: what `engine.images` is. The store and the registries are opened when they are first needed.

What is done stands in `longshore.images`; here are the checks of what users give, and the threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from ..aio.tasks import in_thread, shielded
from ..compute.values import Feature
from ..errors import ImageNotFound, InvalidSpec, NotSupported
from ..images.locks import Stop
from ..images.values import HistoryEntry, Image, Problem, Pruned, PullPolicy, PullProgress
from .arguments import check_since
from .state import EngineState

if TYPE_CHECKING:
    from ..images.names import ImageName
    from ..images.records import ImageRecord
    from ..images.registry.registries_conf import Configuration
    from ..images.store import ImageStore
    from ..images.transfer.registries import Registries

T = TypeVar("T")


class Images:
    """The images on this machine: `engine.images`. They are in the state directory, for all engines that use it."""

    def __init__(self, engine: EngineState) -> None:
        self._state = engine
        self._store: ImageStore | None = None
        self._known: Registries | None = None
        self._configuration: Configuration | None = None

    async def pull(
        self,
        name: str,
        *,
        platform: str | None = None,
        policy: PullPolicy = "always",
        credentials: tuple[str, str] | None = None,
        insecure: bool = False,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> Image:
        """Fetch an image from its registry, as far as it is not here.

        `platform` (None: this machine's) is `OS/ARCH[/VARIANT]`. `policy` says when the registry is asked: `always`;
        `missing`, if the image is not here; `newer`, always, but one that cannot be reached is no error if the image is
        here; `never`. `credentials` are user and password (None: those of `longshore login`, podman and docker).
        `insecure` takes a registry without TLS, or with a certificate of no known authority. `progress` is called in
        the event loop with how far each layer is.

        Raises: ImageNotFound; PlatformNotFound; RegistryAuthError, RegistryUnreachable, RegistryError; InvalidImage;
        NotSupported; InvalidSpec; StoreError.
        If cancelled: nothing of it is in use; the next pull goes on with what was received.
        """
        async with self._state.operation():
            record = await self._pull(
                name,
                platform=platform,
                policy=policy,
                credentials=credentials,
                insecure=insecure,
                progress=progress,
            )
            return await self._describe(record)

    async def push(
        self,
        name: str,
        *,
        credentials: tuple[str, str] | None = None,
        insecure: bool = False,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> str:
        """Have the registry of a name have the image of this name, byte for byte; `tag` gives an image such a name.

        A name that stands for several platforms is pushed as that if the images of all are here; else the one for this
        machine is. The keywords are as for `pull`. Returns the digest that the registry has under the name now.

        Raises: ImageNotFound; RegistryAuthError, RegistryUnreachable, RegistryError; InvalidImage; InvalidSpec.
        If cancelled: the name at the registry is as it was.
        """
        async with self._state.operation():
            from ..images.registry.credentials import as_credentials
            from ..images.transfer.push import push

            given = as_credentials(credentials)
            return await push(
                await self._opened(),
                await self._registries(),
                await self._parsed(name, "image"),
                name,
                credentials=given,
                insecure=insecure or None,
                told=progress,
            )

    async def get(self, name: str, *, platform: str | None = None) -> Image:
        """Return the image of a name, a digest, an id, or the beginning of an id of at least 12 digits.

        A name means exactly itself (with `latest` where it has no tag). Where it stands for several platforms, the
        image is the one for `platform` (None: this machine's, or else whichever is here).
        Raises: ImageNotFound; PlatformNotFound; InvalidSpec.
        """
        async with self._state.operation():
            return await self._describe(await self._find(name, platform))

    async def exists(self, name: str) -> bool:
        """Return whether `get` would find an image. Raises: InvalidSpec."""
        async with self._state.operation():
            try:
                await self._find(name, None)
            except ImageNotFound:
                return False
            return True

    async def tag(self, source: str, name: str) -> None:
        """Give an image a further name: `source` is what `get` takes. What had the name before loses it.

        Raises: ImageNotFound; InvalidSpec; StoreError.
        """
        async with self._state.operation():
            target = await self._parsed(name, "name")
            if target.digest:
                raise InvalidSpec("name", f"{name[:200]!r} has a digest, which cannot be given", hint="give a tag")
            given = await self._name(source)
            store = await self._opened()
            await in_thread(lambda: _tag(store, source, given, target))

    async def remove(self, name: str, *, force: bool = False) -> list[str]:
        """Take a name away; and the image, if that was its last one and no container uses it.

        An id or a digest means the image with all its names: with more than one, only by `force`. What containers use
        stays until they are gone. Returns what went: the names, then the digests of images.
        Raises: ImageNotFound; InvalidSpec; StoreError.
        """
        async with self._state.operation():
            given = await self._name(name)
            store = await self._opened()
            return await shielded(in_thread(lambda: _remove(store, name, given, force=force)))

    async def prune(
        self,
        *,
        all: bool = False,
        blobs: bool = False,
        until: datetime | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Pruned:
        """Remove images without a name that no container uses; with `all`, those with a name, too.

        With them goes what nothing needs any more, and what pulls that were killed have left. `until` spares images
        that were added later; `labels`, those without all of these. With `blobs`, the compressed layers of all images
        go as well: a push then needs a registry that has them.
        Raises: StoreError.
        """
        moment = check_since(until, "until")
        wanted = dict(labels or {})
        async with self._state.operation():
            from ..images import collect, lookup

            store = await self._opened()

            def matching(record: ImageRecord) -> bool:
                young = moment is not None and record.added > moment
                return not young and wanted.items() <= record.labels.items()

            removed = await shielded(in_thread(lambda: collect.prune(store, all=all, blobs=blobs, matching=matching)))
            names = [lookup.familiar(name) for name in removed.names]
            return Pruned(names=names, images=removed.images, bytes=removed.size)

    async def load(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> Sequence[Image]:
        """Add the images of an archive, with the names that it gives them.

        That is an OCI layout, as a folder or a tar file, or what `docker save` and `podman save` write; also compressed
        by gzip, zstd, xz or bzip2. An open file may be a pipe. Of an index, all images that are there are added.
        Raises: InvalidImage; InvalidSpec if there is no such file; NotSupported; StoreError.
        If cancelled: what was loaded so far has no name, and the next `prune` removes it.
        """
        async with self._state.operation():
            from ..images.transfer.load import load
            from ..images.transfer.present import check_unpacking

            check_unpacking()
            store = await self._opened()
            records = await load(store, source, progress)
            return [await self._describe(record) for record in records]

    async def save(self, names: Sequence[str], target: str | os.PathLike[str] | BinaryIO) -> None:
        """Write images to one tar file: an OCI layout that docker's and podman's `load` read, too.

        What is in it is byte for byte what was pulled. The file has its name when it is whole. A name that stands for
        several platforms is written as that if the images of all are here; else the one for this machine is.
        Raises: ImageNotFound; InvalidSpec; StoreError. If cancelled: there is no file.
        """
        if isinstance(names, str) or not names:
            raise InvalidSpec("names", "is not a list of names", hint="write names=['alpine:3.20']")
        async with self._state.operation():
            from ..images.registry.calls import call
            from ..images.transfer.save import save

            store = await self._opened()
            stop = Stop()
            given = [(name, await self._name(name)) for name in names]
            await call(lambda: save(store, given, target, stop), stop)

    async def verify(self, name: str | None = None, *, repair: bool = False) -> Sequence[Problem]:
        """Check what the store holds against its digests, of one image or of all; return what is wrong.

        That reads and unpacks all of it, so it takes as long as pulling from a fast registry. With `repair`, a damaged
        blob is removed, so that the next pull fetches it; a damaged layer is made again, unless a container uses it.
        Raises: ImageNotFound; InvalidSpec; NotSupported on Windows; StoreError.
        If cancelled: it ends after the present piece; what was repaired stays so.
        """
        async with self._state.operation():
            from ..images.registry.calls import call
            from ..images.transfer.present import check_unpacking

            check_unpacking()
            only = None if name is None else [(await self._find(name, None)).digest]
            store = await self._opened()
            stop = Stop()

            def check() -> Sequence[Problem]:
                from ..images.verify import verify

                return [*verify(store, repair=repair, stop=stop, only=only)]

            return await call(check, stop)

    async def history(self, name: str) -> Sequence[HistoryEntry]:
        """Return the steps in the making of an image, as far as it tells them, the first one first.

        Raises: ImageNotFound; InvalidSpec; StoreError.
        """
        async with self._state.operation():
            from ..images import lookup

            record = await self._find(name, None)
            store = await self._opened()
            return await in_thread(lambda: lookup.history(store, record))

    async def list(self) -> Sequence[Image]:
        """Return all images of this machine, one entry for each, the youngest first."""
        async with self._state.operation():
            from ..images import lookup

            store = await self._opened()

            def read() -> Sequence[Image]:
                records = sorted(store.read_records(), key=lambda record: record.added, reverse=True)
                return lookup.describe(store, records, records)

            return await in_thread(read)

    # what the engine calls

    def _feature(self) -> Feature:
        """Whether images work here, and by what, for `Engine.features`."""
        from importlib.util import find_spec

        from ..images.transfer.present import check_unpacking

        try:
            check_unpacking()
        except NotSupported as error:
            return Feature("images", supported=False, reason=error.reason, hint=error.hint)
        place = f"kept in {self._state.store.data / 'images'}"
        if find_spec("isal") is None:
            reason = f"{place}; gzip by zlib, which takes more than twice as long as isal"
            return Feature("images", supported=True, reason=reason, hint="pip install isal")
        return Feature("images", supported=True, reason=f"{place}; gzip by isal")

    async def _opened(self) -> ImageStore:
        if self._store is None:
            from ..images.store import ImageStore

            store = ImageStore(self._state.store)
            await in_thread(store.open)
            self._store = store
        return self._store

    async def _registries(self) -> Registries:
        if self._known is None:
            from ..images.transfer.registries import Registries

            self._known = await in_thread(lambda: Registries.of_this_machine(os.environ))
        return self._known

    async def _pull(
        self,
        name: str,
        *,
        platform: str | None = None,
        policy: PullPolicy = "always",
        credentials: tuple[str, str] | None = None,
        insecure: bool = False,
        progress: Callable[[PullProgress], None] | None = None,
        field: str = "image",
    ) -> ImageRecord:
        from ..images.selection import wanted_platform
        from ..images.transfer.present import PullRequest, pulled
        from .image_root import check_policy

        check_policy(policy, "policy")
        wanted = wanted_platform(platform)
        request = PullRequest(
            name=await self._parsed(name, field), shown=name, wanted=wanted, policy=policy, insecure=insecure or None
        )
        store = await self._opened()
        return await pulled(store, self._registries, request, credentials, progress)

    async def _find(self, name: str, platform: str | None) -> ImageRecord:
        from ..images import lookup
        from ..images.platforms import parse_platform

        given = await self._name(name)
        wanted = None if platform is None else parse_platform(platform)
        store = await self._opened()
        return await in_thread(lambda: lookup.find(store, name, given, wanted))

    async def _describe(self, record: ImageRecord) -> Image:
        from ..images import lookup

        store = await self._opened()
        return await in_thread(lambda: lookup.describe(store, [record], store.read_records())[0])

    async def _parsed(self, text: Any, field: str) -> ImageName:
        """What a user wrote as a whole name, by way of an alias of this machine."""
        from ..images.names import ImageName, has_host
        from ..images.registry import registries_conf

        if not isinstance(text, str) or has_host(text):
            return ImageName.parse(text, field)
        if self._configuration is None:
            self._configuration = await in_thread(lambda: registries_conf.load(os.environ))
        return registries_conf.parse_name(text, self._configuration, field)

    async def _name(self, text: Any) -> ImageName | None:
        """The same; None for what can only be an id."""
        from ..images.names import ImageName

        if not isinstance(text, str) or not text:
            return ImageName.parse(text)  # which says what is wrong
        try:
            return await self._parsed(text, "image")
        except InvalidSpec:
            from ..images.digests import id_prefix, is_digest

            if id_prefix(text) is None and not is_digest(text):
                raise
            return None


def _tag(store: ImageStore, source: str, given: ImageName | None, target: ImageName) -> None:
    from ..images import lookup

    with store.using():
        record = lookup.find(store, source, given, None)
        meant = lookup.name_records(store, given) if given is not None else None
        digest, media_type = (
            (meant.digest, meant.media_type) if meant is not None else (record.digest, record.media_type)
        )
        store.give_name(str(target), digest, media_type)


def _remove(store: ImageStore, text: str, given: ImageName | None, *, force: bool) -> list[str]:
    from ..images import collect, lookup

    meant = store.read_name(str(given.with_digest(given.digest) if given.digest else given)) if given else None
    if meant is not None:
        removed = collect.remove(store, [meant.name])
    else:
        record = lookup.find(store, text, given, None)
        names = lookup.names_by_image(store).get(record.digest, [])
        if len(names) > 1 and not force:
            raise InvalidSpec(
                "image",
                f"{text[:80]!r} has {len(names)} names: {', '.join(names[:5])}",
                hint="name one, or use `force`",
            )
        removed = collect.remove(store, [], [record.digest])
    return [*map(lookup.familiar, removed.names), *removed.images]
