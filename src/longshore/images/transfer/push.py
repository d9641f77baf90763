"""Push an image: its blobs, then its manifest, byte for byte as they are in the store.

A name that means an index is pushed as that, if all images of it are here; else the one image for the platform is. A
blob that the registry has is not sent; one that it has in another repository is mounted from there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import BinaryIO, cast

from ...aio.tasks import in_thread, shielded
from ...errors import ImageNotFound
from ..content import Content, content_of
from ..documents import Descriptor
from ..ingest import Ingest
from ..locks import Stop, Stopped
from ..lookup import images_of, name_records
from ..names import ImageName
from ..records import ImageRecord
from ..registry.calls import call
from ..registry.credentials import Credentials
from ..registry.interrupts import Interrupt, Interrupted
from ..registry.sources import Source, open_target
from ..registry.uploads import push_blob, push_manifest
from ..store import ImageStore
from .progress import Teller, Told
from .registries import Registries

_AT_ONCE = 3


async def push(
    store: ImageStore,
    registries: Registries,
    name: ImageName,
    shown: str,
    *,
    credentials: Credentials | None = None,
    insecure: bool | None = None,
    told: Told | None = None,
) -> str:
    """Have a registry have the image of a name, and return the digest of what it has then.

    Raises: ImageNotFound; RegistryError and its kinds; StoreError. If cancelled: all threads have ended.
    """
    stop, interrupt = Stop(), Interrupt()
    teller = Teller(told, stop)
    with stop.interrupting(interrupt.set):
        job = Ingest(store, stop)
        try:
            content = await call(lambda: _held(store, job, name, shown), stop)
            mount_from = await call(lambda: _mountable(store, name, content.records[0]), stop)
            target = open_target(
                name,
                operation=f"push `{shown}`",
                state=registries.state,
                configuration=registries.configuration,
                interrupt=interrupt,
                credentials=credentials,
                insecure=insecure,
                mount_from=mount_from,
            )
            try:
                work = [_sending(store, target, blob, mount_from, teller) for blob in content.blobs]
                await _all(work, stop)
                await call(lambda: _push_documents(store, target, content.documents, name), stop)
            finally:
                stop.set()
                target.close()
        except BaseException:
            if teller.error is not None:
                raise teller.error from None
            raise
        finally:
            await shielded(in_thread(lambda: job.__exit__(None, None, None), or_here=True))
    return content.top.digest


def _held(store: ImageStore, job: Ingest, name: ImageName, shown: str) -> Content:
    """What a name means, held in the store until the job ends."""
    job.__enter__()
    if name_records(store, name) is None:
        raise ImageNotFound(shown, hint="run `longshore images` to list the images")
    content = content_of(store, shown, name)
    job.want(blobs=[each.digest for each in [*content.blobs, *content.documents]])
    return content


def _mountable(store: ImageStore, name: ImageName, record: ImageRecord) -> str | None:
    """The path of another repository of the same registry that has had this image."""
    for each in store.read_names():
        other = ImageName.parse(each.name)
        beside = other.registry == name.registry and other.path != name.path
        if beside and any(found.digest == record.digest for found in images_of(store, each.digest)):
            return other.path
    return None


def _sending(
    store: ImageStore, target: Source, blob: Descriptor, mount_from: str | None, teller: Teller
) -> Callable[[], None]:
    def opened() -> BinaryIO:
        return cast(BinaryIO, os.fdopen(store.open_blob(blob.digest), "rb"))

    def send() -> None:
        outcome = push_blob(
            target.origin,
            blob,
            opened,
            mount_from=mount_from,
            progress=lambda sent: teller(blob.digest, "uploading", sent, blob.size),
        )
        teller(blob.digest, "done" if outcome == "uploaded" else "there", blob.size, blob.size)

    return send


def _push_documents(store: ImageStore, target: Source, documents: Sequence[Descriptor], name: ImageName) -> None:
    for each in documents:
        last = each is documents[-1]
        reference = name.tag if last and name.tag else each.digest
        push_manifest(target.origin, store.read_document(each.digest), each.media_type, reference, each.digest)


async def _all(work: Sequence[Callable[[], None]], stop: Stop) -> None:
    """Do all of it, some at once, each in a thread. At the first error, and if cancelled, the others are stopped."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def do(each: Callable[[], None]) -> None:
        async with turn:
            stop.check()
            await in_thread(each, "longshore-push")

    tasks = [asyncio.ensure_future(do(each)) for each in work]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        if any(not task.done() or task.cancelled() or task.exception() for task in tasks):
            stop.set()
        try:
            await shielded(asyncio.wait(tasks))
        finally:
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # it is known: who was cancelled does not ask
    errors = [error for task in tasks if (error := task.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, (Stopped, Interrupted))):
        raise error
