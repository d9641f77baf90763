"""Compressed layers: every form that registries have, and none that costs more memory than it should."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import os
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from longshore.errors import InvalidImage
from longshore.images.compression import PIECE, compression_of, decompressed

from .tars import in_pieces

zstd: Any = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

DATA = os.urandom(200_000) + bytes(400_000) + b"the end"
SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"

Compress = Callable[[bytes], bytes]


@pytest.fixture(params=["isal", "zlib"])
def gzip_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test with the fast module for gzip, and without it."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal.igzip_lib", None)
    else:
        importlib.import_module("isal.igzip_lib")
    return str(request.param)


def content(data: bytes, piece: int = 999) -> bytes:
    return b"".join(decompressed(in_pieces(data, piece), "layer x"))


@pytest.mark.parametrize(
    ("name", "compress"),
    [("gzip", gzip.compress), ("zstd", zstd.compress), ("xz", lzma.compress), ("bzip2", bz2.compress)],
)
@pytest.mark.parametrize("piece", [1, 999, 1 << 20])
def test_the_first_bytes_say_what_compressed_it(name: str, compress: Compress, piece: int) -> None:
    packed = compress(DATA[100_000:300_000])
    assert compression_of(packed) == name
    assert content(packed, piece) == DATA[100_000:300_000]


def test_what_is_not_compressed_comes_as_it_is() -> None:
    assert content(DATA) == DATA
    assert content(b"") == b""
    assert content(b"abc") == b"abc"


def test_gzip_members_are_read_until_the_last(gzip_by: str) -> None:
    assert content(gzip.compress(DATA) + gzip.compress(b"") + gzip.compress(b"more")) == DATA + b"more"


def test_zeros_behind_gzip_are_padding(gzip_by: str) -> None:
    assert content(gzip.compress(b"x") + bytes(5000)) == b"x"
    assert content(gzip.compress(b"x") + bytes(7), piece=1) == b"x"


def test_zstd_frames_are_read_until_the_last_and_skippable_ones_skipped() -> None:
    packed = SKIPPABLE + zstd.compress(DATA) + SKIPPABLE + zstd.compress(b"more") + SKIPPABLE
    assert content(packed) == DATA + b"more"
    assert content(packed, piece=3) == DATA + b"more"


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_something_else_behind_the_data_is_refused(compress: Compress) -> None:
    with pytest.raises(InvalidImage, match="other data follows its"):
        content(compress(b"x") + b"garbage")


@pytest.mark.parametrize("cut", [1, 9, 5000])
def test_data_that_ends_too_early_is_refused(gzip_by: str, cut: int) -> None:
    for packed in (gzip.compress(DATA), zstd.compress(DATA)):
        with pytest.raises(InvalidImage, match="ends too early"):
            content(packed[:-cut])


def test_damaged_data_is_refused(gzip_by: str) -> None:
    packed = bytearray(gzip.compress(DATA))
    packed[-6] ^= 1  # of the checksum
    with pytest.raises(InvalidImage, match="gzip data is damaged"):
        content(bytes(packed))
    with pytest.raises(InvalidImage, match="gzip data is damaged"):
        content(b"\x1f\x8b" + b"\xff" * 100)
    with pytest.raises(InvalidImage, match="zstd data is damaged"):
        content(b"\x28\xb5\x2f\xfd" + b"\xff" * 100)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_costs_no_memory(gzip_by: str, kind: str) -> None:
    packed = gzip.compress(bytes(64 << 20)) if kind == "gzip" else zstd.compress(bytes(64 << 20))
    assert len(packed) < 100_000
    total = 0
    tracemalloc.start()
    for piece in decompressed([packed], "layer x"):
        assert len(piece) <= PIECE
        total += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 << 20
    assert peak < 8 * PIECE


def test_a_zstd_window_over_the_bound_is_refused() -> None:
    """A frame may ask its reader for gigabytes of memory, in its first bytes."""
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(os.urandom(1000)) + compressor.flush()
    with pytest.raises(InvalidImage, match="zstd data is damaged"):
        content(packed)
