"""Read compressed layers, in pieces of bounded size.

The media type of a layer does not say reliably how it is compressed, so the first bytes decide. A gzip layer may have
several members (pigz, estargz) and a zstd layer several frames, of which some are skippable (zstd:chunked): each is
read until the input ends. Zeros compress a thousandfold and more, so no input may cost memory by what it expands to:
the decompressors are asked for at most `PIECE` bytes at a time, and zstd gets a bound for its window.

gzip is read by `isal` if it is installed, which is more than twice as fast as the `zlib` that is used otherwise.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from ..errors import InvalidImage, NotSupported

PIECE = 128 << 10  # bytes that are decompressed at once
WINDOW_LOG = 27  # of zstd: 128 MiB, the most that the format asks decoders to support

_SNIFFED = 6  # bytes that tell the formats apart
_SKIPPABLE = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))


class Decompressor(Protocol):
    """One gzip member or zstd frame being decompressed; the interface of the standard library's bz2 and lzma."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def compression_of(data: bytes) -> str | None:
    """Return what compressed this, by its first bytes: gzip, zstd, xz or bzip2; None if nothing known did."""
    if data.startswith(b"\x1f\x8b"):
        return "gzip"
    if data.startswith((b"\x28\xb5\x2f\xfd", *_SKIPPABLE)):
        return "zstd"
    if data.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if data.startswith(b"BZh"):
        return "bzip2"
    return None


def decompressed(pieces: Iterable[bytes], what: str) -> Iterator[bytes]:
    """Yield the content of a compressed file, in pieces of at most `PIECE` bytes; what is not compressed as it comes.

    Raises InvalidImage, about `what`, if the input is damaged, ends too early, or has something else behind it.
    """
    source = iter(pieces)
    data = _at_least(_SNIFFED, b"", source)
    kind = compression_of(data)
    if kind is None:
        if data:
            yield data
        yield from source
        return
    make, errors = _decompressors(kind)
    while data:
        if compression_of(data) != kind:
            if kind == "gzip" and not data.strip(b"\0"):  # padding up to a block, as gzip(1) allows it
                data = _at_least(1, b"", source)
                continue
            raise InvalidImage(what, f"other data follows its {kind} data")
        decompressor = make()
        while not decompressor.eof:
            if decompressor.needs_input and not data:
                data = _at_least(1, b"", source)
                if not data:
                    raise InvalidImage(what, f"its {kind} data ends too early")
            try:
                piece = decompressor.decompress(data, PIECE)
            except errors as error:
                raise InvalidImage(what, f"its {kind} data is damaged ({error})") from error
            data = b""
            if piece:
                yield piece
        data = _at_least(_SNIFFED, decompressor.unused_data, source)


def _at_least(count: int, data: bytes, source: Iterator[bytes]) -> bytes:
    """Return `data` with enough more from the source to have `count` bytes, or with all that is left."""
    while len(data) < count:
        piece = next(source, None)
        if piece is None:
            break
        data = data + piece if data else piece
    return data


def _decompressors(kind: str) -> tuple[Callable[[], Decompressor], tuple[type[Exception], ...]]:
    """Return what makes a decompressor, and the errors that it raises."""
    if kind == "gzip":
        return _gzip()
    if kind == "zstd":
        zstd = _zstd_module()
        options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)
    if kind == "xz":
        lzma = importlib.import_module("lzma")
        return lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=256 << 20), (lzma.LZMAError,)
    return importlib.import_module("bz2").BZ2Decompressor, (OSError, EOFError)


def _gzip() -> tuple[Callable[[], Decompressor], tuple[type[Exception], ...]]:
    try:
        igzip = importlib.import_module("isal.igzip_lib")
    except ImportError:
        return ZlibDecompressor, (zlib.error,)
    return lambda: igzip.IgzipDecompressor(flag=igzip.DECOMP_GZIP), (igzip.IsalError,)


def _zstd_module() -> Any:
    """Return the module for zstd: in the standard library from Python 3.14, by the same authors before."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise NotSupported("zstd", "this Python has no module for it", hint="run `pip install backports.zstd`")


class ZlibDecompressor:
    """The standard library's decompressor of one gzip member, with the interface of the others."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._full = False  # what was returned last had all the bytes that were asked for: there may be more

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._object.eof and not self._object.unconsumed_tail and not self._full

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        tail = self._object.unconsumed_tail
        piece = self._object.decompress(tail + data if tail else data, max(max_length, 0))
        self._full = len(piece) == max_length
        return piece
