"""Read tar archives: ustar, GNU, PAX and sparse files, as streams, with names as bytes.

An archive is a row of blocks of 512 bytes. A *header* block describes an entry, and its data follows, padded to whole
blocks. Two blocks of zeros end the archive. Four formats grew on each other, and one archive may mix them:

- ustar: names in two fields (prefix, name), numbers in octal. An old header has no magic and no prefix.
- GNU: entries of type `L` and `K` hold the name or link target of the entry that follows; numbers that octal has no
  room for are base 256, marked by the highest bit; type `S` is a sparse file, with its map in the header and in blocks
  that follow it.
- PAX: an entry of type `x` holds records `LENGTH KEYWORD=VALUE` for the entry that follows, and one of type `g` for all
  that follow: names, ids, sizes and times with fractions, extended attributes. Sparse files are three versions of such
  records (0.0, 0.1, 1.0); the last keeps the map before the data.

Python's `tarfile` decodes names to text, has no extended attributes and costs more time for each entry than the system
calls that unpack it. Everything that is read here may be hostile: each length is bounded before memory is taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from ..errors import InvalidImage
from .sparse import PARTS_LIMIT, NumberLines, SparseMap, map_of, map_of_records

BLOCK = 512
NAME_LIMIT = 4096  # bytes of a name or link target: PATH_MAX
PAX_LIMIT = 1 << 20  # bytes of one PAX header

FILE, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO = (b"0", b"1", b"2", b"3", b"4", b"5", b"6")

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZEROS = bytes(BLOCK)
_CONTIGUOUS, _OLD_FILE, _GNU_SPARSE = b"7", b"\0", b"S"
_WITHOUT_DATA = frozenset((LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO))
_IN_NO_GLOBAL_HEADER = (b"path", b"linkpath", b"size", b"GNU.sparse.")
_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."

Records = dict[bytes, bytes]


class TarEntry:
    """One entry: what is at `name`. `size` counts the bytes that follow in the archive."""

    __slots__ = ("device", "gid", "kind", "link", "mode", "mtime", "name", "size", "sparse", "uid", "xattrs")

    def __init__(self) -> None:
        self.kind = FILE
        self.name = b""
        self.link = b""
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.mtime = 0  # nanoseconds; may be negative, or beyond what a file system has
        self.size = 0
        self.device = (0, 0)  # major, minor
        self.xattrs: Records = {}
        self.sparse: SparseMap | None = None


class TarReader:
    """An archive that is read once, from its beginning. Each error is an InvalidImage about `what`."""

    def __init__(self, pieces: Iterable[bytes], what: str) -> None:
        self._pieces = iter(pieces)
        self._what = what
        self._buffer = b""
        self._at = 0  # of the buffer, what comes next
        self._data = 0  # bytes of the entry's data that were not read yet
        self._padding = 0  # behind them
        self._global: Records = {}

    def entries(self) -> Iterator[TarEntry]:
        """Yield each entry; data that the caller did not read is skipped. Then read what follows the archive."""
        records: Records | None = None
        name = link = None
        while (header := self._next_header()) is not None:
            fields = _FIELDS.unpack(header)
            kind = fields[7]
            if kind in b"xgLK":
                size = self._number(fields[4], "size")
                if kind == b"x":
                    records = self._records(self._small(size, PAX_LIMIT, "a PAX header"))
                elif kind == b"g":
                    self._add_global(self._records(self._small(size, PAX_LIMIT, "a global PAX header")))
                elif kind == b"L":
                    name = _until_nul(self._small(size, NAME_LIMIT + BLOCK, "a name"))
                else:
                    link = _until_nul(self._small(size, NAME_LIMIT + BLOCK, "a link target"))
                continue
            yield self._entry(fields, name, link, records)
            self._skip_data()
            records, name, link = None, None, None
        if records is not None or name is not None or link is not None:
            raise self._invalid("it ends with a header for an entry that does not follow")
        self._buffer, self._at = b"", 0
        for _ in self._pieces:  # part of the layer, and of its digest
            pass

    def data(self) -> Iterator[memoryview]:
        """Yield the data of the current entry. A piece is valid until the next is asked for."""
        while self._data:
            if self._at == len(self._buffer):
                self._refill()
            piece = memoryview(self._buffer)[self._at : self._at + self._data]
            self._at += len(piece)
            self._data -= len(piece)
            yield piece

    # headers

    def _next_header(self) -> bytes | None:
        """Return the next header, checked by its sum; None at the end of the archive."""
        block = self._block(may_end=True)
        if block is None:
            return None
        if block == _ZEROS:
            second = self._block(may_end=True)
            if second is not None and second != _ZEROS:
                raise self._invalid("one block of zeros stands between its entries")
            return None
        total = self._number(block[148:156], "checksum")
        own = sum(block) - sum(block[148:156]) + 8 * 0x20  # the field itself counts as spaces
        if total != own and total != own - 256 * sum(each > 127 for each in block[:148] + block[156:]):
            raise self._invalid("a header of its archive is damaged (wrong checksum)")
        return block

    def _entry(
        self, fields: tuple[bytes, ...], name: bytes | None, link: bytes | None, records: Records | None
    ) -> TarEntry:
        entry = TarEntry()
        kind = fields[7]
        entry.mode = self._number(fields[1], "mode") & 0o7777
        entry.uid = self._number(fields[2], "uid")
        entry.gid = self._number(fields[3], "gid")
        entry.size = self._number(fields[4], "size")
        entry.mtime = self._number(fields[5], "mtime") * 1_000_000_000
        if name is None:
            name = _until_nul(fields[0])
            if fields[9][:6] == b"ustar\0" and fields[14][0]:  # GNU has other fields where the prefix is
                name = _until_nul(fields[14]) + b"/" + name
        entry.name = name
        entry.link = _until_nul(fields[8]) if link is None else link
        if kind in (CHARACTER, BLOCK_DEVICE):
            entry.device = (self._number(fields[12], "device"), self._number(fields[13], "device"))
        sparse: Records = {}
        if records is not None or self._global:
            sparse = self._apply({**self._global, **(records or {})}, entry)
        if kind in (_OLD_FILE, _CONTIGUOUS, _GNU_SPARSE):
            entry.kind = FILE
        else:
            entry.kind = kind
        if kind in _WITHOUT_DATA:
            entry.size = 0
        self._check(entry)
        if kind == _GNU_SPARSE:
            entry.sparse = self._old_sparse_map(fields)
        self._data, self._padding = entry.size, -entry.size % BLOCK
        if entry.kind == FILE:
            if sparse:
                self._read_pax_map(entry, sparse)
            if entry.sparse is not None and sum(length for _, length in entry.sparse.parts) != entry.size:
                raise self._invalid(f"the map of the sparse file {shown(entry.name)} does not fit its data")
            if entry.name.endswith(b"/"):  # a folder, as archives wrote it that had no type for one
                entry.kind, entry.size = FOLDER, 0
        return entry

    def _apply(self, records: Records, entry: TarEntry) -> Records:
        """Let the records of PAX headers replace what the header says. Return those of a sparse file.

        A record without a value takes back what a global header said. Only an attribute may be empty.
        """
        sparse: Records = {}
        for key, value in records.items():
            if key.startswith(_XATTR):
                entry.xattrs[key[len(_XATTR) :]] = value
            elif not value:
                continue
            elif key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                entry.size = self._decimal(value, key)
            elif key == b"uid":
                entry.uid = self._decimal(value, key)
            elif key == b"gid":
                entry.gid = self._decimal(value, key)
            elif key == b"mtime":
                entry.mtime = self._time(value)
            elif key.startswith(_SPARSE):
                sparse[key] = value
        return sparse

    def _check(self, entry: TarEntry) -> None:
        for text, of in ((entry.name, "a name"), (entry.link, "a link target")):
            if len(text) > NAME_LIMIT:
                raise self._invalid(f"{of} in it is longer than {NAME_LIMIT} bytes")
            if b"\0" in text:
                raise self._invalid(f"{of} in it has a NUL character")
        if entry.size < 0:
            raise self._invalid(f"{shown(entry.name)} has a negative size")
        for number, of in ((entry.uid, "owner"), (entry.gid, "group")):
            if not 0 <= number < 0xFFFFFFFF:  # the last one means "leave it" to chown(2)
                raise self._invalid(f"{shown(entry.name)} has the {of} {number}, which no file can have")

    # sparse files

    def _old_sparse_map(self, fields: tuple[bytes, ...]) -> SparseMap:
        """Read the map of an old GNU sparse file: four parts in the header, the rest in blocks behind it."""
        tail = fields[14]  # from byte 345 of the header on
        map_ = tail[41:137]
        more = tail[137] != 0
        while more:
            block = self._block() or b""
            map_ += block[:504]
            more = block[504] != 0
            if len(map_) > 24 * PARTS_LIMIT:
                raise self._invalid("the map of a sparse file in it is too long")
        numbers = [self._number(map_[at : at + 12], "sparse map") for at in range(0, len(map_), 12)]
        return map_of(numbers, self._number(tail[138:150], "size"), self._what)

    def _read_pax_map(self, entry: TarEntry, records: Records) -> None:
        """Set the map of a sparse file that PAX records describe; version 1.0 has it in front of the data."""
        lines: NumberLines | None = None
        if records.get(b"GNU.sparse.major") == b"1":
            lines = NumberLines(self._what)
            while not lines.complete:
                if self._data < BLOCK:
                    raise self._invalid("the map of a sparse file in it is damaged")
                lines.add(self._block() or b"")
                self._data -= BLOCK
                entry.size -= BLOCK
        entry.sparse = map_of_records(records, None if lines is None else lines.numbers, self._what)
        entry.name = records.get(b"GNU.sparse.name", entry.name)
        self._check(entry)

    # values

    def _number(self, field: bytes, of: str) -> int:
        """Return a number of a header: octal, or base 256 where the highest bit says so."""
        if field[0] & 0x80:
            value = int.from_bytes(field, "big")
            bits = 8 * len(field)
            if field[0] & 0x40:  # negative
                return value - (1 << bits)
            return value & ~(1 << (bits - 1))
        text = field.strip(b" \0")
        if not text.isdigit():
            text = _until_nul(text).strip(b" ")  # what is behind a NUL counts for nothing
            if not text:
                return 0
        try:
            return int(text, 8)
        except ValueError:
            raise self._invalid(f"a header of its archive is damaged (its {of} is no number)") from None

    def _decimal(self, value: bytes, key: bytes) -> int:
        digits = value[1:] if value.startswith(b"-") else value
        if not digits.isdigit() or len(digits) > 20:
            raise self._invalid(f"its PAX record `{key.decode()}` is no number")
        return int(value)

    def _time(self, value: bytes) -> int:
        """Return nanoseconds of a time such as `-12.5`."""
        whole, _, fraction = value.partition(b".")
        digits = whole[1:] if whole.startswith(b"-") else whole
        if not digits.isdigit() or len(digits) > 20 or (fraction and not fraction.isdigit()):
            raise self._invalid("its PAX record `mtime` is no time")
        nanoseconds = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
        return -nanoseconds if value.startswith(b"-") else nanoseconds

    def _records(self, data: bytes) -> Records:
        found: Records = {}
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + 12)
            length = data[at:space] if space > 0 else b""
            end = at + int(length) if length.isdigit() else 0
            if not space + 1 < end <= len(data) or data[end - 1] != 0x0A:
                raise self._invalid("a PAX header of its archive is damaged")
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not equals or not key:
                raise self._invalid("a PAX header of its archive is damaged")
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # version 0.0, which repeats both for each part
                key = b"GNU.sparse.map"  # as version 0.1 has them
                value = found[key] + b"," + value if key in found else value
            found[key] = value
            at = end
        return found

    def _add_global(self, records: Records) -> None:
        for key in records:
            if key.startswith(_IN_NO_GLOBAL_HEADER):
                raise self._invalid(f"a global PAX header of it sets `{key.decode('ascii', 'replace')}`")
        self._global.update(records)
        if sum(map(len, self._global.values())) > PAX_LIMIT:
            raise self._invalid("its global PAX headers are too long")

    # blocks

    def _block(self, *, may_end: bool = False) -> bytes | None:
        at = self._at
        if at + BLOCK <= len(self._buffer):
            self._at = at + BLOCK
            return self._buffer[at : self._at]
        return self._exactly(BLOCK, may_end=may_end)

    def _exactly(self, count: int, *, may_end: bool = False) -> bytes | None:
        """Return so many bytes, gathered from several pieces. None if the archive ends here, and may."""
        data = bytearray(self._buffer[self._at :])  # pieces may be tiny, and many
        self._buffer, self._at = b"", 0
        while len(data) < count:
            piece = next(self._pieces, None)
            if piece is None:
                if may_end and not data:
                    return None
                raise self._invalid("its archive ends too early")
            data += piece
        self._buffer, self._at = bytes(data), count
        return self._buffer[:count]

    def _small(self, size: int, limit: int, of: str) -> bytes:
        """Return the data of a header that is read as a whole, without its padding."""
        if not 0 <= size <= limit:
            raise self._invalid(f"{of} in its archive has {size} bytes, of at most {limit}")
        padded = size + -size % BLOCK
        at = self._at
        if at + padded <= len(self._buffer):
            self._at = at + padded
            return self._buffer[at : at + size]
        return (self._exactly(padded) or b"")[:size]

    def _refill(self) -> None:
        self._at = 0
        self._buffer = b""
        while not self._buffer:
            piece = next(self._pieces, None)
            if piece is None:
                raise self._invalid("its archive ends too early")
            self._buffer = piece

    def _skip_data(self) -> None:
        left = self._data + self._padding
        self._data = self._padding = 0
        while left:
            if self._at == len(self._buffer):
                self._refill()
            step = min(left, len(self._buffer) - self._at)
            self._at += step
            left -= step

    def _invalid(self, problem: str) -> InvalidImage:
        return InvalidImage(self._what, problem)


def shown(name: bytes) -> str:
    """Return a name of an archive as a message shows it: short, and whatever bytes it has."""
    text = name.decode("utf-8", "backslashreplace")
    return f"`{text}`" if len(text) <= 200 else f"`{text[:100]}...{text[-80:]}`"


def _until_nul(field: bytes) -> bytes:
    end = field.find(b"\0")
    return field if end < 0 else field[:end]
