"""Add an image whose documents are in the store: its layers, what they need of each other, and its record at last."""

from __future__ import annotations

from collections.abc import Callable

from ..documents import Descriptor, ImageConfig, Manifest
from ..ingest import Fetch, Ingest, add_layers
from ..records import ImageRecord
from ..registry.calls import call
from ..settle import settle
from .present import is_whole

Tell = Callable[[str, str, int, int], None]


async def add_image(
    ingest: Ingest, manifest: Descriptor, document: Manifest, config: ImageConfig, fetch: Fetch, tell: Tell
) -> ImageRecord:
    """Return the record of an image; what of it is not here is fetched. Raises: as `add_layers` and `settle`."""
    store = ingest.store
    record = await call(lambda: store.read_record(manifest.digest), ingest.stop)
    if record is not None and is_whole(store, record):
        for layer in document.layers:
            tell(layer.digest, "there", layer.size, layer.size)
        return record
    await add_layers(ingest, list(zip(document.layers, config.rootfs.diff_ids, strict=True)), fetch, tell)

    def finish() -> ImageRecord:
        made = settle(ingest, manifest, document, config, fetch)
        store.commit(made)
        return made

    return await call(finish, ingest.stop)
