"""Pull an image: from a name to the record in the store.

The tag's digest is asked for first; if the image of it is here, that is all. Else the manifest is fetched, or an index
and from it the manifest for the platform; then the config; then the layers, some at once, each downloaded, verified and
unpacked in one go. Until the record is written, nothing of it is in use: a pull that dies leaves partial blobs, with
which the next one goes on, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ...aio.tasks import in_thread, shielded
from ...errors import InvalidImage, LongshoreError, RegistryError
from ..documents import Descriptor, ImageConfig, Index, Manifest, parse_config, parse_document
from ..ingest import Ingest
from ..locks import Stop
from ..records import ImageRecord
from ..registry.calls import call
from ..registry.credentials import Credentials
from ..registry.interrupts import Interrupt
from ..registry.repository import Received, Repository
from ..registry.sources import Source, open_source
from ..selection import check_platform, select
from ..settle import wanted_by
from ..store import ImageStore
from .adding import add_image
from .present import PullRequest, find_present
from .progress import Teller, Told
from .registries import Registries

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

T = TypeVar("T")


class _Chosen(msgspec.Struct, frozen=True):
    """The image that a pull has come to: either it is here, or this is what is to be added."""

    named: Descriptor  # what the name means: a manifest or an index
    registry: str
    manifest: Descriptor
    document: Manifest
    config: ImageConfig
    repository: Repository


async def pull(
    store: ImageStore,
    registries: Registries,
    request: PullRequest,
    credentials: Credentials | None = None,
    told: Told | None = None,
) -> ImageRecord:
    """Return the image that a registry has under a name now, fetched as far as it is not here. As `present.pulled`."""
    stop, interrupt = Stop(), Interrupt()
    with stop.interrupting(interrupt.set):
        return await _Pull(store, registries, request, credentials, stop, interrupt, Teller(told, stop)).run()


class _Pull:
    def __init__(
        self,
        store: ImageStore,
        registries: Registries,
        request: PullRequest,
        credentials: Credentials | None,
        stop: Stop,
        interrupt: Interrupt,
        teller: Teller,
    ) -> None:
        self.store = store
        self.registries = registries
        self.request = request
        self.credentials = credentials
        self.stop = stop
        self.interrupt = interrupt
        self.teller = teller
        self.what = f"image `{request.shown}`"
        self.documents: dict[str, bytes] = {}

    async def run(self) -> ImageRecord:
        ingest = Ingest(self.store, self.stop)
        source = open_source(
            self.request.name,
            operation=f"pull `{self.request.shown}`",
            state=self.registries.state,
            configuration=self.registries.configuration,
            interrupt=self.interrupt,
            credentials=self.credentials,
            insecure=self.request.insecure,
        )
        try:
            return await self._add(ingest, source)
        except BaseException:
            if self.teller.error is not None:
                raise self.teller.error from None
            raise
        finally:
            self.stop.set()
            source.close()
            await shielded(in_thread(lambda: ingest.__exit__(None, None, None), or_here=True))

    async def _call(self, work: Callable[[], T]) -> T:
        return await call(work, self.stop)

    async def _add(self, ingest: Ingest, source: Source) -> ImageRecord:
        chosen = await self._call(lambda: self._choose(ingest, source))
        if isinstance(chosen, ImageRecord):
            return chosen

        def fetch(blob: Descriptor, at: int, hash_: Hash, stop: Stop) -> Iterator[bytes]:
            return _pieces(source, chosen.repository, blob, at, hash_)

        record = await add_image(ingest, chosen.manifest, chosen.document, chosen.config, fetch, self.teller)
        await self._call(lambda: self._give_name(chosen))
        if self.teller.error is not None:
            raise self.teller.error
        return record

    def _give_name(self, chosen: _Chosen) -> None:
        name = self.request.name
        kept = name.with_digest(name.digest) if name.digest else name
        self.store.give_name(str(kept), chosen.named.digest, chosen.named.media_type, source=chosen.registry)

    # what the registry has under the name

    def _choose(self, ingest: Ingest, source: Source) -> _Chosen | ImageRecord:
        request = self.request
        found = find_present(self.store, request.name, request.wanted)
        if found is not None:
            if request.name.digest:
                return found  # a digest means the same for ever
            meant = self.store.read_name(str(request.name))
            if meant is not None and source.digest_of_tag(request.name.reference) == meant.digest:
                return found
        received, repository = source.manifest(request.name.reference)
        named = parse_document(received.data, self.what, received.content_type)
        self.documents[received.digest] = received.data
        top = Descriptor(media_type=named.media_type, digest=received.digest, size=len(received.data))
        descriptor, document = top, named
        if isinstance(named, Index):
            path = select(named, request.wanted, lambda each: self._document(source, each), request.shown)
            descriptor = path[-1]
            document = self._document(source, descriptor)
        if not isinstance(document, Manifest):
            raise InvalidImage(self.what, f"{descriptor.digest} is an index, and was said to be a manifest")
        data = source.blob(document.config, repository)
        config = parse_config(data, self.what, document)
        check_platform(config, request.wanted, request.shown)
        self.documents[document.config.digest] = data
        ingest.__enter__()
        ingest.want(**wanted_by(document, config, descriptor.digest))
        ingest.want(blobs=self.documents)
        for digest, data in self.documents.items():
            self.store.add_document(data, digest)
        size = len(self.documents[descriptor.digest])
        manifest = Descriptor(media_type=document.media_type, digest=descriptor.digest, size=size)
        return _Chosen(top, repository.registry, manifest, document, config, repository)

    def _document(self, source: Source, descriptor: Descriptor) -> Manifest | Index:
        data = self.documents.get(descriptor.digest)
        if data is None:
            data = descriptor.embedded()
            if data is None:
                received: Received = source.manifest(descriptor.digest)[0]
                data = received.data
            self.documents[descriptor.digest] = data
        return parse_document(data, self.what)


def _pieces(source: Source, preferred: Repository, blob: Descriptor, at: int, hash_: Hash) -> Iterator[bytes]:
    """Yield a blob from an offset on. Where one place fails, the next one is asked for the rest."""
    embedded = blob.embedded()
    if embedded is not None:
        if at < len(embedded):
            yield embedded[at:]
        return
    failure: LongshoreError | None = None
    for repository in [preferred, *source.has_other_than(preferred)]:
        with repository.open_blob(blob, start=at, hash_=hash_) as reader:
            try:
                while piece := reader.read():
                    at = reader.position
                    yield piece
                return
            except RegistryError as error:
                if failure is None or repository is source.origin:
                    failure = error
    assert failure is not None
    raise failure
