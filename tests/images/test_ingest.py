"""Fetching and unpacking layers: what is cut, killed, wrong or done by others at the same time."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore.errors import InvalidImage, RegistryError, StoreError
from longshore.images import space
from longshore.images.digests import digest_of
from longshore.images.documents import Descriptor
from longshore.images.ingest import Ingest, add_layers
from longshore.images.locks import Stop, Stopped
from longshore.images.store import ImageStore

from .packed import Image, Layer, Registry, layer, names_in, no_progress, opened, pull, pulled
from .tars import END, archive, file, folder, kinds

DATA = os.urandom(300_000)
LAYER = layer(folder(b"./"), file(b"data", DATA), file(b"small", b"x"))


@pytest.fixture
def store(state: Path) -> Iterator[ImageStore]:
    made = opened(state)
    yield made
    assert names_in(made.locks) == []
    assert names_in(made.state.data_trash) == []
    for left in names_in(made.ingest):  # what a test leaves on purpose
        assert not left.startswith("job-")
        (made.ingest / left).unlink()


def quiet(state: str, done: int, total: int) -> None:
    """Show nothing."""


def add(store: ImageStore, each: Layer, registry: Any) -> None:
    with Ingest(store) as ingest:
        ingest.add_layer(each.descriptor, each.diff_id, registry.fetch, quiet)


def is_whole(store: ImageStore, each: Layer = LAYER) -> bool:
    return (
        (store.layer_path(each.key) / "data").read_bytes() == DATA
        and store.blob_path(digest_of(each.blob)).read_bytes() == each.blob
        and names_in(store.ingest) == []
    )


class Cut(Registry):
    """Breaks the connection after so many bytes, as often as told."""

    def __init__(self, image: Image, after: int, times: int = 1) -> None:
        super().__init__(image)
        self.after, self.times = after, times

    def fetch(self, blob: Descriptor, offset: int, hash_: Any, stop: Stop) -> Iterator[bytes]:
        sent = 0
        for piece in super().fetch(blob, offset, hash_, stop):
            if self.times and sent >= self.after:
                self.times -= 1
                raise RegistryError("pull x", "r.io", "the connection broke")
            sent += len(piece)
            yield piece


def test_what_was_received_is_gone_on_with(store: ImageStore) -> None:
    registry = Cut(Image([LAYER]), after=100_000)
    with pytest.raises(RegistryError):
        add(store, LAYER, registry)
    assert names_in(store.layers) == names_in(store.blobs / "sha256") == []
    add(store, LAYER, registry)
    assert registry.asked == [(digest_of(LAYER.blob), 0), (digest_of(LAYER.blob), 100_000)]
    assert is_whole(store)


def test_a_blob_that_was_received_whole_is_not_asked_for_again(store: ImageStore) -> None:
    (store.ingest / digest_of(LAYER.blob)[7:]).write_bytes(LAYER.blob)
    registry = Registry(Image([LAYER]))
    add(store, LAYER, registry)
    assert (registry.asked, is_whole(store)) == ([], True)


@pytest.mark.parametrize("left", [b"x" * 100_000, bytes(50), b"y" * 900_000])
def test_a_partial_blob_that_is_damaged_is_fetched_from_the_beginning(store: ImageStore, left: bytes) -> None:
    (store.ingest / digest_of(LAYER.blob)[7:]).write_bytes(left)
    registry = Registry(Image([LAYER]))
    add(store, LAYER, registry)
    assert registry.asked[-1] == (digest_of(LAYER.blob), 0)
    assert is_whole(store)


class Wrong(Registry):
    """Sends other bytes than those of the digest."""

    def __init__(self, image: Image, data: bytes) -> None:
        super().__init__(image)
        self.blobs = dict.fromkeys(self.blobs, data)


FLIPPED = bytearray(LAYER.blob)
FLIPPED[len(FLIPPED) // 2] ^= 1


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (bytes(FLIPPED), "what was received has the digest"),
        (b"x" * len(LAYER.blob), "what was received has the digest"),
        (LAYER.blob + b"x", "it has more than the"),
        (LAYER.blob[:-1], "it ended after"),
    ],
)
def test_other_bytes_than_the_digest_says_are_refused(store: ImageStore, sent: bytes, problem: str) -> None:
    with pytest.raises(InvalidImage, match=problem):
        add(store, LAYER, Wrong(Image([LAYER]), sent))
    assert names_in(store.layers) == names_in(store.blobs / "sha256") == []
    add(store, LAYER, Registry(Image([LAYER])))
    assert is_whole(store)


def test_another_diff_id_than_the_config_says_is_refused(store: ImageStore) -> None:
    other = digest_of(b"other")
    with Ingest(store) as ingest, pytest.raises(InvalidImage, match="its content has the digest"):
        ingest.add_layer(LAYER.descriptor, other, Registry(Image([LAYER])).fetch, quiet)
    assert names_in(store.layers) == names_in(store.blobs / "sha256") == names_in(store.ingest) == []


def test_bytes_after_the_archive_count_for_the_diff_id(store: ImageStore) -> None:
    import gzip

    padded = Layer(LAYER.content + bytes(10_000), gzip.compress(LAYER.content + bytes(10_000)))
    add(store, padded, Registry(Image([padded])))
    assert is_whole(store, padded)


def test_a_layer_that_is_no_archive_is_refused(store: ImageStore) -> None:
    bad = Layer(b"no archive" * 1000, b"no archive" * 1000)
    with pytest.raises(InvalidImage, match="its checksum is no number"):
        add(store, bad, Registry(Image([bad])))
    assert names_in(store.layers) == names_in(store.blobs / "sha256") == names_in(store.ingest) == []


def test_what_is_there_is_not_fetched(store: ImageStore) -> None:
    add(store, LAYER, Registry(Image([LAYER])))
    registry = Registry(Image([LAYER]))
    add(store, LAYER, registry)
    assert registry.asked == []


def test_a_layer_whose_blob_was_removed_to_save_room_is_not_fetched(store: ImageStore) -> None:
    add(store, LAYER, Registry(Image([LAYER])))
    store.blob_path(digest_of(LAYER.blob)).unlink()
    registry = Registry(Image([LAYER]))
    add(store, LAYER, registry)
    assert registry.asked == []


def test_a_layer_is_unpacked_again_from_its_blob(store: ImageStore) -> None:
    add(store, LAYER, Registry(Image([LAYER])))
    shutil.rmtree(store.layers / LAYER.key)
    registry = Registry(Image([LAYER]))
    add(store, LAYER, registry)
    assert (registry.asked, is_whole(store)) == ([], True)


def test_a_blob_that_the_disk_has_changed_is_fetched_again(store: ImageStore) -> None:
    add(store, LAYER, Registry(Image([LAYER])))
    shutil.rmtree(store.layers / LAYER.key)
    store.blob_path(digest_of(LAYER.blob)).write_bytes(FLIPPED)
    add(store, LAYER, Registry(Image([LAYER])))
    assert is_whole(store)


def test_a_layer_of_unknown_digests_gets_those_it_has(store: ImageStore) -> None:
    with Ingest(store) as ingest:
        digest, size, info = ingest.add_stream([LAYER.blob[:1000], LAYER.blob[1000:]], "import x")
    assert (digest, size, info.diff_id) == (digest_of(LAYER.blob), len(LAYER.blob), LAYER.diff_id)
    assert is_whole(store)


# at the same time


async def test_layers_are_added_some_at_once_and_come_back_in_order(store: ImageStore) -> None:
    layers = [layer(file(b"data", b"%d" % number * 50_000)) for number in range(5)]
    running, most = 0, 0
    lock = threading.Lock()

    class Slow(Registry):
        def fetch(self, blob: Descriptor, offset: int, hash_: Any, stop: Stop) -> Iterator[bytes]:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            yield from super().fetch(blob, offset, hash_, stop)
            with lock:
                running -= 1

    told: dict[str, list[str]] = {}

    def progress(digest: str, state: str, done: int, total: int) -> None:
        told.setdefault(digest, []).append(state)

    with Ingest(store) as ingest:
        wanted = [(each.descriptor, each.diff_id) for each in [*layers, layers[0]]]
        found = await add_layers(ingest, wanted, Slow(Image(layers)).fetch, progress, at_once=2)
    assert [each.diff_id for each in found] == [diff_id for _, diff_id in wanted]
    assert most <= 2
    assert {digest: (states[-1], "downloading" in states) for digest, states in told.items()} == {
        digest_of(each.blob): ("done", True) for each in layers
    }


async def test_the_first_error_stops_the_others(store: ImageStore) -> None:
    begun = threading.Event()

    class Endless(Registry):
        def fetch(self, blob: Descriptor, offset: int, hash_: Any, stop: Stop) -> Iterator[bytes]:
            if blob.digest == digest_of(LAYER.blob):
                begun.wait()
                raise RegistryError("pull x", "r.io", "no rights")
            interrupted = threading.Event()
            with stop.interrupting(interrupted.set):
                begun.set()
                interrupted.wait()
            raise ConnectionError("shut down")

    other = layer(file(b"x"))
    with Ingest(store) as ingest, pytest.raises(RegistryError, match="no rights"):
        wanted = [(each.descriptor, each.diff_id) for each in (LAYER, other)]
        await add_layers(ingest, wanted, Endless(Image([LAYER, other])).fetch, no_progress)


async def test_a_cancelled_pull_waits_for_its_threads_and_can_be_gone_on_with(store: ImageStore) -> None:
    half = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Stalls(Registry):
        def fetch(self, blob: Descriptor, offset: int, hash_: Any, stop: Stop) -> Iterator[bytes]:
            for number, piece in enumerate(super().fetch(blob, offset, hash_, stop)):
                yield piece
                if number == 9:
                    loop.call_soon_threadsafe(half.set)
                    stop.wait(60)

    task = asyncio.create_task(pull(store, Image([LAYER]), Stalls(Image([LAYER]))))
    await half.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names_in(store.ingest) == [digest_of(LAYER.blob)[7:]]
    registry = Registry(Image([LAYER]))
    await pull(store, Image([LAYER]), registry)
    assert (registry.asked, is_whole(store)) == ([(digest_of(LAYER.blob), 100_000)], True)


async def test_two_pulls_of_one_layer_are_one_download(store: ImageStore) -> None:
    image, registry = Image([LAYER]), Registry(Image([LAYER]))
    waited = asyncio.Event()
    loop = asyncio.get_running_loop()

    def progress(digest: str, state: str, done: int, total: int) -> None:
        if state == "waiting":
            loop.call_soon_threadsafe(waited.set)

    class UntilTheOtherWaits(Registry):
        def fetch(self, blob: Descriptor, offset: int, hash_: Any, stop: Stop) -> Iterator[bytes]:
            asyncio.run_coroutine_threadsafe(waited.wait(), loop).result()
            yield from super().fetch(blob, offset, hash_, stop)

    slow = UntilTheOtherWaits(image)
    both = [pull(store, image, slow, progress=progress), pull(store, image, slow, progress=progress)]
    await asyncio.gather(*both)
    assert (len(slow.asked), registry.asked, is_whole(store)) == (1, [], True)


PROGRAM = """
import asyncio, sys, time
from pathlib import Path
from tests.images.packed import Image, Registry, layer, opened, pull
from tests.images.tars import file, folder

state, log = sys.argv[1:]
layers = [layer(folder(b"./"), *[file(b"f%d-%d" % (n, f), b"%d" % f * 3000) for f in range(20)]) for n in range(3)]
image = Image(layers)

class Logged(Registry):
    def fetch(self, blob, offset, hash_, stop):
        with open(log, "a") as file:
            file.write(f"{blob.digest} {offset}\\n")
        for piece in super().fetch(blob, offset, hash_, stop):
            time.sleep(0.002)  # a network
            yield piece

asyncio.run(pull(opened(Path(state)), image, Logged(image, piece=500), "a:1"))
"""


def program(state: Path, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(state), str(log)], cwd=Path(__file__).parent.parent.parent
    )


def test_three_programs_at_once_are_one_download(store: ImageStore, state: Path, tmp_path: Path) -> None:
    programs = [program(state, tmp_path / "log") for _ in range(3)]
    assert [each.wait() for each in programs] == [0, 0, 0]
    asked = (tmp_path / "log").read_text().split("\n")[:-1]
    assert len(asked) == len(set(asked)) == 3
    assert len(list(store.read_records())) == 1


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_a_killed_pull_leaves_nothing_wrong(store: ImageStore, state: Path, tmp_path: Path, kill_at: int) -> None:
    """Killed when the registry was asked so many times; `scripts/crash-images` kills at any moment."""
    from .crashes import check, rest_of

    log = tmp_path / "log"
    victim = program(state, log)
    while victim.poll() is None and (not log.exists() or log.read_text().count("\n") < kill_at):
        pass
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    check(store)
    assert program(state, log).wait() == 0
    check(store)
    rest_of(store)


# a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 12 MB."""
    image, point = tmp_path / "disk", tmp_path / "small"
    point.mkdir(mode=0o700)
    with open(image, "wb") as made:
        made.truncate(12 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    yield point
    subprocess.run(["umount", point], check=True)


@pytest.mark.parametrize("bounded", [True, False], ids=["noticed before", "found full"])
def test_a_full_disk_is_an_error_that_keeps_what_was_received(
    small_disk: Path, bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bounded:  # as if other programs had taken the rest meanwhile
        monkeypatch.setattr(space.FreeSpace, "check", lambda self, size=0: None)
    store = opened(small_disk)
    zeros = layer(folder(b"./"), *[file(b"f%d" % number, bytes(1 << 20)) for number in range(20)])
    with pytest.raises(StoreError, match="No space left on device") as caught:
        pulled(store, Image([LAYER, zeros]))
    assert caught.value.hint is not None
    assert "image prune" in caught.value.hint
    assert zeros.key not in names_in(store.layers)
    assert list(store.read_records()) == []
    assert os.statvfs(small_disk).f_bavail * 4096 > 6 << 20  # blocks: what was unpacked is gone
    random = layer(file(b"data", os.urandom(14 << 20)))
    with pytest.raises(StoreError, match="No space left on device"):
        pulled(store, Image([random]))
    assert digest_of(random.blob)[7:] in names_in(store.ingest)
    pulled(store, Image([LAYER]))


def test_a_layer_over_its_bounds_is_refused(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "FILES_LIMIT", 10)
    monkeypatch.setattr(space, "_FILES_STEP", 0)
    many = layer(*[file(b"%d" % number) for number in range(20)])
    with pytest.raises(InvalidImage, match="more than 10 files"):
        add(store, many, Registry(Image([many])))
    monkeypatch.setattr(space, "BYTES_LIMIT", 1 << 20)
    large = layer(*[file(b"%d" % number, bytes(200_000)) for number in range(8)])
    monkeypatch.setattr(space, "_STEP", 0)
    with pytest.raises(InvalidImage, match="have more than"):
        add(store, large, Registry(Image([large])))


def test_a_stopped_ingest_refuses_more_work(store: ImageStore) -> None:
    stop = Stop()
    stop.set()
    with Ingest(store, stop) as ingest, pytest.raises(Stopped):
        ingest.add_layer(LAYER.descriptor, LAYER.diff_id, Registry(Image([LAYER])).fetch, quiet)
    assert kinds(store.layers) == {}
    assert archive() == END
